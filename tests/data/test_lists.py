"""The generic list data set and the image decoder."""

from __future__ import annotations

import numpy as np
import pytest
from kinds_helpers import image, refuses

from gluon_attn.data import BadImageError, detect_kind, open_dataset
from gluon_attn.data.lists import read_names, schema_of


@pytest.fixture
def folder(tmp_path):
    for k in range(4):
        image(tmp_path / "img" / f"{k} é.png", 40 * k, (8, 6))
    (tmp_path / "names.txt").write_text("# attributes\nhat\n\nlong sleeve\nbag\n")
    lines = ["# training", "img/0 é.png\t1,0,-1", "", "img/1 é.png\t0, 1, 1\r"]
    (tmp_path / "train.txt").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    (tmp_path / "val.txt").write_text("img/2 é.png\t0,0,1\n", encoding="utf-8")
    return tmp_path


def test_reads_paths_names_and_three_valued_labels(folder):
    assert detect_kind(folder) == "list"
    train = open_dataset(folder, "train")
    assert train.names == ("hat", "long sleeve", "bag")
    assert train.sample_ids == ["img/0 é.png", "img/1 é.png"]
    np.testing.assert_array_equal(train.raw, [[1, -1, 0], [-1, 1, 1]])
    image, label, mask, index = train[1]
    assert image.shape == (8, 6, 3) and (image == 40).all() and index == 1
    np.testing.assert_array_equal(label, [0, 1, 1])
    both = open_dataset(folder, "trainval")
    assert len(both) == 3 and both.split == "trainval"
    text = train.report.text()
    assert train.report.ok and "no published counts" in text
    assert ["bag", "1", "0", "1", "100.0"] in [line.split() for line in text.splitlines()]


def test_codings(folder):
    (folder / "train.txt").write_text("img/0 é.png\t1,-1,0\n", encoding="utf-8")
    wider = open_dataset(folder, "train", coding="wider")
    np.testing.assert_array_equal(wider.raw, [[1, -1, 0]])
    (folder / "train.txt").write_text("img/0 é.png\t1,-1,-1\n", encoding="utf-8")
    refuses("no label is negative in coding 'list'.*coding='wider'", folder, "train")
    (folder / "train.txt").write_text("img/0 é.png\t1,0,0\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no label is negative in coding 'wider'.*coding='list'"):
        open_dataset(folder, "train", coding="wider")
    refuses("unknown coding 'widr'; did you mean 'wider'", folder, "train", coding="widr")


@pytest.mark.parametrize("line, message", [
    ("img/3 é.png", r"train.txt:3: expected path<TAB>0,0,0"),
    ("img/3 é.png\t1,0", r"train.txt:3: 2 labels for the 3 of names.txt"),
    ("img/3 é.png\that", r"train.txt:3: 1 labels .*; if every image .* needs class=hat and so on"),
    ("img/3 é.png\t1,0,2", r"train.txt:3: label '2' of 'bag'; valid are 1, 0 and -1"),
    ("img/3 é.png\t1,,0", r"train.txt:3: label '' of 'long sleeve'"),
    ("\t1,0,0", r"train.txt:3: expected path"),
    ("img/0 é.png\t1,0,0", r"train.txt:3: 'img/0 é.png' is in .*train.txt:2 already"),
])  # fmt: skip
def test_a_bad_line_is_named(folder, line, message):
    text = f"# first\nimg/0 é.png\t1,0,-1\n{line}\n"
    (folder / "train.txt").write_text(text, encoding="utf-8")
    refuses(message, folder, "train")


def test_empty_and_missing_files(folder):
    refuses("test.txt is missing; .*train, val", folder, "test", error=FileNotFoundError)
    (folder / "val.txt").write_text("# nothing\n\n")
    refuses("val.txt: split 'val' is empty", folder, "val")
    (folder / "val.txt").write_bytes(b"\xff\xff\t1\n")
    refuses("val.txt:1: not UTF-8", folder, "val")
    (folder / "names.txt").write_text("hat\nbag\nhat\n")
    refuses("names.txt:3: 'hat' is in line 1 already; .*such as 'hat 2'", folder, "train")
    (folder / "names.txt").write_text("\n")
    refuses("no attribute name", folder, "train")
    (folder / "names.txt").unlink()
    refuses("names.txt is missing", folder, "train", error=FileNotFoundError, kind="list")


def test_missing_image_is_named_with_its_sample(folder):
    (folder / "img" / "1 é.png").unlink()
    train = open_dataset(folder, "train")
    assert train[0][3] == 0
    with pytest.raises(BadImageError, match="1 é.png: does not exist .sample 'img/1 é.png'"):
        train[1]
    with pytest.raises(IndexError, match="sample 2 of 2"):
        train[2]


COLOURS = "colour=red\ncolour=blue\nhat\n"


@pytest.mark.parametrize("names, schema", [
    (COLOURS, [("colour", ("red", "blue")), ("hat", ())]),
    ("hat\nsize=s\nsize=m\nsize=l\n", [("hat", ()), ("size", ("s", "m", "l"))]),
    ("a=b\nhat\n", [("a=b", ()), ("hat", ())]),
    ("colour = red\ncolour =blue\n", [("colour", ("red", "blue"))]),
])  # fmt: skip
def test_columns_of_one_attribute_are_its_classes(tmp_path, names, schema):
    (tmp_path / "names.txt").write_text(names)
    found = schema_of(tmp_path / "names.txt")
    assert [(a.name, a.classes) for a in found.attributes] == schema
    assert found.columns == read_names(tmp_path / "names.txt")


def test_an_attribute_with_several_classes(tmp_path):
    (tmp_path / "names.txt").write_text(COLOURS)
    (tmp_path / "train.txt").write_text("a.png\t1,0,1\nb.png\t0,0,-1\nc.png\t-1,-1,0\n")
    train = open_dataset(tmp_path, "train")
    assert train.names == ("colour=red", "colour=blue", "hat")
    assert train.raw.tolist() == [[1, -1, 1], [-1, -1, 0], [0, 0, -1]]
    assert [a.name for a in train.schema.attributes] == ["colour", "hat"]
    for line, message in (("1,1,0", "2 classes; at most one"), ("1,-1,0", "partly unspecified")):
        (tmp_path / "train.txt").write_text(f"a.png\t{line}\n")
        refuses(f"train.txt:1: 'colour' .*{message}", tmp_path, "train")


@pytest.mark.parametrize("before", ["colour=red", "colour=red\n\ncolour=blue"])
@pytest.mark.parametrize("behind", ["colour=green", "colour=green\ncolour=grey"])
def test_classes_of_an_attribute_stand_together(tmp_path, before, behind):
    (tmp_path / "names.txt").write_text(f"{before}\nhat\n{behind}\n")
    number, last = before.count("\n") + 1, before.rpartition("\n")[2]
    told = f"names.txt:{number + 2}: 'colour=green' is apart from '{last}' in line {number}; the cl"
    refuses(told, tmp_path / "names.txt", by=schema_of)


def test_an_attribute_is_spelt_alike(tmp_path):
    (tmp_path / "names.txt").write_text("Colour=red\ncolour=blue\ncolour=green\n")
    told = "names.txt:2: 'colour=blue': the attribute is called 'Colour' above; spell it alike"
    refuses(told, tmp_path / "names.txt", by=schema_of)


def test_classes_may_be_called_like_codes(tmp_path):
    (tmp_path / "names.txt").write_text("class=0\nclass=1\nclass=2\n")
    (tmp_path / "train.txt").write_text("a.png\t0\nb.png\t1\nc.png\t1,0,0\nd.png\t2\n")
    train = open_dataset(tmp_path, "train")
    assert train.raw.argmax(1).tolist() == [0, 1, 0, 2]
    (tmp_path / "train.txt").write_text("a.png\t3\n")
    refuses("train.txt:1: '3' is no class; known are 0, 1, 2", tmp_path, "train")


def test_a_single_label_list_names_the_class(tmp_path):
    (tmp_path / "names.txt").write_text("class=cat\nclass=hot dog\n")
    (tmp_path / "train.txt").write_text("a b.png\thot dog\nb.png\tcat\nc.png\t0,1\n")
    train = open_dataset(tmp_path, "train")
    assert train.schema.is_single_label and train.raw.tolist() == [[-1, 1], [1, -1], [-1, 1]]
    assert train.sample_ids == ["a b.png", "b.png", "c.png"]
    (tmp_path / "train.txt").write_text("a.png\tdog\n")
    refuses("train.txt:1: 'dog' is no class; known are cat, hot dog", tmp_path, "train")
