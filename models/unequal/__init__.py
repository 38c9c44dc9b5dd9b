"""Clips of unequal token counts: how many each keeps, and how they are computed without padding."""
