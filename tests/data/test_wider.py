"""WIDER-Attribute: the official files and SRN's lists, read right or refused with their place."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest
from kinds_helpers import ORDER, annotate, refuses, target

from gluon_attn.core.batch import LabelPolicy
from gluon_attn.core.images import clip_box
from gluon_attn.data import DATASETS, BadImageError, detect_kind, open_dataset
from gluon_attn.data.published_sizes import CountReport
from gluon_attn.data.wider import ATTRIBUTES, VAA_WEIGHTS, WiderAttribute


def image(root, name, width=60, height=40, colour=(10, 120, 200)):
    """Write an image of one RGB colour with a red 10 x 10 square at the top left."""
    image = np.full((height, width, 3), colour[::-1], np.uint8)
    image[:10, :10] = (0, 0, 255)
    path = root / "Image" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 100])


@pytest.fixture
def tree(tmp_path):
    """Two training images with three boxes, one validation and one test image."""
    for name in ("train/0--Parade/a.jpg", "train/0--Parade/b.jpg", "val/0--Parade/c.jpg"):
        image(tmp_path, name)
    image(tmp_path, "test/0--Parade/d.jpg")
    annotate(tmp_path, {
        "train/0--Parade/a.jpg": [target([0, 0, 10, 10]), target([20, 10, 30, 20])],
        "val/0--Parade/c.jpg": [target([5, 5, 20, 20])],
        "train/0--Parade/b.jpg": [target([50, 30, 30, 30])],
    })  # fmt: skip
    annotate(tmp_path, {"test/0--Parade/d.jpg": [target([1, 1, 20, 20])]}, "test")
    return tmp_path


@pytest.mark.parametrize("folder", ["Annotations", "Anno", "wider_attribute_annotation", "."])
def test_reads_splits_by_prefix_from_every_known_place(tree, folder):
    if folder != "Annotations":
        for file in (tree / "Annotations").iterdir():
            (tree / folder).mkdir(exist_ok=True)
            file.rename(tree / folder / file.name)
    assert detect_kind(tree) == "wider"
    train = open_dataset(tree, "train")
    assert train.names == ATTRIBUTES
    assert train.sample_ids == [f"train/0--Parade/{n}" for n in ("a.jpg#0", "a.jpg#1", "b.jpg#0")]
    assert open_dataset(tree, "val").sample_ids == ["val/0--Parade/c.jpg#0"]
    assert open_dataset(tree, "test").sample_ids == ["test/0--Parade/d.jpg#0"]
    assert len(open_dataset(tree, "trainval")) == 4


def test_crops_are_the_boxes_in_rgb(tree):
    train = open_dataset(tree, "train")
    image, label, mask, index = train[0]
    assert image.dtype == np.uint8 and image.shape == (10, 10, 3) and index == 0
    assert np.abs(image[2:7, 2:7].astype(int) - (255, 0, 0)).max() < 12
    other = train[1][0]
    assert other.shape == (20, 30, 3)
    assert np.abs(other.astype(int) - (10, 120, 200)).max() < 12


def test_policy_is_for_training_on_train_and_for_evaluation_elsewhere(tree):
    train, val = open_dataset(tree, "train"), open_dataset(tree, "val")
    np.testing.assert_array_equal(train.raw[0, :3], [1, -1, 0])
    np.testing.assert_array_equal(train.mask, np.ones((3, 14)))
    np.testing.assert_array_equal(val.mask[0, :4], [1, 1, 0, 1])
    np.testing.assert_array_equal(val.label[0, :4], [1, 0, 0, 0])
    assert open_dataset(tree, "trainval").mask.all()
    masked = open_dataset(tree, "train", LabelPolicy(train="masked"))
    np.testing.assert_array_equal(masked.mask[:, 2], 0)
    with pytest.raises(ValueError, match="no known label for sunglass"):
        masked.prior  # noqa: B018
    np.testing.assert_allclose(train.prior, [1] + [0] * 13)


def test_columns_in_another_order_are_reordered_with_a_warning(tree, caplog):
    names = list(ATTRIBUTES[::-1])
    names[0] = "STRIPE"
    labels = [0] * 14
    labels[names.index("Hat")] = 1
    images = {"train/0--Parade/a.jpg": [target([0, 0, 10, 10], labels)]}
    annotate(tree, images, order={name: i for i, name in enumerate(names)})
    with caplog.at_level(logging.WARNING):
        train = open_dataset(tree, "train")
    assert train.names == ATTRIBUTES and "official order" in caplog.text
    np.testing.assert_array_equal(np.flatnonzero(train.raw[0]), [ATTRIBUTES.index("Hat")])


@pytest.mark.parametrize("order, message", [
    ({**ORDER, "3": "Cap"}, "missing: Hat; unknown: cap"),
    ({k: v for k, v in ORDER.items() if k != "13"}, "13 entries.*missing: stripe"),
    ({**{k: v for k, v in ORDER.items() if k != "13"}, "14": "stripe"}, "valid are 0 to 13"),
    ({"a": "b"}, "no map of numbers to names"),
])  # fmt: skip
def test_refuses_other_attributes(tree, order, message):
    path = annotate(tree, {"train/0--Parade/a.jpg": [target([0, 0, 9, 9])]}, order=order)
    assert str(path) in refuses(message, tree, "train")


def broken(**changes):
    return {**target([0, 0, 10, 10]), **changes}


@pytest.mark.parametrize("bad, message", [
    (broken(attribute=[1] * 13), "13 attribute labels, expected 14"),
    (broken(attribute=[1] * 15), "15 attribute labels, expected 14"),
    (broken(attribute=[1] * 13 + [2]), r"attribute\[13\] is 2; valid are 1, -1 and 0"),
    (broken(attribute=[True] + [1] * 13), r"attribute\[0\] is True"),
    (broken(attribute=["1"] * 14), r"attribute\[0\] is '1'"),
    (broken(attribute=[None] * 14), r"attribute\[0\] is None"),
    ({"bbox": [0, 0, 1, 1]}, "'attribute' is missing"),
    ({"attribute": [1] * 14}, "'bbox' is missing"),
    (broken(bbox=[1, 2, 3]), "four finite numbers"),
    (broken(bbox=[1, 2, 3, "4"]), "four finite numbers"),
    (broken(bbox=[1, 2, 3, float("nan")]), "four finite numbers"),
    (7, "is no object"),
])  # fmt: skip
def test_a_bad_record_is_named_with_file_image_and_target(tree, bad, message):
    images = {
        "train/0--Parade/a.jpg": [target([0, 0, 10, 10])],
        "train/0--Parade/b.jpg": [target([0, 0, 10, 10]), bad],
    }
    path = annotate(tree, images)
    for split in ("train", "val"):
        with pytest.raises(ValueError, match=message) as error:
            open_dataset(tree, split)
        assert f"{path}: images[1].targets[1] (train/0--Parade/b.jpg)" in str(error.value)


@pytest.mark.parametrize("text, message", [
    (b'{"images": [{"file_name": "tr', r"l\.json:1: not valid JSON: .*\(column \d+\)"),
    (b'{"images": [],\n  "attribute_id_map": }', r"json:2: .*\(column 23\)"),
    (b'{"images": []}', "'attribute_id_map' is missing"),
])  # fmt: skip
def test_malformed_json_is_named_with_line_and_column(tree, text, message):
    (tree / "Annotations" / "wider_attribute_trainval.json").write_bytes(text)
    refuses(message, tree, "train")


def test_images_of_no_split_are_named(tree):
    annotate(tree, {"other/a.jpg": []})
    message = r"images\[0\].*'other/a.jpg' must begin with train/ or"
    refuses(message, tree, "train")


def test_empty_split_and_missing_annotation_say_what_was_looked_for(tree):
    annotate(tree, {"val/0--Parade/c.jpg": [target([0, 0, 9, 9])]})
    refuses("'train' is empty.*begins with train/", tree, "train")
    (tree / "Annotations" / "wider_attribute_test.json").unlink()
    refuses("Annotations.*Anno.*wider_attribute_annotation", tree, "test", error=FileNotFoundError)
    with pytest.raises(
        ValueError,
        match="unknown split 'tset'; did you mean 'test'. valid: test, train, trainval, val",
    ):
        open_dataset(tree, "tset")


def test_boxes_beyond_the_border_are_clipped_and_those_outside_left_out(tree):
    boxes = [[0, 0, 60, 40], [-5, -5, 15, 15], [55, 35, 10, 10], [60, 0, 5, 5], [9, 9, 0, 4]]
    annotate(tree, {"train/0--Parade/a.jpg": [target(box) for box in boxes]})
    train = open_dataset(tree, "train")
    assert [train[i][0].shape[:2] for i in range(3)] == [(40, 60), (10, 10), (5, 5)]
    count = train.report.counts[0]
    assert (count.images, count.boxes, count.clipped) == (1, 5, 2)
    assert [sample[-7:] for sample, _ in count.dropped] == ["a.jpg#3", "a.jpg#4"]
    assert "train/0--Parade/a.jpg#3" in train.report.text()


def test_a_missing_image_is_an_error_or_skipped(tree):
    (tree / "Image" / "train/0--Parade/b.jpg").unlink()
    refuses("b.jpg: does not exist .*'train/0--Parade/b.jpg#0'", tree, "train", error=BadImageError)
    train = open_dataset(tree, "train", on_bad_image="skip")
    image, _, mask, index = train[2]
    assert index == 2 and not image.any() and not mask.any()
    assert train.mask[2].all(), "the data set's own mask must not change"
    assert train.skipped == [("train/0--Parade/b.jpg#0", "does not exist")]
    refuses("valid are error, skip", tree, "train", on_bad_image="ignore")


def test_counts_are_compared_with_the_published_ones(tree):
    train, val = open_dataset(tree, "train"), open_dataset(tree, "val")
    report = CountReport.join([train.report, val.report, open_dataset(tree, "test").report])
    lines = report.differences()
    assert "train: 2 images, published 5,509 (-5,507)" in lines
    assert "trainval: 4 boxes, published 28,345 (-28,341)" in lines
    assert "test: 1 boxes, published 29,179 (-29,178)" in lines
    assert not report.ok and "28,345" in report.table()
    assert "positive rates of 'train'" in report.text()
    assert sum(WiderAttribute.published[s]["images"] for s in ("train", "val")) == 6871
    assert 28345 + 29179 == 57524  # all boxes, as the data set's page says
    # the rates that the project notes derive from VAA's weights, in per cent
    rates = [100 / (1 + VAA_WEIGHTS[name]) for name in ATTRIBUTES[1:]]
    stated = [22.4, 5.1, 22.8, 21.7, 46.8, 7.4, 14.7, 8.5, 36.4, 10.2, 3.4, 26.6, 5.3]
    np.testing.assert_allclose(rates, stated, atol=0.07)


def test_images_without_boxes_count_as_images(tree):
    annotate(tree, {"train/0--Parade/a.jpg": [target([0, 0, 9, 9])], "train/x.jpg": []})
    count = open_dataset(tree, "train").report.counts[0]
    assert (count.images, count.boxes) == (2, 1)


@pytest.fixture
def srn(tmp_path):
    """SRN's lists with every decoration that is known or thinkable."""
    names = ["/Image_cropped/train/0--P/a_1.jpg", "Image_cropped/val/0--P/b_1.jpg",
             "./Image_cropped/train/0--P/c 2.jpg"]  # fmt: skip
    lines = [f"'{names[0]}',", "", f'"{names[1]}" ', f"[{names[2]}]"]
    folder = tmp_path / "wider_att"
    folder.mkdir()
    (folder / "wider_att_train_imglist.txt").write_text("\n".join(lines) + "\n")
    rows = ["1 -1 0" + " -1" * 11, "-1 1 0" + " -1" * 11 + " ", "0 0 0" + " 1" * 11]
    (folder / "wider_att_train_label.txt").write_text("\n".join(rows) + "\n\n")
    for name in ("train/0--P/a_1.jpg", "val/0--P/b_1.jpg", "train/0--P/c 2.jpg"):
        path = tmp_path / "Image_cropped" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((30, 20, 3), 90, np.uint8))
    return tmp_path


def test_srn_lists(srn):
    assert detect_kind(srn) == "wider_srn"
    train, val = open_dataset(srn, "train"), open_dataset(srn, "val")
    assert train.sample_ids == ["train/0--P/a_1.jpg", "train/0--P/c 2.jpg"]
    assert val.sample_ids == ["val/0--P/b_1.jpg"]
    assert len(open_dataset(srn, "trainval", kind="wider", srn_compatible=True)) == 3
    np.testing.assert_array_equal(train.raw[:, :3], [[1, -1, 0], [0, 0, 0]])
    assert train[1][0].shape == (30, 20, 3)
    assert "train: 2 boxes, published 22,958 (-22,956)" in train.report.differences()


@pytest.mark.parametrize("row, message", [
    ("1 -1 0", "train_label.txt:2: 3 labels, expected 14"),
    ("1 -1 0 2" + " -1" * 10, "train_label.txt:2: label '2' .about Hat."),
])  # fmt: skip
def test_bad_srn_labels_are_named_with_their_line(srn, row, message):
    path = srn / "wider_att" / "wider_att_train_label.txt"
    lines = path.read_text().splitlines()
    lines[1] = row
    path.write_text("\n".join(lines))
    refuses(message, srn, "train")


def test_srn_lists_of_different_length_or_missing(srn, caplog):
    path = srn / "wider_att" / "wider_att_train_label.txt"
    path.write_text(path.read_text().replace("-1", "0"))
    with caplog.at_level(logging.WARNING):
        train = open_dataset(srn, "train")
    assert "read as negative" in caplog.text and not (train.raw == 0).any()
    path.write_text(path.read_text().splitlines()[0])
    refuses("has 3 crops.*1 rows", srn, "train")
    path.unlink()
    refuses("like wider_srn without .*label.txt; looked for", srn, "train", error=FileNotFoundError)


def test_nothing_recognised_lists_what_was_looked_for(tmp_path):
    refuses("packed: .*wider: .*wider_srn: .*list: ", tmp_path, "train", error=FileNotFoundError)
    refuses("is no folder", tmp_path / "nowhere", "train", error=FileNotFoundError)
    refuses("unknown data set 'widder'; did you mean 'wider'", tmp_path, "train", kind="widder")
    assert {"list", "packed", "wider", "wider_srn"} <= set(DATASETS.names())


def test_clip_box_against_a_raster():
    random = np.random.default_rng(0)
    for _ in range(300):
        width, height = random.integers(1, 12, 2)
        x, y, w, h = random.integers(-6, 14, 4) / random.integers(1, 3)
        columns = [c for c in range(width) if w > 0 and h > 0 and c + 1 > x and c < x + w]
        rows = [r for r in range(height) if w > 0 and h > 0 and r + 1 > y and r < y + h]
        expected = None
        if columns and rows:
            expected = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert clip_box((x, y, w, h), width, height) == expected, (x, y, w, h, width, height)
