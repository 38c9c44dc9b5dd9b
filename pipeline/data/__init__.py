"""From raw videos to clips."""
