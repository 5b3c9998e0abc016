"""Losses that several papers share: ``(logits, label, mask, …)`` to one value per sample."""
