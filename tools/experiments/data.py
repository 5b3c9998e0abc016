"""The synthetic data of the controlled experiments."""

from __future__ import annotations

import os

from gluon_attn.core.files import write_json
from gluon_attn.core.text import read_json
from gluon_attn.data import open_dataset, pack
from gluon_attn.data.synthetic import people as synthetic_tasks
from gluon_attn.data.synthetic.digits import write_digits, write_digits_single
from gluon_attn.data.synthetic.people import write_synthetic

IMAGES = {
    "digit": {"train": 2000, "val": 400, "test": 1000},
    "digit32": {"train": 2000, "val": 400, "test": 1000},
    "digits": {"train": 2000, "val": 300, "test": 500},
    "people": {"train": 150, "val": 120, "test": 300},
    "scenes": {"train": 150, "val": 120, "test": 300},
    "garments": {"train": 900, "val": 200, "test": 500},
    "tasks": synthetic_tasks.IMAGES["tasks"],
}
SIDES = {"digit": 36, "digit32": 32}  # pixels of a page with one digit


def make_data(
    kind: str, folder: str, images: dict[str, int] | None = None, workers: int = 2
) -> str:
    """Make the data of an experiment from seed 0, unless they are there; return the folder.

    Args:
        kind: ``'digit'`` (one handwritten digit a scene, single-label; pages of 36 pixels),
            ``'digit32'`` (the same, 32 pixels), ``'digits'`` (several, multi-label), ``'people'``
            (synthetic pedestrians, 14 attributes, packed), ``'scenes'`` (the same, not packed),
            ``'garments'`` (the same by their lower garment, single-label, 36 pixels) or
            ``'tasks'`` (five of their attributes, some with wrong labels, 56 pixels).
        images: Scenes per split; by default ``IMAGES``.
        workers: Processes.

    Raises:
        FileExistsError: The folder holds other data.
    """
    images = dict(IMAGES[kind] if images is None else images)
    settings, note = {"kind": kind, "images": images}, os.path.join(folder, "controlled.json")
    place = os.path.join(folder, "data")
    if os.path.exists(note):
        if read_json(note) != settings:
            raise FileExistsError(f"{folder} holds other data; choose another --out")
        return place
    common = {"images": images, "seed": 0, "workers": workers, "overwrite": True}
    if kind in SIDES:
        write_digits_single(place, side=SIDES[kind], **common)
    elif kind == "digits":
        write_digits(place, **common)
    elif kind == "scenes":
        write_synthetic(place, **common)
    elif kind == "tasks":
        synthetic_tasks.write_tasks(place, **common)
    else:
        scenes = os.path.join(folder, "scenes")
        write_synthetic(scenes, **common)
        reader, size, crop = ("garments", 36, 32) if kind == "garments" else ("wider", 128, 112)
        for split in ("train", "val", "test"):
            people = open_dataset(scenes, split, kind=reader)
            pack(people, os.path.join(place, split), size=size, train_size=crop, overwrite=True)
    write_json(note, settings)
    return place
