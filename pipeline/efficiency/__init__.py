"""What a run costs: multiply-adds of a clip, and what the device tells."""
