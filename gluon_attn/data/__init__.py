"""Data sets, transforms and the loader.

``open_dataset(root, split)`` recognises a packed folder, the official files of WIDER-Attribute (or
SRN's crop lists), PETA, RAP, PA-100K, CelebA, Market-1501- and DukeMTMC-attribute and VOC, a folder
of plain lists, and of single-label data CIFAR-10 and -100, CUB-200-2011, Caltech-256, ImageNet and
one folder per class; ``DATASETS`` holds the readers by name, all called as
``reader(root, split, policy=None, on_bad_image='error', **options)``.
"""

from __future__ import annotations

from pathlib import Path

from gluon_attn.data.base import DATASETS, TRAINING_SPLITS, AttributeDataset
from gluon_attn.data.caltech256 import Caltech256
from gluon_attn.data.celeba import CelebA
from gluon_attn.data.cifar import Cifar10, Cifar100
from gluon_attn.data.classification import ClassificationDataset
from gluon_attn.data.coco import CocoDetection, CocoKeypoints
from gluon_attn.data.cub200 import Cub200
from gluon_attn.data.folders import Folders
from gluon_attn.data.garments import Garments
from gluon_attn.data.imagenet import ImageNet
from gluon_attn.data.images import BadImageError
from gluon_attn.data.lists import ListDataset
from gluon_attn.data.loader import Loader
from gluon_attn.data.pa100k import Pa100k
from gluon_attn.data.packed import PackedDataset
from gluon_attn.data.packing import pack
from gluon_attn.data.peta import Peta
from gluon_attn.data.rap import Rap
from gluon_attn.data.reid import DukeReid, Market1501
from gluon_attn.data.reid_attributes import DukeAttribute, MarketAttribute
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
    "pa100k", "cifar10", "cifar100", "cub200", "caltech256", "imagenet", "list", "folders",
)  # fmt: skip


def detect_kind(root):
    """Return the name in ``DATASETS`` of the kind of data set in a folder.

    Raises:
        FileNotFoundError: If there is no such folder, or nothing known is in it; the message lists
            what was looked for.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root} is no folder")
    for kind in DETECTION_ORDER:
        if DATASETS.get(kind).detect(root):
            return kind
    wanted = "; ".join(f"{kind}: {DATASETS.get(kind).looks_for}" for kind in DETECTION_ORDER)
    raise FileNotFoundError(f"no data set recognised in {root}; looked for {wanted}")


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
