"""What the processor says it can do."""

from __future__ import annotations


def read_flags(cpuinfo="/proc/cpuinfo"):
    """Return the set of the processor's instruction flags; empty where Linux lists none."""
    try:
        with open(cpuinfo, encoding="utf-8", errors="replace") as lines:
            return set(next((line for line in lines if line.startswith("flags")), "").split())
    except OSError:
        return set()
