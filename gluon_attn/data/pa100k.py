"""PA-100K from its official files: ``annotation.mat`` beside the images.

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

from gluon_attn.core.schema import Schema
from gluon_attn.data.base import DATASETS, Reader, Samples
from gluon_attn.data.layout import Found, Part, file_part, folder_part
from gluon_attn.data.matfile import load_mat, take
from gluon_attn.data.protocol import SPLITS, binary_labels, labels_of_images, parts_of
from gluon_attn.data.published_sizes import split_counts

PLACES = ("annotation.mat", "annotation/annotation.mat")
UNZIPPED = "release_data/release_data"
FOLDERS = (UNZIPPED, "release_data", "images", f"data/{UNZIPPED}", "data/release_data", "data")


@DATASETS.register("pa100k")
class Pa100k(Reader):
    """Pedestrians of PA-100K, 26 attributes.

    ``uncertain`` is what label value 2 becomes, should there be any: 'negative' or 'unspecified'.
    """

    title = "PA-100K"
    looks_for = "annotation.mat beside data/ (or release_data/release_data/)"
    detection = 100
    valid = SPLITS
    settings = ("uncertain",)
    published = split_counts("images", train=80000, val=10000, trainval=90000, test=10000)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        folder = folder_part("data", *FOLDERS, apart=True, images=True)
        return file_part("annotation.mat", *PLACES), folder

    def samples(self, found: Found, split: str, uncertain: str = "negative") -> Samples:
        path, folder = found.each()
        nodes = load_mat(path)
        names = take(nodes, "attributes", path).strings()
        ids, rows = [], []
        for part in parts_of(split):
            listed = take(nodes, f"{part}_images_name", path).strings()
            table = take(nodes, f"{part}_label", path)
            matrix = labels_of_images(table, listed, names)
            ids += listed
            rows.append(binary_labels(matrix, names, table.place, uncertain))
        return Samples(Schema.binary(names), np.concatenate(rows), ids, folder)
