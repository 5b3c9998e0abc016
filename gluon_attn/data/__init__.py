"""Data sets, transforms and the loader.

``open_dataset(root, split)`` recognises a packed folder, the official files of WIDER-Attribute (or
SRN's crop lists), PETA, RAP, PA-100K, CelebA, Market-1501- and DukeMTMC-attribute and VOC, a folder
of plain lists, and of single-label data CIFAR-10 and -100, CUB-200-2011, Caltech-256, ImageNet and
one folder per class; ``DATASETS`` holds the readers by name, all called as
``reader(root, split, policy=None, on_bad_image='error', **options)``.
"""

from __future__ import annotations

from pathlib import Path

from gluon_attn.coco.dataset import CocoDetection, CocoKeypoints
from gluon_attn.data.base import DATASETS, TRAINING_SPLITS, AttributeDataset
from gluon_attn.data.caltech256 import Caltech256
from gluon_attn.data.celeba import CelebA
from gluon_attn.data.cifar import Cifar10, Cifar100
from gluon_attn.data.classification import ClassificationDataset
from gluon_attn.data.clothing_co_parsing import ClothingCoParsing
from gluon_attn.data.clothing_dataset import ClothingDataset
from gluon_attn.data.cub200 import Cub200
from gluon_attn.data.folders import Folders
from gluon_attn.data.imagenet import ImageNet
from gluon_attn.data.images import BadImageError
from gluon_attn.data.layout import DEPTH, levels
from gluon_attn.data.lists import ListDataset
from gluon_attn.data.loader import Loader
from gluon_attn.data.pa100k import Pa100k
from gluon_attn.data.packed import PackedDataset, explain_records, records_of_others
from gluon_attn.data.packing import pack
from gluon_attn.data.peta import Peta
from gluon_attn.data.rap import Rap
from gluon_attn.data.reid import DukeReid, Market1501
from gluon_attn.data.reid_attributes import DukeAttribute, MarketAttribute
from gluon_attn.data.synthetic.garments import Garments
from gluon_attn.data.transforms import EvalTransform, TrainTransform
from gluon_attn.data.voc import Voc, Voc2007
from gluon_attn.data.wider import WiderAttribute
from gluon_attn.data.wider_srn import WiderCrops

__all__ = [
    "DATASETS",
    "TRAINING_SPLITS",
    "AttributeDataset",
    "BadImageError",
    "Caltech256",
    "CelebA",
    "Cifar10",
    "Cifar100",
    "ClassificationDataset",
    "ClothingCoParsing",
    "ClothingDataset",
    "CocoDetection",
    "CocoKeypoints",
    "Cub200",
    "DukeAttribute",
    "DukeReid",
    "EvalTransform",
    "Folders",
    "Garments",
    "ImageNet",
    "ListDataset",
    "Loader",
    "Market1501",
    "MarketAttribute",
    "Pa100k",
    "PackedDataset",
    "Peta",
    "Rap",
    "TrainTransform",
    "Voc",
    "Voc2007",
    "WiderAttribute",
    "WiderCrops",
    "detect_kind",
    "open_dataset",
    "pack",
]

DETECTION_ORDER = (
    "packed", "wider", "wider_srn", "peta", "rap", "celeba", "market", "duke", "voc", "voc2007",
    "pa100k", "cifar10", "cifar100", "cub200", "caltech256", "imagenet",
    "clothing_co_parsing", "clothing_dataset", "list", "folders",
)  # fmt: skip


def detect_kind(root):
    """Return the name in ``DATASETS`` of the kind of data set in a folder, or just below it.

    Raises:
        FileNotFoundError: If there is no such folder, or nothing known is in it; the message lists
            what was looked for.
        ValueError: If it holds several data sets.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder")
    for level in levels(root):
        kinds = {folder: _kind_at(folder, root) for folder in level}
        found = [f"{folder} ({kind})" for folder, kind in kinds.items() if kind]
        if len(found) > 1:
            raise ValueError(f"{root} holds several data sets: {', '.join(found)}; give one")
        if found:
            return next(filter(None, kinds.values()))
        if level == [root]:
            _refuse_incomplete(root)
    for kind in DETECTION_ORDER:  # of two downloads that were unpacked side by side
        reader = DATASETS.get(kind)
        apart = any(part.apart for part in reader.parts(reader.splits[0]))
        if apart and reader.detect(root, DEPTH):
            return kind
    others = records_of_others(root)
    if others:
        raise FileNotFoundError(explain_records(others))
    wanted = "; ".join(f"{kind}: {DATASETS.get(kind).looks_for}" for kind in DETECTION_ORDER)
    raise FileNotFoundError(f"no data set recognised in {root}; looked for {wanted}")


def _kind_at(folder, root):
    """Return the kind of the data set right in a folder, or None.

    Folders of images of another kind may look like one folder per class (WIDER-Attribute's
    ``Image/train/<event>/``); without their annotation they are none.
    """
    kind = next((kind for kind in DETECTION_ORDER if DATASETS.get(kind).detect(folder)), None)
    if kind == "folders" and folder != root:
        readers = (DATASETS.get(other) for other in DETECTION_ORDER)
        parts = (part for reader in readers for part in reader.parts(reader.splits[0]))
        if any(folder.parent / place == folder for p in parts if p.images for place in p.places):
            return None
    return kind


def _refuse_incomplete(root):
    """Raise FileNotFoundError if what describes a data set is there in part."""
    lacking = {}
    for kind in DETECTION_ORDER:
        reader = DATASETS.get(kind)
        for split in reader.splits if reader.is_home(root) else ():
            found = reader.locate(root, split, depth=0)
            first = reader.parts(split)[0].name
            if first in found.paths:
                lacking[kind] = [part.name for part in found.missing if not part.images]
    if lacking:
        told = ", or ".join(f"{kind} without {', '.join(n)}" for kind, n in lacking.items())
        wanted = "; ".join(f"{kind}: {DATASETS.get(kind).looks_for}" for kind in lacking)
        raise FileNotFoundError(f"{root} looks like {told}; looked for {wanted}")


def open_dataset(
    root,
    split,
    policy=None,
    on_bad_image="error",
    kind="auto",
    srn_compatible=False,
    **options,
):
    """Return one split of the data set in a folder.

    Args:
        root: The folder.
        split: 'train', 'val', 'test', ...
        policy: LabelPolicy; None means the default one.
        on_bad_image: 'error' or 'skip'; see :class:`AttributeDataset`.
        kind: A name in ``DATASETS``, or 'auto'.
        srn_compatible: For WIDER-Attribute: use SRN's crop lists, that is, exactly the samples of
            the papers that compare with SRN, instead of the annotation's boxes.
        options: Handed on to the reader.

    Raises:
        FileNotFoundError: If nothing known is there.
        ValueError: If the kind is unknown or the files are malformed.
    """
    kind = detect_kind(root) if kind == "auto" else kind
    if srn_compatible and kind == "wider":
        kind = "wider_srn"
    return DATASETS.get(kind)(root, split, policy, on_bad_image, **options)
