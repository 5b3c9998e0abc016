"""Generators of synthetic data sets, in the official formats, for the quick start."""
