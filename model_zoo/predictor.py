"""Models with published weights, ready to be given images.

>>> from model_zoo import load_predictor  # doctest: +SKIP
>>> predictor = load_predictor("vaa_resnet18_w16_clothing")  # doctest: +SKIP
>>> predictor.trained_on  # doctest: +SKIP
'Clothing Co-Parsing, street photographs of people'
>>> predictor.predict(["person.jpg"])  # doctest: +SKIP
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import shutil
import stat
import tempfile
from typing import Any

import mxnet as mx

from gluon_attn import __version__
from gluon_attn.export import ExportError, Predictor
from gluon_attn.export.sidecar import FORMAT_VERSION, is_export, read_sidecar, read_verified
from model_zoo import store
from model_zoo.registry import get_model, trained_options
from model_zoo.trained import from_zoo

logger = logging.getLogger("gluon_attn.pretrained")


def load_predictor(
    name: str, root: str | None = None, with_maps: bool = True, **options: Any
) -> Predictor:
    """Return a Predictor of a zoo model with published weights.

    The model is exported once, into ``exports`` beside its weights in the first directory of the
    weight store, and read from there afterwards; where that cannot be written, into a folder of
    this user's in the temporary directory. A damaged export there is made again. ``trained_on`` of
    the result says what data the net has learnt from.

    Args:
        name: Zoo name, in any case; ``model_zoo.store.pretrained_model_list()`` has those with
            weights.
        root: Folder of weight files, see :func:`model_zoo.store.directories`.
        with_maps: Whether attention maps are exported too, where the net has any.
        **options: Of :class:`gluon_attn.export.Predictor`.

    Raises a ValueError if no weights are known for ``name``, a FileNotFoundError or OSError if they
    are not at hand, and an ExportError if the export gives other numbers than the net.
    """
    name = name.lower()
    file, entry = store.find(name, root)
    net = get_model(name, **trained_options(name, entry))
    maps = with_maps and bool(getattr(net, "attention_outputs", ()))
    stem = os.path.splitext(os.path.basename(file))[0] + ("-maps" if maps else "")
    # What another release has exported may be fed or named otherwise.
    directory = _place(f"{stem}-{FORMAT_VERSION}-{__version__}", root)
    if not _is_whole(directory):
        _export(name, directory, root, maps)
    return Predictor(directory, **options)


def _export(name: str, directory: str, root: str | None, maps: bool) -> None:
    trained = from_zoo(name, None, [mx.cpu()], pretrained=True, root=root)
    damaged = is_export(directory)
    if not damaged:
        shutil.rmtree(directory, ignore_errors=True)  # what is left of one
    # A process that started at the same time may have been faster: its export is the same.
    with contextlib.suppress(FileExistsError):
        trained.task.export(trained, directory, name, with_maps=maps, overwrite=damaged)


def _is_whole(directory: str) -> bool:
    """Return whether an export is there, and its graph and weights are what its sidecar says."""
    if not os.path.exists(directory):
        return False
    try:
        for entry in read_sidecar(directory)["files"].values():
            read_verified(directory, entry)
    except (ExportError, OSError) as error:
        logger.warning("%s; it is exported again", error)
        return False
    return True


def _place(name: str, root: str | None) -> str:
    """Return where the export of this name is, or can be written."""
    exports = os.path.join(store.directories(root)[0], "exports")
    directory = os.path.join(exports, name)
    with contextlib.suppress(OSError):
        os.makedirs(exports, exist_ok=True)
    if os.path.isdir(exports) and os.access(exports, os.W_OK):
        return directory
    return directory if _is_whole(directory) else os.path.join(_temporary(), name)


def _temporary() -> str:
    """Return this user's folder in the temporary directory, where anybody could have made one."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = os.path.join(tempfile.gettempdir(), f"gluon_attn-exports-{user}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == user
    return folder if own and not found.st_mode & 0o022 else _until_exit()


@functools.lru_cache(None)
def _until_exit() -> str:
    folder = tempfile.mkdtemp(prefix="gluon_attn-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
