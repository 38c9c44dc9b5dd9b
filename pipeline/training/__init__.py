"""The training engine: torchrun ranks that resume exactly, stop cleanly and never hang."""
