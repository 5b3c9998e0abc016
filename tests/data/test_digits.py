"""The digits: real handwriting as a generic list data set."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from kinds_helpers import refuses
from sklearn.datasets import load_digits

from gluon_attn.data.synthetic.digits import (
    NAMES,
    RATIO,
    class_odds,
    draw_scene,
    split_samples,
    write_digits,
)

COUNTS = {"train": 40, "val": 5, "test": 8}
ONE = {"train": 1, "val": 1, "test": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits") / "set"
    return root, write_digits(root, COUNTS, seed=3, progress=False)


def _rows(path):
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    return [name for name, _ in rows], np.array([[int(v) for v in r.split(",")] for _, r in rows])


def test_lists_name_existing_images_and_ten_values(made):
    root, report = made
    assert (root / "names.txt").read_text().split() == list(NAMES)
    listed, labels = [], []
    for split, count in COUNTS.items():
        names, values = _rows(root / f"{split}.txt")
        assert values.shape == (count, 10) and set(values.ravel()) <= {0, 1}
        assert all(n.startswith("images/") for n in names)
        for name in names:
            assert cv2.imread(str(root / name)).shape == (128, 128, 3)
        listed += names
        labels.append(values)
    assert len(set(listed)) == len(listed)
    assert sorted(p.name for p in (root / "images").iterdir()) == sorted(n[7:] for n in listed)
    rates = np.concatenate(labels).mean(0)
    assert np.allclose(list(report["positive_rate"].values()), rates)
    summary = json.loads((root / "DIGITS.json").read_text())
    assert summary["expected"] == {s: {"images": n} for s, n in COUNTS.items()}


def test_files_depend_only_on_the_seed(made, tmp_path):
    write_digits(tmp_path / "two", COUNTS, seed=3, progress=False)
    for name in ["train.txt", "val.txt", "test.txt", "images/train_00007.jpg", "DIGITS.json"]:
        assert (tmp_path / "two" / name).read_bytes() == (made[0] / name).read_bytes()
    write_digits(tmp_path / "three", ONE, seed=4, progress=False)
    other = tmp_path / "three" / "images" / "train_00000.jpg"
    assert other.read_bytes() != (made[0] / "images" / "train_00000.jpg").read_bytes()


def test_splits_are_contiguous_disjoint_and_complete():
    parts = [split_samples(s) for s in ("train", "val", "test")]
    assert np.array_equal(np.concatenate(parts), np.arange(1797))
    target = load_digits().target
    assert all(len(set(target[part])) == 10 for part in parts)


def test_class_odds_are_the_stated_exponential_law():
    odds = np.sort(class_odds(7))[::-1]
    assert np.isclose(odds.sum(), 1) and np.isclose(odds[0] / odds[-1], RATIO)
    assert np.allclose(odds[1:] / odds[:-1], RATIO ** (-1 / 9))
    assert not np.array_equal(class_odds(0), class_odds(1))  # the seed shuffles the classes


def test_positive_rates_are_long_tailed(made):
    rate = np.array(list(made[1]["positive_rate"].values()))
    odds = class_odds(3)
    assert rate[odds.argmax()] > 5 * rate[odds.argmin()]


@pytest.mark.parametrize("digit", [0, 4, 9])
def test_labels_are_the_digits_written(digit):
    only = np.eye(10)[digit]
    rng = np.random.default_rng(digit)
    for _ in range(5):
        image, present = draw_scene(rng, split_samples("test"), only)
        assert image.dtype == np.uint8 and image.shape == (128, 128, 3)
        assert present.tolist() == (only == 1).tolist()


def test_handwriting_is_in_the_image(monkeypatch):
    """With blank samples and all else equal the image differs where the digits were."""
    from gluon_attn.data.synthetic import digits

    def scene():
        return draw_scene(np.random.default_rng(1), split_samples("train"), class_odds(0))[0]

    with_ink = scene().astype(int)
    images, target = digits.load_samples()
    monkeypatch.setattr(digits, "_digits", (np.zeros_like(images), target))
    changed = np.abs(scene().astype(int) - with_ink).max(2) > 25
    assert 60 < changed.sum() < 0.5 * changed.size


def test_unspecified_labels_are_written_as_minus_one(tmp_path):
    write_digits(tmp_path, {**ONE, "train": 60}, unspecified=0.3, progress=False)
    _, labels = _rows(tmp_path / "train.txt")
    assert set(labels.ravel()) == {-1, 0, 1}
    assert abs((labels == -1).mean() - 0.3) < 0.08


@pytest.mark.parametrize(
    "arguments", [{"images": {"train": 3}}, {"images": ONE, "seed": -2}, {"unspecified": 1.0}]
)
def test_invalid_arguments_are_named(tmp_path, arguments):
    refuses("images|seed|unspecified", tmp_path, by=write_digits, progress=False, **arguments)
