"""Metrics: pure NumPy functions, small accumulators around them, and the tables made of them."""
