"""Market-1501-attribute and DukeMTMC-attribute: identity labels joined to the re-ID pictures.

    bounding_box_train/, bounding_box_test/ (gallery), query/     0002_c1s1_000451_03.jpg
    market_attribute.mat or duke_attribute.mat                    see ``reid_tables``

The label of a picture is that of its identity, the first part of its name. Pictures of ``-1``
(badly detected) and ``0000`` (distractors of Market-1501) have none and are left out.

'test' is the gallery, as in the official evaluation, 'query' the query pictures. The authors give
no validation part: 'train' and 'val' are made here by holding out a tenth of the training
*identities*, drawn with a seed (an assumption); 'trainval' is the whole training part.

Reference: Lin, Zheng, Zheng, Wu, Hu, Yan, Yang, "Improving Person Re-identification by Attribute
and Identity Learning", Pattern Recognition 2019.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gluon_attn.core.batch import LabelPolicy
from gluon_attn.data.base import DATASETS, AttributeDataset
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts, label_note
from gluon_attn.data.layout import Part, file_part, folder_part
from gluon_attn.data.matfile import load_mat
from gluon_attn.data.protocol import HOLDOUT, check_split, hold_out
from gluon_attn.data.reid_tables import DUKE, MARKET, Layout, read_labels
from gluon_attn.data.scan import Passed, list_images

SPLITS = {
    "train": "bounding_box_train",
    "val": "bounding_box_train",
    "trainval": "bounding_box_train",
    "test": "bounding_box_test",
    "query": "query",
}
PLACES = (
    ".", "attribute", "attributes", "Market-1501_Attribute", "Market-1501-attribute",
    "DukeMTMC-attribute",
)  # fmt: skip
WITHOUT_LABELS = ("-1", "0000")
PICTURE = re.compile(r"(-1|\d{4})_c\d.*", re.IGNORECASE)  # a name without its suffix
LOOKS_FOR = (
    "{}.mat in the folder itself, attribute/ or the folder named as its repository, beside "
    "bounding_box_train/, bounding_box_test/ and query/"
)


class _Part(NamedTuple):
    """The samples of a split: file paths in the folder, identities, labels, counts, remarks."""

    ids: list
    identities: tuple
    raw: np.ndarray
    count: SplitCount
    notes: list


class ReidAttributes(AttributeDataset):
    """What the two readers share; a sub-class has ``layout`` (:class:`Layout`).

    Args:
        root, split, policy, on_bad_image, attributes, holdout, seed, repair: See
            :class:`MarketAttribute` and :class:`DukeAttribute`.
    """

    layout: Layout
    splits = ("train", "val", "test", "query")
    valid = tuple(SPLITS)

    def __init__(self, root, split, policy, on_bad_image, attributes, holdout, seed, repair=False):
        check_split(split, self.layout.title, SPLITS)
        found = self.require(root, split, attributes=attributes)
        folder, path = (found.path(part) for part in self.parts(split))
        self.root = folder.parent
        part = _read_part(self.layout, path, folder, split, holdout, seed, repair)
        schema = self.layout.schema
        policy = LabelPolicy(train="masked") if policy is None else policy
        super().__init__(schema.columns, split, part.raw, part.ids, policy, on_bad_image, schema)
        self.identities = part.identities
        self.report = _report(self, self.layout, part)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        name = f"{cls.layout.variable}.mat"
        places = (f"{place}/{name}" for place in PLACES)
        annotation = file_part(name, *places, apart=True, option="attributes")
        return folder_part(SPLITS[split]), annotation

    def path(self, i):
        return self.root / self.sample_ids[i]


@DATASETS.register("market")
class MarketAttribute(ReidAttributes):
    """Market-1501 with 12 attributes, three of them multi-class (age and two colours); 30 columns.

    Args:
        root: Folder of Market-1501, with ``market_attribute.mat`` in it or below.
        split: 'train', 'val', 'trainval', 'test' (gallery) or 'query'.
        policy: LabelPolicy; None means that missing values are masked in training too.
        on_bad_image: See :class:`AttributeDataset`.
        attributes: Path of the ``.mat`` file, if it is elsewhere.
        holdout: Share of the training identities that is the validation split.
        seed: Seed of that choice.

    Attributes:
        report: CountReport of this split.
        identities: N identities, such as '0002'.

    Raises:
        FileNotFoundError: If the annotation or a folder is not there.
        ValueError: If something is malformed; the message names file and field.
    """

    layout = MARKET
    looks_for = LOOKS_FOR.format("market_attribute")

    def __init__(
        self, root, split, policy=None, on_bad_image="error", attributes=None, holdout=HOLDOUT,
        seed=0,
    ):  # fmt: skip
        super().__init__(root, split, policy, on_bad_image, attributes, holdout, seed)


@DATASETS.register("duke")
class DukeAttribute(ReidAttributes):
    """DukeMTMC-reID with 10 attributes, two of them multi-class (colours); 23 columns.

    Duke University withdrew the DukeMTMC pictures in 2019; think before you use a copy.

    Args:
        root: Folder of DukeMTMC-reID, with ``duke_attribute.mat`` in it or below.
        split, policy, on_bad_image, attributes, holdout, seed: See :class:`MarketAttribute`.
        repair: Whether 'top' of identities 0370 and 0679, missing in the file, is filled in as
            other code does it (short, long); otherwise it stays unspecified.

    Attributes:
        report, identities: See :class:`MarketAttribute`.

    Raises:
        FileNotFoundError, ValueError: See :class:`MarketAttribute`.
    """

    layout = DUKE
    looks_for = LOOKS_FOR.format("duke_attribute")

    def __init__(
        self, root, split, policy=None, on_bad_image="error", attributes=None, holdout=HOLDOUT,
        seed=0, repair=False,
    ):  # fmt: skip
        super().__init__(root, split, policy, on_bad_image, attributes, holdout, seed, repair)


def _read_part(layout, path, folder, split, holdout, seed, repair):
    """Return the _Part of a split from its annotation and its folder."""
    node = load_mat(path, layout.variable).field("train" if "train" in folder.name else "test")
    known, labels = read_labels(node, layout, repair)
    row = {identity: k for k, identity in enumerate(known)}
    found, without = _list_pictures(folder)
    strangers = sorted({identity for _, identity in found} - set(row))
    if strangers:
        raise ValueError(
            f"{folder}: identity '{strangers[0]}' and {len(strangers) - 1} more have no labels in "
            f"{node.place} (is it the annotation of another data set?)"
        )
    if split in ("train", "val"):
        held = hold_out(known, holdout, seed)
        found = [item for item in found if (item[1] in held) == (split == "val")]
    identities = tuple(identity for _, identity in found)
    raw = labels[[row[identity] for identity in identities]]
    count = SplitCount(split, len(found), identities=len(set(identities)))
    notes = [f"{split}: {without:,} pictures of -1 and 0000 left out"] if without else []
    return _Part([f"{folder.name}/{name}" for name, _ in found], identities, raw, count, notes)


def _list_pictures(folder: Path) -> tuple[list[tuple[str, str]], int]:
    """Return ``[(file name, identity), ...]``, sorted, and how many images have no labels."""
    found, without, passed = [], 0, Passed(folder)
    for name in list_images(folder, passed, deep=False):
        match = PICTURE.fullmatch(Path(name).stem)
        if not match:
            raise ValueError(
                f"{folder / name}: no identity; expected a name like 0002_c1s1_....jpg"
            )
        if match.group(1) in WITHOUT_LABELS:
            without += 1
        else:
            found.append((name, match.group(1)))
    passed.log()
    return found, without


def _report(dataset, layout, part):
    """Return the CountReport of a split, with remarks about its labels."""
    notes = [label_note(dataset)] if dataset.split == "train" else []
    for attribute, columns in zip(dataset.schema.attributes, dataset.schema.slices()):
        rows = dataset.raw[:, columns]
        several, none = ((rows == 1).sum(1) > 1).sum(), (rows == -1).all(1).sum()
        if attribute.width > 1 and (several or none):
            notes.append(
                f"{dataset.split}: {attribute.name}: {none:,} pictures with none of the classes, "
                f"{several:,} with several"
            )
    missing = (dataset.raw == 0).any(1).sum()
    notes += [f"{dataset.split}: {missing:,} pictures with missing labels"] if missing else []
    expected, source = expected_counts(dataset.root, layout.published)
    return CountReport([part.count], expected, source, notes + part.notes)
