"""What a process that runs candidates gives up before it does."""
