"""Data sets, transforms and the loader.

``open_dataset(root, split)`` recognises what is in a folder. ``DATASETS`` holds the readers by
name, all called as ``reader(root, split, policy=None, on_bad_image='error', **settings)``. A reader
is a module of this package; nothing else names it. Its class is also an attribute here:
``gluon_attn.data.Peta``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gluon_attn.core.batch import LabelPolicy
from gluon_attn.core.registry import import_all
from gluon_attn.data.base import (
    DATASETS,
    TRAINING_SPLITS,
    AttributeDataset,
    ClassificationDataset,
    Reader,
)
from gluon_attn.data.images import BadImageError
from gluon_attn.data.layout import DEPTH, PathLike, levels
from gluon_attn.data.loader import Loader
from gluon_attn.data.packed import PackedDataset, explain_records, records_of_others
from gluon_attn.data.packing import pack
from gluon_attn.data.transforms import EvalTransform, TrainTransform

__all__ = [
    "DATASETS",
    "TRAINING_SPLITS",
    "AttributeDataset",
    "BadImageError",
    "ClassificationDataset",
    "EvalTransform",
    "Loader",
    "PackedDataset",
    "Reader",
    "TrainTransform",
    "detect_kind",
    "open_dataset",
    "pack",
]

import_all(__path__, __name__, but=["prepare", "synthetic"])  # which ask for all readers
LATER = ("coco", "coco_keypoints")  # readers of a layer above, imported when they are asked for
for _kind in LATER:
    DATASETS.register_later(_kind, "gluon_attn.coco.dataset")


def __getattr__(name: str) -> Any:
    """Return a reader by the name of its class."""
    for kind in DATASETS.names() if name[:1].isupper() else ():
        if DATASETS.get(kind).__name__ == name:
            return DATASETS.get(kind)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def detection_order() -> list[str]:
    """Return the kinds that a folder is recognised as, in the order in which they are tried."""
    places = {kind: DATASETS.get(kind).detection for kind in DATASETS.names() if kind not in LATER}
    return sorted((kind for kind in places if places[kind] is not None), key=places.__getitem__)


def detect_kind(root: PathLike) -> str:
    """Return the name in ``DATASETS`` of the kind of data set in a folder, or just below it.

    FileNotFoundError: nothing known is there (the message lists what was looked for); ValueError:
    several data sets are.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder")
    order = detection_order()
    for level in levels(root):
        kinds = {folder: _kind_at(folder, root, order) for folder in level}
        found = [f"{folder} ({kind})" for folder, kind in kinds.items() if kind]
        if len(found) > 1:
            raise ValueError(f"{root} holds several data sets: {', '.join(found)}; give one")
        if found:
            return next(kind for kind in kinds.values() if kind)
        if level == [root]:
            _refuse_incomplete(root, order)
    for kind in order:  # of two downloads that were unpacked side by side
        reader = DATASETS.get(kind)
        apart = any(part.apart for part in reader.parts(reader.splits[0]))
        if apart and reader.detect(root, DEPTH):
            return kind
    others = records_of_others(root)
    if others:
        raise FileNotFoundError(explain_records(others))
    wanted = "; ".join(f"{kind}: {DATASETS.get(kind).looks_for}" for kind in order)
    raise FileNotFoundError(f"no data set recognised in {root}; looked for {wanted}")


def _kind_at(folder: Path, root: Path, order: list[str]) -> str | None:
    """Return the kind of the data set right in a folder, or None.

    Image folders of another kind (WIDER-Attribute's ``Image/train/<event>/``) are no classes.
    """
    kind = next((kind for kind in order if DATASETS.get(kind).detect(folder)), None)
    if kind == "folders" and folder != root:
        readers = (DATASETS.get(other) for other in order)
        parts = (part for reader in readers for part in reader.parts(reader.splits[0]))
        if any(folder.parent / place == folder for p in parts if p.images for place in p.places):
            return None
    return kind


def _refuse_incomplete(root: Path, order: list[str]) -> None:
    """Raise FileNotFoundError if what describes a data set is there in part."""
    lacking = {}
    for kind in order:
        reader = DATASETS.get(kind)
        for split in reader.splits if reader.is_home(root) else ():
            found = reader.locate(root, split, depth=0)
            if reader.parts(split)[0].name in found.paths:
                lacking[kind] = [part.name for part in found.missing if not part.images]
    if lacking:
        told = ", or ".join(f"{kind} without {', '.join(n)}" for kind, n in lacking.items())
        wanted = "; ".join(f"{kind}: {DATASETS.get(kind).looks_for}" for kind in lacking)
        raise FileNotFoundError(f"{root} looks like {told}; looked for {wanted}")


def open_dataset(
    root: PathLike,
    split: str,
    policy: LabelPolicy | None = None,
    on_bad_image: str = "error",
    *,
    kind: str = "auto",
    srn_compatible: bool = False,
    **settings: Any,
) -> Any:
    """Return one split of the data set in a folder.

    Args:
        on_bad_image: 'error' or 'skip'; see :class:`AttributeDataset`.
        kind: A name in ``DATASETS``, or 'auto'.
        srn_compatible: For WIDER-Attribute: use SRN's crop lists, that is, exactly the samples of
            the papers that compare with SRN, instead of the annotation's boxes.
        settings: Of the reader.

    Raises FileNotFoundError if nothing known is there, ValueError if files are malformed.
    """
    kind = detect_kind(root) if kind == "auto" else kind
    if srn_compatible and kind == "wider":
        kind = "wider_srn"
    return DATASETS.get(kind)(root, split, policy, on_bad_image, **settings)
