"""CIFAR-10 from lossless PNG batches, converted to the official binary version.

Some browser demonstrations publish CIFAR-10 as images: a batch of 1,000 is one PNG of 1024 x 1000
pixels whose rows are pictures of 32 x 32, row by row; batches 0 to 49 are the training part, 50 to
59 the test part, and the labels of all are one JavaScript array, ``var labels=[6, 9, …]``.

    cifar10_batch_0.png ...  cifar10_labels.js

Not all batches need be there. What is written is ``data_batch_1.bin`` to ``_5``, ``test_batch.bin``
and ``batches.meta.txt``, which :class:`gluon_attn.data.cifar.Cifar10` reads.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from gluon_attn.core.files import write_bytes, write_text
from gluon_attn.core.text import read_text
from gluon_attn.data.images import read_image
from gluon_attn.data.scan import files

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
SIZE, SIDE = 1000, 32  # images of a batch, pixels of a side
FIRST_TEST = 50
NAME = re.compile(r"cifar10_batch_(\d+)\.png")
LABELS = "cifar10_labels.js"


def convert(root: Any, out: Any, test: Sequence[int] = ()) -> dict[str, int]:
    """Write the binary version of what is in a folder of PNG batches.

    Args:
        root: Folder of the batches.
        out: Folder to write; created.
        test: Numbers of the training batches that are to be test images too, beside 50 to 59. They
            are left out of the training part.

    Returns:
        How many images were written: ``{'trainval': n, 'test': n}``.

    Raises:
        FileNotFoundError: No batches, no labels, or none of a batch of ``test``.
        ValueError: A batch of another size; too few labels; fewer than five training batches.
        OSError: A file could not be read or written.
    """
    root, out = Path(root), Path(out)
    names = [path.name for path in files(root, ".png")] if root.is_dir() else []
    batches = sorted(int(m.group(1)) for m in map(NAME.fullmatch, names) if m)
    if not batches:
        raise FileNotFoundError(f"{root}: no cifar10_batch_0.png, …")
    lacking = sorted(set(test) - set(batches))
    if lacking:
        raise FileNotFoundError(f"{root / f'cifar10_batch_{lacking[0]}.png'} is missing")
    labels = read_labels(root / LABELS, max(batches))
    tests = [k for k in batches if k >= FIRST_TEST or k in test]
    training = [k for k in batches if k not in tests]
    if len(training) < 5 or not tests:
        raise ValueError(
            f"{root}: {len(training)} training and {len(tests)} test batches; at least 5 and 1 "
            "are needed, since the binary version has five training files"
        )
    for number, chosen in enumerate(np.array_split(training, 5), 1):
        write_bytes(out / f"data_batch_{number}.bin", _records(root, chosen.tolist(), labels))
    write_bytes(out / "test_batch.bin", _records(root, tests, labels))
    write_text(out / "batches.meta.txt", "\n".join(CLASSES) + "\n")
    return {"trainval": SIZE * len(training), "test": SIZE * len(tests)}


def read_labels(path: Path, last: int) -> np.ndarray:
    """Return the class numbers of a label file, ``(N,)`` uint8, of at least batches 0 to ``last``.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It holds something else, or too little.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it holds the labels of all batches")
    found = re.search(r"labels\s*=\s*\[([\d,\s]*)\]", read_text(path))
    if found is None:
        raise ValueError(f"{path}: expected var labels=[6, 9, …]")
    labels = np.array([int(word) for word in found.group(1).split(",") if word.strip()])
    if len(labels) < SIZE * (last + 1) or labels.max() >= len(CLASSES):
        raise ValueError(
            f"{path}: {len(labels):,} labels up to {labels.max(initial=0)}; batch {last} needs "
            f"{SIZE * (last + 1):,}, from 0 to {len(CLASSES) - 1}"
        )
    return labels.astype(np.uint8)


def _records(root: Path, batches: Sequence[int], labels: np.ndarray) -> bytes:
    """Return the records of some batches: a label byte, then the planes red, green, blue."""
    parts = []
    for k in batches:
        path = root / f"cifar10_batch_{k}.png"
        image = read_image(path, f"batch {k}")
        if image.shape != (SIZE, SIDE * SIDE, 3):
            rows, columns = image.shape[:2]
            raise ValueError(f"{path}: {columns} x {rows} pixels; a batch has {SIDE**2} x {SIZE}")
        planes = image.transpose(0, 2, 1).reshape(SIZE, -1)  # pixels of an image are in row order
        own = labels[SIZE * k : SIZE * (k + 1), None]
        parts.append(np.concatenate([own, planes], axis=1).tobytes())
    return b"".join(parts)
