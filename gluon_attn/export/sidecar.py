"""The sidecar of an export directory: ``<name>.json``, which says what the other files are.

An export directory holds ``<name>-symbol.json`` (graph), ``<name>-0000.params`` (weights) and the
sidecar: classes in order, what the input must look like, thresholds, outputs, the checksum of every
file and the figure of the parity check. Files of other precisions and formats may lie beside them;
readers ignore keys that they do not know, and refuse a newer ``format_version``.

The sidecar carries a checksum of itself, so that an edited mean or a swapped class is refused like
an edited weight; change it with :func:`write_sidecar`. This module does not import MXNet.
"""

from __future__ import annotations

import contextlib
import json
import numbers
import os
import shutil
import socket
import uuid
from pathlib import Path
from typing import Any, Dict, Iterator, Sequence

from gluon_attn.core import files
from gluon_attn.core.errors import describe
from gluon_attn.core.images import RESAMPLING
from gluon_attn.core.registry import unknown_name
from gluon_attn.core.schema import Schema
from gluon_attn.core.text import PathLike, read_json

Sidecar = Dict[str, Any]

FORMAT = "gluon_attn export"
FORMAT_VERSION = 2  # what this release reads; for what it writes see version_of
ACTIVATIONS = ("sigmoid", "softmax", "none")
PREPROCESS_KEYS = ("mean", "std", "resize", "crop", "keep_aspect", "interpolation")
AUTO = "area if both sides shrink, else bilinear"
REQUIRED = ("name", "classes", "thresholds", "activation", "input", "outputs", "files")
MAX_SIDE = 8192  # pixels of an input: what a file says must not fill the memory


class ExportError(ValueError):
    """An export that could not be made or is not what its sidecar says."""


def describe_file(path: PathLike) -> dict[str, Any]:
    """Return ``{"file", "bytes", "sha256"}`` of a file."""
    path = Path(path)
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": files.sha256_of(path)}


def trained_on(extra: dict[str, Any]) -> str:
    """Return in words what a net was trained on, by ``extra`` of a sidecar; '' if nothing says.

    A net that did not begin at random is said to be from the weights of the backbone it began with.
    """
    recipe = extra.get("recipe") or {}
    dataset, backbone = recipe.get("dataset", "auto"), recipe.get("backbone")
    read = f"data read as '{dataset}'" if dataset != "auto" else ""
    found = str((extra.get("data") or {}).get("name") or read)
    return f"{found}, from the weights of {backbone}" if found and backbone else found


def read_verified(directory: PathLike, entry: dict[str, Any]) -> bytes:
    """Return the contents of one file of an export, once they match its :func:`describe_file`.

    What is checked is exactly what is returned: the file is read once. Raises FileNotFoundError, or
    an ExportError if size or checksum is not the recorded one.
    """
    path = Path(directory) / entry["file"]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing from the export; copy the whole directory again")
    return check_bytes(path.read_bytes(), entry, path)


def check_bytes(data: bytes, entry: dict[str, Any], path: Path) -> bytes:
    """Return ``data``, read from ``path``, if size and checksum are those of ``entry``."""
    if len(data) != entry["bytes"]:
        what = "truncated" if len(data) < entry["bytes"] else "too long"
        raise ExportError(f"{path}: {what}: {len(data)} bytes, the sidecar says {entry['bytes']}")
    actual = files.sha256_of_bytes(data)
    if actual != entry["sha256"]:
        raise ExportError(
            f"{path}: checksum mismatch: sha256 expected {entry['sha256']}, actual {actual}"
        )
    return data


def write_sidecar(directory: PathLike, sidecar: Sidecar) -> Path:
    """Write ``<name>.json`` with its own checksum, atomically, and return its path."""
    body = files.finite({k: v for k, v in sidecar.items() if k != "sidecar_sha256"})
    body["sidecar_sha256"] = _digest(body)
    path = Path(directory) / f"{sidecar['name']}.json"
    files.write_text(path, files.json_text(body))
    return path


def read_sidecar(directory: PathLike) -> Sidecar:
    """Return the sidecar of an export directory; FileNotFoundError if there is no such directory.

    An ExportError if it is no export directory, was written by a newer version, or the sidecar was
    changed or cut short.
    """
    directory = Path(directory)
    if not directory.exists():
        raise FileNotFoundError(f"{directory}: no such export directory")
    if not directory.is_dir():
        raise ExportError(f"{directory}: not an export directory but a file; give the directory")
    found = _find_sidecars(directory)
    if len(found) != 1:
        names = ", ".join(sorted(path.name for path in found)) or "none"
        raise ExportError(
            f"{directory}: not an export directory: it must hold one sidecar <name>.json beside "
            f"<name>-symbol.json, found {names}"
        )
    ((path, sidecar),) = found.items()
    if sidecar is None:
        raise ExportError(f"{path}: truncated or damaged: not valid JSON; export again")
    version = sidecar.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ExportError(
            f"{path}: format version {version}, this package reads up to {FORMAT_VERSION}; "
            "update gluon_attn"
        )
    missing = [key for key in REQUIRED if key not in sidecar]
    if missing:
        raise ExportError(f"{path}: sidecar lacks {', '.join(missing)}")
    expected = sidecar.get("sidecar_sha256")
    actual = _digest({k: v for k, v in sidecar.items() if k != "sidecar_sha256"})
    if expected != actual:
        raise ExportError(
            f"{path}: checksum mismatch: sha256 expected {expected}, actual {actual}; the sidecar "
            "was edited (change it with gluon_attn.export.sidecar.write_sidecar)"
        )
    try:  # its author may have written anything
        _check_contents(sidecar)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ExportError(f"{path}: malformed: {describe(error)}; export again") from error
    return sidecar


def is_export(directory: PathLike) -> bool:
    """Return whether ``directory`` looks like an export, whole or damaged."""
    return Path(directory).is_dir() and bool(_find_sidecars(Path(directory)))


@contextlib.contextmanager
def new_directory(directory: PathLike, overwrite: bool = False) -> Iterator[Path]:
    """Make a directory that exists completely or not at all.

    Yields a hidden directory beside ``directory``; when the body ends, its files are flushed to
    disk and it is renamed into place; of an export that was there, files that are none of its own
    stay. When the body raises, it is removed. What a killed process left is removed by the next
    one. See :func:`refuse_existing`.
    """
    directory = Path(directory).resolve()
    refuse_existing(directory, overwrite)
    directory.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(directory)
    owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    partial = directory.with_name(f".{directory.name}.partial-{owner}")
    partial.mkdir()
    try:
        yield partial
        for path in [*partial.iterdir(), partial]:
            files.flush(path)
        _move_into_place(partial, directory, overwrite, owner)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    files.flush(directory.parent)


def refuse_existing(directory: PathLike, overwrite: bool) -> None:
    """Raise FileExistsError unless ``directory`` is new, empty, or an export to be replaced."""
    directory = Path(directory)
    if directory.exists() and not overwrite:
        raise FileExistsError(f"{directory} exists; choose another directory or allow overwriting")
    empty = not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))
    if not empty and not is_export(directory):
        raise FileExistsError(f"{directory} exists and is no export: it will not be replaced")


def check_classes(classes: Any) -> list[str]:
    """Return one name, or distinct, non-empty ones, as a list; ValueError for others."""
    classes = [classes] if isinstance(classes, str) else [str(name) for name in classes]
    repeated = sorted({name for name in classes if classes.count(name) > 1})
    if not classes or repeated or not all(name.strip() for name in classes):
        what = f"repeated: {', '.join(repeated)}" if repeated else f"given: {classes}"
        raise ValueError(f"classes must be distinct, non-empty names; {what}")
    return classes


def check_schema(schema: Any, classes: Sequence[str]) -> Schema:
    """Return a Schema, given one or its JSON, by default binary; its columns are the classes."""
    if schema is None:
        return Schema.binary(classes)
    schema = schema if isinstance(schema, Schema) else Schema.from_json(schema)
    if list(schema.columns) != list(classes):
        raise ValueError(
            f"the schema has the columns {', '.join(schema.columns)}; the classes are "
            f"{', '.join(classes)}"
        )
    return schema


def check_thresholds(thresholds: Any, classes: Sequence[str]) -> list[float]:
    """Return one threshold in [0, 1] per class, given one number for all or one per class."""
    single = isinstance(thresholds, numbers.Real)
    values = [float(thresholds)] * len(classes) if single else [float(t) for t in thresholds]
    if len(values) != len(classes):
        raise ValueError(f"{len(values)} thresholds for {len(classes)} classes; give one or all")
    for name, value in zip(classes, values):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"threshold {value} of class '{name}': valid are 0 to 1")
    return values


def input_entry(input_size: Any, preprocess: dict[str, Any]) -> dict[str, Any]:
    """Return the sidecar's ``input`` entry; a ValueError for wrong keys and values.

    Args:
        input_size: Side of the square input in pixels, or ``(H, W)``.
        preprocess: ``mean`` and ``std``, three numbers each in RGB order on the 0–255 scale;
            optional ``resize`` and ``crop``, sides in pixels of the square the image is resized to
            and of the centre crop taken from it, or None; with ``keep_aspect`` true, ``resize`` is
            the image's shorter side, or without a crop that of the square around the whole image;
            ``interpolation`` is one of :data:`gluon_attn.core.images.RESAMPLING`.
    """
    unknown = sorted(set(preprocess) - set(PREPROCESS_KEYS))
    if unknown or "mean" not in preprocess or "std" not in preprocess:
        raise ValueError(
            f"preprocess has {', '.join(sorted(preprocess)) or 'no keys'}: mean and std are needed,"
            f" valid are {', '.join(PREPROCESS_KEYS)}"
        )
    mean = [float(v) for v in preprocess["mean"]]
    std = [float(v) for v in preprocess["std"]]
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"mean and std must be 3 numbers, std above 0; given {mean} and {std}")
    square = isinstance(input_size, numbers.Integral)
    height, width = (input_size, input_size) if square else input_size
    sides = {"resize": preprocess.get("resize"), "crop": preprocess.get("crop")}
    for key, side in dict(sides, height=height, width=width).items():
        if side is not None and (side != int(side) or not 1 <= side <= MAX_SIDE):
            valid = f"valid are whole pixels from 1 to {MAX_SIDE}"
            raise ValueError(f"preprocess {key} {side!r}: {valid}")
    entry: dict[str, Any] = {"name": "data", "shape": ["batch", 3, int(height), int(width)]}
    entry.update(dtype="float32", layout="NCHW", color="RGB", mean=mean, std=std)
    method = preprocess.get("interpolation", "auto")
    if method not in RESAMPLING:
        raise ValueError(unknown_name("interpolation", method, RESAMPLING))
    entry["interpolation"] = AUTO if method == "auto" else method
    entry.update({k: None if v is None else int(v) for k, v in sides.items()})
    if preprocess.get("keep_aspect"):
        if sides["resize"] is None:
            raise ValueError("preprocess keep_aspect needs resize")
        entry["keep_aspect"] = True
    return entry


def version_of(entry: dict[str, Any]) -> int:
    """Return the format version of an export whose input is this entry.

    Readers of version 1 would overlook a letterbox and another interpolation.
    """
    letterbox = entry.get("keep_aspect") and entry["crop"] is None
    return 2 if letterbox or entry["interpolation"] != AUTO else 1


def _find_sidecars(directory: Path) -> dict[Path, Sidecar | None]:
    """Return {path: contents} of the JSON files that call themselves a sidecar."""
    found: dict[Path, Sidecar | None] = {}
    for path in sorted(directory.glob("*.json")):
        if path.name.startswith(".") or path.name.endswith("-symbol.json"):
            continue
        try:
            contents = read_json(path)
        except ValueError:
            # Beside its own graph it must be a sidecar, and a damaged one: say that, not "none".
            if (directory / f"{path.stem}-symbol.json").exists():
                found[path] = None
            continue
        if isinstance(contents, dict) and contents.get("format") == FORMAT:
            found[path] = contents
    return found


def _check_contents(sidecar: Sidecar) -> None:
    """Raise an error of any of the kinds that wrong types give, if readers cannot rely on it."""
    check_classes(sidecar["classes"])
    entry, outputs = sidecar["input"], sidecar["outputs"]
    shapes = [entry["shape"], *(output["shape"] for output in outputs)]
    for side in (side for shape in shapes for side in shape[1:]):
        if type(side) is not int or side < 1:
            raise ValueError(f"a shape with the side {side!r}")
    known = {key: entry[key] for key in PREPROCESS_KEYS if key in entry}
    input_entry(entry["shape"][2:], {**known, "interpolation": "auto"})
    texts = [sidecar["name"], *(output[key] for output in outputs for key in ("name", "kind"))]
    for file in sidecar["files"].values():
        texts += [file["file"], file["sha256"]]
        if os.path.basename(file["file"]) != file["file"] or type(file["bytes"]) is not int:
            raise ValueError(f"the file {file['file']!r} is none of this directory")
    if not all(isinstance(text, str) for text in texts) or sidecar["activation"] not in ACTIVATIONS:
        raise ValueError(f"a name that is no text, or the activation {sidecar['activation']!r}")


def _digest(body: Sidecar) -> str:
    """Checksum of the contents, not of the layout: re-indenting a sidecar is no damage."""
    return files.sha256_of_bytes(json.dumps(body, sort_keys=True, ensure_ascii=True).encode())


def _move_into_place(partial: Path, directory: Path, overwrite: bool, owner: str) -> None:
    if not directory.exists():
        os.rename(partial, directory)
        return
    refuse_existing(directory, overwrite)  # again: it may have appeared meanwhile
    old = directory.with_name(f".{directory.name}.old-{owner}")
    os.rename(directory, old)
    try:
        os.rename(partial, directory)
    except OSError:
        os.rename(old, directory)
        raise
    starts = tuple(f"{path.stem}{end}" for path in _find_sidecars(old) for end in ".-")
    for path in old.iterdir():  # files of the user's
        own = path.name == "web" or path.name.startswith(starts)
        if not own and not (directory / path.name).exists():
            os.rename(path, directory / path.name)
    shutil.rmtree(old, ignore_errors=True)


def _remove_stale(directory: Path) -> None:
    """Remove what killed processes of this host left beside ``directory``."""
    for kind in ("old", "partial"):
        start = f".{directory.name}.{kind}-{socket.gethostname()}-"
        for path in directory.parent.iterdir():
            pid = path.name[len(start) :].split("-")[0]
            if not path.name.startswith(start) or not pid.isdigit() or files.is_running(int(pid)):
                continue
            if kind == "old" and not directory.exists():
                os.rename(path, directory)  # killed between two renames: the old export is back
            else:
                shutil.rmtree(path, ignore_errors=True)
