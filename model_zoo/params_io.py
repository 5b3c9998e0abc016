"""Fitting parameter files to nets, and writing them.

MXNet has two kinds: ``save_parameters`` writes structural names (``features.0.weight``), ``export``
writes ``arg:``/``aux:`` and absolute names (``arg:resnetv10_conv0_weight``) whose prefix changes
with every instance. Here both load into a Gluon block: everything is checked first, and then either
all of it is assigned or nothing. Files are opened by :mod:`model_zoo.adapters.read`, names of other
packages translated by :mod:`model_zoo.adapters.names`, hashes checked by :mod:`model_zoo.store`.
"""

from __future__ import annotations

import collections
import fnmatch
import logging
import os
import re
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

from mxnet.gluon import Block, Parameter

from gluon_attn.core.files import save_parameters
from gluon_attn.core.text import PathLike
from model_zoo.adapters.names import explain, find_prefixed, translate
from model_zoo.adapters.read import Params, read_arrays, some
from model_zoo.adapters.tables import Table

CLASSIFIER = "output.*"

log = logging.getLogger(__name__)

Patterns = Any  # a pattern such as ``heads.*``, or several


class Loaded(NamedTuple):
    """Structural names assigned and left as they were; names of the file not used."""

    assigned: list[str]
    missing: list[str]
    ignored: list[str]


class _Match(NamedTuple):
    """What of a file belongs to which parameter.

    Attributes:
        params: The file's, renamed by ``table`` if there is one; ``raw`` are not renamed.
        names: For each parameter of the net its key in ``params``, all with ``prefix``.
        outside: Keys beside the net.
        table: Of the naming scheme, if the names are others'.
    """

    params: Params
    names: dict[str, str]
    prefix: str
    outside: list[str]
    raw: Params
    table: Table | None


def load_into(
    block: Block,
    path: PathLike,
    allow_missing: Patterns = (),
    ignore: Patterns = (),
    *,
    prefix_map: Mapping[str, str | None] | None = None,
    ctx: Any = None,
    scheme: str = "auto",
    key: str | None = None,
    arrays: Params | None = None,
) -> Loaded:
    """Load a parameter file into ``block``: all of it, or nothing.

    Args:
        block: Gluon block, initialized or not.
        path: File of ``save_parameters``, or ``-0000.params`` of ``export``. Absolute names are
            matched whatever instance of the net wrote them. Also a weight file of another package,
            see :func:`model_zoo.load_foreign`.
        allow_missing: Patterns (``heads.*``) of structural names that may stay as they are.
        ignore: Patterns of names in the file that are not to be used.
        prefix_map: ``{prefix in the file: prefix in the net}``; None as a target drops the names.
        ctx: Context or list of contexts to move the loaded parameters to.
        scheme: Whose names these are, see :func:`model_zoo.load_foreign`.
        key: Of a PyTorch checkpoint with several state dicts, which one (``state_dict_ema``).
        arrays: What :func:`read_arrays` gave of the file, if it has been read.

    Raises a ValueError as :func:`read_arrays`, or with all missing, unexpected and wrong-shape
    parameters in one message. Then the block is unchanged.
    """
    arrays = read_arrays(path, key) if arrays is None else arrays
    params, dropped = _rename(arrays, prefix_map or {}, path)
    match = _match(block, params, path, scheme)
    loaded = _fit(block, match, path, allow_missing=allow_missing, ignore=ignore, ctx=ctx)
    return loaded._replace(ignored=sorted([*loaded.ignored, *dropped]))


def load_backbone(
    backbone: Block,
    path: PathLike,
    allow_missing: Patterns = (),
    ctx: Any = None,
    *,
    scheme: str = "auto",
    key: str | None = None,
) -> list[str]:
    """Load the weights of a backbone from a file of that backbone or of a net around it.

    Takes Gluon zoo files with any number of classes, files of a plain backbone, and files of a net
    that holds the backbone (``backbone.features…``, ``heads.…``), saved or exported. A classifier
    (``output.*``) of another shape is left as initialized. Files of other packages will do too.
    ``allow_missing`` has patterns of further names, e.g. of attention blocks; for the others see
    :func:`load_into`. Returns the names in the file that were not used, sorted.
    """
    match = _match(backbone, read_arrays(path, key), path, scheme, inside=True)
    params, names, prefix = match.params, match.names, match.prefix
    skipped = {name for name in params if not name.startswith(prefix)} | set(match.outside)
    targets = backbone._collect_params_with_prefix()
    head = [t for t in targets if _is_like(t, (CLASSIFIER,))]
    if not all(t in names and _fits(targets[t].shape, params[names[t]].shape) for t in head):
        skipped.update(names.pop(t) for t in head if t in names)
        log.info("%s: the classifier (%s) stays at its initialisation", path, CLASSIFIER)
    skipped.update(n for n in params if _is_like(n, (prefix + CLASSIFIER,)) and n not in names)
    skipped -= set(names.values())
    kept = {name: data for name, data in params.items() if name not in skipped}
    match = match._replace(params=kept)
    allowed = [CLASSIFIER, *_patterns(allow_missing)]
    _fit(backbone, match, path, allow_missing=allowed, ctx=ctx)
    if skipped:
        log.info("%s: %d parameters not used: %s", path, len(skipped), some(sorted(skipped)))
    return sorted(skipped)


def save_params(block_or_dict: Any, path: PathLike) -> None:
    """Write a parameter file into a directory that exists; FileNotFoundError if it does not.

    See :func:`gluon_attn.core.files.save_parameters`, which creates the directory.
    """
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise FileNotFoundError(f"cannot save {path}: no directory {directory}")
    save_parameters(block_or_dict, path)


def _fit(
    block: Block,
    match: _Match,
    path: PathLike,
    *,
    allow_missing: Patterns,
    ignore: Patterns = (),
    ctx: Any = None,
) -> Loaded:
    """Check everything, then assign ``params[names[target]]`` to every target."""
    targets, params, names = block._collect_params_with_prefix(), match.params, match.names
    ignore, allow_missing = _patterns(ignore), _patterns(allow_missing)
    names = {t: n for t, n in names.items() if not _is_like(t, ignore) and not _is_like(n, ignore)}
    used = set(names.values())
    given = {id(targets[t]) for t in names}  # a shared parameter needs only one of its names
    absent = [t for t, p in targets.items() if id(p) not in given]
    missing = [t for t in absent if not _is_like(t, allow_missing)]
    ignored = [n for n in params if n not in used and _is_like(n, ignore)]
    extra = [n for n in params if n not in used and n not in ignored]
    wrong = [
        f"{t} (file {params[n].shape}, net {targets[t].shape})"
        for t, n in names.items()
        if not _fits(targets[t].shape, params[n].shape)
    ]
    found = (
        (missing, f"of {len(targets)} missing in the file"),
        (extra, f"of {len(params)} in the file unexpected"),
        (wrong, "of another shape"),
    )
    problems = [f"{len(items)} {text}: {some(items)}" for items, text in found if items]
    if problems:
        why = explain(match.raw, targets, missing, extra, table=match.table)
        raise ValueError(
            f"{path} does not fit {type(block).__name__}; nothing was loaded. Parameters "
            f"{'; '.join(problems)}. {why}Build the net with the name, version (v1, v1b), classes "
            "and options with which the file was saved, or choose the file of this net; the "
            "backbone alone loads with --base-params, or model_zoo.params_io.load_backbone"
        )
    _assign([(targets[t], params[n]) for t, n in names.items()], ctx)
    return Loaded(sorted(names), sorted(absent), sorted(ignored))


def _assign(pairs: Iterable[tuple[Parameter, Any]], ctx: Any) -> None:
    for parameter, data in pairs:
        # What Block.load_parameters calls; works on uninitialized and deferred parameters too.
        parameter._load_init(data, None, cast_dtype=True)
        if ctx is not None:
            parameter.reset_ctx(ctx)


def _match(
    block: Block, params: Params, path: PathLike, scheme: str, *, inside: bool = False
) -> _Match:
    """Return a :class:`_Match`; if the names are not ours, its ``params`` come under ours."""
    targets = block._collect_params_with_prefix()
    match = _Match(params, *_align(block, params, path, inside), [], params, None)
    if scheme != "gluon" and (scheme != "auto" or len(match.names) < len(targets)):
        known = len(match.names) if scheme == "auto" else 0
        found = translate(targets, params, scheme, known)
        if found is not None:
            names = {target: target for target in targets if target in found.params}
            return _Match(found.params, names, "", found.outside, params, found.table)
    return match


def _align(
    block: Block, params: Params, path: PathLike, inside: bool = False
) -> tuple[dict[str, str], str]:
    """Return ({structural name: name in the file}, prefix of these names in the file).

    With ``inside`` structural names may carry a prefix too.
    """
    targets = block._collect_params_with_prefix()
    structural = _with_prefix(params, {t: t for t in targets}, "." if inside else None, path)
    if len(structural[0]) == len(targets):
        return structural
    absolute: tuple[dict[str, str], str] = {}, ""
    if all(p.name.startswith(block.prefix) for p in targets.values()):
        cut = len(block.prefix)
        absolute = _with_prefix(params, {t: p.name[cut:] for t, p in targets.items()}, "_", path)
        if len(absolute[0]) == len(targets):
            return absolute
    counted = _by_counter(targets, params)
    return max(structural, absolute, counted, key=lambda found: len(found[0]))


def _with_prefix(
    params: Params, wanted: Mapping[str, str], separator: str | None, path: PathLike
) -> tuple[dict[str, str], str]:
    """Return ``({target: name in the file}, prefix)``, see ``find_prefixed``; {} if two tie."""
    names, best = find_prefixed(params, wanted, separator)
    values = set(wanted.values())
    if len(best) > 1 and 2 * sum(best[0] + value in params for value in values) > len(values):
        raise ValueError(
            f"{path}: the net fits in several places of the file: {some(best)}; drop all but one "
            "with prefix_map={'…': None}"
        )
    return names, best[0] if names else ""


def _by_counter(targets: Mapping[str, Parameter], params: Params) -> tuple[dict[str, str], str]:
    """Match names that differ only in the counter of their first part, ``vaa0_…`` and ``vaa3_…``.

    Gluon counts the instances of a class outside any name scope, in the order of their creation.
    Exported files are in the order of the graph, so position says nothing about the layer.
    """
    ours = _ranked({p.name for p in targets.values()})
    theirs = {key: name for name, key in _ranked(params).items()}
    instances: list[dict[str, set[int]]] = [collections.defaultdict(set) for _ in range(2)]
    for sets, keys in zip(instances, (ours.values(), theirs)):
        for kind, rank, _ in keys:
            sets[kind].add(rank)
    found = {}
    for target, parameter in targets.items():
        key = ours[parameter.name]
        # With another number of instances the ranks would point to other layers.
        if key in theirs and instances[0][key[0]] == instances[1][key[0]]:
            found[target] = theirs[key]
    return found, ""


def _ranked(names: Iterable[str]) -> dict[str, tuple[str, int, str]]:
    """Return {name: (class, rank of its counter in that class, rest of the name)}."""
    matches = {name: re.fullmatch(r"([^_.]*?)(\d*)_(.+)", name) for name in names}
    parts = {n: m.groups() if m else ("", "", n) for n, m in matches.items()}
    counters: dict[str, set[int]] = collections.defaultdict(set)
    for kind, counter, _ in parts.values():
        counters[kind].add(int(counter or -1))
    ranks = {kind: {c: i for i, c in enumerate(sorted(cs))} for kind, cs in counters.items()}
    return {n: (kind, ranks[kind][int(c or -1)], rest) for n, (kind, c, rest) in parts.items()}


def _rename(
    params: Params, prefix_map: Mapping[str, str | None], path: PathLike
) -> tuple[Params, list[str]]:
    renamed: Params = {}
    dropped: list[str] = []
    for name, data in params.items():
        old = max((p for p in prefix_map if name.startswith(p)), key=len, default="")
        target = prefix_map.get(old, old)
        if target is None:
            dropped.append(name)
            continue
        new = target + name[len(old) :]
        if new in renamed:
            raise ValueError(f"{path}: prefix_map {prefix_map} makes two parameters '{new}'")
        renamed[new] = data
    return renamed, dropped


def _fits(shape: Sequence[int] | None, given: Sequence[int]) -> bool:
    """Tell whether a shape with unknown sizes (0 or -1) can be the given one."""
    if shape is None:
        return True
    return len(shape) == len(given) and all(a in (b, 0, -1) for a, b in zip(shape, given))


def _patterns(patterns: Patterns) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def _is_like(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
