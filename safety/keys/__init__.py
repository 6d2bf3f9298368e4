"""Private keys, the secret of the seeds, and which keys signed when."""
