"""A complete miniature of every registered kind of data set, made once and handed out as copies."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from clothing_helpers import write_garments, write_parsing
from formats.tiny import write_lines, write_tiny

from gluon_attn.data import DATASETS, open_dataset, pack
from gluon_attn.data.wider import ATTRIBUTES

IMAGES = {"train": 6, "val": 4, "test": 4}


def image(path, level=90, size=(24, 16)):
    """Write an image of one grey, in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), level, np.uint8))


ORDER = {str(number): name for number, name in enumerate(ATTRIBUTES)}


def target(box, labels=(1, -1, 0, *[-1] * 11)):
    return {"attribute": list(labels), "bbox": box}


def annotate(root, images, part="trainval", order=None, folder="Annotations"):
    """Write an annotation; ``images`` is ``{file name: [targets]}``."""
    document = {
        "images": [{"file_name": n, "scene_id": 0, "targets": t} for n, t in images.items()],
        "attribute_id_map": ORDER if order is None else order,
        "scene_id_map": {"0": "Parade"},
    }
    path = root / folder / f"wider_attribute_{part}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return path


def wider(root):
    """Two people per image; everybody wears one garment, so that ``garments`` can be read, too."""
    people = [
        target(box, [1 if name == worn else -1 for name in ATTRIBUTES])
        for box, worn in (([0, 0, 8, 20], "shorts"), ([8, 2, 8, 20], "jeans"))
    ]
    expected = {split: {"images": 2, "boxes": 4} for split in ("train", "val", "test")}
    for part, splits in (("trainval", ("train", "val")), ("test", ("test",))):
        names = [f"{split}/0--Parade/{number}.jpg" for split in splits for number in range(2)]
        for name in names:
            image(root / "Image" / name)
        annotate(root, dict.fromkeys(names, people), part)
    (root / "SYNTHETIC.json").write_text(json.dumps({"expected": expected}))


def wider_srn(root):
    expected = {}
    for part, folders in (("train", ("train", "val")), ("test", ("test",))):
        names = [f"{folder}/0--P/{k}.jpg" for folder in folders for k in range(2)]
        for name in names:
            image(root / "Image_cropped" / name)
        write_lines(root / "wider_att" / f"wider_att_{part}_imglist.txt",
                    [f"'Image_cropped/{name}'," for name in names])  # fmt: skip
        write_lines(root / "wider_att" / f"wider_att_{part}_label.txt",
                    [" ".join(["1", "-1"] * 7) for _ in names])  # fmt: skip
        expected.update({folder: {"boxes": 2} for folder in folders})
    (root / "SYNTHETIC.json").write_text(json.dumps({"expected": expected}))


def lists(root):
    write_lines(root / "names.txt", ["hat", "bag"])
    for level, split in enumerate(("train", "val", "test")):
        image(root / "images" / f"{split}.png", 90 + level)
        image(root / "images" / f"{split} 2.png", 190 + level)
        write_lines(root / f"{split}.txt",
                    [f"images/{split}.png\t1,0", f"images/{split} 2.png\t0,-1"])  # fmt: skip


def folders(root):
    write_lines(root / "classes.txt", ["dog", "cat"])
    for level, split in enumerate(("train", "val", "test")):
        for name in ("cat", "dog"):
            image(root / split / name / "1.jpg", 40 * level + len(name) + ord(name[0]))


def packed(root):
    with_lists = root.parent / "lists of packed"
    lists(with_lists)
    for split in ("train", "val", "test"):
        dataset = DATASETS.get("list")(with_lists, split)
        pack(dataset, root / split, 32, train_size=24, workers=1, progress=False)
    shutil.rmtree(with_lists)


MAKERS = {
    "wider": wider, "garments": wider, "wider_srn": wider_srn, "list": lists, "folders": folders,
    "clothing_co_parsing": write_parsing, "clothing_dataset": write_garments,
    "packed": packed, "coco_keypoints": lambda root: write_tiny("coco", root, IMAGES),
    "reid_market": lambda root: write_tiny("reid_market", root, IMAGES, cameras=2, each=2),
    "reid_duke": lambda root: write_tiny("reid_duke", root, IMAGES, cameras=2, each=2),
}  # fmt: skip


def make(kind, root):
    """Write a complete miniature of a kind into a new folder.

    A kind that is neither here nor among the tiny trees fails: give the new reader a miniature.
    """
    if kind in MAKERS:
        root.mkdir(parents=True, exist_ok=True)
        MAKERS[kind](root)
    else:
        write_tiny(kind, root, IMAGES)


def needs(kind):
    if kind.startswith("coco"):
        pytest.importorskip("pycocotools")


class Trees:
    """Copies of the miniatures. Files are hard links: replace them, do not write into them."""

    def __init__(self, folder):
        self._folder = folder

    def copy(self, kind, root):
        """Put a miniature into a folder that is not there yet; return it."""
        needs(kind)
        source = self._folder / kind
        if not source.is_dir():
            make(kind, source)
            for split in DATASETS.get(kind).splits[:1]:  # Caltech-256 writes its split file
                DATASETS.get(kind)(source, split)
        shutil.copytree(source, root, copy_function=os.link)
        return Path(root)


def opened(kind, root):
    """Return ``{split: dataset}`` of all that a complete copy has."""
    reader = DATASETS.get(kind)
    return {split: reader(root, split) for split in reader.expected_splits(root)}


def fingerprints(kind, root):
    return {split: dataset.fingerprint() for split, dataset in opened(kind, root).items()}


def rewrite(path, content):
    """Replace a file, leaving other links to the old one alone."""
    path.unlink()
    path.write_bytes(content)


def refuses(message, *arguments, by=open_dataset, error=ValueError, **options):
    """Check that a call is refused with a message (a regular expression); return the whole one."""
    with pytest.raises(error, match=message) as caught:
        by(*arguments, **options)
    return str(caught.value)


KINDS = sorted(DATASETS.names())
