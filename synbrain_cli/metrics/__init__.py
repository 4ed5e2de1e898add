"""Scores and their intervals: pure functions on arrays."""
