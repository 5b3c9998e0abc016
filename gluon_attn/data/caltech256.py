"""Caltech-256: 256 kinds of objects, with a seeded split that is kept in a file.

    256_ObjectCategories/001.ak47/001_0001.jpg

in ``root`` (or ``root`` is that folder). The 257th folder, ``257.clutter``, is left out unless
asked for. A class folder of the official archive also holds other things (a script, a folder with
copies); whatever is no image right in it is passed over and counted.

There is no official split. As in the ICASC supplement, 25 pictures of every class are drawn for
testing and 30 or 60 for training. The draw depends on the seed and the sorted file names alone; a
larger training set contains the smaller one, and the test set is the same. The first use writes it
to a JSON file, which rules from then on: publish it with your numbers.

The authors state at least 80 pictures per class. Where there are fewer than 85, 60 for training and
25 for testing cannot both be had: testing comes first and training gets the rest, so there can be
fewer than the supplement's 15,360.

Splits: 'trainval' (all 30 or 60), 'test', 'val' (a share of every class of 'trainval', chosen by
the seed) and 'train' (the rest).

Reference: Griffin, Holub, Perona, "Caltech-256 Object Category Dataset", 2007; ICASC supplement,
section 1.1.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from gluon_attn.core.files import json_text, write_text
from gluon_attn.core.text import read_json
from gluon_attn.data.base import DATASETS
from gluon_attn.data.classification import HELD_OUT, ClassificationDataset, official_split
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts
from gluon_attn.data.folders import list_pictures
from gluon_attn.data.layout import Part
from gluon_attn.data.protocol import HOLDOUT
from gluon_attn.data.scan import SHOWN, entries, is_image_name, subfolders

logger = logging.getLogger(__name__)

FOLDER = "256_ObjectCategories"
CLUTTER = "257.clutter"
FORMAT = "gluon_attn Caltech-256 split, version 1"
SUPPLEMENT = {30: 7680, 60: 15360}  # training pictures in its Table 1; 6,400 for testing
TOTAL = 30607  # with clutter


@DATASETS.register("caltech256")
class Caltech256(ClassificationDataset):
    """Caltech-256, 256 classes, 25 pictures of each for testing and 30 or 60 for training.

    Args:
        root: Folder that holds ``256_ObjectCategories/``, or that folder.
        split: 'train', 'val', 'trainval' or 'test'.
        policy, on_bad_image: See :class:`gluon_attn.data.classification.ClassificationDataset`.
        per_class: Training pictures of a class: 30 or 60 in the supplement.
        test_per_class: Test pictures of a class.
        seed: Seed of the draw, and of the choice of 'val'.
        holdout: Share of the training pictures that is the validation split.
        clutter: Whether ``257.clutter`` is a class.
        split_file: JSON file of the split; None: ``caltech256_<per_class>_<test>_seed<seed>.json``
            beside the class folders. It is read if it exists, otherwise written.

    Attributes:
        report: CountReport of this split.
        split_file: Path of that file.

    Raises:
        FileNotFoundError: If the class folders are not there.
        ValueError: If a class has too few pictures, or the file is malformed or of another draw.
    """

    looks_for = f"{FOLDER}/001.ak47/001_0001.jpg"
    valid = HELD_OUT

    def __init__(
        self, root, split, policy=None, on_bad_image="error", per_class=30, test_per_class=25,
        seed=0, holdout=HOLDOUT, clutter=False, split_file=None,
    ):  # fmt: skip
        if per_class < 2 or test_per_class < 1 or seed < 0:
            raise ValueError(
                f"per_class={per_class}, test_per_class={test_per_class}, seed={seed}: at least 2, "
                "1 and 0 are needed"
            )
        found = self.locate(root, split)
        if found.missing:
            raise FileNotFoundError(f"{root}: no Caltech-256; looked for {self.looks_for}")
        self.root = found.paths[f"{FOLDER}/"]
        folders = [n for n in _class_folders(self.root) if clutter or n != CLUTTER]
        paths, targets = list_pictures(self.root, folders, deep=False)
        plan = {"format": FORMAT, "seed": seed, "per_class": per_class,
                "test_per_class": test_per_class, "classes": folders}  # fmt: skip
        name = f"caltech256_{per_class}_{test_per_class}_seed{seed}.json"
        self.split_file = Path(split_file) if split_file else self.root / name
        parts = _parts(self.split_file, plan, paths, targets)
        chosen = official_split(split, parts["train"], parts["test"], targets, holdout, seed)
        classes = [name.partition(".")[2] for name in folders]
        super().__init__(
            classes, split, targets[chosen], [paths[k] for k in chosen], policy, on_bad_image
        )
        self.report = self._report(found.home, paths, plan, clutter)

    def _report(self, home, paths, plan, clutter):
        """Return the CountReport; only the supplement's numbers per class have known counts."""
        expected, per_class, seed = {}, plan["per_class"], plan["seed"]
        if not clutter and plan["test_per_class"] == 25:
            expected = {"test": {"images": 6400}}
            if per_class == 30:
                expected["trainval"] = {"images": SUPPLEMENT[30]}
        expected, source = expected_counts(home, expected or None)
        notes = [self.class_note()]
        if self.split == "train":
            notes += [
                f"{len(paths):,} pictures in {len(self.classes)} classes",
                *_strays(self.root),
            ]
            if per_class == 60:
                notes.append(f"ICASC supplement: {SUPPLEMENT[60]:,} for training; classes of "
                             "fewer than 85 pictures cannot give 60 and 25")  # fmt: skip
            notes.append(f"split, seed {seed}: {self.split_file}")
        return CountReport([SplitCount(self.split, len(self))], expected, source, notes)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        return (Part(f"{FOLDER}/", (FOLDER, "."), _is_caltech),)

    def path(self, i):
        return self.root / self.sample_ids[i]


def _class_folders(root):
    """Return the folders called ``001.name``, in order."""
    return [n for n in subfolders(root) if n[:3].isdigit() and n[3:4] == "." and n[4:]]


def _is_caltech(folder: Path) -> bool:
    """Return whether a folder holds the class folders, with images named as theirs."""
    first = [name for name in _class_folders(folder) if name.startswith("001.")]
    return len(_class_folders(folder)) > 1 and any(
        entry.name.startswith("001_") and is_image_name(entry.name)
        for name in first
        for entry in entries(folder / name)
    )


def _strays(root):
    """Return a line about what is no image in the class folders."""
    strays = [
        f"{name}/{entry.name}"
        for name in _class_folders(root)
        for entry in entries(root / name)
        if entry.is_dir() or not is_image_name(entry.name)
    ]
    more = f" and {len(strays) - SHOWN:,} more" if len(strays) > SHOWN else ""
    return [f"passed over: {', '.join(strays[:SHOWN])}{more}"] if strays else []


def _parts(path, plan, paths, targets):
    """Return positions of the 'train' and 'test' pictures, from the file or drawn and kept."""
    positions = {name: k for k, name in enumerate(paths)}
    if path.is_file():
        saved = _load(path, plan)
    else:
        saved = draw(paths, targets, plan["per_class"], plan["test_per_class"], plan["seed"])
        try:
            write_text(path, json_text(dict(plan, **saved), 0, ensure_ascii=True))
            logger.info("Caltech-256 split, seed %d, written to %s", plan["seed"], path)
        except OSError as error:
            logger.warning(
                "%s cannot be written (%s): the split is drawn anew each time, equal as long as "
                "the files are; give a split_file elsewhere", path, error.strerror,
            )  # fmt: skip
    lost = [name for part in saved.values() for name in part if name not in positions]
    if lost:
        raise ValueError(
            f"{path}: {len(lost)} of its pictures are not there, such as {lost[0]}; if the data "
            "are complete, the file is of another copy"
        )
    return {part: [positions[name] for name in names] for part, names in saved.items()}


def _load(path, plan):
    """Return the lists of a split file."""
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
        raise ValueError(f"{path}: a picture comes twice")
    return lists


def draw(paths, targets, per_class, test_per_class, seed):
    """Return ``{'train': [path, …], 'test': […]}``, drawn class by class.

    Args:
        paths: N paths, sorted within every class.
        targets: ``(N,)`` class numbers.
        per_class: Training pictures of a class, or as many as testing leaves.
        test_per_class: Test pictures of a class.
        seed: Seed.

    Raises:
        ValueError: If a class has not even two pictures left for training.
    """
    lists = {"train": [], "test": []}
    for k in range(int(targets.max()) + 1):
        members = np.flatnonzero(targets == k)
        if len(members) < test_per_class + 2:
            name = paths[members[0]] if len(members) else f"class {k}"
            raise ValueError(
                f"the class of {name} has {len(members)} pictures; {test_per_class} for testing "
                "leave too few for training"
            )
        order = members[np.random.RandomState([seed, k]).permutation(len(members))]
        lists["test"] += sorted(paths[i] for i in order[:test_per_class])
        lists["train"] += sorted(
            paths[i] for i in order[test_per_class : test_per_class + per_class]
        )
    return lists
