"""The report of an experiment: what was measured, what it cost, and what the data support."""
