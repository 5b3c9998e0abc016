"""Pictures, folders and boxes in; probabilities per person as table, JSON or CSV, and overlays out.

What ``tools/predict.py`` runs; the predicting itself is ``gluon_attn.export.Predictor``.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Sequence

from tabulate import tabulate
from tqdm import tqdm

from gluon_attn.core import errors
from gluon_attn.core.files import json_text, write_text
from gluon_attn.core.text import json_of, read_text
from gluon_attn.data.scan import SUFFIXES, Passed, list_images
from gluon_attn.export.preprocess import crop_box, read_image

if TYPE_CHECKING:
    import numpy as np

    from gluon_attn.export import Predictor

BOX_COLUMNS = ["path", "x", "y", "w", "h"]
logger = logging.getLogger(__name__)


class Picture(NamedTuple):
    """An image file and the name under which a file of boxes may list it."""

    path: str
    key: str  # relative to the folder that was given


def find_pictures(paths):
    """Return the image files of paths and folders, in order, each once.

    Args:
        paths: Files, taken as they are, and folders, searched with all their sub-folders.

    Raises:
        ValueError: A folder without images, or no paths at all.
    """
    found = {}
    for path in map(Path, paths):
        if not path.is_dir():
            found.setdefault(str(path), Picture(str(path), path.name))
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
            found.setdefault(str(path / name), Picture(str(path / name), name))
    if not found:
        raise ValueError("no images given")
    return list(found.values())


def read_boxes(path):
    """Read person boxes from a file.

    Args:
        path: JSON ``{"image path": [[x, y, w, h], …]}``, an official WIDER-Attribute annotation
            file, or CSV with the columns ``path,x,y,w,h`` (header line optional).

    Returns:
        Dict from the path as written in the file to a list of ``[x, y, w, h]`` floats.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Its contents are none of these; the message names the line or record.
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


def match_boxes(pictures, boxes, path):
    """Find each picture's boxes.

    A picture is looked up by its path as given, by its path relative to the folder that was given,
    and by its place on disk, where paths in the file count from the working folder or from the
    folder of the file. Back-slashes in the file's paths count as slashes where there is no other
    way to read them.

    Returns:
        ``(pictures, boxes)``: those that are listed, and their boxes. The others are logged.

    Raises:
        ValueError: None is listed.
    """
    places = {}
    boxes = {**{key.replace("\\", "/"): value for key, value in boxes.items()}, **boxes}
    for key, value in boxes.items():
        for start in (Path.cwd(), Path(path).parent):
            places.setdefault(os.path.realpath(start / key), value)
    matched, without = [], []
    for picture in pictures:
        for table, key in (
            (boxes, picture.path),
            (boxes, picture.key),
            (places, os.path.realpath(picture.path)),
        ):
            if key in table:
                matched.append((picture, table[key]))
                break
        else:
            without.append(picture.path)
    if not matched:
        listed = next(iter(boxes), "(nothing)")
        raise ValueError(
            f"{path}: lists none of the {len(pictures)} images; it has paths like '{listed}', the "
            f"images are like '{pictures[0].key}' (give the folder that its paths count from)"
        )
    if without:
        logger.warning("%d images without boxes left out: %s …", len(without), without[0])
    return [picture for picture, _ in matched], [value for _, value in matched]


def predict_people(predictor, pictures, boxes=None, on_bad_image="error", heatmaps=None):
    """Predict with a progress bar; return records without maps.

    Args:
        predictor: :class:`gluon_attn.export.Predictor`.
        pictures: From :func:`find_pictures`.
        boxes: One list of boxes per picture, or None for whole images.
        on_bad_image: See ``Predictor.predict``.
        heatmaps: Folder for overlays, or None.
    """
    paths = [picture.path for picture in pictures]
    people = predictor.stream(paths, boxes, on_bad_image, with_maps=heatmaps is not None)
    records, seen = [], set()
    with tqdm(total=len(paths), unit="img", disable=None) as progress:
        for record in people:
            maps = record.pop("attention", None)
            if maps is not None and not record["error"]:
                _draw(predictor, record, maps, Path(heatmaps), len(records))
            records.append(record)
            if record["image"] not in seen:
                seen.add(record["image"])
                progress.update()
    return records


def write_results(texts: Sequence[tuple], make_table: Callable[[], str]) -> None:
    """Write files, then print: what ``-`` stands for, else the table.

    Args:
        texts: ``[(destination, function that returns the text), …]``; a destination is a path,
            ``-`` for standard output, or None: not wanted.
        make_table: Returns the table.
    """
    for path, make in texts:
        if path and path != "-":
            write_text(path, make())
    printed = [make for path, make in texts if path == "-"]
    for make in printed:
        errors.print_data(make())
    if not printed:
        print(make_table())


def format_table(records, classes, columns=5):
    """Return the probabilities as text: a row per attribute, a column per person, * if positive."""
    blocks = []
    for start in range(0, len(records), columns):
        people = records[start : start + columns]
        heads = [f"{_shorten(r['image'])}\n{_box_text(r['box'])}" for r in people]
        rows = [[name, *(_cell(record, name) for record in people)] for name in classes]
        blocks.append(tabulate(rows, ["attribute", *heads], "simple", disable_numparse=True))
    failed = [f"skipped: {r['error']}" for r in records if r["error"]]
    note = "* probability at or above the threshold"
    if any("attributes" in record for record in records):
        note += "; of the classes of one attribute, the most probable"
    return "\n\n".join([*blocks, *failed, note])


def to_json(predictor, records):
    """Return the records as JSON text, with classes in order, backend and thresholds used."""
    thresholds = [round(float(t), 6) for t in predictor.thresholds]
    contents = {"export": predictor.name, "classes": list(predictor.classes)}
    # int8 and bf16 give slightly other numbers: whoever reads them can see where they come from.
    contents.update(backend=predictor.backend, precision=predictor.precision)
    contents.update(thresholds=thresholds, people=records)
    return json_text(contents)


def to_csv(records, classes):
    """Return the records as CSV text: image, x, y, w, h, one column per class, error."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "x", "y", "w", "h", *classes, "error"])
    for record in records:
        values = [record["probabilities"].get(name) for name in classes]
        values = ["" if value is None or value != value else f"{value:.6f}" for value in values]
        box = record["box"] if record["box"] is not None else [""] * 4
        writer.writerow([record["image"], *box, *values, record["error"] or ""])
    return text.getvalue()


def _csv_boxes(path, text):
    boxes = {}
    for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
        row = [field.strip() for field in row]
        if not any(row) or (not boxes and [field.lower() for field in row] == BOX_COLUMNS):
            continue
        if len(row) != len(BOX_COLUMNS):
            raise ValueError(
                f"{path}, line {number}: {len(row)} fields, expected {','.join(BOX_COLUMNS)}"
            )
        boxes.setdefault(row[0], []).append(_box(row[1:], f"{path}, line {number}"))
    return boxes


def _json_boxes(path, contents):
    boxes = {}
    for key, value in contents.items():
        if not isinstance(value, list):
            raise ValueError(f"{path}, record '{key}': not a list of boxes [[x, y, w, h], …]")
        boxes[key] = [_box(b, f"{path}, record '{key}', box {k}") for k, b in enumerate(value)]
    return boxes


def _wider_boxes(path, contents):
    boxes = {}
    for number, image in enumerate(contents["images"]):
        where = f"{path}, image {number}"
        try:
            key, targets = image["file_name"], [target["bbox"] for target in image["targets"]]
        except (TypeError, KeyError) as error:
            raise ValueError(f"{where}: needs file_name, targets and bbox ({error})") from error
        boxes[key] = [_box(b, f"{where} '{key}', target {k}") for k, b in enumerate(targets)]
    return boxes


def _box(value: Any, where):
    try:
        box = [float(v) for v in value]
    except (TypeError, ValueError):
        box = []
    if len(box) != 4 or isinstance(value, str) or not all(map(math.isfinite, box)):
        raise ValueError(f"{where}: {value!r} is not a box x, y, w, h in pixels")
    return box


def _draw(
    predictor: Predictor, record: dict, maps: dict[str, np.ndarray], folder: Path, number: int
) -> None:
    """Draw a person: every map of the positive attributes over what the net saw."""
    from gluon_attn.figures.heatmaps import heatmap_grid

    folder.mkdir(parents=True, exist_ok=True)
    image = read_image(record["image"])
    if record["box"] is not None:
        image = crop_box(image, record["box"])
    heatmap_grid(
        [predictor.preprocess.visible(image)],
        {name.replace("attention_", ""): values[None] for name, values in maps.items()},
        predictor.classes,
        [[record["probabilities"][name] for name in predictor.classes]],
        None,
        folder / f"{number:05d}_{Path(record['image']).stem}.png",
        # nothing positive: show what comes nearest to it
        attributes=record["positives"]
        or [max(record["probabilities"], key=record["probabilities"].get)],
        threshold=predictor.thresholds,
    )


def _cell(record, name):
    value = record["probabilities"].get(name, math.nan)
    mark = " *" if name in record["positives"] else ""
    return "-" if math.isnan(value) else f"{value:.3f}{mark}"


def _shorten(path, length=22):
    name = Path(path).name
    return name if len(name) <= length else f"…{name[1 - length :]}"


def _box_text(box):
    return "" if box is None else ",".join(f"{v:g}" for v in box)
