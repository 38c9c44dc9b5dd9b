"""The early verdict of a comparison: which strategies can still win, judged after each slice of the budget."""
