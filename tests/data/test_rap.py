"""RAP versions 1 and 2, and PA-100K: hand-written miniatures of the official files."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pytest
from formats.tiny_mats import cell
from kinds_helpers import image, refuses
from scipy.io import savemat

from gluon_attn.data import DATASETS, detect_kind, open_dataset
from gluon_attn.data.protocol import hold_out


def row(*numbers):
    return np.array(numbers, np.float64)[None]


def save_rap(root, fields):
    (root / "RAP_annotation").mkdir(exist_ok=True)
    savemat(root / "RAP_annotation" / "RAP_annotation.mat", {"RAP_annotation": fields})
    return root


IMAGES = [f"CAM01_2014-02-1{k}_{k}.png" for k in range(6)]


def version1(**changes):
    labels = np.zeros((6, 92))
    labels[range(6), range(6)] = 1
    labels[0, 50], labels[1, 50], labels[3, 60] = 1, 2, 2
    parts = [{"train_index": row(6, 2, 1, 4), "test_index": row(5, 3)} for _ in range(5)]
    parts[2] = {"train_index": row(1, 3, 5, 6), "test_index": row(2, 4)}
    names = [f"attribute {k}" for k in range(92)]
    fields = {
        "partion": cell(parts), "label": labels,
        "chinese": cell([f"属性 {k}" for k in range(92)]), "english": cell(names),
        "position": np.zeros((6, 16)), "imagesname": cell(IMAGES), "exp": cell(names[:51]),
    }  # fmt: skip
    return dict(fields, **changes)


def version2(**changes):
    labels = np.zeros((6, 152))
    labels[:, 100] = [1, 0, 0, 2, 0, 1]
    labels[:, 7] = [0, 1, 1, 0, 0, 0]
    labels[:, 8] = 1  # not selected
    parts = [{"train_index": row(6, 2, 1), "val_index": row(4), "test_index": row(5, 3)}] * 5
    fields = {
        "name": cell(IMAGES), "data": labels,
        "attribute": cell([f"attribute {k}" for k in range(152)]),
        "selected_attribute": row(8, 101), "partition_attribute": cell(parts, row=True),
        "person_identity": row(1, 2, 3, 4, 5, 6).T,
    }  # fmt: skip
    return dict(fields, **changes)


@pytest.fixture
def rap(tmp_path):
    for k, name in enumerate(IMAGES):
        image(tmp_path / "RAP_dataset" / name, 20 * k, (8, 4))
    return save_rap(tmp_path, version1())


def test_version_1(rap):
    assert detect_kind(rap) == "rap"
    both = open_dataset(rap, "trainval")
    assert both.version == 1 and len(both.names) == 51 and both.names[50] == "attribute 50"
    assert both.sample_ids == [IMAGES[k] for k in (5, 1, 0, 3)]
    assert [int(both[k][0][0, 0, 0]) for k in range(4)] == [100, 20, 0, 60]
    expected = np.full((4, 51), -1)
    expected[[0, 1, 2, 3, 2], [5, 1, 0, 3, 50]] = 1
    np.testing.assert_array_equal(both.raw, expected)
    assert open_dataset(rap, "test").sample_ids == [IMAGES[4], IMAGES[2]]
    assert open_dataset(rap, "test", partition=3).sample_ids == [IMAGES[1], IMAGES[3]]
    assert open_dataset(rap, "trainval", uncertain="unspecified").raw[1, 50] == 0


def test_version_1_holds_out_validation_images(rap):
    train, val = open_dataset(rap, "train"), open_dataset(rap, "val")
    both = open_dataset(rap, "trainval").sample_ids
    assert len(val) == 1 and sorted(train.sample_ids + val.sample_ids) == sorted(both)
    held = {open_dataset(rap, "val", seed=s).sample_ids[0] for s in range(8)}
    assert len(held) > 1 and open_dataset(rap, "val", seed=0).sample_ids == val.sample_ids
    assert len(open_dataset(rap, "val", holdout=0.5)) == 2
    refuses("holdout=1.0: must lie between 0 and 1", rap, "val", holdout=1.0)
    report = open_dataset(rap, "trainval").report
    assert "trainval: 4 images, published 33,268" in report.text()


PERSONS = np.arange(40) // 4 + 1  # ten persons with four images
PERSONS[[3, 17, 30, 38]] = -1


def many(persons, **changes):
    """A file of 40 images; the first 32 train. ``persons``: what stands in ``identity``."""
    parts = [{"train_index": 1 + np.arange(32.0)[None], "test_index": 33 + np.arange(8.0)[None]}]
    fields = version1(
        partion=cell(parts * 5), label=np.zeros((40, 92)),
        imagesname=cell([f"{k:02d}.png" for k in range(40)]),
    )  # fmt: skip
    return dict(fields, **({} if persons is None else {"identity": persons}), **changes)


@pytest.mark.parametrize("written", [
    PERSONS[:, None].astype(float), PERSONS[None], cell([str(p) for p in PERSONS]),
    cell([np.array([[float(p)]]) for p in PERSONS]),
], ids=["column", "row", "texts", "cells"])  # fmt: skip
def test_version_1_holds_out_whole_persons(tmp_path, written):
    save_rap(tmp_path, many(written))
    train, val = (open_dataset(tmp_path, split, holdout=0.25) for split in ("train", "val"))
    assert len(val) == 8 and len(train) == 24, "exactly the share, thanks to those not known"
    known = set(val.persons.tolist()) - {-1}
    assert known and not known & set(train.persons.tolist())
    assert val.persons.tolist() == [PERSONS[int(name[:2])] for name in val.sample_ids]
    text = val.report.text()
    assert f"val: 0 of {len(known)} known persons are also in train; they are on 0 of 8" in text
    # Persons 1 to 8 are on the first 32 images, 9 and 10 on the test images.
    assert (
        "test: 0 of 2 known persons are also in trainval"
        in open_dataset(tmp_path, "test").report.text()
    )
    assert open_dataset(tmp_path, "val", holdout=0.25, seed=3).sample_ids != val.sample_ids


def test_groups_are_held_out_whole_and_never_too_many():
    rng = np.random.default_rng(0)
    for seed in range(20):
        sizes = Counter(rng.integers(0, 30, 100).tolist())
        held = hold_out(list(sizes), 0.3, seed, sizes)
        assert 20 <= sum(sizes[group] for group in held) <= 30
        assert held == hold_out(sorted(sizes, reverse=True), 0.3, seed, sizes)
        one_each = Counter(range(40))
        assert hold_out(range(40), 0.3, seed, one_each) == hold_out(range(40), 0.3, seed)
    assert hold_out("ab", 0.1, 0, Counter(a=50, b=20)) == {"b"}, "one group at least, the smallest"
    assert len(hold_out(range(40), 0.3)) == 12
    refuses("too few to hold any out", "a", 0.1, 0, Counter(a=50), by=hold_out)


@pytest.mark.parametrize("written", [None, np.ones((3, 1)), cell(["a"] * 40)])
def test_without_usable_persons_images_are_drawn_as_before(tmp_path, caplog, written):
    save_rap(tmp_path, many(written))
    val = open_dataset(tmp_path, "val")
    order = np.random.RandomState(0).permutation(32)
    assert sorted(val.sample_ids) == sorted(f"{k:02d}.png" for k in order[:3])
    assert val.persons is None and "val: the file names no persons" in val.report.text()
    assert ("identity: not one number for each of 40" in caplog.text) == (written is not None)


def test_uncertain_labels_are_announced_where_there_are_none(rap, tmp_path, caplog):
    open_dataset(rap, "trainval", uncertain="unspecified")
    assert not caplog.text, "label 2 occurs"
    savemat(tmp_path / "annotation.mat", pa100k())
    with caplog.at_level(logging.WARNING):
        open_dataset(tmp_path, "train", kind="pa100k", uncertain="unspecified")
    assert (
        "train_label: no label is 2 (uncertain): uncertain=unspecified does nothing" in caplog.text
    )


def test_version_2(rap):
    save_rap(rap, version2())
    train = open_dataset(rap, "train")
    assert train.version == 2 and train.names == ("attribute 7", "attribute 100")
    assert train.sample_ids == [IMAGES[k] for k in (5, 1, 0)]
    np.testing.assert_array_equal(train.raw, [[-1, 1], [1, -1], [-1, 1]])
    val = open_dataset(rap, "val")
    assert val.sample_ids == [IMAGES[3]] and val.raw.tolist() == [[-1, -1]]
    assert open_dataset(rap, "val", uncertain="unspecified").raw.tolist() == [[-1, 0]]
    assert open_dataset(rap, "trainval").sample_ids == train.sample_ids + val.sample_ids
    assert "train: 3 images, published 50,957" in train.report.text()
    assert "val: 0 of 1 known persons are also in train" in val.report.text()


def shared(**changes):
    return cell([dict({"train_index": row(1, 2), "test_index": row(3)}, **changes)] * 5)


@pytest.mark.parametrize("make, changes, message", [
    (version1, {"label": np.zeros((6, 91))}, "RAP_annotation.label: 6 x 91 labels for the 6"),
    (version1, {"imagesname": cell(IMAGES[:5])}, "RAP_annotation.label: 6 x 92 labels.* 5 images"),
    (version1, {"partion": shared(test_index=row(2))}, r"partion\{1\}: 1 images are in both"),
    (version1, {"partion": shared(train_index=row(0))}, r"\{1\}.train_index: number 0 is out"),
    (version1, {"label": np.full((6, 92), 7)}, "label: row 1, attribute 'attribute 0' is 7"),
    (version2, {"selected_attribute": row(8, 153)}, "selected_attribute: number 153 is outside"),
    (version2, {"partition_attribute": shared()}, r"attribute\{1\}: field 'val_index' is miss"),
    (version2, {"name": np.zeros((6, 1))}, "RAP_annotation.name: expected a cell array"),
])  # fmt: skip
def test_malformed_fields_are_named(rap, make, changes, message):
    save_rap(rap, make(**changes))
    assert "RAP_annotation.mat" in refuses(message, rap, "train")


def test_missing_fields(rap):
    fields = version2()
    del fields["partition_attribute"]
    save_rap(rap, fields)
    refuses("field 'partition_attribute' is missing; has name, data", rap, "train")
    with pytest.raises(FileNotFoundError, match="RAP_annotation.mat is missing"):
        DATASETS.get("rap")(rap / "RAP_dataset", "train")


NAMES = ["Female", "AgeOver60", "Age18-60"]


def pa100k(**changes):
    content = {
        "attributes": cell(NAMES),
        "train_images_name": cell(["1.jpg", "2.jpg"]), "val_images_name": cell(["3.jpg"]),
        "test_images_name": cell(["4.jpg"]),
        "train_label": np.array([[1, 0, 1], [0, 0, 1]], np.uint8),
        "val_label": np.array([[0, 1, 0]], np.uint8),
        "test_label": np.array([[1, 1, 0]], np.uint8),
    }  # fmt: skip
    content = dict(content, **changes)
    return {key: value for key, value in content.items() if value is not None}


def test_pa100k(tmp_path):
    for k in range(4):
        image(tmp_path / "data" / f"{k + 1}.jpg", 20 * k, (8, 4))
    savemat(tmp_path / "annotation.mat", pa100k())
    assert detect_kind(tmp_path) == "pa100k"
    train = open_dataset(tmp_path, "train")
    assert train.names == tuple(NAMES) and train.sample_ids == ["1.jpg", "2.jpg"]
    np.testing.assert_array_equal(train.raw, [[1, -1, 1], [-1, -1, 1]])
    assert open_dataset(tmp_path, "trainval").sample_ids == ["1.jpg", "2.jpg", "3.jpg"]
    test = open_dataset(tmp_path, "test")
    assert test.raw.tolist() == [[1, 1, -1]] and abs(int(test[0][0].mean()) - 60) <= 2
    assert "test: 1 images, published 10,000" in test.report.text()


@pytest.mark.parametrize("changes, message", [
    ({"train_label": np.ones((3, 3))}, "train_label: 3 x 3 labels for the 2 images"),
    ({"train_label": np.ones((2, 4))}, "train_label: 2 x 4 labels .* and 3 attributes"),
    ({"train_label": None}, "annotation.mat: variable 'train_label' is missing; has attributes"),
    ({"train_label": np.full((2, 3), -1)}, "train_label: row 1, attribute 'Female' is -1"),
    ({"train_images_name": cell([1.0, 2.0])}, r"train_images_name\{1\}: expected a text"),
    ({"attributes": np.eye(2)}, "attributes: expected a cell array, found a 2 x 2 array"),
])  # fmt: skip
def test_malformed_pa100k(tmp_path, changes, message):
    savemat(tmp_path / "annotation.mat", pa100k(**changes))
    assert "annotation.mat" in refuses(message, tmp_path, "train")
