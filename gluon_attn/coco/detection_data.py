"""COCO's boxes as the training loop and the loaders see them."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from mxnet.gluon.data import Dataset

from gluon_attn.coco.dataset import CocoDetection
from gluon_attn.core.schema import Schema


class DetectionData(Dataset):
    """A split of COCO with what runs record about their data.

    ``dataset[i]`` is that of :class:`gluon_attn.coco.dataset.CocoDetection`.

    Args:
        coco: CocoDetection.

    Attributes:
        reader: The CocoDetection.
        names: Class names.
        schema: A binary attribute per class: whether a picture shows it.
    """

    task = "detection"

    def __init__(self, coco):
        self.reader, self.split = coco, coco.split
        self.names, self.schema = tuple(coco.class_names), Schema.binary(coco.class_names)

    @classmethod
    def open(cls, data_dir, split, on_bad_image="error", **options):
        """Return a split; see :class:`gluon_attn.coco.dataset.CocoDetection` for what is raised."""
        return cls(CocoDetection(data_dir, split, on_bad_image=on_bad_image, **options))

    def __len__(self):
        return len(self.reader)

    def __getitem__(self, i):
        return self.reader[i]

    def size(self, i):
        """Return width and height of a picture in pixels, without reading it."""
        record = self.reader.coco.imgs[self.reader.image_ids[i]]
        return int(record["width"]), int(record["height"])

    @property
    def skipped(self):
        """``[(sample id, reason), ...]`` of pictures that could not be read."""
        return self.reader.skipped

    @property
    def prior(self):
        """Share of the pictures that show each class, ``(A,)`` float64."""
        shown = np.zeros(len(self.names))
        for i in range(len(self)):
            shown[np.unique(self.reader.boxes(i)[1])] += 1
        return shown / max(1, len(self))

    def fingerprint(self):
        """Return the sha256 of class names, sample ids and boxes, as 64 hexadecimal digits."""
        text = json.dumps([self.names, list(self.reader.sample_ids)], separators=(",", ":"))
        digest = hashlib.sha256(text.encode())
        for i in range(len(self)):
            boxes, classes = self.reader.boxes(i)
            digest.update(np.ascontiguousarray(boxes, "<f4").tobytes())
            digest.update(np.ascontiguousarray(classes, "<i8").tobytes())
        return digest.hexdigest()
