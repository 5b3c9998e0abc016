"""tools/prepare_data.py as users run it."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import pytest
from test_check import run
from test_wider import srn, tree  # noqa: F401 (fixtures)

from gluon_attn.data import DATASETS, detect_kind, detection_order, open_dataset
from gluon_attn.data.synthetic.people import TASKS


@pytest.fixture
def tool(capsys):
    return partial(run, capsys)


def test_wider(tool, tree, tmp_path):  # noqa: F811
    out = tmp_path / "packed"
    command = ("wider", "--root", tree, "--out", out, "-j", 2)
    code, text, error = tool(*command)
    assert (code, error) == (0, "")
    assert "5,509" in text and "train: 2 images, published 5,509 (-5,507)" in text
    assert "positive rates of 'train'" in text and "train.rec: 3 samples" in text
    for split in ("train", "val", "test"):
        packed = open_dataset(out, split)
        assert packed.size == 256
        assert packed.fingerprint() == open_dataset(tree, split).fingerprint()
    code, text, _ = tool(*command)
    assert code == 0 and text.count("packed already, kept") == 3
    code, _, error = tool(*command, "--quality", 80)
    assert code == 2 and "exists and differs in quality; use --overwrite" in error
    assert tool(*command, "--quality", 80, "--overwrite")[0] == 0
    code, text, _ = tool(*command[:3], "--out", tmp_path / "one", "--splits", "val", "-j", 1)
    assert code == 0 and "trainval" not in text and not (tmp_path / "one" / "train.rec").exists()


def test_bad_images(tool, tree, tmp_path):  # noqa: F811
    path = tree / "Image" / "train/0--Parade/b.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    out = tmp_path / "packed"
    code, text, error = tool("wider", "--root", tree, "--out", out)
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert "b.jpg: is truncated" in error and not (out / "train.json").exists()
    code, text, _ = tool("wider", "--root", tree, "--out", out, "--on-bad-image", "skip")
    assert code == 0 and "1 left out:\n    train/0--Parade/b.jpg#0: is truncated" in text
    assert len(open_dataset(out, "train")) == 2
    code, text, _ = tool("wider", "--root", tree, "--check")
    assert code == 1 and "1 image cannot be read, 6 counts differ\n  train/0--P" in text


def test_srn(tool, srn, tmp_path):  # noqa: F811
    code, text, _ = tool("wider", "--srn", "--root", srn, "--out", tmp_path / "packed")
    assert code == 0 and "22,958" in text
    assert open_dataset(tmp_path / "packed", "train").sample_ids[1] == "train/0--P/c 2.jpg"


def test_list(tool, tmp_path):
    (tmp_path / "names.txt").write_text("hat\nbag\n")
    (tmp_path / "train.txt").write_text("a.png\t1,-1\n")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9, 3), np.uint8))
    command = ("list", "--root", tmp_path, "--out", tmp_path / "packed")
    code, _, error = tool(*command)
    assert code == 2 and "coding='wider'" in error
    assert tool(*command, "--coding", "wider")[0] == 0
    assert open_dataset(tmp_path / "packed", "train").raw.tolist() == [[1, -1]]
    other = (*command[:3], "--out", tmp_path / "x", "--coding", "wider", "--size", 200)
    code, _, error = tool(*other)
    assert code == 2 and "must exceed the largest training crop" in error
    assert tool(*other, "--train-size", 180)[0] == 0


def test_errors_are_one_line(tool, tree, tmp_path):  # noqa: F811
    out = ("--out", tmp_path / "packed")
    for arguments, message in (
        (("wider", "--root", tmp_path / "none", *out), "is no folder"),
        (("wider", "--root", tree / "Image", *out), "no data set of kind 'wider'"),
        (("wider", "--root", tree), "--out DIR is needed"),
        (("wider", "--root", tree, *out, "--splits", "tain"), "unknown split 'tain'"),
    ):
        code, _, error = tool(*arguments)
        assert code == 2 and error.startswith("error: ") and error.count("\n") == 1
        assert message in error
    annotation = tree / "Annotations" / "wider_attribute_test.json"
    annotation.write_text(annotation.read_text()[:-30])
    code, _, error = tool("wider", "--root", tree, *out)
    assert code == 2 and "wider_attribute_test.json:50: not valid JSON" in error
    assert not (tmp_path / "packed").exists(), "everything is validated before anything is written"


def test_generators(tool, tmp_path):
    numbers = ("--train", 5, "--val", 2, "--test", 2, "--seed", 1, "-j", 1)
    code, text, error = tool("synthetic", "--out", tmp_path / "people", *numbers)
    assert (code, error) == (0, "") and "all counts are as generated" in text
    assert open_dataset(tmp_path / "people", "train").read(0).ndim == 3
    code, _, error = tool("synthetic", "--out", tmp_path / "people", *numbers)
    assert code == 2 and error.startswith("error: ")
    code, text, _ = tool("digits", "--out", tmp_path / "digits", *numbers)
    assert code == 0 and len(open_dataset(tmp_path / "digits", "train")) == 5
    single = ("--train", 20, "--val", 10, "--test", 10, "-j", 1, "--side", 32)
    code, text, error = tool("digits_single", "--out", tmp_path / "single", *single)
    assert (code, error) == (0, "") and "all counts are as generated" in text
    assert open_dataset(tmp_path / "single", "train").read(0).shape == (32, 32, 3)
    code, text, _ = tool("tasks", "--out", tmp_path / "tasks", *numbers)
    assert code == 0 and "all counts are as generated" in text
    packed = open_dataset(tmp_path / "tasks", "train")
    assert packed.size == 56 and packed.names == tuple(TASKS)


SMALL = ("--train", 6, "--val", 4, "--test", 4)


@pytest.mark.parametrize("kind", ["market", "cifar100"])
def test_official_formats_are_made_recognised_checked_and_packed(tool, tmp_path, kind):
    root, out = tmp_path / "tree", tmp_path / "packed"
    code, text, error = tool("tiny", kind, "--out", root, *SMALL)
    assert (code, error) == (0, "") and "all counts are as generated" in text
    assert detect_kind(root) == kind
    code, text, error = tool(kind, "--check", root)
    assert (code, error) == (0, "") and "0 cannot be read" in text
    assert ("labels of 'train'" if kind == "market" else "classes of") in text
    sizes = ("--size", 64, "--train-size", 48, "-j", 1)
    assert tool(kind, "--root", root, "--out", out, *sizes)[0] == 0
    for split in ("train", "val", "test"):
        source, packed = open_dataset(root, split), open_dataset(out, split)
        assert packed.schema == source.schema and packed.fingerprint() == source.fingerprint()
        assert packed.size == 64 and packed[0][0].shape == (64, 64, 3)
    assert (out / "query.rec").exists() == (kind == "market")


def test_settings_of_the_readers_reach_them(tool, tmp_path):
    tool("tiny", "rap", "--out", tmp_path, "--version", 2, *SMALL)
    code, text, _ = tool("rap", "--check", tmp_path)
    assert code == 0 and "RAP version 2" in text
    code, _, error = tool("rap", "--check", tmp_path, "--partition", 6)
    assert code == 2 and "partition=6: valid are 1 to 5" in error
    tool("tiny", "voc", "--out", tmp_path / "voc")
    code, text, _ = tool("voc", "--check", tmp_path / "voc", "--difficult", "positive")
    assert code == 0 and "difficult labels, read as positive" in text
    code, text, _ = tool("market", "--check", tmp_path)
    assert code == 2
    code, _, error = tool("market", "--out", tmp_path)
    assert code == 2 and "--root DIR is needed" in error


# Other views of folders that are recognised as something else already: asked for by name.
BY_NAME = {"coco", "coco_keypoints", "garments", "reid_market", "reid_duke"}


def test_every_reader_is_looked_for_or_asked_for_by_name():
    assert set(detection_order()) == set(DATASETS.names()) - BY_NAME
    assert len(set(detection_order())) == len(detection_order())


def test_settings_of_single_label_readers(tool, tmp_path):
    tool("tiny", "caltech256", "--out", tmp_path / "c")
    mine = tmp_path / "mine.json"
    code, text, _ = tool("caltech256", "--check", tmp_path / "c", "--per-class", 10, "--seed", 4,
                         "--test-per-class", 5, "--split-file", mine)  # fmt: skip
    assert code == 1 and "trainval        40" in text, "not the generated 120"
    assert mine.is_file() and f"split, seed 4: {mine}" in text
    tool("tiny", "cifar100", "--out", tmp_path / "d", "--version", "binary")
    code, text, _ = tool("cifar100", "--check", tmp_path / "d", "--coarse", "--holdout", 0.25)
    assert code == 0 and "val: 20 classes of 5" in text
    code, _, error = tool("tiny", "cifar10", "--out", tmp_path / "e", "--version", "matlab")
    assert code == 2 and "--version matlab: valid for cifar10 are python, binary" in error
    code, _, error = tool("tiny", "voc", "--out", tmp_path / "e", "--version", "2")
    assert code == 2 and "valid for voc are (none)" in error
