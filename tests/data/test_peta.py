"""PETA: a miniature of the official file, written by hand, and what goes wrong with such files."""

from __future__ import annotations

import json
import logging

import cv2
import numpy as np
import pytest
from formats.tiny import write_tiny
from formats.tiny_mats import cell
from kinds_helpers import image, refuses
from scipy.io import savemat

from gluon_attn.data import detect_kind, open_dataset
from gluon_attn.data.peta import ATTRIBUTES, RATES, Peta

N, UNUSED = 7, ("hairShort", "accessoryKerchief")


def column(*numbers):
    return np.array(numbers, np.float64)[:, None]


def table():
    """Six images' labels by hand: row k has attribute k positive; two are 'uncertain'."""
    values = np.zeros((N, 4 + len(ATTRIBUTES) + len(UNUSED)))
    values[:, :4] = [[k, 1000 + k, 5, 9] for k in range(1, N + 1)]
    values[range(N), range(4, 4 + N)] = 1
    values[2, 4 + 34] = 2  # image 3, upperBodyVNeck
    values[0, 4 + 35] = 2  # a column that is not evaluated
    values[5, 4 + 16] = 1  # image 6, personalMale
    return values


def content(**changes):
    parts = [
        {"train": column(3, 1, 6), "val": column(2), "test": column(7, 4, 5)},
        {"train": column(4, 5, 6), "val": column(7), "test": column(1, 2, 3)},
    ]
    fields = {
        "data": table(),
        "names": cell(list(ATTRIBUTES + UNUSED)),
        "something": cell(["unused"]),
        "partition": cell(parts + [parts[0]] * 3),
    }
    return dict(fields, **changes)


def write(root, fields=None, name="peta"):
    savemat(root / "PETA.mat", {name: content() if fields is None else fields})
    return root


@pytest.fixture
def tree(tmp_path):
    for k in range(1, N + 1):
        image(tmp_path / "images" / f"{k:05d}.png", 30 * k, (8, 4))
    return write(tmp_path)


def test_labels_images_and_splits(tree):
    assert detect_kind(tree) == "peta"
    train = open_dataset(tree, "train")
    assert train.names == ATTRIBUTES and len(ATTRIBUTES) == 35 and train.schema.is_binary
    assert train.sample_ids == ["00003.png", "00001.png", "00006.png"], "1-based, file's order"
    expected = np.full((3, 35), -1)
    expected[[0, 1, 2, 2], [2, 0, 5, 16]] = 1
    np.testing.assert_array_equal(train.raw, expected)
    assert [int(train[k][0][0, 0, 0]) for k in range(3)] == [90, 30, 180]
    assert open_dataset(tree, "val").sample_ids == ["00002.png"]
    assert open_dataset(tree, "test").sample_ids == ["00007.png", "00004.png", "00005.png"]
    both = open_dataset(tree, "trainval")
    assert both.sample_ids == ["00003.png", "00001.png", "00006.png", "00002.png"]


def test_uncertain_labels_are_negative_or_unspecified(tree):
    assert open_dataset(tree, "train").raw[0, 34] == -1
    other = open_dataset(tree, "train", uncertain="unspecified")
    assert (other.raw == 0).sum() == 1 and other.raw[0, 34] == 0
    with pytest.raises(ValueError, match="uncertain='masked': valid are negative, unspecified"):
        open_dataset(tree, "train", uncertain="masked")


def test_five_partitions(tree):
    assert open_dataset(tree, "test", partition=2).sample_ids[0] == "00001.png"
    for wrong in (0, 6, "1"):
        refuses(r"peta.partition: partition=.*valid are 1 to 5", tree, "test", partition=wrong)


def test_another_order_of_names_is_kept_and_told(tree, caplog):
    names = list(ATTRIBUTES[::-1] + UNUSED)
    write(tree, content(names=cell(names)))
    with caplog.at_level(logging.WARNING):
        train = open_dataset(tree, "train")
    assert train.names == ATTRIBUTES[::-1] and "only the order" in caplog.text


def test_counts_and_rates_are_compared(tree):
    report = open_dataset(tree, "train").report
    assert not report.ok and "train: 3 images, published 9,500 (-9,497)" in report.text()
    assert "public list, %" in report.text() and "boxes" not in report.text()
    published = {split: Peta.published[split]["images"] for split in ("train", "val", "test")}
    assert published["train"] + published["val"] == 11400 and sum(published.values()) == 19000
    assert len(RATES) == 35 and RATES["personalMale"] == 0.55 and RATES["upperBodyVNeck"] == 0.01


def partition(**changes):
    parts = content()["partition"]
    parts[0, 0] = dict(parts[0, 0], **changes)
    return {"partition": parts}


def labelled(row, value):
    values = table()
    values[row, 4 + 16] = value
    return {"data": values}


@pytest.mark.parametrize("changes, message", [
    (partition(train=column(0, 1)), r"partition\{1\}.train: number 0 is outside 1 to 7"),
    (partition(test=column(8)), r"partition\{1\}.test: number 8 is outside 1 to 7"),
    (partition(train=column(3, 1, 3)), r"partition\{1\}.train: number 3 comes twice"),
    (partition(val=column(1)), r"partition\{1\}: 1 images are in both train and val.*number 1"),
    (partition(train=column(1.5)), r"\{1\}.train: row 1, column 1 is 1.5, no whole number"),
    (partition(train=column(np.nan)), r"\{1\}.train: row 1, column 1 is nan, no whole number"),
    (partition(train=np.ones((2, 2))), r"\{1\}.train: expected a row or a column"),
    (partition(train="abc"), r"\{1\}.train: expected a matrix of numbers, found a 1 char"),
    ({"partition": cell(["x"])}, r"partition\{1\}: expected a 1 x 1 struct"),
    ({"partition": np.ones((5, 3))}, r"peta.partition: expected a cell array, found a 5 x 3"),
    (labelled(3, 3), r"peta.data: row 4, attribute 'personalMale' is 3; valid are 1, 0 and 2"),
    ({"data": table()[:, :-1]}, r"peta.data: 40 columns; expected 4 of ids and one for each"),
    ({"names": cell(list(ATTRIBUTES[:30]))}, r"peta.names: 30 names; at least 35"),
    ({"names": cell([1.0, 2.0])}, r"peta.names\{1\}: expected a text"),
])  # fmt: skip
def test_malformed_fields_are_named(tree, changes, message):
    write(tree, content(**changes))
    assert "PETA.mat" in refuses(message, tree, "train")


def test_missing_fields_and_variables(tree):
    fields = content()
    del fields["partition"]
    write(tree, fields)
    refuses("PETA.mat: peta: needs a field number 4; has data, names", tree, "train")
    write(tree, name="pta")
    refuses("PETA.mat: variable 'peta' is missing; has pta", tree, "train")
    (tree / "PETA.mat").unlink()
    with pytest.raises(FileNotFoundError, match="PETA.mat is missing; looked for PETA.mat beside"):
        open_dataset(tree, "train", kind="peta")


LABELS = {  # as in the authors' ReadMe.txt and in public readers
    "CUHK": "0002.png upperBodyBlack personalMale footwearSneakers\n0010.png personalLess30\n",
    "VIPeR": "\ufeff001 personalLess45 accessoryHat hairShort\n\n000  carryingBackpack\r\n",
    "TownCentre": "170 upperBodyTshirt lowerBodyThickStripes\n9 personalMale\n231 hairLong\n",
}
FILES = {
    "CUHK": ["0010.png", "0002.png"],
    "VIPeR": ["001_45.bmp", "000_90.bmp", "001_180.bmp"],
    "TownCentre": ["9_1.jpg", "170_2.jpg", "170_10.jpg"],
}
IN_ORDER = [
    "CUHK/archive/0002.png", "CUHK/archive/0010.png", "TownCentre/archive/170_10.jpg",
    "TownCentre/archive/170_2.jpg", "TownCentre/archive/9_1.jpg", "VIPeR/archive/000_90.bmp",
    "VIPeR/archive/001_180.bmp", "VIPeR/archive/001_45.bmp",
]  # fmt: skip
POSITIVE = [
    {"personalMale", "footwearSneaker"}, {"personalLess30"}, {"upperBodyTshirt"},
    {"upperBodyTshirt"}, {"personalMale"}, {"carryingBackpack"},
    {"personalLess45", "accessoryHat"}, {"personalLess45", "accessoryHat"},
]  # fmt: skip


@pytest.fixture
def folders(tmp_path, request):
    place = getattr(request, "param", "PETA dataset")
    for subset, text in LABELS.items():
        folder = tmp_path / place / subset / "archive"
        folder.mkdir(parents=True)
        (folder / "Label.txt").write_text(text, encoding="utf-8")
        for name in FILES[subset]:
            level = 20 * IN_ORDER.index(f"{subset}/archive/{name}")
            image(folder / name, level, (8, 4))
        (folder / "Thumbs.db").touch()
        (folder / f"._{FILES[subset][0]}").touch()
    return tmp_path


def whole(root, **options):
    """Return ``{sample id: (positive names, person)}`` over all splits, and the splits' sizes."""
    found, sizes = {}, {}
    for split in ("train", "val", "test"):
        try:
            data = open_dataset(root, split, **options)
        except ValueError as error:
            assert "is empty" in str(error)
            continue
        sizes[split] = len(data)
        for i, name in enumerate(data.sample_ids):
            positive = {n for n, v in zip(data.names, data.raw[i]) if v == 1}
            found[name] = (positive, int(data.persons[i]))
            assert round(data[i][0].mean() / 20) == IN_ORDER.index(name)
    return found, sizes


@pytest.mark.parametrize("folders", ["PETA dataset", "."], indirect=True)
def test_the_authors_folders(folders):
    assert detect_kind(folders) == "peta"
    found, _ = whole(folders)
    assert sorted(found, key=IN_ORDER.index) == IN_ORDER
    assert [found[name][0] for name in IN_ORDER] == POSITIVE
    people = [found[name][1] for name in IN_ORDER]
    assert [people.index(p) for p in people] == [0, 1, 2, 2, 4, 5, 6, 6]
    report = open_dataset(folders, "train").report
    assert "CUHK: 2 images, published 4,563 (-4,561)" in report.text()
    assert "3DPeS is missing" in report.text()
    assert "1 lines of Label.txt have no image" in report.text()
    assert "split chosen by persons, seed 0: not that of papers" in report.text()


def test_the_folders_split_keeps_persons_together(tmp_path):
    write_tiny("peta", tmp_path, {"train": 100, "val": 20, "test": 80}, version="folders")
    parts = {s: open_dataset(tmp_path, s) for s in ("train", "val", "test", "trainval")}
    people = {s: set(d.persons.tolist()) for s, d in parts.items()}
    assert not people["train"] & people["val"] and not people["trainval"] & people["test"]
    sizes = {s: len(d) for s, d in parts.items()}
    assert sizes == {"train": 100, "val": 20, "test": 80, "trainval": 120}
    assert parts["train"].report.ok and "SARC3D" in parts["train"].report.table()
    assert "test: 0 of 44 known persons are also in train and val" in parts["test"].report.text()
    again = open_dataset(tmp_path, "test")
    assert again.sample_ids == parts["test"].sample_ids
    assert open_dataset(tmp_path, "test", seed=1).sample_ids != again.sample_ids
    shown = cv2.imread(str(again.path(0)))  # cells are light where an attribute applies
    first = cv2.resize(shown, (5, 8), interpolation=cv2.INTER_AREA)[0, :, 0] > 120
    assert first.tolist() == (again.raw[0, :5] == 1).tolist()


def peta_mat_of(root):
    """Write the PETA.mat whose rows are the images of the folders."""
    ids = [(3, 2), (3, 10), (9, 170), (9, 170), (9, 9), (10, 0), (10, 1), (10, 1)]
    values = np.zeros((8, 4 + len(ATTRIBUTES)))
    values[:, 0], values[:, 1] = np.arange(1, 9), [1, 2, 3, 3, 4, 5, 6, 6]
    values[:, 2:4] = ids
    for row, positive in enumerate(POSITIVE):
        for name in positive:
            values[row, 4 + ATTRIBUTES.index(name)] = 1
    part = {"train": column(3, 1, 8, 2), "val": column(5), "test": column(7, 4, 6)}
    fields = {"data": values, "names": cell(list(ATTRIBUTES)), "something": cell(["unused"]),
              "partition": cell([part] * 5)}  # fmt: skip
    write(root, fields)
    return fields


def test_the_folders_with_peta_mat_have_its_partitions(folders, caplog):
    fields = peta_mat_of(folders)
    found, sizes = whole(folders)
    assert [found[name][0] for name in IN_ORDER] == POSITIVE and not caplog.text
    assert sizes == {"train": 4, "val": 1, "test": 3}
    test = open_dataset(folders, "test")
    assert test.sample_ids == [IN_ORDER[k] for k in (6, 3, 5)]
    text = test.report.text()
    assert "test: 2 of 3 known persons are also in train and val; they are on 2 of 3 images" in text
    fields["data"][0, 4 + 34] = 1
    write(folders, fields)
    open_dataset(folders, "test")
    assert "1 images have other labels than in Label.txt" in caplog.text
    fields["data"][4, 3] = 8
    write(folders, fields)
    refuses("8 rows are not the 8 images .* row 5 is person 8 of Town", folders, "test")


def test_the_folders_with_a_split_file(folders, tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps({
        "train": ["PETA_dataset/CUHK/archive/0002.png", "VIPeR\\archive\\000_90.bmp"],
        "test": ["TownCentre/9_1.jpg"],
    }))  # fmt: skip
    train = open_dataset(folders, "train", split_file=str(path))
    assert train.sample_ids == ["CUHK/archive/0002.png", "VIPeR/archive/000_90.bmp"]
    assert open_dataset(folders, "test", split_file=path).sample_ids == [
        "TownCentre/archive/9_1.jpg"
    ]
    for text, message in (
        ('{"train": ["CUHK/7.png"]}', "1 images of train are not there: CUHK/7.png"),
        ('{"train": ["CUHK/0002.png"], "val": ["CUHK/0002.png"]}', "1 images come twice"),
        ("[]", "a split file is"),
        ("{", "not valid JSON"),
    ):
        path.write_text(text)
        refuses(message, folders, "train", split_file=path)


@pytest.mark.parametrize("text, message", [
    ("0002.png personalMale\n", "Label.txt: no line for '10', the person of 0010.png"),
    ("0002.png\n", "Label.txt:1: expected a person and attributes, found '0002.png'"),
    ("personalMale hairLong\n", "Label.txt:1: expected a person and attributes"),
])  # fmt: skip
def test_malformed_label_texts(folders, text, message):
    (path,) = folders.rglob("CUHK/archive/Label.txt")
    path.write_text(text)
    assert str(path) in refuses(message, folders, "train")


def test_odd_label_texts_are_named(folders, caplog):
    (path,) = folders.rglob("CUHK/archive/Label.txt")
    path.write_text(LABELS["CUHK"] + "0010.png personalLess60 upperBodyBlak\n")
    found, _ = whole(folders)
    assert found["CUHK/archive/0010.png"][0] == {"personalLess60"}
    assert "1 unknown attributes passed over: upperBodyBlak (1)" in caplog.text
    assert "1 persons have two different lines; the last one counts" in caplog.text
    caplog.clear()
    open_dataset(folders, "train", uncertain="unspecified")
    assert "uncertain=unspecified does nothing" in caplog.text


def test_renamed_images_win_over_the_folders(folders):
    peta_mat_of(folders)
    (folders / "images").mkdir()
    assert open_dataset(folders, "val").sample_ids == ["00005.png"]
