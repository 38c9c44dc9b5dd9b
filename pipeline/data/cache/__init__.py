"""Caches of frames and distance maps: built, published, read, administered."""
