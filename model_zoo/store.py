"""Weight store: parameter files by model name, always verified, from a directory or a mirror.

A file is looked for in ``root`` if given, then in ``$MXNET_HOME/models``, in ``~/.mxnet/models``,
and among the small ones that come with this package (``model_zoo/weights``, no network needed). One
that is nowhere is fetched into the first of these from the mirror named by
``MXNET_GLUON_REPO``: an http(s) URL, a ``file://`` URL or a directory with this layout:

* ``gluon_attn/models/weights.json``: optional table of the mirror's own weights, in the form of
  the ``weights.json`` beside this file; built-in entries win over it;
* ``gluon_attn/models/{name}-{sha8}.params``: our weights;
* ``gluon/models/{name}-{sha8}.zip``: Gluon's ImageNet ResNets, as MXNet lays them out.

No host is contacted unless the user names one: MXNet's own default no longer answers. Every file is
checked against its hash before use, because ``mx.nd.load`` takes flipped bytes without a word.
"""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import dataclass

from gluon_attn.files import write_bytes
from model_zoo.transfer import (
    MIRROR_VARIABLE,
    fetch,
    mirror_location,
    mismatch,
    read_small,
    shown,
)

BUILTIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "weights.json")
PACKAGED = os.path.join(os.path.dirname(BUILTIN), "weights")
INDEX = "gluon_attn/models/weights.json"
INDEX_COPY = "gluon_attn-weights.json"
GLUON_RESNETS = tuple(f"resnet{depth}_v1" for depth in (18, 34, 50, 101, 152))
SCHEMA_VERSION = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightEntry:
    """What is known of one weight file; ``size`` in bytes, None where unknown.

    ``recipe`` and ``schema`` are those of the training run, as dict and list; ``score`` says what
    the weights reach: ``split`` and measures in 0..1.
    """

    name: str
    file: str
    digest: str
    algorithm: str = "sha256"
    size: int = None
    classes: tuple = None
    recipe: dict = None
    schema: list = None
    data: dict = None
    score: object = None
    remote: str = ""  # path below the mirror


def get_model_file(name, root=None):
    """Return the path of the verified weight file of model ``name``.

    Args:
        name: One of :func:`pretrained_model_list`.
        root: Directory to look in first and to fetch into.

    Raises:
        ValueError: No weights are known for ``name``, or the file is not the expected one.
        FileNotFoundError: The file is neither in the directories nor on the mirror; the message
            says what to do offline.
        OSError: Transfer or disk failed (TimeoutError: another process holds the lock).
    """
    directories = _directories(root)
    entry = _entry(name, directories[0])
    corrupt = []
    for directory in (*directories, PACKAGED):
        path = os.path.join(directory, entry.file)
        if os.path.exists(path):
            problem = mismatch(path, entry)
            if problem is None:
                return path
            log.warning("%s", problem)
            corrupt.append(problem)
    mirror = mirror_location()
    if mirror is None and corrupt:
        raise ValueError("; ".join(corrupt) + ". " + _offline_help(entry, directories[0]))
    if mirror is None:
        raise FileNotFoundError(
            f"weights of '{name}' are not in {' or '.join(directories)}, and no mirror is set. "
            + _offline_help(entry, directories[0])
        )
    return fetch(entry, mirror, directories[0])


def entries(root=None):
    """Return all known weights as ``{name: WeightEntry}``: built-in, Gluon's and the mirror's.

    A mirror that cannot be reached is replaced by the copy of its table kept in the first
    directory, with a warning.

    Raises:
        ValueError: A table is malformed.
    """
    return _with_mirror(_builtin_entries(), _directories(root)[0])


def pretrained_model_list():
    """Return the names of all models for which weights are known, sorted."""
    return sorted(entries())


def purge(root=None):
    """Delete this store's files from ``root`` (default: the first directory of the lookup).

    Gluon's own weight files, and files under any other name, stay.

    Returns:
        The paths deleted.
    """
    directory = _directories(root)[0]
    known = {**_builtin_entries(), **_index_copy(directory)}
    own = "|".join(re.escape(n) for n in known if n not in GLUON_RESNETS) or "(?!)"
    any_name = "|".join(map(re.escape, known))
    patterns = re.compile(
        rf"(?:{own})-[0-9a-f]{{8}}\.params"
        rf"|(?:{any_name})-[0-9a-f]{{8}}\.(?:params\.part|params\.corrupt|zip\.part)"
        rf"|\.(?:{any_name})-[0-9a-f]{{8}}\.params\.lock(?:\.owner)?"
        rf"|{re.escape(INDEX_COPY)}"
    )
    names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    paths = [os.path.join(directory, n) for n in names if patterns.fullmatch(n)]
    for path in paths:
        os.remove(path)
    return paths


# ---------------------------------------------------------------------------------------- tables


def _directories(root):
    """Return the lookup order; the first one is where fetched files go."""
    home = os.path.join(os.path.expanduser("~"), ".mxnet")
    listed = [root, os.path.join(os.environ.get("MXNET_HOME") or home, "models")]
    listed.append(os.path.join(home, "models"))
    absolute = (os.path.abspath(os.path.expanduser(d)) for d in listed if d)
    return list(dict.fromkeys(absolute))


def _entry(name, directory):
    table = _builtin_entries()
    if name not in table:
        table = _with_mirror(table, directory)
    if name in table:
        return table[name]
    own = sorted(n for n in table if n not in GLUON_RESNETS)
    raise ValueError(
        f"no weights are known for '{name}'. Models with weights: {', '.join(own) or '(none)'}; "
        f"Gluon's ImageNet backbones: {', '.join(GLUON_RESNETS)}. Train it "
        "(tools/train_wider.py), start from a backbone file (--base-params FILE), or set "
        f"{MIRROR_VARIABLE} to a mirror that lists '{name}' in {INDEX}"
    )


def _builtin_entries():
    # Private, but the only place where Gluon keeps these hashes; requirements pin mxnet 1.9.1.
    from mxnet.gluon.model_zoo.model_store import _model_sha1

    table = {}
    for name in GLUON_RESNETS:
        sha1 = _model_sha1[name]
        stem = f"{name}-{sha1[:8]}"
        table[name] = WeightEntry(
            name, stem + ".params", sha1, "sha1", remote=f"gluon/models/{stem}.zip"
        )
    with open(BUILTIN, "rb") as file:
        table.update(_parse(file.read(), BUILTIN))
    return table


def _with_mirror(table, directory):
    for name, entry in _mirror_entries(directory).items():
        known = table.setdefault(name, entry)
        if known.digest != entry.digest:
            log.warning(
                "the mirror lists other weights for '%s' (%s); the built-in %s is kept",
                name, entry.file, known.file,
            )  # fmt: skip
    return table


def _mirror_entries(directory):
    """Read the mirror's table and keep a copy, so that fetched files stay usable offline."""
    mirror = mirror_location()
    if mirror is None:
        return _index_copy(directory)
    try:
        text = read_small(mirror, INDEX)
    except OSError as error:
        log.warning("mirror %s: cannot read %s: %s", shown(mirror), INDEX, error)
        return _index_copy(directory)
    if text is None:
        return {}
    found = _parse(text, f"{shown(mirror)}/{INDEX}")
    try:
        write_bytes(os.path.join(directory, INDEX_COPY), text)
    except OSError as error:
        log.debug("cannot keep a copy of the mirror's table: %s", error)
    return found


def _index_copy(directory):
    path = os.path.join(directory, INDEX_COPY)
    if not os.path.isfile(path):
        return {}
    with open(path, "rb") as file:
        return _parse(file.read(), path)


def _parse(text, where):
    """Return the entries of a table; every field is checked, since a mirror's is foreign input."""
    try:
        table = json.loads(text.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{where}: not JSON: {error}") from error
    weights = table.get("weights") if isinstance(table, dict) else None
    if not isinstance(weights, dict):
        raise ValueError(f"{where}: expected an object with 'version' and 'weights'")
    if table.get("version") != SCHEMA_VERSION:
        raise ValueError(
            f"{where}: version {table.get('version')!r}, this release reads {SCHEMA_VERSION}; "
            "update gluon_attn or the table"
        )
    return {name: _parse_entry(name, record, where) for name, record in weights.items()}


def _parse_entry(name, record, where):
    def check(good, text):
        if not good:
            raise ValueError(f"{where}: entry '{name}': {text}")

    check(re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name), "not a model name")
    check(isinstance(record, dict), "expected an object")
    digest = record.get("sha256")
    good = isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)
    check(good, f"sha256 {digest!r} is not 64 lower-case hexadecimal digits")
    file, size, classes = (record.get(k) for k in ("file", "size", "classes"))
    # This also keeps a mirror from naming a file outside the store's directory.
    check(file == f"{name}-{digest[:8]}.params", f"file must be {name}-{digest[:8]}.params")
    check(type(size) is int and size > 0, f"size {size!r} is not a positive number of bytes")
    good = classes is None or isinstance(classes, list) and all(isinstance(c, str) for c in classes)
    check(good, "classes must be null or a list of names")
    for key, kind in (("recipe", dict), ("schema", list), ("data", dict)):
        good = isinstance(record.get(key), (kind, type(None)))
        check(good, f"{key} must be null or {'an object' if kind is dict else 'a list'}")
    return WeightEntry(
        name, file, digest, size=size, classes=None if classes is None else tuple(classes),
        recipe=record.get("recipe"), schema=record.get("schema"), data=record.get("data"),
        score=record.get("score"), remote=f"gluon_attn/models/{file}",
    )  # fmt: skip


def _offline_help(entry, directory):
    text = (
        f"What to do: put {entry.file} with {entry.algorithm} {entry.digest} into {directory}; or "
        f"set {MIRROR_VARIABLE} to a URL or directory that holds {entry.remote}; or give "
        "the weights of a backbone with --base-params FILE"
    )
    own = entry.name not in GLUON_RESNETS
    return text + ("; or train it with tools/train_wider.py" if own else "; or start without")
