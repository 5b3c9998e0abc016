"""Weights from outside: how their net is fed and what its outputs mean, kept beside the file.

A weight file holds numbers alone. ``NAME.json`` beside ``NAME.params`` (or ``.pth``) says the rest:
mean, std, resizing, crop, classes, and the sha256 of the file that it describes. `convert` writes
it, whatever loads the file reads it; ``best.json`` of a run, beside ``best.params``, serves as one.
Pixels of which nothing is known are asked for: a wrong guess costs points and shows nowhere.
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import Any, Dict

from gluon_attn.core.files import sha256_of, write_json
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.schema import Schema
from gluon_attn.core.text import read_json
from gluon_attn.data.lists import classes_of
from gluon_attn.export.sidecar import input_entry
from gluon_attn.task import Task
from model_zoo.transfer import WeightEntry

FORMAT, VERSION = "gluon_attn weights", 1
GEOMETRY = ("resize", "crop", "keep_aspect", "interpolation")
HELP = (
    "give --mean, --std and --resize (torchvision's ImageNet weights: --mean 0.485,0.456,0.406 "
    "--std 0.229,0.224,0.225 --resize 256 --crop 224; images that already have the net's size, "
    "such as CIFAR's: --resize 32)"
)

logger = logging.getLogger(__name__)

Pixels = Dict[str, Any]  # mean, std in grey levels, and of GEOMETRY what is known


def pixels_of(args: argparse.Namespace) -> Pixels:
    """Return what the flags say of pixels: mean and std in grey levels, and the geometry."""
    found: dict[str, Any] = dict(args.resize or {})
    if (args.mean is None) != (args.std is None):
        raise ValueError("--mean and --std: give both or neither")
    if args.mean is not None:
        unit = 255 if max(args.std) < 1 else 1
        if min(args.std) <= 0 or max(args.mean) > 255 / unit or 0 < max(args.mean) < 1 == unit:
            shown = [",".join(f"{value:g}" for value in part) for part in (args.mean, args.std)]
            raise ValueError(
                f"--mean {shown[0]} --std {shown[1]}: give both in units of 0 to 1, where std is "
                "below 1, or both in units of 0 to 255 (inputs of 0 to 1 as they are: --mean 0 "
                "--std 255)"
            )
        if unit == 1 and not any(args.mean) and set(args.std) == {1}:
            logger.warning(
                "--mean 0 --std 1: taken as inputs of 0 to 255; if they are of 0 to 1 "
                "(torchvision's ToTensor alone), give --mean 0 --std 255"
            )
        for key in ("mean", "std"):
            found[key] = tuple(round(unit * value, 6) for value in getattr(args, key))
    found.update({key: getattr(args, key) for key in ("crop", "interpolation")
                  if getattr(args, key) is not None})  # fmt: skip
    return found


def schema_of(args: argparse.Namespace) -> Schema | None:
    """Return what ``--classes`` and ``--single-label`` say of the outputs."""
    if args.single_label and not args.classes:
        raise ValueError("--single-label: of which classes? Give --classes FILE, a name a line")
    if not args.classes:
        return None
    return classes_of(Path(args.classes), args.single_label)


def record_path(path: Any) -> str:
    """Return where the record of a weight file is."""
    return os.path.splitext(os.fspath(path))[0] + ".json"


def write_record(
    path: str, model: str, options: dict[str, Any], pixels: Pixels | None, schema: Schema | None
) -> str:
    """Describe a weight file that is there; return the path of the record."""
    write_json(record_path(path), {
        "format": FORMAT, "version": VERSION, "file": os.path.basename(path),
        "sha256": sha256_of(path), "model": model, "model_options": options,
        "schema": schema.to_json() if schema else None, "pixels": pixels,
    })  # fmt: skip
    return record_path(path)


def check_place(path: str) -> None:
    """Refuse to write a record in the place of a JSON file that is none, or another file's."""
    record = record_path(path)
    if not os.path.exists(record):
        return
    found = _read(record)
    if found.get("format") != FORMAT:
        raise FileExistsError(f"{record} is no record of weights: give another name to {path}")
    other = str(found.get("file"))
    if other != os.path.basename(path) and os.path.exists(os.path.join(Path(record).parent, other)):
        raise FileExistsError(f"{record} describes {other}: give another name to {path}")


def described(path: str) -> WeightEntry | None:
    """Return what the record beside a weight file says, None without one.

    Raises a ValueError if the record is damaged, newer, or of another file than lies there.
    """
    where = record_path(path)
    if not (os.path.isfile(path) and os.path.isfile(where)):
        return None
    record = _read(where)
    ours = record.get("format") == FORMAT
    if not ours and not {"recipe", "classes", "sha256"} <= set(record):
        return None
    if ours and record.get("version") != VERSION:
        raise ValueError(f"{where}: version {record.get('version')!r}, not {VERSION}")
    if record.get("sha256") != sha256_of(path):
        raise ValueError(f"{where} describes another file than {path}: convert again or delete it")
    recipe, options = record.get("recipe"), record.get("model_options", {})
    items, pixels = record.get("schema"), record.get("pixels")
    try:
        name = str((record if ours else record["recipe"])["model"])
        columns = Schema.from_json(items).columns if items else record.get("classes")
        if pixels is not None:
            input_entry(1, pixels)
        if not isinstance(options, dict):
            raise ValueError(f"model_options is {options!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where} is damaged: {error}; convert again or delete it") from error
    return WeightEntry(
        name, os.path.basename(path), record["sha256"], recipe=recipe, schema=items,
        classes=tuple(columns) if columns else None, source=where, pixels=pixels, options=options,
        data=None if ours else record.get("data"),
    )  # fmt: skip


def _read(path: str) -> dict[str, Any]:
    contents = read_json(path)
    return contents if isinstance(contents, dict) else {}


def recipe_of(entry: WeightEntry | None) -> Recipe | None:
    """Return the recipe that weights were trained by, None if they don't say it."""
    if entry is None or not entry.recipe:
        return None
    try:
        return Recipe.from_dict(entry.recipe, "recipe")
    except ValueError as error:
        raise ValueError(f"{entry.where}: {error}") from error


def known_pixels(entry: WeightEntry | None, task: Task, net: Any) -> Pixels:
    """Return how weights say that their net is fed, {} if they don't."""
    recipe = recipe_of(entry)
    if recipe is None:
        return dict(entry.pixels or {}) if entry else {}
    fed = task.preprocess(recipe, net)  # what the recipe leaves out has its default
    return {key: value for key, value in fed.items() if key != "size"}


def merged(known: Pixels, given: Pixels) -> Pixels:
    """Return what is known with what flags say in its place; another resizing drops the crop."""
    kept = {k: v for k, v in known.items() if k not in ("crop", "keep_aspect")}
    return {**(kept if "resize" in given else known), **given}


def preprocess(name: str, net: Any, task: Task, pixels: Pixels, where: str) -> dict[str, Any]:
    """Return how a net is fed, for :class:`gluon_attn.task.Trained`.

    A crop that is not given is the net's input size behind ``--resize N``, and none behind ``NxN``.
    Raises a ValueError that names the flags if something is missing or does not fit.
    """
    missing = [key for key in ("mean", "std") if key not in pixels]
    if missing:
        raise ValueError(
            f"{where}: nothing says how the images of {name} were prepared: {HELP}; `convert` with "
            "these flags stores them beside the weights"
        )
    size = net.input_size[0]
    recipe = Recipe("baseline", name, input_size=size, augment="pad", mean=pixels["mean"],
                    std=pixels["std"])  # fmt: skip
    fed = task.preprocess(recipe, net)
    given = {key: pixels[key] for key in GEOMETRY if pixels.get(key)}
    if fed["resize"] is None:
        if given:
            flags = ", ".join(f"--{key}" for key in given if key != "keep_aspect")
            raise ValueError(f"{flags}: {name} sees the whole image at its input size")
        return fed
    if "resize" not in given:
        raise ValueError(f"{where}: how images are brought to the input of {name} is not known: "
                         f"{HELP}")  # fmt: skip
    crop = pixels.get("crop", size if given.get("keep_aspect") else None)
    if crop is not None and crop > given["resize"]:
        raise ValueError(f"--crop {crop} (the input size of {name} is {size}) is larger than "
                         f"--resize {given['resize']}")  # fmt: skip
    fed.update(resize=given["resize"], crop=crop)
    fed.pop("keep_aspect", None)
    fed.update({key: given[key] for key in ("keep_aspect", "interpolation") if given.get(key)})
    return fed
