"""What outlives a process: files that are there whole or not at all, and folders with one owner."""
