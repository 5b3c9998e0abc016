"""What the readers of official annotations share: label codes, partitions, splits of our own."""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import logging
from collections import Counter
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

import numpy as np

from gluon_attn.core.files import write_text
from gluon_attn.data.matfile import Node

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "trainval", "test")  # the last two are published in many data sets
UNCERTAIN = ("negative", "unspecified")
HOLDOUT = 0.1  # share of the training part where the authors give no validation split
SHARES = {"train": 0.60, "val": 0.15, "test": 0.25}  # where they give no split at all


def parts_of(split: str) -> tuple[str, ...]:
    """Return the parts of a file that make a split: 'trainval' is train and val."""
    return ("train", "val") if split == "trainval" else (split,)


def check_uncertain(uncertain: str, has_some: bool, place: object) -> None:
    """Refuse another word than ``UNCERTAIN``; warn if labels of value 2 matter and are missing."""
    if uncertain not in UNCERTAIN:
        raise ValueError(f"uncertain={uncertain!r}: valid are {', '.join(UNCERTAIN)}")
    if uncertain != "negative" and not has_some:
        logger.warning("%s: no label is 2 (uncertain): uncertain=%s does nothing", place, uncertain)


def binary_labels(
    values: np.ndarray, names: Sequence[str], place: str, uncertain: str = "negative"
) -> np.ndarray:
    """Return int8 labels {1, -1, 0} of ``(N, A)`` integers: 1, 0 and perhaps 2, uncertain.

    ``uncertain`` says what 2 becomes. ValueError at another value names row and attribute from 1.
    """
    wrong = ~np.isin(values, (0, 1, 2))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        where = f"{place}: row {row + 1}, attribute '{names[column]}'"
        raise ValueError(f"{where} is {values[row, column]}; valid are 1, 0 and 2")
    check_uncertain(uncertain, bool((values == 2).any()), place)
    two = -1 if uncertain == "negative" else 0
    return np.array([-1, 1, two], np.int8)[values]


def labels_of_images(
    table: Node, images: Sequence[str], names: Sequence[str], before: int = 0
) -> np.ndarray:
    """Return a matrix that must have a row per image and, behind others, a column per attribute."""
    matrix = table.matrix()
    if matrix.shape != (len(images), before + len(names)):
        found = f"{matrix.shape[0]} x {matrix.shape[1]} labels"
        raise table.error(f"{found} for the {len(images)} images and {len(names)} attributes")
    return matrix


def one_based(node: Node, total: int) -> np.ndarray:
    """Return positions from 0 out of distinct numbers from 1 to ``total``."""
    numbers = node.vector()
    outside = numbers[(numbers < 1) | (numbers > total)]
    if outside.size:
        raise node.error(f"number {outside[0]} is outside 1 to {total:,}, the images counted")
    unique, counts = np.unique(numbers, return_counts=True)
    if (counts > 1).any():
        raise node.error(f"number {unique[counts > 1][0]} comes twice")
    return numbers - 1


def check_disjoint(parts: Mapping[str, np.ndarray], node: Node) -> None:
    """Raise ValueError if two of ``{name: positions}`` share one."""
    for name, other in itertools.combinations(parts, 2):
        shared = np.intersect1d(parts[name], parts[other])
        if shared.size:
            found = f"{shared.size:,} images are in both {name} and {other}"
            raise node.error(f"{found}, the first is number {shared[0] + 1}")


def pick_partition(node: Node, number: int) -> Node:
    """Return the cell of partition ``number``, counted from 1; ValueError if there is none."""
    cells = node.cells()
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(cells):
        raise node.error(f"partition={number!r}: valid are 1 to {len(cells)}")
    return cells[number - 1]


def check_holdout(share: float) -> None:
    """Raise ValueError unless a share lies between 0 and 1."""
    if not 0 < share < 1:
        raise ValueError(f"holdout={share}: must lie between 0 and 1, both excluded")


def hold_out(
    items: Iterable[Any], share: float = HOLDOUT, seed: int = 0, sizes: Counter | None = None
) -> set:
    """Return the items that are held out for validation; at least one.

    The choice depends on the sorted items and the seed alone, not on the order of files. Items are
    distinct images, or groups of ``sizes`` images that must stay together, such as persons.
    ``share`` is of the images, in (0, 1), as nearly as the groups allow without exceeding it.
    """
    items = sorted(items)
    check_holdout(share)
    if len(items) < 2:
        raise ValueError(f"{len(items)} training items: too few to hold any out for validation")
    sizes = Counter(items) if sizes is None else sizes
    total = sum(sizes[item] for item in items)
    left = min(max(1, round(share * total)), total - 1)
    order = [items[k] for k in np.random.RandomState(seed).permutation(len(items))]
    held = set()
    for item in order:
        if sizes[item] <= left:
            held.add(item)
            left -= sizes[item]
    return held or {min(order, key=sizes.__getitem__)}


def official_split(
    split: str,
    parts: Mapping[str, Any],
    targets: np.ndarray,
    holdout: float = HOLDOUT,
    *,
    seed: int = 0,
) -> np.ndarray:
    """Return the positions of a split where a data set comes as a training and a test part.

    'trainval' is the whole training part, 'test' the test part; ``parts`` has the positions of
    both. 'val' is a ``holdout`` share of every class of the training part, chosen by the seed, and
    'train' the rest. Positions are ``(n,)`` int64, ascending within each part.
    """
    check_holdout(holdout)
    if split in ("trainval", "test"):
        return np.asarray(parts[split], np.int64)
    training = np.asarray(parts["trainval"], np.int64)
    held = np.zeros(len(training), bool)
    own = np.asarray(targets)[training]
    for k in np.unique(own):
        members = np.flatnonzero(own == k)
        count = min(max(1, round(holdout * len(members))), len(members) - 1)
        order = np.random.RandomState([seed, int(k)]).permutation(len(members))
        held[members[order[:count]]] = True
    return training[held if split == "val" else ~held]


def in_hash_order(names: Iterable[str], seed: int) -> list[str]:
    """Return names in the order of the sha256 of seed and name: a shuffle that nothing changes."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())


@functools.lru_cache(maxsize=None)
def _warn_once(path: str, why: str) -> None:
    told = "cannot be written (%s): the split is chosen again each time, equal as long as the files"
    logger.warning(f"%s {told} are; give a split_file elsewhere", path, why)


def keep_split(path: Path, text: str, title: str) -> bool:
    """Write the file of a split that was chosen here; a place that refuses it costs a warning."""
    try:
        if path.parent.is_dir() and not path.parent.stat().st_mode & 0o222:
            raise PermissionError(errno.EACCES, "the folder is write-protected")  # to root as well
        write_text(path, text)
    except OSError as error:
        _warn_once(str(path), error.strerror)
        return False
    logger.info("%s written to %s", title, path)
    return True


def shared_persons(
    split: str, persons: np.ndarray, others: np.ndarray, name: str, *, unknown: Any = None
) -> str:
    """Return a line about the persons of a split who are in another part as well.

    ``persons`` and ``others`` are a person for each image; ``unknown`` is one who is not known.
    """
    known, seen = persons[persons != unknown], set(others[others != unknown].tolist())
    people = set(known.tolist())
    shown = sum(person in seen for person in known.tolist())
    shares = f"{len(people & seen):,} of {len(people):,}", f"{shown:,} of {len(persons):,}"
    percent = 100 * shown / max(1, len(persons))
    line = f"{split}: {shares[0]} known persons are also in {name}; they are on"
    return f"{line} {shares[1]} images ({percent:.1f} %)"
