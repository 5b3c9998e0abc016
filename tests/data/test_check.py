"""prepare_data.py --check: a complete miniature of every kind passes, and no gap goes unnoticed."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest
from kinds_helpers import KINDS, rewrite

from gluon_attn.data import DATASETS, open_dataset
from gluon_attn.data.prepare import OFFICIAL, check
from gluon_attn.data.published_sizes import CountReport, SplitCount
from gluon_attn.data.scan import SHOWN
from tools import prepare_data


def checked(kind, root):
    reader = DATASETS.get(kind)
    return check(kind, reader, root, reader.expected_splits(root), progress=False)


def run(capsys, *arguments):
    code = prepare_data.main([str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


@pytest.mark.parametrize("kind", KINDS)
def test_a_complete_copy_passes_and_every_missing_part_is_named(kind, trees, tmp_path):
    root = trees.copy(kind, tmp_path / "tree")
    found = checked(kind, root)
    assert found.ok and found.text().startswith(f"{kind}: complete; "), found.text()
    assert found.total > 0 and "as generated" in found.text() or found.report.source is None
    reader = DATASETS.get(kind)
    splits = reader.expected_splits(root)
    parts = {name: path for s in splits for name, path in reader.locate(root, s).paths.items()}
    assert parts
    for name, path in parts.items():
        away = path.rename(tmp_path / "away")
        try:
            found = checked(kind, root)
        except FileNotFoundError as error:  # nothing of it is left
            assert len(parts) == 1 and name.rstrip("/") in str(error)
        else:
            lines = found.text().splitlines()
            assert not found.ok and "not as it should be" in lines[0] and "missing" in lines[0]
            named = [line for line in lines[1:] if f"{name} is missing" in line]
            assert len(named) == 1, found.text()
            if not any(p.images for s in splits for p in reader.parts(s) if p.name == name):
                assert "as generated" not in found.text() or "not compared" in found.text()
        away.rename(path)
    assert checked(kind, root).ok


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in OFFICIAL])
def test_every_kind_has_a_check_on_the_command_line(kind, trees, tmp_path, capsys):
    code, text, error = run(capsys, kind, "--check", trees.copy(kind, tmp_path / "tree"))
    assert (code, error) == (0, "") and text.startswith(f"{kind}: complete; ")


def test_market_with_queries_alone_is_not_as_published(trees, tmp_path, capsys):
    root = trees.copy("market", tmp_path / "tree")
    for folder in ("bounding_box_train", "bounding_box_test"):
        shutil.rmtree(root / folder)
    code, text, _ = run(capsys, "market", "--check", root)
    lines = text.splitlines()
    assert code == 1 and lines[0] == "market: not as it should be: 2 parts are missing"
    assert lines[1].startswith("  bounding_box_train/ is missing (train, val): looked for ")
    assert lines[2].startswith("  bounding_box_test/ is missing (test): looked for ")
    assert "the counts of query are as generated; not compared: trainval, test" in text
    assert run(capsys, "market", "--check", root, "--splits", "query")[0] == 0


def test_imagenet_with_validation_alone_is_not_as_published(trees, tmp_path, capsys):
    root = trees.copy("imagenet", tmp_path / "tree")
    shutil.rmtree(root / "train")
    code, text, _ = run(capsys, "imagenet", "--check", root)
    assert code == 1 and "train/ is missing (train)" in text.splitlines()[1]
    assert "all counts" not in text
    shutil.rmtree(root / "ILSVRC2012_devkit_t12")
    code, text, _ = run(capsys, "imagenet", "--check", root)
    assert code == 1 and "neither LOC_val_solution.csv nor" in text.splitlines()[2]


@pytest.mark.parametrize("kind", ("imagenet", "caltech256"))
def test_a_subset_of_the_classes_is_not_as_published(kind, trees, tmp_path, capsys):
    root = trees.copy(kind, tmp_path / "tree")
    (root / "SYNTHETIC.json").unlink()
    code, text, _ = run(capsys, kind, "--check", root)
    assert code == 1 and "counts differ" in text.splitlines()[0] and ", published " in text


def test_a_part_of_the_photographs_of_clothing_is_told_once(trees, tmp_path, capsys):
    root = trees.copy("clothing_co_parsing", tmp_path / "tree")
    (root / "SYNTHETIC.json").unlink()
    code, text, _ = run(capsys, "clothing_co_parsing", "--check", root)
    assert code == 1 and text.splitlines()[0].endswith("not as it should be: 2 counts differ")
    assert text.count("pixel-level: 20 images, published 1,004 (-984)") == 1
    assert text.count("split.csv") == 1 and len(open_dataset(root, "train")) == 24


def test_missing_images_are_one_sentence_or_a_short_list(trees, tmp_path, capsys):
    root = trees.copy("peta", tmp_path / "tree")
    shutil.move(str(root / "images"), str(tmp_path / "away"))
    code, text, _ = run(capsys, "peta", "--check", root)
    lines = text.splitlines()
    assert code == 1 and lines[0] == "peta: not as it should be: 1 part is missing"
    assert lines[1] == f"  images/ is missing (train, val, test): looked for {root / 'images'}"
    assert lines[2] == ""
    (root / "images").mkdir()
    code, text, _ = run(capsys, "peta", "--check", root)
    lines = text.splitlines()
    example = open_dataset(root, "train").sample_ids[0]
    told = f"14 of 14 images are missing, such as {example}"
    assert code == 1 and lines[:2] == [f"peta: not as it should be: {told}", ""]
    shutil.copy(tmp_path / "away" / "00001.png", root / "images")
    code, text, _ = run(capsys, "peta", "--check", root)
    lines = text.splitlines()
    assert code == 1 and lines[0] == "peta: not as it should be: 13 of 14 images are missing"
    assert sum("does not exist" in line for line in lines) == SHOWN
    assert lines[SHOWN + 1] == "  … and 3 more" and lines[SHOWN + 2] == ""


def test_broken_images_are_a_short_list_too(trees, tmp_path, capsys):
    root = trees.copy("pa100k", tmp_path / "tree")
    for path in (root / "data").iterdir():
        rewrite(path, b"GIF")
    code, text, _ = run(capsys, "pa100k", "--check", root)
    assert code == 1 and text.splitlines()[0].endswith(": 14 images cannot be read")
    assert "  … and 4 more" in text and len(text.split("\n\n")[0].splitlines()) == SHOWN + 2


def test_an_image_of_training_and_test_is_told(tmp_path, capsys):
    (tmp_path / "names.txt").write_text("hat\nbag\n")
    for grey, (name, split) in enumerate((("a", "train"), ("b", "val"), ("c", "test"))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((4, 4, 3), grey, np.uint8))
        (tmp_path / f"{split}.txt").write_text(f"{name}.png\t1,0\n")
    assert run(capsys, "list", "--check", tmp_path)[0] == 0
    (tmp_path / "test.txt").write_text("c.png\t1,0\na.png\t1,0\n")
    code, text, _ = run(capsys, "list", "--check", tmp_path)
    assert code == 1 and "not as it should be: 1 image of both training and test" in text
    assert f"{tmp_path / 'a.png'}: of test and of train\n" in text


def test_a_copy_of_a_training_image_among_the_test_images_is_told(tmp_path, capsys):
    names = [f"{split}/{name}/a" for split in ("train", "val", "test") for name in ("hat", "bag")]
    for grey, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((4, 4, 3), grey, np.uint8))
    assert run(capsys, "folders", "--check", tmp_path)[0] == 0
    copied, first = tmp_path / "test" / "hat" / "z.png", tmp_path / "train" / "hat" / "a.png"
    shutil.copy(first, copied)
    code, text, _ = run(capsys, "folders", "--check", tmp_path)
    assert code == 1 and "not as it should be: 1 image of both training and test" in text
    assert f"{copied}: of test and of train, as {first}" in text


def test_packing_into_the_data_themselves_is_refused(tmp_path, capsys):
    for grey, name in enumerate(("train/hat/a", "train/bag/b", "val/hat/c", "val/bag/d")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((4, 4, 3), grey, np.uint8))
    code, _, told = run(capsys, "folders", "--root", tmp_path, "--out", f"{tmp_path}/.")
    assert code == 2 and "is the folder of the data themselves" in told
    assert not list(tmp_path.glob("*.rec"))


def test_an_image_of_several_samples_counts_once(trees, tmp_path, capsys):
    root = trees.copy("wider", tmp_path / "tree")
    (root / "Image" / "train" / "0--Parade" / "0.jpg").unlink()
    code, text, _ = run(capsys, "wider", "--check", root)
    assert code == 1 and "1 of 6 images are missing" in text.splitlines()[0]
    assert text.count("does not exist") == 1


def test_the_annotation_may_be_named_elsewhere(trees, tmp_path, capsys):
    root = trees.copy("market", tmp_path / "tree")
    elsewhere = (root / "market_attribute.mat").rename(tmp_path / "other.mat")
    code, text, _ = run(capsys, "market", "--check", root)
    assert code == 1 and "  market_attribute.mat is missing (train, val, test, query)" in text
    code, text, error = run(capsys, "market", "--check", root, "--attributes", elsewhere)
    assert (code, error) == (0, "") and "all counts are as generated" in text
    code, text, _ = run(capsys, "market", "--check", root, "--attributes", tmp_path / "none.mat")
    assert code == 1 and f"looked for {tmp_path / 'none.mat'}" in text


def test_packing_says_what_is_missing_before_it_begins(trees, tmp_path, capsys):
    root = trees.copy("peta", tmp_path / "tree")
    shutil.rmtree(root / "images")
    command = ("peta", "--root", root, "--out", tmp_path / "out", "--on-bad-image", "skip")
    code, text, error = run(capsys, *command)
    assert code == 2 and "error: images/ is missing (train, val, test)" in error
    assert not (tmp_path / "out").exists()
    root = trees.copy("list", tmp_path / "list")
    (root / "test.txt").unlink()
    code, text, _ = run(capsys, "list", "--root", root, "--out", tmp_path / "out")
    assert code == 0 and "not there, so not packed: test" in text


def test_one_class_without_images_fails_the_check(trees, tmp_path, capsys, caplog):
    root = trees.copy("folders", tmp_path / "tree")
    for name in ("train", "val"):
        (root / name / "dog" / "1.jpg").rename(root / name / "dog" / "1.heic")
    code, text, _ = run(capsys, "folders", "--check", root)
    assert code == 1 and "classes without images in 2 splits" in text.splitlines()[0]
    for name in ("train", "val"):
        assert f"{root / name}: no images of dog" in text
        assert f"{root / name}: 1 file passed over: 1 HEIC" in caplog.text
    (root / "val" / "dog" / "1.heic").unlink()
    (root / "val" / "dog").rmdir()  # a class may be missing from validation, not from training
    code, text, _ = run(capsys, "folders", "--check", root)
    assert code == 1 and "classes without images in 1 split" in text.splitlines()[0]
    assert f"{root / 'val'}: no images of dog" in text  # a note


def test_reports_compare_no_more_than_is_there():
    expected = {"train": {"images": 2}, "test": {"images": 3}}
    whole = [SplitCount("train", 2), SplitCount("test", 3)]
    assert "all counts are as published" in CountReport(whole, expected, "published").text()
    part = CountReport(whole[:1], expected, "published").text()
    assert "the counts of train are as published; not compared: test" in part
    other = CountReport([SplitCount("own", 4)], expected, "published").text()
    assert "all counts" not in other and "not compared: train, test" in other
    many = CountReport([SplitCount(f"s{k}", 1) for k in range(99)],
                       {f"s{k}": {"images": 2} for k in range(99)}, "published")  # fmt: skip
    assert not many.ok and f"… and {99 - SHOWN} more" in many.text()
    dropped = SplitCount("train", 2, 99, dropped=[(f"{k}", "nothing") for k in range(99)])
    assert f"… and {99 - SHOWN} more" in CountReport([dropped]).text()
