"""Reading, fitting and writing parameter files.

MXNet has two kinds: ``save_parameters`` writes structural names (``features.0.weight``), ``export``
writes ``arg:``/``aux:`` and absolute names (``arg:resnetv10_conv0_weight``) whose prefix changes
with every instance. Here both load into a Gluon block: everything is checked first, and then either
all of it is assigned or nothing. ``mx.nd.load`` is not used: it takes memory for whatever a damaged
file promises (see ``gluon_attn.core.reading``). Shapes, names and finite values are checked
here, hashes
by ``model_zoo.store``. Files of other packages are opened and renamed by ``model_zoo.adapters``.
"""

from __future__ import annotations

import collections
import fnmatch
import logging
import os
import re

import numpy as np

from gluon_attn.core.errors import REMEDY
from gluon_attn.core.files import save_parameters
from gluon_attn.core.reading import PARAMS_MAGIC, load_params

CLASSIFIER = "output.*"

log = logging.getLogger(__name__)

# What of a file belongs to which parameter: `names` gives for each of the net's the key of `params`
# (the file's, renamed by `table` if there is one, from `raw`), `outside` the keys beside the net.
_Match = collections.namedtuple("_Match", "params names prefix outside raw table")
Loaded = collections.namedtuple("Loaded", "assigned missing ignored")
Loaded.__doc__ = "Structural names assigned and left as they were; names of the file not used."


def read_params(path):
    """Return the arrays of a parameter file by name, without ``arg:`` and ``aux:``.

    Returns:
        dict of name to NDArray on the CPU, in the order of the file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a parameter file, truncated, empty, or with NaN or infinite values.
    """
    path = os.fspath(path)
    _check_head(path)
    arrays = load_params(path)
    if len(arrays) == 0:
        raise ValueError(
            f"{path}: holds no parameters. An export before the first forward pass writes such "
            "files: run the net once, then export or save again"
        )
    if not isinstance(arrays, dict):
        raise ValueError(f"{path}: {len(arrays)} arrays without names; save a dict of arrays")
    params = {re.sub("^(arg|aux):", "", name): data for name, data in arrays.items()}
    if len(params) != len(arrays):
        raise ValueError(f"{path}: the same name both as arg: and aux:; export it again")
    check_finite(params, path)
    return params


def check_finite(params, path):
    """Check that arrays by name hold neither NaN nor infinite values.

    Raises:
        ValueError: Names those that do.
    """
    bad = [name for name, data in params.items() if not _finite(data)]
    if bad:
        raise ValueError(
            f"{path}: NaN or infinite values in {_some(bad)}. The training that wrote it "
            "diverged, or the file is damaged: take an earlier checkpoint, or " + REMEDY
        )


def _check_head(path):
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such parameter file")
    with open(path, "rb") as file:
        head = file.read(16)
    if not head:
        raise ValueError(f"{path}: empty file; {REMEDY}")
    if head[:8] != PARAMS_MAGIC[: len(head[:8])]:
        raise ValueError(
            f"{path}: not an MXNet parameter file (it begins with {head!r}). Valid are files of "
            "save_parameters and the -0000.params of export; unpack zip archives first"
        )


def load_into(
    block, path, allow_missing=(), ignore=(), prefix_map=None, ctx=None, scheme="auto", *, key=None
):  # fmt: skip
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

    Returns:
        :class:`Loaded`.

    Raises:
        FileNotFoundError: No such file.
        ValueError: See :func:`read_params`; or missing, unexpected or wrong-shape parameters, all
            in one message. The block is unchanged.
    """
    params, dropped = _rename(read_arrays(path, key), prefix_map or {}, path)
    loaded = _fit(block, _match(block, params, path, scheme), path, allow_missing, ignore, ctx)
    return loaded._replace(ignored=sorted([*loaded.ignored, *dropped]))


def read_arrays(path, key=None):
    """Return the arrays of a weight file of any known format; see ``model_zoo.adapters``."""
    from model_zoo import adapters

    return adapters.read_arrays(path, key)


def load_backbone(backbone, path, allow_missing=(), ctx=None, scheme="auto", *, key=None):
    """Load the weights of a backbone from a file of that backbone or of a net around it.

    Takes Gluon zoo files with any number of classes, files of a plain backbone, and files of a net
    that holds the backbone (``backbone.features…``, ``heads.…``), saved or exported. A classifier
    (``output.*``) of another shape is left as initialized. Files of other packages will do too.

    Args:
        backbone: Block with ``features`` and ``output``.
        path: Parameter file; see :func:`load_into`.
        allow_missing: Patterns of further names that may be missing, e.g. of attention blocks.
        ctx, scheme, key: As for :func:`load_into`.

    Returns:
        Sorted list of the names in the file that were not used.

    Raises:
        FileNotFoundError, ValueError: As :func:`load_into`.
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
    _fit(backbone, match, path, [CLASSIFIER, *_patterns(allow_missing)], (), ctx)
    if skipped:
        log.info("%s: %d parameters not used: %s", path, len(skipped), _some(sorted(skipped)))
    return sorted(skipped)


def save_params(block_or_dict, path):
    """Write a parameter file into a directory that exists.

    See :func:`gluon_attn.core.files.save_parameters`, which creates the directory.

    Raises:
        FileNotFoundError: There is no such directory.
    """
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise FileNotFoundError(f"cannot save {path}: no directory {directory}")
    save_parameters(block_or_dict, path)


def _fit(block, match, path, allow_missing, ignore, ctx):
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
    problems = [f"{len(items)} {text}: {_some(items)}" for items, text in found if items]
    if problems:
        why = _explain(match, targets, missing, extra)
        raise ValueError(
            f"{path} does not fit {type(block).__name__}; nothing was loaded. Parameters "
            f"{'; '.join(problems)}. {why}Build the net with the name, version (v1, v1b), classes "
            "and options with which the file was saved, or choose the file of this net; the "
            "backbone alone loads with --base-params, or model_zoo.params_io.load_backbone"
        )
    _assign([(targets[t], params[n]) for t, n in names.items()], ctx)
    return Loaded(sorted(names), sorted(absent), sorted(ignored))


def _assign(pairs, ctx):
    for parameter, data in pairs:
        # What Block.load_parameters calls; works on uninitialized and deferred parameters too.
        parameter._load_init(data, None, cast_dtype=True)
        if ctx is not None:
            parameter.reset_ctx(ctx)


def _match(block, params, path, scheme, inside=False):
    """Return a :class:`_Match`; if the names are foreign, its ``params`` come under ours."""
    from model_zoo import adapters

    targets = block._collect_params_with_prefix()
    match = _Match(params, *_align(block, params, path, inside), [], params, None)
    if scheme != "gluon" and (scheme != "auto" or len(match.names) < len(targets)):
        known = len(match.names) if scheme == "auto" else 0
        found = adapters.translate(targets, params, scheme, known)
        if found is not None:
            names = {target: target for target in targets if target in found.params}
            return _Match(found.params, names, "", found.outside, params, found.table)
    return match


def _explain(match, targets, missing, extra):
    from model_zoo import adapters

    return adapters.explain(match.raw, targets, missing, extra, match.table)


def _align(block, params, path, inside=False):
    """Return ({structural name: name in the file}, prefix of these names in the file).

    With ``inside`` structural names may carry a prefix too.
    """
    targets = block._collect_params_with_prefix()
    structural = _with_prefix(params, {t: t for t in targets}, "." if inside else None, path)
    if len(structural[0]) == len(targets):
        return structural
    absolute = {}, ""
    if all(p.name.startswith(block.prefix) for p in targets.values()):
        cut = len(block.prefix)
        absolute = _with_prefix(params, {t: p.name[cut:] for t, p in targets.items()}, "_", path)
        if len(absolute[0]) == len(targets):
            return absolute
    counted = _by_counter(targets, params)
    return max(structural, absolute, counted, key=lambda found: len(found[0]))


def _with_prefix(params, wanted, separator, path):
    """Return ``({target: name in the file}, prefix)``, see ``find_prefixed``; {} if two tie."""
    from model_zoo.adapters.translate import find_prefixed

    names, best = find_prefixed(params, wanted, separator)
    values = set(wanted.values())
    if len(best) > 1 and 2 * sum(best[0] + value in params for value in values) > len(values):
        raise ValueError(
            f"{path}: the net fits in several places of the file: {_some(best)}; drop all but one "
            "with prefix_map={'…': None}"
        )
    return names, best[0] if names else ""


def _by_counter(targets, params):
    """Match names that differ only in the counter of their first part, ``vaa0_…`` and ``vaa3_…``.

    Gluon counts the instances of a class outside any name scope, in the order of their creation.
    Exported files are in the order of the graph, so position says nothing about the layer.
    """
    ours = _ranked({p.name for p in targets.values()})
    theirs = {key: name for name, key in _ranked(params).items()}
    instances = [collections.defaultdict(set), collections.defaultdict(set)]
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


def _ranked(names):
    """Return {name: (class, rank of its counter in that class, rest of the name)}."""
    matches = {name: re.fullmatch(r"([^_.]*?)(\d*)_(.+)", name) for name in names}
    parts = {n: m.groups() if m else ("", "", n) for n, m in matches.items()}
    counters = collections.defaultdict(set)
    for kind, counter, _ in parts.values():
        counters[kind].add(int(counter or -1))
    ranks = {kind: {c: i for i, c in enumerate(sorted(cs))} for kind, cs in counters.items()}
    return {n: (kind, ranks[kind][int(c or -1)], rest) for n, (kind, c, rest) in parts.items()}


def _rename(params, prefix_map, path):
    renamed, dropped = {}, []
    for name, data in params.items():
        old = max((p for p in prefix_map if name.startswith(p)), key=len, default=None)
        if old is not None and prefix_map[old] is None:
            dropped.append(name)
            continue
        new = name if old is None else prefix_map[old] + name[len(old) :]
        if new in renamed:
            raise ValueError(f"{path}: prefix_map {prefix_map} makes two parameters '{new}'")
        renamed[new] = data
    return renamed, dropped


def _fits(shape, given):
    """Tell whether a shape with unknown sizes (0 or -1) can be the given one."""
    if shape is None:
        return True
    return len(shape) == len(given) and all(a in (b, 0, -1) for a, b in zip(shape, given))


def _finite(data):
    kind = np.dtype(data.dtype).kind
    if kind in "iub":
        return True
    values = (data if kind == "f" else data.astype("float32")).asnumpy()  # "V" is bfloat16
    return bool(np.isfinite(values).all())


def _patterns(patterns):
    return [patterns] if isinstance(patterns, str) else list(patterns)


def _is_like(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _some(items, limit=4):
    """Return the first few items, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
