"""Ranks: started, watched, stopped, and how each ended."""
