"""Training without a paper's method: attributes and classes, re-identification."""
