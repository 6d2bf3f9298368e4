"""One module a command: `run(arguments) -> exit status`. Each is imported only when its command runs."""
