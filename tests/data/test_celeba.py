"""CelebA: hand-written lists, as published and as CSV."""

from __future__ import annotations

import numpy as np
import pytest
from kinds_helpers import image, refuses

from gluon_attn.data import detect_kind, open_dataset

ATTR = """5
Bald  Young Male\x20
000001.jpg -1  1  1
000002.jpg  1 -1 -1
000003.jpg -1 -1  1
000004.jpg  1  1  1
000005.jpg -1  1 -1
"""
PARTITION = """000005.jpg 0
000001.jpg 0
000002.jpg 1
000003.jpg 2
000004.jpg 0
"""
ATTR_CSV = "image_id," + "".join(f"{','.join(row.split())}\n" for row in ATTR.splitlines()[1:])
PARTITION_CSV = "image_id,partition\n" + PARTITION.replace(" ", ",")


def write(root, attr=ATTR, partition=PARTITION, suffix=".txt", places=("", "")):
    for place, stem, text in zip(
        places, ("list_attr_celeba", "list_eval_partition"), (attr, partition)
    ):
        (root / place).mkdir(exist_ok=True)
        (root / place / f"{stem}{suffix}").write_text(text)
    return root


def check(train):
    assert train.names == ("Bald", "Young", "Male")
    assert train.sample_ids == ["000005.jpg", "000001.jpg", "000004.jpg"]
    np.testing.assert_array_equal(train.raw, [[-1, 1, -1], [-1, 1, 1], [1, 1, 1]])


@pytest.mark.parametrize("files, folder", [
    ({"places": ("Anno", "Eval")}, "Img/img_align_celeba"),
    ({"attr": ATTR_CSV, "partition": PARTITION_CSV, "suffix": ".csv"},
     "img_align_celeba/img_align_celeba"),
])  # fmt: skip
def test_labels_are_joined_by_name(tmp_path, files, folder):
    write(tmp_path, **files)
    for k in range(1, 6):
        image(tmp_path / folder / f"{k:06d}.jpg", 40 * k, (8, 6))
    assert detect_kind(tmp_path) == "celeba"
    train = open_dataset(tmp_path, "train")
    check(train)
    assert [round(train[k][0].mean() / 40) for k in range(3)] == [5, 1, 4]
    assert open_dataset(tmp_path, "val").raw.tolist() == [[1, -1, -1]]
    assert open_dataset(tmp_path, "test").sample_ids == ["000003.jpg"]
    assert len(open_dataset(tmp_path, "trainval")) == 4
    assert "train: 3 images, published 162,770" in train.report.text()


@pytest.mark.parametrize("attr, partition", [
    (ATTR_CSV, PARTITION_CSV.replace("image_id", "id")),
    (ATTR_CSV.replace("image_id", "id"), PARTITION_CSV.replace("image_id", "Id")),
    (ATTR_CSV.replace("image_id,Bald", '"image_id","Bald"').replace("000001.jpg", '"000001.jpg"'),
     PARTITION_CSV.replace("image_id,partition", '"image_id","partition"')),
    ("".join(f"{k or ''},{line}\n" for k, line in enumerate(ATTR_CSV.splitlines())),
     "".join(f"{k or ''},{line}\n" for k, line in enumerate(PARTITION_CSV.splitlines()))),
    (ATTR_CSV.replace("\n", "\r\n"), PARTITION_CSV.partition("\n")[2]),
], ids=["id", "ids", "quotes", "row numbers", "no heading"])  # fmt: skip
def test_csv_copies(tmp_path, attr, partition):
    write(tmp_path, attr, partition, ".csv")
    check(open_dataset(tmp_path, "train"))


def test_a_text_with_a_heading_and_commas(tmp_path):
    check(open_dataset(write(tmp_path, ATTR, PARTITION_CSV.replace("image_id", "id")), "train"))


@pytest.mark.parametrize("change, message", [
    ({"attr": ATTR.replace("5\n", "6\n", 1)}, "attr_celeba.txt:1: announces 6 images; 5 fo"),
    ({"attr": "Bald\n" + ATTR}, "attr_celeba.txt:1: expected the number of images"),
    ({"attr": ATTR.replace("-1 -1  1", "-1 1")}, "celeba.txt:5: 2 labels for 3 attributes"),
    ({"attr": ATTR.replace("-1 -1  1", "-1 -1  0")}, "celeba.txt:5: label '0' of 'Male'"),
    ({"attr": ATTR.replace("000002", "000001")}, "celeba.txt:4: '000001.jpg' comes twice"),
    ({"attr": ATTR.replace("Young", "Bald")}, "attr_celeba.txt: .* repeated ones: Bald"),
    ({"partition": PARTITION.replace(" 2", " 3")}, "partition.txt:4: expected an image and 0"),
    ({"partition": PARTITION[: PARTITION.index("000004")]}, "partition.txt: 1 images .*00004"),
    ({"partition": PARTITION + "000006.jpg 0\n"}, "partition.txt:6: '000006.jpg' has no labels"),
    ({"partition": PARTITION + "000001.jpg 0\n"}, "partition.txt:6: '000001.jpg' comes twice"),
    ({"attr": ATTR_CSV.partition("\n")[2], "partition": PARTITION_CSV, "suffix": ".csv"},
     "attr_celeba.csv:1: expected the heading image_id"),
])  # fmt: skip
def test_malformed_lines_are_named(tmp_path, change, message):
    refuses(message, write(tmp_path, **change), "train")


def test_missing_list(tmp_path):
    write(tmp_path)
    (tmp_path / "list_eval_partition.txt").unlink()
    with pytest.raises(FileNotFoundError, match="list_eval_partition.txt is missing; looked for"):
        open_dataset(tmp_path, "train", kind="celeba")
    refuses("looks like celeba without list_eval_part", tmp_path, "train", error=FileNotFoundError)
