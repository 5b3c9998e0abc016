"""CUB-200-2011: hand-written lists."""

from __future__ import annotations

import pytest
from kinds_helpers import image, refuses

from gluon_attn.data import detect_kind, open_dataset

NAMES = ("001.Black_footed_Albatross", "002.Laysan_Albatross")


@pytest.fixture
def root(tmp_path):
    # numbers out of order, marks that are not one block
    (tmp_path / "images.txt").write_text("".join(
        f"{n} {NAMES[k]}/bird {n}.jpg\n" for n, k in ((2, 0), (1, 0), (3, 1), (10, 1), (4, 1))
    ))  # fmt: skip
    (tmp_path / "image_class_labels.txt").write_text("1 1\n2 1\n3 2\n4 2\n10 2\n")
    (tmp_path / "train_test_split.txt").write_text("1 1\n2 0\n3 0\n4 1\n10 1\n")
    (tmp_path / "classes.txt").write_text(f"1 {NAMES[0]}\n2 {NAMES[1]}\n")
    (tmp_path / "bounding_boxes.txt").write_text("1 60.0 27.0 325.0 304.0\n")
    for n, k in ((1, 0), (2, 0), (3, 1), (4, 1), (10, 1)):
        image(tmp_path / "images" / NAMES[k] / f"bird {n}.jpg", 20 * n, (6, 7))
    return tmp_path


def test_lists(root):
    assert detect_kind(root) == "cub200"
    trainval, test = open_dataset(root, "trainval"), open_dataset(root, "test")
    assert trainval.classes == ("Black_footed_Albatross", "Laysan_Albatross")
    assert trainval.sample_ids == [f"{NAMES[0]}/bird 1.jpg", f"{NAMES[1]}/bird 4.jpg",
                                   f"{NAMES[1]}/bird 10.jpg"]  # fmt: skip
    assert trainval.targets.tolist() == [0, 1, 1] and test.targets.tolist() == [0, 1]
    assert [round(d.read(0).mean() / 20) for d in (trainval, test)] == [1, 2]
    assert "trainval: 3 images, published 5,994" in trainval.report.text()
    assert "test: 2 images, published 5,794" in test.report.text()


@pytest.mark.parametrize("name, text, message", [
    ("images.txt", "1 a.jpg\n1 b.jpg\n", "images.txt:2: number 1 comes twice"),
    ("images.txt", "one a.jpg\n", "images.txt:1: expected a number and a value"),
    ("image_class_labels.txt", "1\n", "image_class_labels.txt:1: expected a number and"),
    ("image_class_labels.txt", "1 1\n2 1\n3 2\n4 2\n10 3\n", "image 10 is marked 3; valid"),
    ("image_class_labels.txt", "1 1\n2 1\n3 2\n4 2\n", "not the images of images.txt: 1"),
    ("train_test_split.txt", "1 1\n2 0\n3 0\n4 2\n10 1\n", "image 4 is marked 2"),
    ("classes.txt", "1 a\n3 b\n", "classes must be numbered from 1"),
])  # fmt: skip
def test_malformed_lists_are_named(root, name, text, message):
    (root / name).write_text(text)
    refuses(message, root, "test")
