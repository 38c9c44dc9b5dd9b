"""What the pipeline asks of the operating system and of other programs."""
