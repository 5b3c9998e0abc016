"""Image files and boxes in; probabilities per person as table, JSON or CSV, and overlays out.

The predicting itself is ``gluon_attn.export.Predictor``.
"""

from __future__ import annotations

import collections
import io
import logging
import math
import os
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Union

import cv2
from numpy.typing import NDArray
from tabulate import tabulate

from gluon_attn.core.files import write_bytes
from gluon_attn.core.text import json_of, read_text, rows_of_csv
from gluon_attn.data.images import BadImageError, read_image
from gluon_attn.data.scan import SUFFIXES, Passed, list_images
from gluon_attn.export import Predictor
from gluon_attn.export.images import crop_box
from gluon_attn.export.images import read_image as read_file
from gluon_attn.figures.heatmaps import heatmap_grid

BOX_COLUMNS = ["path", "x", "y", "w", "h"]
ALL_CLASSES = 160  # rows of a printed table; RAP 2 has 152 attributes, CUB-200-2011 200 classes
MOST_PROBABLE = 5
Array = NDArray[Any]
PathLike = Union[str, Path]
Record = Dict[str, Any]
Boxes = List[List[float]]
logger = logging.getLogger(__name__)


class ImageFile(NamedTuple):
    """An image file and the name under which a file of boxes may list it."""

    path: str
    key: str  # relative to the folder that was given


def find_images(paths: Iterable[PathLike]) -> list[ImageFile]:
    """Return the image files of paths and folders (with all sub-folders), in order, each once."""
    found: dict[str, ImageFile] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            found.setdefault(str(path), ImageFile(str(path), path.name))
            continue
        passed = Passed(path)
        inside = list_images(path, passed)
        if not inside:
            told = f"{passed.text()}; " if passed.text() else ""
            raise ValueError(
                f"{path}: no images in this folder ({told}images end in {', '.join(SUFFIXES)})"
            )
        passed.log()
        for name in inside:
            found.setdefault(str(path / name), ImageFile(str(path / name), name))
    if not found:
        raise ValueError("no images given")
    return list(found.values())


def open_image(image: ImageFile, on_bad_image: str) -> tuple[Array | None, str | None]:
    """Return the pixels, or with ``skip`` None and what is wrong with the file."""
    try:
        return read_image(image.path, image.key), None
    except BadImageError as error:
        if on_bad_image == "error":
            raise
        return None, str(error)


# -- boxes -------------------------------------------------------------------------------------
def read_boxes(path: PathLike) -> dict[str, Boxes]:
    """Read person boxes ``[x, y, w, h]`` from a file, by the path as written in it.

    The file is JSON ``{"image path": [[x, y, w, h], …]}``, an official WIDER-Attribute annotation
    file, or CSV with the columns ``path,x,y,w,h`` (header line optional). A ValueError names the
    line or record.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of boxes")
    text = read_text(path)
    if path.suffix.lower() == ".csv":
        return _csv_boxes(path, text)
    contents = json_of(text, path)
    if not isinstance(contents, dict):
        raise ValueError(f"{path}: a {type(contents).__name__}; expected an object by image path")
    return _wider_boxes(path, contents) if "images" in contents else _json_boxes(path, contents)


def match_boxes(
    images: Sequence[ImageFile], boxes: dict[str, Boxes], path: PathLike
) -> tuple[list[ImageFile], list[Boxes]]:
    """Return the images that a file of boxes lists, and their boxes; the others are logged.

    An image is looked up by its path as given, by its path relative to the folder that was given,
    and by its place on disk, where paths in the file count from the working folder or from the
    folder of the file. Back-slashes in the file's paths count as slashes where there is no other
    way to read them. Raises a ValueError if none is listed.
    """
    places: dict[str, Boxes] = {}
    boxes = {**{key.replace("\\", "/"): value for key, value in boxes.items()}, **boxes}
    for key, value in boxes.items():
        for start in (Path.cwd(), Path(path).parent):
            places.setdefault(os.path.realpath(start / key), value)
    matched, without = [], []
    for image in images:
        real = os.path.realpath(image.path)
        for table, key in ((boxes, image.path), (boxes, image.key), (places, real)):
            if key in table:
                matched.append((image, table[key]))
                break
        else:
            without.append(image.path)
    if not matched:
        listed = next(iter(boxes), "(nothing)")
        raise ValueError(
            f"{path}: lists none of the {len(images)} images; it has paths like '{listed}', the "
            f"images are like '{images[0].key}' (give the folder that its paths count from)"
        )
    if without:
        logger.warning("%d images without boxes left out: %s …", len(without), without[0])
    unused = {id(value): key for key, value in boxes.items()}
    for _, value in matched:
        unused.pop(id(value), None)
    if unused:
        told = "%s: %d paths are of no image that was given, and left out: %s …"
        logger.warning(told, path, len(unused), next(iter(unused.values())))
    return [image for image, _ in matched], [value for _, value in matched]


def _csv_boxes(path: Path, text: str) -> dict[str, Boxes]:
    boxes: dict[str, Boxes] = {}
    for number, row in rows_of_csv(io.StringIO(text), path):
        row = [field.strip() for field in row]
        heading = [field.lower() for field in row] if not boxes else []
        if not any(row) or heading in (BOX_COLUMNS, ["image", *BOX_COLUMNS[1:]]):
            continue
        if len(row) != len(BOX_COLUMNS):
            raise ValueError(
                f"{path}, line {number}: {len(row)} fields, expected {','.join(BOX_COLUMNS)}"
            )
        boxes.setdefault(row[0], []).append(_box(row[1:], f"{path}, line {number}"))
    return boxes


def _json_boxes(path: Path, contents: Record) -> dict[str, Boxes]:
    boxes = {}
    for key, value in contents.items():
        if not isinstance(value, list):
            raise ValueError(f"{path}, record '{key}': not a list of boxes [[x, y, w, h], …]")
        boxes[key] = [_box(b, f"{path}, record '{key}', box {k}") for k, b in enumerate(value)]
    return boxes


def _wider_boxes(path: Path, contents: Record) -> dict[str, Boxes]:
    boxes = {}
    if not isinstance(contents["images"], list):
        raise ValueError(f"{path}: 'images' is no list of an annotation of WIDER-Attribute")
    for number, image in enumerate(contents["images"]):
        where = f"{path}, image {number}"
        try:
            key, targets = image["file_name"], [target["bbox"] for target in image["targets"]]
            if not isinstance(key, str):
                raise TypeError(f"file_name {key!r}")
        except (TypeError, KeyError) as error:
            raise ValueError(f"{where}: needs file_name, targets and bbox ({error})") from error
        boxes[key] = [_box(b, f"{where} '{key}', target {k}") for k, b in enumerate(targets)]
    return boxes


def _box(value: Any, where: str) -> list[float]:
    try:
        box = [float(v) for v in value]
    except (TypeError, ValueError):
        box = []
    if len(box) != 4 or isinstance(value, str) or not all(map(math.isfinite, box)):
        raise ValueError(f"{where}: {value!r} is not a box x, y, w, h in pixels")
    return box


# -- predictions -------------------------------------------------------------------------------
def predict_people(
    predictor: Predictor, paths: Sequence[str], boxes: Sequence[Any] | None = None,
    on_bad_image: str = "error", *, heatmaps: PathLike | None = None, before: int = 0,
) -> Iterator[Record]:  # fmt: skip
    """Yield the records of image files, without maps.

    ``boxes`` are one list per image, or None for whole images. ``heatmaps`` is a folder or None;
    names in it count from ``before``.
    """
    people = predictor.stream(paths, boxes, on_bad_image, with_maps=heatmaps is not None)
    for number, record in enumerate(people, before):
        maps = record.pop("attention", None)
        if maps is not None and heatmaps is not None and not record["error"]:
            name = f"{number:05d}_{Path(record['image']).stem}.png"
            _draw(predictor, record, maps, Path(heatmaps) / name)
        yield record


def _draw(predictor: Predictor, record: Record, maps: dict[str, Array], path: Path) -> None:
    """Draw a person: every map of the positive attributes over what the net saw."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = read_file(record["image"])
    if record["box"] is not None:
        image = crop_box(image, record["box"])
    probabilities = record["probabilities"]
    nearest = max(probabilities, key=probabilities.get)  # of what is not even positive
    heatmap_grid(
        [predictor.preprocess.visible(image)],
        {name.replace("attention_", ""): values[None] for name, values in maps.items()},
        predictor.classes, [[probabilities[name] for name in predictor.classes]],
        labels=None, path=path, attributes=record["positives"] or [nearest],
        threshold=predictor.thresholds,
    )  # fmt: skip


def write_png(folder: PathLike, number: int, source: str, image: Array) -> None:
    """Write what was drawn over an image file; the folder is made if it is not there."""
    path = Path(folder) / f"{number:05d}_{Path(source).stem}.png"
    good, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not good:
        raise OSError(f"{path}: the image could not be encoded")
    write_bytes(path, data.tobytes())


# -- texts -------------------------------------------------------------------------------------
def format_table(records: Sequence[Record], classes: Sequence[str], columns: int = 5) -> str:
    """Return the probabilities as text: a row per attribute, a column per person, * if positive.

    Of more than :data:`ALL_CLASSES` classes, those that are among the most probable of a person.
    """
    blocks, shown = [], short_names(records)
    many = len(classes) > ALL_CLASSES
    for start in range(0, len(records), columns):
        people = records[start : start + columns]
        heads = [f"{shown[r['image']]}\n{_box_text(r['box'])}".strip() for r in people]
        best = {name for r in people for name in _most_probable(r)} if many else classes
        rows = [[name, *(_cell(r, name) for r in people)] for name in classes if name in best]
        blocks.append(tabulate(rows, ["attribute", *heads], "simple", disable_numparse=True))
    note = "* probability at or above the threshold"
    if many:
        note += f"; of {len(classes):,} classes, the {MOST_PROBABLE} most probable of each image"
    if any("attributes" in record for record in records):
        note += "; of the classes of one attribute, the most probable"
    return "\n\n".join([*blocks, *skipped_lines(records), note])


def skipped_lines(records: Sequence[Record]) -> list[str]:
    """Return a line for every record that holds an error."""
    return [f"skipped: {r['error']}" for r in records if r["error"]]


def head_of(predictor: Predictor) -> Record:
    """Return what stands before the records: classes in order, backend and thresholds used."""
    thresholds = [round(float(t), 6) for t in predictor.thresholds]
    contents: Record = {"export": predictor.name, "classes": list(predictor.classes)}
    # int8 and bf16 give slightly other numbers: readers can see where they come from.
    contents.update(backend=predictor.backend, precision=predictor.precision)
    return {**contents, "thresholds": thresholds}


def csv_rows(records: Iterable[Record], classes: Sequence[str]) -> Iterator[Sequence[Any]]:
    """Yield the rows of a CSV file: image, x, y, w, h, one column per class, error."""
    yield ["image", *BOX_COLUMNS[1:], *classes, "error"]
    for record in records:
        values = [record["probabilities"].get(name) for name in classes]
        texts = ["" if value is None else f"{value:.6f}" for value in values]
        yield [record["image"], *box_cells(record), *texts, record["error"] or ""]


def box_cells(record: Record) -> list[Any]:
    """Return the four cells of a record's box, empty for the whole image."""
    return [""] * 4 if record["box"] is None else list(record["box"])


def _most_probable(record: Record) -> list[str]:
    known = {name: value for name, value in record["probabilities"].items() if value is not None}
    return sorted(known, key=lambda name: -known[name])[:MOST_PROBABLE]


def _cell(record: Record, name: str) -> str:
    value = record["probabilities"].get(name)
    mark = " *" if name in record["positives"] else ""
    return "-" if value is None else f"{value:.3f}{mark}"


def short_names(records: Sequence[Record], length: int = 22) -> dict[str, str]:
    """Return a short name for every image: its file's, with folders where others have the same.

    Of a long name the end is shown, if that tells it from the others.
    """
    names: dict[str, str] = {}
    left = {record["image"]: Path(record["image"]).parts for record in records}
    count = 0
    while left:
        count += 1
        times = collections.Counter(parts[-count:] for parts in left.values())
        for path, parts in list(left.items()):
            if times[parts[-count:]] == 1 or count >= len(parts):
                names[path] = os.path.join(*parts[-count:])
                del left[path]
    ends = collections.Counter(name[1 - length :] for name in names.values())
    return {
        path: name if len(name) <= length or ends[name[1 - length :]] > 1
        else f"…{name[1 - length :]}" for path, name in names.items()
    }  # fmt: skip


def _box_text(box: Sequence[float] | None) -> str:
    return "" if box is None else ",".join(f"{v:g}" for v in box)
