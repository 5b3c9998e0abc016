"""Losses: ``(logits, label, mask, …)`` to one value per sample.

Importing this package has no side effects; each family lives in its own module.
"""
