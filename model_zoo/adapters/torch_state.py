"""Finding the state dict in a checkpoint, under whatever key, and saying what lies beside it.

A state dict is a dict of tensors by name. Programs keep it at the top, under ``state_dict``,
``model``, ``net``, in a list of several, beside the state of an optimiser, epoch and scores.
"""

from __future__ import annotations

import math
from typing import Any, Iterator

from gluon_attn.core.errors import one_line
from model_zoo.adapters.floats import MAX_NUMBERS
from model_zoo.adapters.torch_names import Name, Opaque, Tensor
from model_zoo.adapters.torch_pickle import REMEDY

TOP = "top level"
MAX_DEPTH = 4  # of keys in one another
MAX_PLACES = 10_000  # dicts and lists that are looked at


class NotWeightsError(ValueError):
    """A sound file that holds no weights, or several."""


def find_state(value: Any, key: str | None = None) -> tuple:
    """Return ``(tensors by name, key)`` of the state dict in what a file holds.

    Args:
        value: What :func:`model_zoo.adapters.torch_pickle.run` returned.
        key: Which one is meant, such as ``state_dict_ema`` or ``nets.G``; None: the only one.

    Raises:
        NotWeightsError: There is none, or there are several, or none of that key.
    """
    places = _places(value)
    if not places:
        raise NotWeightsError(
            f"holds no state dict but {words(value, '') or _kind(value)}. {REMEDY}"
        )
    if key is not None:
        if key not in places:
            raise NotWeightsError(f"has no state dict '{key}'; it has: {', '.join(places)}")
        found = key
    else:
        # A checkpoint may have tensors beside its state dict, such as the best accuracy.
        found = max(places, key=lambda place: len(places[place]))
        rivals = [place for place in places if _rival(places[place], places[found])]
        if len(rivals) > 1:
            raise NotWeightsError(
                f"holds several state dicts ({', '.join(rivals)}). Choose one with key=, or "
                f"--key {rivals[0]} of tools/convert.py"
            )
    if sum(math.prod(tensor.size) for tensor in places[found].values()) > MAX_NUMBERS:
        raise NotWeightsError(f"more than {MAX_NUMBERS} numbers")
    return places[found], found


def words(value: Any, found: str, limit: int = 12) -> str:
    """Return what a checkpoint holds beside its state dict: scalars as they are, kinds of others.

    Args:
        value: As for :func:`find_state`.
        found: Key of the state dict.
        limit: How many items are told.
    """
    left = [
        (key, part)
        for key, part in _items(value)
        if key != found.partition(".")[0] and not (found == TOP and isinstance(part, Tensor))
    ]
    left.sort(key=lambda item: not isinstance(item[1], (str, int, float)))
    items = [f"{one_line(key, 40)} {_kind(part)}" for key, part in left]
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if items[limit:] else "")


def _places(value: Any) -> dict:
    """Return ``{key: tensors by name}`` of all state dicts, in their order."""
    found, seen, waiting = {}, set(), [(TOP, value, 0)]
    while waiting and len(seen) < MAX_PLACES:
        place, part, depth = waiting.pop(0)
        if id(part) in seen:  # one state dict may have two names
            continue
        seen.add(id(part))
        items = list(_items(part))
        tensors = {name: item for name, item in items if isinstance(item, Tensor)}
        if tensors and not isinstance(part, (list, tuple)) and tensors not in found.values():
            found[place] = tensors
        if depth < MAX_DEPTH:
            waiting += [
                (name if place == TOP else f"{place}.{name}", item, depth + 1)
                for name, item in items
                if isinstance(item, (dict, list, tuple, Opaque)) and not isinstance(item, Tensor)
            ]
    # Weights are matrices and kernels; other tensors lie about where there is a state dict.
    nets = {p: t for p, t in found.items() if any(len(tensor.size) > 1 for tensor in t.values())}
    return nets or found


def _items(value: Any) -> Iterator:
    """Return the items of a container by text; optimisers count theirs, so numbers are no keys."""
    if isinstance(value, Opaque):
        value = value.items
    if isinstance(value, dict):
        return ((key, item) for key, item in value.items() if isinstance(key, str))
    if isinstance(value, (list, tuple)) and not isinstance(value, (Tensor, Name)):
        return ((str(number), item) for number, item in enumerate(value[:100]))
    return iter(())


def _rival(tensors: dict, most: dict) -> bool:
    """Tell whether tensors may be meant as well as the most: nearly as many, or the same net's."""
    return 4 * len(tensors) >= len(most) or 2 * len(tensors.keys() & most.keys()) > len(tensors)


def _kind(value: Any) -> str:
    """Return a plain value as text, of others what they are."""
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a long number"
    if isinstance(value, (str, int, float)) or value is None:
        return one_line(value, 60)
    if isinstance(value, (Opaque, Name)):
        return one_line(value.text, 80)
    kind = "dict" if isinstance(value, dict) else type(value).__name__.lower()
    return f"a {kind}" if value or isinstance(value, Tensor) else f"an empty {kind}"
