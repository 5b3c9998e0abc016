"""The outputs of a net by name: the one place where a position becomes a name.

A net says in ``output_names`` what it returns; one without returns logits. A net with a single
output returns the bare array, as Gluon's nets do.
"""

from __future__ import annotations

from typing import Any


def output_names(net: Any) -> tuple[str, ...]:
    """Return the names of a net's outputs, in order."""
    return tuple(getattr(net, "output_names", ("logits",)))


def as_list(outputs: Any) -> list[Any]:
    """Return what a net returned as a list."""
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def name_outputs(net: Any, outputs: Any) -> dict[str, Any]:
    """Return the outputs of ``net(x)``, arrays or symbols, by name; ValueError if one has none."""
    names, values = output_names(net), as_list(outputs)
    if len(names) != len(values):
        kind = type(net).__name__
        raise ValueError(f"{kind} names {len(names)} outputs, returned {len(values)}")
    return dict(zip(names, values))
