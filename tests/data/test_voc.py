"""VOC 2012 and 2007 as multi-label data sets: hand-written image sets."""

from __future__ import annotations

import numpy as np
import pytest
from kinds_helpers import image, refuses

from gluon_attn.core.batch import LabelPolicy
from gluon_attn.data import detect_kind, open_dataset
from gluon_attn.data.voc import CLASSES

IDS = ["2008_000008", "2008_000015", "2009_000001"]


def sets(root):
    return root / "ImageSets" / "Main"


def write(root, ids=IDS, split="train"):
    """Three images: a boat, a difficult cat, both and a dog."""
    sets(root).mkdir(parents=True, exist_ok=True)
    values = {name: [-1, -1, -1] for name in CLASSES}
    values["boat"], values["cat"], values["dog"] = [1, -1, 1], [-1, 0, 1], [-1, -1, 1]
    for name, row in values.items():
        lines = [f"{i} {v:2d}" for i, v in zip(ids, row)]
        (sets(root) / f"{name}_{split}.txt").write_text("\n".join(lines) + "\n")
    for k, name in enumerate(ids):
        image(root / "JPEGImages" / f"{name}.jpg", 50 * k, (8, 10))
    return root


def test_labels_and_images(tmp_path):
    root = write(tmp_path)
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


@pytest.mark.parametrize("line, message", [
    ("2008_000015 2", "cat_train.txt:2: expected an image and 1, -1 or 0, found '2008_000015 2'"),
    ("2008_000015", "cat_train.txt:2: expected an image"),
    ("2008_000008 -1", "cat_train.txt:2: '2008_000008' comes twice"),
    ("2008_000016 -1", "cat_train.txt: not the images of aeroplane_train.txt: 2 .*000015"),
])  # fmt: skip
def test_malformed_lines_are_named(tmp_path, line, message):
    path = sets(write(tmp_path)) / "cat_train.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, lines[2]]))
    refuses(message, tmp_path, "train")


def test_missing_lists(tmp_path):
    write(tmp_path)
    (sets(tmp_path) / "cat_train.txt").unlink()
    refuses("cat_train.txt is missing", tmp_path, "train", error=FileNotFoundError)
    refuses("no lists of 'test'", tmp_path, "test", error=FileNotFoundError, kind="voc")
    refuses("VOC: unknown split 'Train'", tmp_path, "Train", kind="voc")


IDS_2007 = ["000005", "000007", "009959"]


def test_2007(tmp_path):
    write(tmp_path / "VOC2007", IDS_2007)
    write(tmp_path / "VOC2007", IDS_2007, "test")
    assert detect_kind(tmp_path) == "voc2007"
    test = open_dataset(tmp_path, "test")
    assert test.sample_ids == IDS_2007 and round(test[2][0].mean() / 50) == 2
    assert test.raw[1, 7] == 0 and test.mask[1, 7] == 0, "difficult: left out"
    assert open_dataset(tmp_path, "test", difficult="positive").label[1, 7] == 1
    assert "test: 3 images, published 4,952 (-4,949)" in test.report.text()
    assert "published 2,501" in open_dataset(tmp_path, "train").report.text()
    with pytest.raises(
        FileNotFoundError, match="'train' of VOC 2012; it holds those of kind 'voc2007'"
    ):
        open_dataset(tmp_path, "train", kind="voc")


def test_both_years_in_one_development_kit(tmp_path):
    write(tmp_path / "VOCdevkit" / "VOC2012")
    write(tmp_path / "VOCdevkit" / "VOC2007", IDS_2007)
    assert detect_kind(tmp_path) == "voc"
    assert open_dataset(tmp_path, "train").sample_ids == IDS
    assert open_dataset(tmp_path, "train", kind="voc2007").sample_ids == IDS_2007
    assert open_dataset(tmp_path / "VOCdevkit" / "VOC2007", "train").sample_ids == IDS_2007
