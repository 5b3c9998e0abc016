"""Synthetic people with tasks of clearly different difficulty, packed: data for AWMT.

Real imbalance (rates as in WIDER-Attribute), small and large details, and labels of which a share
is wrong in the training and validation splits. The test split keeps its true labels.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from gluon_attn.core.batch import LabelPolicy
from gluon_attn.core.files import write_json
from gluon_attn.data.base import DATASETS
from gluon_attn.data.columns import ChosenAttributes
from gluon_attn.data.packing import pack
from gluon_attn.data.synthetic.generate import claim_folder, release_folder
from gluon_attn.data.synthetic.people import SPLITS, write_synthetic

VERSION = 1
# Task and share of flipped labels in train and val, in the data set's order. Positives: from 10 %
# (skirt) to 55 % (Male); a logo is a few pixels wide, a sleeve is not.
TASKS = {"Male": 0.2, "Hat": 0.1, "longSleeve": 0.0, "skirt": 0.0, "logo": 0.0}
IMAGES = {"train": 500, "val": 150, "test": 300}
SIZE = 56  # pixels of the packed people


def write_tasks(root, images=None, seed=0, workers=None, overwrite=False, progress=True):
    """Draw people, choose their tasks, flip labels and pack; ``root`` is then a packed data set.

    Args:
        root: Folder to write to; the scenes stay in ``root/scenes``, with all attributes and true
            labels.
        images: Scenes per split; missing splits take ``IMAGES``.
        seed: Integer >= 0, of pictures and of flipped labels.
        workers: Processes; see :func:`gluon_attn.data.synthetic.people.write_synthetic`.
        overwrite: Whether to replace a finished data set of this generator.
        progress: Whether to show progress bars on a terminal.

    Returns:
        A report: ``expected`` (per split: images and people), ``seconds``.

    Raises:
        FileExistsError: If ``root`` holds a data set and ``overwrite`` is false, or holds files
            that this generator did not write.
        ValueError: If ``images`` or ``seed`` is invalid.
    """
    root, started = Path(root), time.perf_counter()
    packed = [f"{split}.{end}" for split in SPLITS for end in ("rec", "idx", "json")]
    claim_folder(root, "tasks", ("scenes", "SYNTHETIC.json", *packed), "SYNTHETIC.json", overwrite)
    scenes = root / "scenes"
    images = dict(IMAGES, **(images or {}))
    expected = write_synthetic(scenes, images, seed, workers, progress=progress)["expected"]
    for split in SPLITS:
        pack_split(scenes, split, root, seed, progress)
    summary = {
        "generator": "tasks", "version": VERSION, "seed": seed, "flipped": TASKS, "size": SIZE,
        "expected": expected,
    }  # fmt: skip
    write_json(root / "SYNTHETIC.json", summary, indent=2)
    release_folder(root)
    return dict(summary, root=str(root), seconds=time.perf_counter() - started)


def pack_split(scenes, split, root, seed=0, progress=True):
    """Pack the tasks of the people of one split, their labels flipped but in the test split.

    Args:
        scenes: Folder of a WIDER-Attribute tree.
        split: One of ``SPLITS``.
        root: Folder of the packed splits.
        seed: Integer >= 0, of the flipped labels.
        progress: Whether to show a progress bar on a terminal.
    """
    people = DATASETS.get("wider")(str(scenes), split, LabelPolicy("masked"))
    people = ChosenAttributes(people, list(TASKS))
    if split != "test":
        rng = np.random.default_rng([seed, SPLITS.index(split)])
        people.raw = flip_labels(people.raw, people.names, rng)
    pack(people, Path(root) / split, size=SIZE, train_size=SIZE - 2, progress=progress)


def flip_labels(raw, names, rng):
    """Return raw labels of which each attribute's share in ``TASKS`` has changed sign.

    Args:
        raw: ``(n, len(names))`` int8: 1, -1, or 0 where nothing is known, which stays.
        names: Attributes of the columns.
        rng: NumPy Generator.
    """
    share = np.array([TASKS[name] for name in names])
    return np.where(rng.random(raw.shape) < share, -raw, raw).astype(raw.dtype)
