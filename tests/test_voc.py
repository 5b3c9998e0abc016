"""VOC 2012 as a multi-label data set: hand-written image sets."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gluon_attn.batch import LabelPolicy
from gluon_attn.data import detect_kind, open_dataset
from gluon_attn.data.tiny import write_tiny
from gluon_attn.data.voc import CLASSES, PUBLISHED

IDS = ["2008_000008", "2008_000015", "2009_000001"]


def sets(root):
    return root / "ImageSets" / "Main"


def write(root):
    """Three pictures of training: a boat, a difficult cat, both and a dog."""
    sets(root).mkdir(parents=True)
    values = {name: [-1, -1, -1] for name in CLASSES}
    values["boat"], values["cat"], values["dog"] = [1, -1, 1], [-1, 0, 1], [-1, -1, 1]
    for name, row in values.items():
        lines = [f"{i} {v:2d}" for i, v in zip(IDS, row)]
        (sets(root) / f"{name}_train.txt").write_text("\n".join(lines) + "\n")
    (root / "JPEGImages").mkdir()
    for k, name in enumerate(IDS):
        picture = np.full((8, 10, 3), 50 * k, np.uint8)
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), picture)
    return root


@pytest.mark.parametrize("place", [".", "VOC2012", "VOCdevkit/VOC2012"])
def test_labels_and_pictures(tmp_path, place):
    root = write(tmp_path / place)
    assert "2008_000008  1\n" in (sets(root) / "boat_train.txt").read_text()
    assert detect_kind(tmp_path) == "voc"
    train = open_dataset(tmp_path, "train")
    assert train.names == CLASSES == tuple(sorted(CLASSES)) and len(CLASSES) == 20
    assert train.sample_ids == IDS
    expected = np.full((3, 20), -1)
    expected[[0, 2, 2, 2], [3, 3, 7, 11]] = 1
    expected[1, 7] = 0
    np.testing.assert_array_equal(train.raw, expected)
    assert round(train[2][0].mean() / 50) == 2
    assert "train: 3 images, published 5,717" in train.report.text()
    assert "train: 1 difficult labels, read as masked" in train.report.text()


def test_difficult_is_masked_unless_told_otherwise(tmp_path):
    write(tmp_path)
    train = open_dataset(tmp_path, "train")
    assert train.mask[1, 7] == 0 and train.mask.sum() == 59, "in training too"
    for choice, label in (("negative", 0), ("positive", 1)):
        other = open_dataset(tmp_path, "train", difficult=choice)
        assert other.mask.all() and other.label[1, 7] == label
        assert other.difficult.sum() == 1, "counted all the same"
    assert open_dataset(tmp_path, "train", LabelPolicy()).mask.all(), "a given policy rules"
    with pytest.raises(ValueError, match="unknown treatment of difficult objects 'ignore'"):
        open_dataset(tmp_path, "train", difficult="ignore")


@pytest.mark.parametrize(
    "line, message",
    [
        (
            "2008_000015 2",
            "cat_train.txt:2: expected a picture and 1, -1 or 0, found '2008_000015 2'",
        ),
        ("2008_000015", "cat_train.txt:2: expected a picture"),
        ("2008_000008 -1", "cat_train.txt:2: '2008_000008' comes twice"),
        ("2008_000016 -1", "cat_train.txt: not the pictures of aeroplane_train.txt: 2 .*000015"),
    ],
)
def test_malformed_lines_are_named(tmp_path, line, message):
    path = sets(write(tmp_path)) / "cat_train.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, lines[2]]))
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path, "train")


def test_missing_lists(tmp_path):
    write(tmp_path)
    (sets(tmp_path) / "cat_train.txt").unlink()
    with pytest.raises(FileNotFoundError, match="cat_train.txt is missing"):
        open_dataset(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="no lists of 'test'"):
        open_dataset(tmp_path, "test", kind="voc")
    with pytest.raises(ValueError, match="VOC: unknown split 'Train'"):
        open_dataset(tmp_path, "Train", kind="voc")


def test_generated_tree(tmp_path):
    write_tiny("voc", tmp_path)
    train, val = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "val")
    both = open_dataset(tmp_path, "trainval")
    assert sorted(train.sample_ids + val.sample_ids) == sorted(both.sample_ids)
    assert train.report.ok and both.report.ok and (both.raw == 0).any()
    assert PUBLISHED["trainval"]["images"] == 5717 + 5823
