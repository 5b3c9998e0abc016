"""Caltech-256: the draw, the file that keeps it, and the traps of the archive."""

from __future__ import annotations

import json

import pytest
from kinds_helpers import refuses

from gluon_attn.data import detect_kind, open_dataset

OPTIONS = {"per_class": 8, "test_per_class": 3}


@pytest.fixture
def root(tmp_path):
    """Three classes of 20, 12 and 11 small files, and clutter; images are not looked at."""
    for name, count in (("001.ak47", 20), ("002.american-flag", 12), ("003.bag", 11),
                        ("257.clutter", 15)):  # fmt: skip
        folder = tmp_path / "256_ObjectCategories" / name
        folder.mkdir(parents=True)
        for number in range(1, count + 1):
            (folder / f"{name[:3]}_{number:04d}.jpg").write_bytes(b"")
    (tmp_path / "256_ObjectCategories" / "002.american-flag" / "RENAME2").write_text("#!")
    nested = tmp_path / "256_ObjectCategories" / "001.ak47" / "greg" / "vision"
    nested.mkdir(parents=True)
    (nested / "001_0001.jpg").write_bytes(b"")
    return tmp_path


def test_draw(root):
    assert detect_kind(root) == "caltech256"
    assert detect_kind(root / "256_ObjectCategories") == "caltech256"
    trainval = open_dataset(root, "trainval", **OPTIONS)
    test = open_dataset(root, "test", **OPTIONS)
    assert trainval.classes == ("ak47", "american-flag", "bag"), "clutter is no class"
    assert trainval.class_counts.tolist() == [8, 8, 8]
    assert test.class_counts.tolist() == [3, 3, 3]
    assert not set(trainval.sample_ids) & set(test.sample_ids)
    assert all(len(name.split("/")) == 2 for name in trainval.sample_ids)
    train, val = (open_dataset(root, s, **OPTIONS) for s in ("train", "val"))
    assert sorted(train.sample_ids + val.sample_ids) == sorted(trainval.sample_ids)
    text = train.report.text()
    assert "passed over: 001.ak47/greg, 002.american-flag/RENAME2" in text
    assert "43 images in 3 classes" in text and str(train.split_file) in text


def test_draws_are_nested_seeded_and_as_large_as_a_class_allows(root):
    few, many = open_dataset(root, "trainval", **OPTIONS), open_dataset(
        root, "trainval", per_class=9, test_per_class=3
    )  # fmt: skip
    assert set(few.sample_ids) < set(many.sample_ids)
    assert many.class_counts.tolist() == [9, 9, 8], "11 images, 3 of them for testing"
    tests = [open_dataset(root, "test", per_class=n, test_per_class=3) for n in (8, 9)]
    assert tests[0].sample_ids == tests[1].sample_ids
    other = open_dataset(root, "trainval", seed=1, **OPTIONS)
    assert set(other.sample_ids) != set(few.sample_ids)
    with pytest.raises(ValueError, match="has 11 images; 10 for testing leave too few"):
        open_dataset(root, "test", per_class=2, test_per_class=10)
    for bad in ({"per_class": 1}, {"test_per_class": 0}, {"seed": -1}):
        refuses("at least 2, 1 and 0 are needed", root, "test", **bad)


def test_the_file_rules(root, tmp_path):
    first = open_dataset(root, "test", **OPTIONS)
    path = first.split_file
    assert path.name == "caltech256_8_3_seed0.json"
    saved = json.loads(path.read_text())
    assert saved["seed"] == 0 and len(saved["train"]) == 24 and len(saved["test"]) == 9
    # More images turn up: the draw would be another one, the file's stays.
    (path.parent / "001.ak47" / "001_0000.jpg").write_bytes(b"")
    assert open_dataset(root, "test", **OPTIONS).sample_ids == first.sample_ids
    given = tmp_path / "mine.json"
    saved["test"], saved["train"] = saved["test"][:5], saved["train"][:4]
    given.write_text(json.dumps(saved))
    own = open_dataset(root, "test", split_file=str(given), **OPTIONS)
    assert own.sample_ids == saved["test"] and own.split_file == given
    fresh = tmp_path / "fresh.json"
    open_dataset(root, "test", split_file=str(fresh), **OPTIONS)
    assert fresh.is_file()


@pytest.mark.parametrize("change, message", [
    ({"seed": 5}, "has seed 5, not seed=0"),
    ({"per_class": 60}, "has per_class 60, not per_class=8"),
    ({"classes": ["a"]}, "has other class folders"),
    ({"format": "x"}, "has format 'x'"),
    ({"train": None}, "not a split file"),
    ({"test": ["001.ak47/001_9999.jpg"]}, "1 of its images are not there, such as 001.ak47/001_"),
    ({"test": ["001.ak47/001_0001.jpg"] * 2}, "an image comes twice"),
])  # fmt: skip
def test_another_file_is_refused(root, change, message):
    path = open_dataset(root, "test", **OPTIONS).split_file
    path.write_text(json.dumps(dict(json.loads(path.read_text()), **change)))
    refuses(message, root, "test", **OPTIONS)
    path.write_text("{")
    refuses("seed0.json:1: not valid JSON", root, "test", **OPTIONS)


def test_an_unwritable_place_only_warns(root, caplog, tmp_path):
    (tmp_path / "file").write_text("")
    place = str(tmp_path / "file" / "split.json")
    dataset = open_dataset(root, "test", split_file=place, **OPTIONS)
    assert len(dataset) == 9 and "give a split_file elsewhere" in caplog.text
    again = open_dataset(root, "test", split_file=place, **OPTIONS)
    assert again.sample_ids == dataset.sample_ids
