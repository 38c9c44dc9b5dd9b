"""The commands of `everest`, a file for each purpose; each imports what it needs when it runs."""
