"""Caltech-256: 256 kinds of objects, with a seeded split that is kept in a file.

    256_ObjectCategories/001.ak47/001_0001.jpg

in ``root`` (or ``root`` is that folder). A class folder of the official archive also holds other
things (a script, a folder with copies); whatever is no image right in it is passed over.

There is no official split. As in the ICASC supplement, 25 images of every class are chosen for
testing, then 30 or 60 for training ('trainval'), or what is left of a small class. The choice
depends on the seed and the sorted file names alone; a larger training set contains the smaller one.
The first use writes it to a JSON file, which rules from then on: publish it with your numbers.

Reference: Griffin, Holub, Perona, "Caltech-256 Object Category Dataset", 2007; ICASC supplement,
section 1.1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

import numpy as np

from gluon_attn.core.files import json_text
from gluon_attn.core.text import read_json
from gluon_attn.data.base import DATASETS, ClassificationDataset, Reader, Samples, class_schema
from gluon_attn.data.folders import images_of_classes
from gluon_attn.data.layout import Found, Part, PathLike
from gluon_attn.data.protocol import HOLDOUT, SPLITS, keep_split, official_split
from gluon_attn.data.published_sizes import split_counts
from gluon_attn.data.scan import SHOWN, entries, is_image_name, subfolders

FOLDER = "256_ObjectCategories"
CLUTTER = "257.clutter"
FORMAT = "gluon_attn Caltech-256 split, version 1"
SUPPLEMENT = {30: 7680, 60: 15360}  # training images in its Table 1; 6,400 for testing
Lists = Dict[str, List[str]]  # images of 'train' and 'test'


@DATASETS.register("caltech256")
class Caltech256(Reader, ClassificationDataset):
    """Caltech-256, 256 classes, 25 images of each for testing and 30 or 60 for training.

    ``holdout`` is the share of the training images that is 'val'; with ``clutter`` the folder
    ``257.clutter`` is a class. ``split_file`` is read if it exists, otherwise written; by default
    it is ``caltech256_<per_class>_<test>_seed<seed>.json`` beside the class folders.
    """

    title = "Caltech-256"
    looks_for = f"{FOLDER}/001.ak47/001_0001.jpg"
    detection = 140
    valid = SPLITS
    settings = ("per_class", "test_per_class", "holdout", "seed", "split_file")

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        return (Part(f"{FOLDER}/", (FOLDER, "."), _is_caltech),)

    def samples(
        self,
        found: Found,
        split: str,
        per_class: int = 30,
        test_per_class: int = 25,
        *,
        seed: int = 0,
        holdout: float = HOLDOUT,
        clutter: bool = False,
        split_file: PathLike | None = None,
    ) -> Samples:
        if per_class < 2 or test_per_class < 1 or seed < 0:
            given = f"per_class={per_class}, test_per_class={test_per_class}, seed={seed}"
            raise ValueError(f"{given}: at least 2, 1 and 0 are needed")
        (folder,) = found.each()
        names = [n for n in _class_folders(folder) if clutter or n != CLUTTER]
        paths, targets = images_of_classes(folder, names, deep=False)
        plan = {"format": FORMAT, "seed": seed, "per_class": per_class,
                "test_per_class": test_per_class, "classes": names}  # fmt: skip
        default = f"caltech256_{per_class}_{test_per_class}_seed{seed}.json"
        self.split_file = Path(split_file) if split_file else folder / default
        parts = _positions(self.split_file, plan, paths, targets)
        chosen = official_split(split, parts, targets, holdout, seed=seed)
        published: Any = {}  # only the supplement's numbers per class have known counts
        if not clutter and test_per_class == 25:
            known = {"trainval": SUPPLEMENT[30]} if per_class == 30 else {}
            published = split_counts("images", test=6400, **known)
        notes = []
        if split == "train":
            notes = [f"{len(paths):,} images in {len(names)} classes", *_strays(folder)]
            notes += [f"ICASC supplement: {SUPPLEMENT[60]:,} for training; classes of fewer than "
                      "85 images cannot give 60 and 25"] * (per_class == 60)  # fmt: skip
            notes.append(f"split, seed {seed}: {self.split_file}")
        schema = class_schema(name.partition(".")[2] for name in names)
        ids = [paths[k] for k in chosen]
        return Samples(schema, targets[chosen], ids, folder, notes=notes, published=published)


def _class_folders(root: Path) -> list[str]:
    """Return the folders called ``001.name``, in order."""
    return [n for n in subfolders(root) if n[:3].isdigit() and n[3:4] == "." and n[4:]]


def _is_caltech(folder: Path) -> bool:
    """Return whether a folder holds the class folders, with images named as theirs."""
    classes = _class_folders(folder)
    first = (entries(folder / name) for name in classes if name.startswith("001."))
    names = (entry.name for listed in first for entry in listed)
    return len(classes) > 1 and any(n.startswith("001_") and is_image_name(n) for n in names)


def _strays(root: Path) -> list[str]:
    """Return a line about what is no image in the class folders."""
    strays = [
        f"{name}/{entry.name}"
        for name in _class_folders(root)
        for entry in entries(root / name)
        if entry.is_dir() or not is_image_name(entry.name)
    ]
    more = f" and {len(strays) - SHOWN:,} more" if len(strays) > SHOWN else ""
    return [f"passed over: {', '.join(strays[:SHOWN])}{more}"] if strays else []


def _positions(
    path: Path, plan: dict[str, Any], paths: list[str], targets: np.ndarray
) -> dict[str, list[int]]:
    """Return positions of the training and test images, from the file or chosen and kept."""
    positions = {name: k for k, name in enumerate(paths)}
    if path.is_file():
        saved = _load(path, plan)
    else:
        saved = choose(paths, targets, plan["per_class"], plan["test_per_class"], seed=plan["seed"])
        text = json_text(dict(plan, **saved), 0, ensure_ascii=True)
        keep_split(path, text, f"Caltech-256 split, seed {plan['seed']},")
    lost = [name for part in saved.values() for name in part if name not in positions]
    if lost:
        found = f"{len(lost)} of its images are not there, such as {lost[0]}"
        raise ValueError(f"{path}: {found}; if the data are complete, the file is of another copy")
    keys = {"trainval": "train", "test": "test"}
    return {part: [positions[name] for name in saved[key]] for part, key in keys.items()}


def _load(path: Path, plan: dict[str, Any]) -> Lists:
    saved = read_json(path)
    try:
        lists = {part: [str(name) for name in saved[part]] for part in ("train", "test")}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a split file: {error!r}") from error
    for key, value in plan.items():
        if saved.get(key) != value:
            shown = "other class folders" if key == "classes" else f"{key} {saved.get(key)!r}"
            raise ValueError(f"{path}: has {shown}, not {key}={str(value)[:60]}; give another file")
    names = lists["train"] + lists["test"]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: an image comes twice")
    return lists


def choose(
    paths: list[str], targets: np.ndarray, per_class: int, test_per_class: int, *, seed: int
) -> Lists:
    """Return ``{'train': [path, …], 'test': […]}``, chosen class by class.

    ``paths`` are sorted within every class. A class gives ``per_class`` images for training, or as
    many as testing leaves; ValueError if that is less than two.
    """
    lists: Lists = {"train": [], "test": []}
    for k in range(int(targets.max()) + 1):
        members = np.flatnonzero(targets == k)
        if len(members) < test_per_class + 2:
            name = paths[members[0]] if len(members) else f"class {k}"
            found = f"the class of {name} has {len(members)} images"
            raise ValueError(f"{found}; {test_per_class} for testing leave too few for training")
        order = members[np.random.RandomState([seed, k]).permutation(len(members))]
        training = order[test_per_class : test_per_class + per_class]
        lists["test"] += sorted(paths[i] for i in order[:test_per_class])
        lists["train"] += sorted(paths[i] for i in training)
    return lists
