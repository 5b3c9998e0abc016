"""From foreign names to ours and back, by the tables."""

from __future__ import annotations

import collections
import difflib
from typing import Any, NamedTuple

from gluon_attn.core.registry import unknown_name
from model_zoo.adapters.tables import OWN, SCHEMES, TABLES, Table, candidates, names_of


class Translation(NamedTuple):
    """A file's parameters under our names.

    Attributes:
        params: By our name, or by theirs where the net has no such parameter.
        outside: Names of the file that are not part of the net: other parts of a larger one.
        table: The table that fits.
    """

    params: dict
    outside: list
    table: Table


def tables_of(scheme):
    """Return the tables of a naming scheme, or all with ``'auto'``.

    Raises:
        ValueError: Unknown scheme.
    """
    if scheme not in ("auto", *SCHEMES):
        raise ValueError(unknown_name("naming scheme", scheme, ("auto", *SCHEMES)))
    return [table for table in TABLES if scheme in ("auto", table.scheme)]


def translate(targets, params, scheme="auto", known=0):
    """Find the table under which most of a net's parameters are in a file, and apply it.

    Args:
        targets: Our names, of the net.
        params: The file's parameters by name.
        scheme: See :func:`tables_of`.
        known: How many fit without any table; a table must do better.

    Returns:
        A :class:`Translation`, or None if no table fits even half of its layers.

    Raises:
        ValueError: Unknown scheme.
    """
    best, found, prefixes = None, {}, [""]
    for table, spelled in candidates(tables_of(scheme), params):
        wanted = {ours: theirs for ours, theirs in names_of(table).items() if ours in targets}
        names, starts = find_prefixed(spelled, wanted, table.separator)
        if len(names) > max(known, len(found), len(wanted) // 2):
            best, prefixes = table, starts
            found = {ours: spelled[theirs] for ours, theirs in names.items()}
    if best is None:
        return None
    renamed = {ours: _laid(best, ours, params[theirs], 0) for ours, theirs in found.items()}
    for make in best.defaults:
        renamed.update(make(targets, renamed))
    used, outside = set(found.values()), []
    for name, data in params.items():
        if name in used or name.rpartition(".")[2] in best.unused:
            continue
        renamed[name] = data
        if not name.startswith(prefixes[0]):
            outside.append(name)
    return Translation(renamed, outside, best)


def to_foreign(params, scheme):
    """Return our parameters under the names of a scheme.

    Args:
        params: ``{our name: anything}`` of one net.
        scheme: One of ``SCHEMES``.

    Raises:
        ValueError: The scheme has no names for some parameter.
    """
    if scheme == "gluon":
        return dict(params)

    def fit(table):
        # A table of a longer VGG has a name for everything, but takes the dense layers for
        # convolutions, whose names are the same here and there.
        names = names_of(table)
        named = [ours for ours in params if ours in names]
        return len(named), sum(names[ours] != ours for ours in named)

    table = max(tables_of(scheme), key=fit)
    best = names_of(table)
    left = [ours for ours in params if ours not in best]
    renamed = {
        best[ours]: _laid(table, ours, data, 1) for ours, data in params.items() if ours in best
    }
    if left or len(renamed) != len(params):
        what = f"no name for {len(left)} of {len(params)} parameters ({', '.join(left[:3])}, …)"
        raise ValueError(
            f"scheme '{scheme}' has {what if left else 'the same name for two parameters'}. "
            "torchvision and gluoncv name ResNet v1b and wide ResNets (bias-free; v1 of depth 18 "
            "and 34 is the same net), torchvision also VGG, CIFAR ResNets and SE, CBAM, SRM and "
            "ECA in a ResNet; of a net with heads give its backbone"
        )
    return renamed


def _laid(table: Table, ours: str, array: Any, way: int) -> Any:
    """Return an array in our layout (way 0) or theirs (way 1)."""
    for end, changes in table.layouts.items():
        if ours.endswith(end) and hasattr(array, "shape"):
            return changes[way](array)
    return array


def recognise(params):
    """Return ``(scheme, {our name: shape})`` of a file, whatever net it belongs to, or None."""
    best, scheme = {}, None
    for table, spelled in candidates((*OWN, *TABLES), params):
        names, _ = find_prefixed(spelled, names_of(table), table.separator)
        counted = {o.rpartition(".")[0] for o in names if o.endswith(".running_mean")}
        # VGG's tables know every layer both as convolution and as batch-norm.
        own = {
            ours: tuple(params[spelled[theirs]].shape)
            for ours, theirs in names.items()
            if (ours.rpartition(".")[0] in counted)
            == ours.endswith((".gamma", ".beta", ".running_mean", ".running_var"))
        }
        if len(own) > len(best) and _plausible(own):
            best, scheme = own, table.scheme
    return (scheme, best) if best else None


def _plausible(own):
    """Tell whether the stem and the first unit have the kernels that their kind demands."""
    small, stem = "features.3.0.body.0.weight" in own, own.get("features.0.weight", ())[2:]
    if stem and (small or "features.4.0.body.0.weight" in own):
        if (stem == (3, 3)) != small:
            return False
    first = own.get("features.4.0.body.0.weight")
    middle = own.get("features.4.0.body.3.weight")
    bottleneck = "features.4.0.body.6.weight" in own
    # An exported basic unit, read as a bottleneck, has its 3x3 convolutions elsewhere.
    kernels = [shape[2:] for shape in (first, middle) if shape]
    return not kernels or kernels == [(1, 1) if bottleneck else (3, 3), (3, 3)][: len(kernels)]


def nearest(missing, unused, limit=3):
    """Return pairs of a missing name and the unused name that is most like it."""
    pairs = []
    for name in missing:
        close = difflib.get_close_matches(name, unused, n=1, cutoff=0.85)
        pairs += [(name, close[0])] if close else []
        if len(pairs) == limit:
            break
    return pairs


def find_prefixed(params, wanted, separator=None):
    """Find the prefix under which most of the wanted names are in a file.

    Args:
        params: The file's parameters by name.
        wanted: ``{key: name without the prefix}``.
        separator: Character that a prefix ends in; None: only the empty prefix counts.

    Returns:
        ``({key of wanted: name in the file}, prefixes)``: the prefixes under which most names are.
        If there are several, which is meant cannot be told, and there are no names.
    """
    counts, values = collections.Counter(), set(wanted.values())
    for name in params:
        cuts = [0] + [i + 1 for i, character in enumerate(name) if character == separator]
        counts.update(name[:cut] for cut in cuts if name[cut:] in values)
    best = [prefix for prefix, count in counts.items() if count == max(counts.values())]
    if len(best) != 1:
        return {}, best
    return {key: best[0] + w for key, w in wanted.items() if best[0] + w in params}, best
