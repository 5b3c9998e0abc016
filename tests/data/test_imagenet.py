"""ILSVRC2012: every way in which its validation labels come."""

from __future__ import annotations

import numpy as np
import pytest
from formats.tiny_mats import save
from kinds_helpers import refuses

from gluon_attn.data import detect_kind, open_dataset

SYNSETS = ("n01440764", "n01514668", "n02012849", "n03126707")
WORDS = ("tench, Tinca tinca", "cock", "crane", "crane")
# The development kit's numbers are not the sorted order
NUMBERS = (4, 1, 3, 2)
VALIDATION = [1, 0, 3, 2, 0]  # classes of images 1 to 5


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


@pytest.fixture
def root(tmp_path):
    for synset in reversed(SYNSETS):
        for number in (3, 1):
            touch(tmp_path / "train" / synset / f"{synset}_{number}.JPEG")
    (tmp_path / "train" / "README").write_text("")
    return tmp_path


def flat(root):
    for number in range(1, 6):
        touch(root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG")


def kit(root, place="ILSVRC2012_devkit_t12/data"):
    folder = root / place
    folder.mkdir(parents=True, exist_ok=True)
    lines = [NUMBERS[k] for k in VALIDATION]
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(
        "\n".join(map(str, lines)) + "\n"
    )
    rows = [(n, s, w, 0) for n, s, w in zip(NUMBERS, SYNSETS, WORDS)]
    rows.append((5, "n00001740", "entity", 4))  # an inner node: no class
    names = ("ILSVRC2012_ID", "WNID", "words", "num_children")
    table = np.array(rows, [(name, object) for name in names])[:, None]
    save(folder / "meta.mat", {"synsets": table})
    return folder


def test_training_folders(root):
    assert detect_kind(root) == "imagenet"
    train = open_dataset(root, "train")
    assert train.synsets == train.classes == SYNSETS, "no words without a list"
    assert train.targets.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert train.sample_ids[0] == "train/n01440764/n01440764_1.JPEG"
    assert train.path(0) == root / "train/n01440764/n01440764_1.JPEG"
    refuses("val is missing; looked for", root, "val", error=FileNotFoundError, kind="imagenet")
    refuses("ImageNet: unknown split 'test'", root, "test", kind="imagenet")


@pytest.mark.parametrize("place", [".", "data", "ILSVRC2012_devkit_t12/data"])
def test_flat_validation_with_the_development_kit(root, place):
    flat(root)
    kit(root, place)
    val = open_dataset(root, "val")
    assert val.targets.tolist() == VALIDATION
    assert val.classes == ("tench", "cock", "crane (2)", "crane (3)")
    assert open_dataset(root, "train").schema == val.schema
    assert val.sample_ids[0] == "val/ILSVRC2012_val_00000001.JPEG"


def test_kaggles_layout(root):
    place = root / "kaggle" / "ILSVRC" / "Data" / "CLS-LOC"
    place.parent.mkdir(parents=True)
    (root / "train").rename(root / "moved")
    place.mkdir()
    (root / "moved").rename(place / "train")
    flat(place)
    lines = ["ImageId,PredictionString"]
    for number, k in sorted(enumerate(VALIDATION, 1), reverse=True):  # in no order
        lines.append(f"ILSVRC2012_val_{number:08d},{SYNSETS[k]} 1 2 3 4 {SYNSETS[k]} 5 6 7 8 ")
    (root / "kaggle" / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")
    mapping = "\n".join(f"{s} {w}" for s, w in zip(SYNSETS, WORDS))
    (root / "kaggle" / "LOC_synset_mapping.txt").write_text(mapping + "\n")
    assert detect_kind(root / "kaggle") == "imagenet"
    val = open_dataset(root / "kaggle", "val")
    assert val.targets.tolist() == VALIDATION and val.classes[0] == "tench"
    assert val.path(0) == place / "val" / "ILSVRC2012_val_00000001.JPEG"


def test_sorted_validation(root):
    for number, k in enumerate(VALIDATION, 1):
        touch(root / "val" / SYNSETS[k] / f"ILSVRC2012_val_{number:08d}.JPEG")
    val = open_dataset(root, "val")
    assert val.targets.tolist() == sorted(VALIDATION)
    assert val.sample_ids[0] == "val/n01440764/ILSVRC2012_val_00000002.JPEG"
    touch(root / "val" / "n09999999" / "x.JPEG")
    refuses("val/n09999999: not among the 4 classes of train/", root, "val")


def test_missing_and_malformed_labels(root):
    flat(root)
    with pytest.raises(FileNotFoundError, match="there is neither LOC_val_solution.csv nor ILSVRC"):
        open_dataset(root, "val")
    folder = kit(root)
    truth = folder / "ILSVRC2012_validation_ground_truth.txt"
    good = truth.read_text()
    truth.write_text(good.replace("\n", "x\n", 1))
    refuses("ground_truth.txt:1: '1x' is no class of meta.mat", root, "val")
    truth.write_text("1\n5\n1\n1\n1\n")
    refuses("ground_truth.txt:2: '5' is no class", root, "val")
    truth.write_text("1\n1\n")
    refuses("2 lines for 5 images", root, "val")
    truth.write_text(good)
    (folder / "meta.mat").unlink()
    refuses("neither LOC_val_solution.csv nor meta.mat", root, "val", error=FileNotFoundError)
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_1,what\n")
    refuses("LOC_val_solution.csv:2: expected an image and its boxe", root, "val")
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nother,n01440764 1 2\n")
    refuses(r"says nothing about ILSVRC2012_val_00000001.JPEG \(5", root, "val")
    (root / "LOC_synset_mapping.txt").write_text("n01440764\n")
    refuses("LOC_synset_mapping.txt:1: expected a synset and words", root, "train")


def test_a_class_outside_of_a_subset(root):
    flat(root)
    kit(root)
    for path in (root / "train" / SYNSETS[1]).iterdir():
        path.unlink()
    (root / "train" / SYNSETS[1]).rmdir()
    refuses("ILSVRC2012_val_00000001.JPEG is n01514668, which is not", root, "val")


def test_validation_alone(root):
    flat(root)
    kit(root)
    for path in sorted((root / "train").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    val = open_dataset(root, "val")
    assert val.synsets == SYNSETS and val.targets.tolist() == VALIDATION
