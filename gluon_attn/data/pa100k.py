"""PA-100K from its official files: ``annotation.mat`` beside the pictures.

    annotation.mat (or annotation/annotation.mat), variables:
        attributes                               26 x 1 cell of names
        {train,val,test}_images_name             N x 1 cell of file names
        {train,val,test}_label                   N x 26 numbers, 1 or 0
    data/000001.jpg ...                          (or release_data/release_data/, as unzipped)

The order of attributes is the file's (it begins Female, AgeOver60, Age18-60, AgeLess18, Front);
some toolkits use another one, beginning with Hat.

Reference: Liu et al., "HydraPlus-Net: Attentive Deep Features for Pedestrian Analysis", ICCV 2017.
"""

from __future__ import annotations

import numpy as np

from gluon_attn.data.base import DATASETS, AttributeDataset
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts, label_note
from gluon_attn.data.layout import Part, file_part, folder_part
from gluon_attn.data.matfile import load_mat, take
from gluon_attn.data.protocol import SPLITS, binary_labels, check_split, check_uncertain
from gluon_attn.data.scan import ImageFolder

PUBLISHED = {
    "train": {"images": 80000},
    "val": {"images": 10000},
    "trainval": {"images": 90000},
    "test": {"images": 10000},
}
PLACES = ("annotation.mat", "annotation/annotation.mat")
FOLDERS = (
    "release_data/release_data", "release_data", "images", "data/release_data/release_data",
    "data/release_data", "data",
)  # fmt: skip


@DATASETS.register("pa100k")
class Pa100k(AttributeDataset):
    """Pedestrians of PA-100K, 26 attributes.

    Args:
        root: Folder that holds ``annotation.mat`` and the pictures in ``data/``.
        split: 'train', 'val', 'trainval' or 'test'.
        policy, on_bad_image: See :class:`AttributeDataset`.
        uncertain: What label value 2 becomes, should there be any: 'negative' or 'unspecified'.

    Attributes:
        report: CountReport of this split.

    Raises:
        FileNotFoundError: If the annotation is not there.
        ValueError: If it is malformed; the message names file and field.
    """

    looks_for = "annotation.mat beside data/ (or release_data/release_data/)"
    valid = SPLITS

    def __init__(self, root, split, policy=None, on_bad_image="error", uncertain="negative"):
        check_split(split, "PA-100K")
        check_uncertain(uncertain)
        found = self.require(root, split)
        self.root = found.home
        path, images = (found.path(part) for part in self.parts(split))
        nodes = load_mat(path)
        names = tuple(take(nodes, "attributes", path).strings())
        parts = ("train", "val") if split == "trainval" else (split,)
        read = [_read_part(nodes, part, names, path, uncertain) for part in parts]
        ids = [name for listed, _ in read for name in listed]
        raw = np.concatenate([labels for _, labels in read])
        super().__init__(names, split, raw, ids, policy, on_bad_image)
        self.images = ImageFolder(images, ids[0])
        expected, source = expected_counts(self.root, PUBLISHED)
        notes = [label_note(self)] if split == "train" else []
        self.report = CountReport([SplitCount(split, len(self))], expected, source, notes)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        images = folder_part("data", *FOLDERS, apart=True, images=True)
        return file_part("annotation.mat", *PLACES), images

    def path(self, i):
        return self.images / self.sample_ids[i]


def _read_part(nodes, part, names, path, uncertain):
    """Return the picture names and the labels ``(N, A)`` of a part of the file."""
    listed = take(nodes, f"{part}_images_name", path)
    table = take(nodes, f"{part}_label", path)
    images, matrix = listed.strings(), table.matrix()
    if matrix.shape != (len(images), len(names)):
        raise table.error(
            f"{matrix.shape[0]} x {matrix.shape[1]} labels for the {len(images)} pictures of "
            f"{part}_images_name and {len(names)} attributes"
        )
    return images, binary_labels(matrix, names, table.place, uncertain)
