"""What the readers of official annotations share: label codes, partitions, held-out validation."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, Sequence

import numpy as np

from gluon_attn.core.registry import unknown_name

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "trainval", "test")
UNCERTAIN = ("negative", "unspecified")
HOLDOUT = 0.1  # share of the training part where the authors give no validation split


def check_split(split, what, valid=SPLITS):
    """Raise ValueError unless ``split`` is one of ``valid``."""
    if split not in valid:
        raise ValueError(f"{what}: {unknown_name('split', split, valid)}")


def check_uncertain(uncertain):
    """Raise ValueError unless ``uncertain`` is 'negative' or 'unspecified'."""
    if uncertain not in UNCERTAIN:
        raise ValueError(f"uncertain={uncertain!r}: valid are {', '.join(UNCERTAIN)}")


def find_folder(root, names):
    """Return the first of ``root``'s folders ``names`` that exists, else the last."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    return root / names[-1]


def binary_labels(values, names, place, uncertain="negative"):
    """Return int8 labels {1, -1, 0} from a matrix that holds 1, 0 and perhaps 2.

    Args:
        values: ``(N, A)`` integers: 1 positive, 0 negative, 2 uncertain.
        names: The A attributes, for messages.
        place: Of the matrix, for messages.
        uncertain: 'negative' or 'unspecified': what 2 becomes.

    Raises:
        ValueError: At another value, naming row and attribute, counted from 1.
    """
    wrong = ~np.isin(values, (0, 1, 2))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{place}: row {row + 1}, attribute '{names[column]}' is {values[row, column]}; valid "
            "are 1, 0 and 2"
        )
    announce_uncertain(uncertain, (values == 2).any(), place)
    two = -1 if uncertain == "negative" else 0
    return np.array([-1, 1, two], np.int8)[values]


def announce_uncertain(uncertain: str, has_some: bool, place: object) -> None:
    """Log a warning if labels of value 2 are to be treated specially and there are none."""
    if uncertain != "negative" and not has_some:
        logger.warning("%s: no label is 2 (uncertain): uncertain=%s does nothing", place, uncertain)


def one_based(node, total):
    """Return positions from 0 out of a Node of numbers from 1 to ``total``.

    Raises:
        ValueError: If a number is out of range or comes twice.
    """
    numbers = node.vector()
    outside = numbers[(numbers < 1) | (numbers > total)]
    if outside.size:
        raise node.error(f"number {outside[0]} is outside 1 to {total:,}, the pictures counted")
    unique, counts = np.unique(numbers, return_counts=True)
    if (counts > 1).any():
        raise node.error(f"number {unique[counts > 1][0]} comes twice")
    return numbers - 1


def check_disjoint(parts, node):
    """Raise ValueError if two of ``{name: positions}`` share one."""
    names = list(parts)
    for k, name in enumerate(names):
        for other in names[k + 1 :]:
            shared = np.intersect1d(parts[name], parts[other])
            if shared.size:
                raise node.error(
                    f"{shared.size:,} pictures are in both {name} and {other}, the first is number "
                    f"{shared[0] + 1}"
                )


def pick_partition(node, number):
    """Return the cell of partition ``number``, counted from 1.

    Raises:
        ValueError: If there is no such partition.
    """
    cells = node.cells()
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(cells):
        raise node.error(f"partition={number!r}: valid are 1 to {len(cells)}")
    return cells[number - 1]


def hold_out(
    items: Sequence[Any], share: float = HOLDOUT, seed: int = 0, sizes: Counter | None = None
) -> set:
    """Return the items that are held out for validation; at least one.

    The choice depends on the sorted items and the seed alone, hence not on the order of files.

    Args:
        items: Distinct images, or groups of images that must stay together, such as persons.
        share: Of the images that is held out, as nearly as the groups allow without exceeding it.
        seed: Seed.
        sizes: Images of each group; None: every item is one.

    Raises:
        ValueError: If the share is not between 0 and 1, or nothing would be left for training.
    """
    items = sorted(items)
    if not 0 < share < 1:
        raise ValueError(f"holdout={share}: must lie between 0 and 1, both excluded")
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


def shared_persons(
    split: str, persons: np.ndarray, others: np.ndarray, name: str, unknown: Any = None
) -> str:
    """Return a line about the persons of a split who are in another part as well.

    Args:
        split, name: What the two are called.
        persons, others: A person for each of their images.
        unknown: The value that stands for a person who is not known.
    """
    known, seen = persons[persons != unknown], set(others[others != unknown].tolist())
    people = set(known.tolist())
    shown = sum(person in seen for person in known.tolist())
    return (
        f"{split}: {len(people & seen):,} of {len(people):,} known persons are also in {name}; "
        f"they are on {shown:,} of {len(persons):,} images ({100 * shown / len(persons):.1f} %)"
    )


def warn_of_other_names(names, known, path):
    """Log a warning if attribute names are not the known ones, in their order."""
    if tuple(names) != tuple(known):
        odd = [n for n in names if n not in known] or ["only the order"]
        logger.warning("%s: other attributes than published: %s", path, ", ".join(odd[:5]))
