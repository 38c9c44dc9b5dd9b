"""Scores of a classifier on a benchmark's test videos."""
