"""Readers against the official annotation files, read a second time with NumPy and scipy.

Runs only where the files are: in ``official/`` of the folder that GLUON_ATTN_DATA names, or of
../shared/data beside the checkout. It holds

    peta/PETA.mat                      PETA's processed file
    pa100k/annotation.mat              github xh-liu/HydraPlus-Net
    market/market_attribute.mat, gallery_market.mat            github vana77/Market-1501_Attribute
    market/market_{train,query,test}.csv                       lines ``identity,image``, github
                                       VisualComputingInstitute/triplet-reid
    cub200/{images,classes,image_class_labels,train_test_split}.txt
    cifar/batches.meta                 CIFAR-10, Python form

No image is needed: empty files of the listed names stand for them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from formats.tiny import write_tiny
from formats.tiny_mats import PETA_FOLDERS
from scipy.io import loadmat

from gluon_attn.data import Peta, open_dataset
from gluon_attn.data.peta import ATTRIBUTES, RATES
from gluon_attn.metrics.attributes import evaluate_attributes

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
OFFICIAL = Path(os.environ.get("GLUON_ATTN_DATA") or BESIDE) / "official"
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs the official annotation files"),
]
SPLITS = ("train", "val", "test")


def link(root: Path, *files: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for file in files:
        source = OFFICIAL / file
        if not source.is_file():
            pytest.skip(f"{source} is not there")
        shutil.copy(source, root / source.name)
    return root


@pytest.fixture(scope="module")
def peta(tmp_path_factory):
    """The folder of PETA.mat, its table, its names, its five partitions (positions from 0)."""
    root = link(tmp_path_factory.mktemp("peta"), "peta/PETA.mat")
    table, names, _, partitions = loadmat(root / "PETA.mat")["peta"][0][0]
    parts = [
        {name: cell[0][0][name].ravel().astype(int) - 1 for name in SPLITS}
        for cell in partitions[:, 0]
    ]
    return root, table.astype(int), [str(name[0][0]) for name in names], parts


def test_peta_labels_order_and_splits(peta):
    root, table, names, parts = peta
    assert tuple(names[:35]) == ATTRIBUTES and table.shape == (19000, 109)
    assert set(np.unique(table[:, 4:]).tolist()) == {0, 1}, "no label is 2"
    for number, part in enumerate(parts, 1):
        assert [len(part[split]) for split in SPLITS] == [9500, 1900, 7600]
        assert len(np.unique(np.concatenate(list(part.values())))) == 19000
        for split in SPLITS if number == 1 else ("test",):
            data = open_dataset(root, split, partition=number)
            assert data.sample_ids == [f"{k + 1:05d}.png" for k in part[split]]
            np.testing.assert_array_equal(data.raw, 2 * table[part[split], 4:39] - 1)
            assert data.report.ok
    both = open_dataset(root, "trainval")
    assert both.sample_ids == [
        f"{k + 1:05d}.png" for k in np.concatenate([parts[0]["train"], parts[0]["val"]])
    ]
    rates = (both.raw == 1).mean(0)
    assert np.abs(rates - list(RATES.values())).max() < 0.02, "the public list of rates"


def test_peta_uncertain_does_nothing_and_says_so(peta, caplog):
    root = peta[0]
    plain = open_dataset(root, "val")
    assert not caplog.text
    other = open_dataset(root, "val", uncertain="unspecified")
    assert other.fingerprint() == plain.fingerprint() and "does nothing" in caplog.text


def test_peta_test_images_show_persons_of_training(peta):
    root, table, _, parts = peta
    shares = []
    for number, part in enumerate(parts, 1):
        seen = set(table[np.concatenate([part["train"], part["val"]]), 1].tolist())
        shown = sum(int(person) in seen for person in table[part["test"], 1])
        text = open_dataset(root, "test", partition=number).report.text()
        assert f"they are on {shown:,} of 7,600 images ({shown / 76:.1f} %)" in text
        shares.append(round(shown / 76, 1))
    assert (min(shares), max(shares)) == (57.7, 58.8)


@pytest.fixture(scope="module")
def archive(peta, tmp_path_factory):
    """The authors' folders made again from the rows of PETA.mat, with empty files for images."""
    _, table, names, _ = peta
    base = tmp_path_factory.mktemp("archive") / "PETA dataset"
    for number, (subset, (ending, digits)) in enumerate(PETA_FOLDERS.items(), 1):
        folder, lines, count = base / subset / "archive", {}, 0
        folder.mkdir(parents=True)
        for row in table[table[:, 2] == number]:
            person, count = str(row[3]).zfill(digits), count + 1
            name = person if subset == "CUHK" else f"{person}_{count:04d}"
            (folder / f"{name}.{ending}").touch()
            words = [names[k] for k in np.flatnonzero(row[4:])]
            words = [{"footwearSneaker": "footwearSneakers"}.get(word, word) for word in words]
            lines[f"{name}.{ending}" if subset == "CUHK" else person] = " ".join(words)
        text = "".join(f"{person} {words}\n" for person, words in sorted(lines.items()))
        (folder / "Label.txt").write_text(text)
    return base.parent


def test_peta_of_the_authors_folders(peta, archive, caplog):
    root, table, _, _ = peta
    found = {split: Peta(archive, split) for split in SPLITS}
    sizes = {split: len(data) for split, data in found.items()}
    assert sizes == {"train": 9512, "val": 1896, "test": 7592}, "as docs/data.md says"
    people = {split: set(data.persons.tolist()) for split, data in found.items()}
    assert [len(people[split]) for split in SPLITS] == [4330, 872, 3497]
    assert sum(map(len, people.values())) == len(set.union(*people.values())) == 8699
    assert found["train"].report.ok and "TownCentre" in found["train"].report.table()
    shutil.copy(root / "PETA.mat", archive)
    try:
        for number, split in ((1, "train"), (1, "val"), (1, "test"), (5, "test")):
            folders = Peta(archive, split, partition=number)
            renamed = Peta(root, split, partition=number)
            np.testing.assert_array_equal(folders.raw, renamed.raw)
            rows = [int(name[:5]) - 1 for name in renamed.sample_ids]
            numbers = [int(Path(name).stem.split("_")[0]) for name in folders.sample_ids]
            assert numbers == table[rows, 3].tolist(), "the same persons in the same order"
    finally:
        (archive / "PETA.mat").unlink()
    assert "labels" not in caplog.text


def test_pa100k_labels_order_and_splits(tmp_path):
    root = link(tmp_path, "pa100k/annotation.mat")
    content = loadmat(root / "annotation.mat")
    names = tuple(str(item[0]) for item in content["attributes"][:, 0])
    assert names[:5] == ("Female", "AgeOver60", "Age18-60", "AgeLess18", "Front")
    assert len(names) == 26 and names[7:9] == ("Hat", "Glasses")
    first = 1
    for split, count in zip(SPLITS, (80000, 10000, 10000)):
        data = open_dataset(root, split)
        labels = content[f"{split}_label"].astype(int)
        assert data.names == names and len(data) == count and data.report.ok
        assert data.sample_ids == [str(i[0]) for i in content[f"{split}_images_name"][:, 0]]
        assert data.sample_ids[0] == f"{first:06d}.jpg"
        assert set(np.unique(labels).tolist()) == {0, 1}, "no label is 2"
        np.testing.assert_array_equal(data.raw, 2 * labels - 1)
        first += count


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """Market-1501 as empty files, and its three lists as ``[(identity, path), ...]``."""
    root = link(tmp_path_factory.mktemp("market"), "market/market_attribute.mat")
    lists = {}
    for part in ("train", "query", "test"):
        path = OFFICIAL / "market" / f"market_{part}.csv"
        lists[part] = [tuple(line.split(",")) for line in path.read_text().split()]
        for _, name in lists[part]:
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).touch()
    return root, lists, loadmat(root / "market_attribute.mat")["market_attribute"][0, 0]


def part_of(mat, name):
    """Return ``{field: {identity: value}}`` of the file's train or test struct."""
    fields = mat[name][0, 0]
    people = [str(item[0]) for item in fields["image_index"].ravel()]
    return {
        field: dict(zip(people, fields[field].ravel().astype(int).tolist()))
        for field in fields.dtype.names
        if field != "image_index"
    }


def test_market_labels_order_and_splits(market):
    root, lists, mat = market
    orders = [mat[name][0, 0].dtype.names for name in ("train", "test")]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]
    for split, source, struct, images, people in (
        ("trainval", "train", "train", 12936, 751), ("test", "test", "test", 13115, 750),
        ("query", "query", "test", 3368, 750),
    ):  # fmt: skip
        data, values = open_dataset(root, split), part_of(mat, struct)
        rows = [(who, name) for who, name in lists[source] if who not in ("-1", "0000")]
        assert data.sample_ids == [name for _, name in rows] and len(rows) == images
        assert list(data.identities) == [who for who, _ in rows]
        assert len(set(data.identities)) == people and data.report.ok
        assert len(data.names) == 30
        for column, name in enumerate(data.names):
            attribute, _, group = name.partition("=")
            if attribute == "age":
                number = ("young", "teenager", "adult", "old").index(group) + 1
                expected = [values["age"][who] == number for who in data.identities]
            else:
                field = attribute.replace("colour", "") + group
                expected = [values[field][who] == 2 for who in data.identities]
            np.testing.assert_array_equal(data.raw[:, column], 2 * np.array(expected) - 1, name)
    train, val = (open_dataset(root, split) for split in ("train", "val"))
    assert not set(train.identities) & set(val.identities) and len(set(val.identities)) == 75


def test_market_identities_without_a_colour(market):
    """What docs/data.md says of them."""
    _, _, mat = market
    found = {}
    for struct in ("train", "test"):
        values = part_of(mat, struct)
        for part in ("up", "down"):
            colours = [v for k, v in values.items() if k.startswith(part) and k != part]
            worn = [sum(c[who] == 2 for c in colours) for who in colours[0]]
            found[struct, part] = worn.count(0)
            assert max(worn) == 1
    assert found == {
        ("train", "up"): 78, ("train", "down"): 30, ("test", "up"): 69, ("test", "down"): 44,
    }  # fmt: skip


def test_the_authors_own_predictions_score_alike(market):
    """Their evaluation counts equal codes; a colour is right if its field is 2."""
    root, _, mat = market
    path = OFFICIAL / "market" / "gallery_market.mat"
    given = loadmat(path)["gallery"].astype(int)
    data, values = open_dataset(root, "test"), part_of(mat, "test")
    names = "gender hair age up down clothes hat backpack bag handbag".split()
    colours = (
        [f"up{c}" for c in "black white red purple gray blue green yellow".split()],
        [f"down{c}" for c in "black white pink gray blue green brown yellow purple".split()],
    )
    theirs = [
        np.mean([given[i, k] == values[name][who] for i, who in enumerate(data.identities)])
        for k, name in enumerate(names)
    ]
    theirs += [
        np.mean([values[fields[given[i, k] - 1]][who] == 2
                 for i, who in enumerate(data.identities)])
        for k, fields in ((10, colours[0]), (11, colours[1]))
    ]  # fmt: skip
    probs = np.zeros((len(data), 30))
    for k, columns in enumerate(data.schema.slices()):
        width = columns.stop - columns.start
        if width == 1:
            probs[:, columns.start] = given[:, k] == 2
        else:
            probs[np.arange(len(data)), columns.start + given[:, k] - 1] = 1
    found = evaluate_attributes(probs, data.label, data.mask, data.schema)
    ours = [row["accuracy"] for row in found["attributes"]]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    assert round(100 * found["overall"]["accuracy"], 5) == 85.32533


def test_market_for_re_identification(market):
    root, lists, _ = market
    for split, part, images, people in (
        ("trainval", "train", 12936, 751), ("query", "query", 3368, 750),
        ("gallery", "test", 19732, 750),
    ):  # fmt: skip
        data = open_dataset(root, split, kind="reid_market")
        assert data.sample_ids == [name for _, name in lists[part]] and len(data) == images
        assert data.identities.tolist() == [int(who) for who, _ in lists[part]]
        assert len({who for who in data.identities.tolist() if who > 0}) == people


def test_cub200_labels_order_and_splits(tmp_path):
    names = ("images", "classes", "image_class_labels", "train_test_split")
    root = link(tmp_path, *(f"cub200/{name}.txt" for name in names))
    lists = {
        name: [line.split() for line in (root / f"{name}.txt").read_text().splitlines()]
        for name in names
    }
    classes = [name[4:] for _, name in lists["classes"]]
    of_image = {n: int(k) - 1 for n, k in lists["image_class_labels"]}
    for split, mark, count in (("trainval", "1", 5994), ("test", "0", 5794)):
        chosen = [n for n, m in lists["train_test_split"] if m == mark]
        paths = dict(lists["images"])
        data = open_dataset(root, split)
        assert len(data) == count and data.report.ok and list(data.classes) == classes
        assert data.sample_ids == [paths[n] for n in chosen]
        assert data.targets.tolist() == [of_image[n] for n in chosen]
        assert all(f"{t + 1:03d}." in name for t, name in zip(data.targets, data.sample_ids))


def test_cifar10_names(tmp_path):
    write_tiny("cifar10", tmp_path)
    (target,) = tmp_path.rglob("batches.meta")
    link(target.parent, "cifar/batches.meta")
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert list(open_dataset(tmp_path, "test").classes) == names.split()
