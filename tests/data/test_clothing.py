"""Clothing Co-Parsing and the clothing dataset, on miniatures in their official formats."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from clothing_helpers import TAGS, save_tags, write_garments, write_parsing, write_split
from kinds_helpers import refuses

from gluon_attn.core.recipe import Recipe
from gluon_attn.data import DATASETS, detect_kind, open_dataset
from gluon_attn.data import clothing as ccp
from gluon_attn.data.cifar import convert_png as convert
from gluon_attn.data.clothing import split_senders
from gluon_attn.data.prepare import missing_parts
from gluon_attn.data.views import altered
from gluon_attn.tasks.data import open_split
from tools import prepare_data


@pytest.fixture
def parsing(tmp_path):
    write_parsing(tmp_path)
    return tmp_path


def test_tags_become_attributes_and_merged_ones_count_for_one(parsing):
    assert detect_kind(parsing) == "clothing_co_parsing"
    data = open_dataset(parsing, "trainval")
    assert data.names == ccp.ATTRIBUTES
    for k in range(len(data)):
        number = int(data.sample_ids[k][7:11])
        tag = TAGS[3 + number % (len(TAGS) - 3)]
        own = next(name for name in ccp.ATTRIBUTES if tag in ccp.MERGED.get(name, (name,)))
        assert [n for n, value in zip(data.names, data.raw[k]) if value == 1] == [own]


def test_regions_are_where_the_mask_has_the_tag(parsing):
    data = open_dataset(parsing, "trainval")
    for k in range(len(data)):
        assert (k in data.with_regions) == (int(data.sample_ids[k][7:11]) <= 20)
        if k not in data.with_regions:
            with pytest.raises(ValueError, match="has no masks of where its attributes are"):
                data.regions(k)
            continue
        regions = data.regions(k)
        assert regions.shape == (22, 6, 4) and regions.dtype == bool
        wanted = np.zeros((6, 4), bool)
        wanted[2:4, 1:3] = True
        assert (regions[data.raw[k] == 1] == wanted).all() and not regions[data.raw[k] != 1].any()


def test_the_split_is_exact_by_halves_and_a_file_goes_before_it(parsing):
    parts = {s: set(open_dataset(parsing, s).sample_ids) for s in ("train", "val", "test")}
    assert [len(parts[s]) for s in parts] == [24, 6, 10]
    assert not parts["train"] & parts["val"]
    assert not (parts["train"] | parts["val"]) & parts["test"]
    half = {s: sum(int(name[7:11]) <= 20 for name in ids) for s, ids in parts.items()}
    assert half == {"train": 12, "val": 3, "test": 5}
    assert open_dataset(parsing, "val", seed=1).sample_ids == sorted(parts["val"])
    (parsing / "split.csv").unlink()
    assert set(open_dataset(parsing, "test").sample_ids) == parts["test"]
    other = set(open_dataset(parsing, "test", seed=1).sample_ids)
    assert other != parts["test"]
    write_split(parsing, 1)
    assert set(open_dataset(parsing, "test").sample_ids) == other
    (parsing / "split.csv").write_text("photo,split\n0001,trian\n")
    refuses(r"split.csv:2: split 'trian'; valid are train, val, test", parsing, "test")
    (parsing / "split.csv").write_text("photo,split\n0001,train\n")
    refuses("no line for 0002 .39 photographs missing", parsing, "test")


@pytest.mark.parametrize("kind, write", [
    ("clothing_co_parsing", write_parsing), ("clothing_dataset", write_garments),
])  # fmt: skip
def test_the_draw_is_kept_in_a_file_that_rules(kind, write, tmp_path, caplog):
    write(tmp_path)
    for path in {*tmp_path.glob("*.csv")} - {tmp_path / "images.csv"}:
        path.unlink()
    tmp_path.chmod(0o555)
    try:
        before = open_dataset(tmp_path, "test")
    finally:
        tmp_path.chmod(0o755)
    assert "seed0.csv cannot be written (the folder is write-protected)" in caplog.text
    assert "split: chosen with seed 0, not kept in a file" in before.report.text()
    data = open_dataset(tmp_path, "test")
    assert data.fingerprint() == before.fingerprint()
    path = tmp_path / f"{kind}_seed0.csv"
    assert data.split_file == path and f"split: {path}" in data.report.text()
    lines = path.read_text().splitlines()
    assert lines[0] == "photo,split" and len([x for x in lines if x.endswith(",test")]) == len(data)
    mine = tmp_path / "elsewhere" / "mine.csv"
    other = open_dataset(tmp_path, "test", seed=1, split_file=mine)
    assert other.split_file == mine and other.fingerprint() != data.fingerprint()
    caplog.clear()
    again = open_dataset(tmp_path, "test", seed=2, split_file=mine)
    assert again.sample_ids == other.sample_ids
    told = f"split: {mine}; it goes before seed 2"
    assert told in caplog.text and told in again.report.text()
    mine.write_text("photo,split\na,train\na,val\n")
    refuses("mine.csv:3: a is in two splits", tmp_path, "test", split_file=mine)


def test_a_folder_without_a_part_is_told(parsing):
    (parsing / "label_list.mat").rename(parsing / "elsewhere.mat")
    with pytest.raises(FileNotFoundError, match="label_list.mat is missing"):
        open_dataset(parsing, "train", kind="clothing_co_parsing")
    save_tags(parsing / "label_list.mat", ["null", "hair"])
    with pytest.raises(ValueError, match="tag bag, belt, .* is missing; has null, hair"):
        open_dataset(parsing, "train", kind="clothing_co_parsing")


@pytest.fixture
def garments(tmp_path):
    write_garments(tmp_path)
    return tmp_path


def test_class_and_flag_are_two_attributes_or_one(garments):
    assert detect_kind(garments) == "clothing_dataset"
    data = open_dataset(garments, "train")
    assert data.schema.names == ("class", "kids") and len(data.names) == 15
    for k, name in enumerate(data.sample_ids):
        sender = int(name[7:].split("-")[0])
        wanted = [1 if j == sender % 14 else -1 for j in range(14)]
        assert data.raw[k].tolist() == [*wanted, 1 if sender % 5 == 0 else -1]
    assert open_dataset(garments, "train", single_label=True).schema.is_single_label
    assert "left out: 1 of class 'Not sure'" in data.report.text()


def test_no_sender_is_in_two_parts_and_shares_are_kept(garments):
    parts = {s: open_dataset(garments, s) for s in ("train", "val", "test")}
    senders = {s: set(d.senders) for s, d in parts.items()}
    assert not senders["train"] & senders["val"] and not senders["train"] & senders["test"]
    assert not senders["val"] & senders["test"]
    total = sum(map(len, parts.values()))
    assert [round(20 * len(d) / total) for d in parts.values()] == [12, 3, 5]
    rows = [{"sender_id": "a"}, {"sender_id": "b"}]
    assert split_senders(rows, 0) == split_senders(rows[::-1], 0)


def test_a_damaged_list_is_told_by_line(garments):
    path = garments / "images.csv"
    path.write_text("image,sender_id,label,kids\na,1,Hat,perhaps\n")
    refuses(r"images.csv:2: kids is 'perhaps'", garments, "train", kind="clothing_dataset")
    path.write_text("image,sender_id,label,kids\na,1,Hat,True\nb,1,Hat,True\na,1,Hat,True\n")
    refuses(r"images.csv:4: 'a' is in line 2 already", garments, "train", kind="clothing_dataset")
    path.write_text("image,sender_id,label,kids\na,1,hat,True\nb,1,hat,True\n")
    told = r"images.csv: no row is of Blazer, .*; there are 2 of class 'hat'"
    refuses(told, garments, "train", kind="clothing_dataset")
    path.write_text('"image",sender_id,label,kids\n"a",1,Hat,True\n')
    assert len(open_dataset(garments, "train", kind="clothing_dataset")) == 1
    path.write_text("image;sender_id;label;kids\na;1;Hat;True\n")
    with pytest.raises(FileNotFoundError, match=r"images.csv is not what it should be; .*label"):
        open_dataset(garments, "train", kind="clothing_dataset")
    reader = DATASETS.get("clothing_dataset")
    (told,) = missing_parts(reader, garments, ["train"])
    assert told.startswith("images.csv is not what it should be (train): looked for ")
    path.write_text("image,sender_id,label,kids\na,1\n")
    with pytest.raises(ValueError, match=r"images.csv:2: not the 4 columns of the first line"):
        open_dataset(garments, "train", kind="clothing_dataset")


def test_png_batches_become_the_official_binary_files(tmp_path, capsys):
    rng = np.random.default_rng(0)
    root, out = tmp_path / "png", tmp_path / "out"
    root.mkdir()
    labels = rng.integers(0, 10, 51000)
    (root / "cifar10_labels.js").write_text(f"var labels=[{', '.join(map(str, labels))}];")
    images = {
        k: rng.integers(0, 256, (1000, 32, 32, 3), dtype=np.uint8) for k in (0, 1, 2, 3, 4, 5, 50)
    }
    for k, batch in images.items():
        cv2.imwrite(str(root / f"cifar10_batch_{k}.png"), batch.reshape(1000, 1024, 3)[..., ::-1])
    assert convert(root, out, test=[5]) == {"trainval": 5000, "test": 2000}
    data = open_dataset(out, "trainval")
    assert data.classes[9] == "truck" and (data.targets == labels[:5000]).all()
    np.testing.assert_array_equal(data.read(1001), images[1][1])
    test = open_dataset(out, "test")
    assert (test.targets == np.r_[labels[5000:6000], labels[50000:51000]]).all()
    np.testing.assert_array_equal(test.read(1003), images[50][3])
    before = (out / "test_batch.bin").read_bytes()
    told = "batches.meta.txt exists; use --overwrite to replace the files, or choose another folder"
    refuses(told, root, out, by=convert, error=FileExistsError)
    assert (out / "test_batch.bin").read_bytes() == before
    words = ["cifar10_png", "--root", str(root), "--out", str(out), "--overwrite"]
    assert prepare_data.main(words) == 0
    assert f"\nwritten to {out}: data_batch_1.bin, data_batch_2.bin" in capsys.readouterr().out
    assert len((out / "test_batch.bin").read_bytes()) * 2 == len(before)
    (out / "batches.meta.txt").unlink()  # as after an interruption: it is begun again
    refuses("batch_7.png is missing", root, out, by=convert, error=FileNotFoundError, test=[7])
    cv2.imwrite(str(root / "cifar10_batch_0.png"), np.zeros((5, 5, 3), np.uint8))
    refuses("5 x 5 pixels; a batch has 1024 x 1000", root, out, by=convert)


# ------------------------------------------------------------- few images, wrong labels
def garment_split(root, split, **options):
    options = {"single_label": True, **options}
    recipe = Recipe("baseline", "m", dataset="clothing_dataset", data_options=options)
    return open_split(recipe, str(root), split)


def test_few_images_of_a_class_are_kept_in_training_only(garments):
    whole = garment_split(garments, "train")
    two, one = (garment_split(garments, "train", images_per_class=n) for n in (2, 1))
    for few, most in ((two, 2), (one, 1)):
        counts = np.minimum(whole.counts()[:, 0], most)
        np.testing.assert_array_equal(few.counts()[:, 0], counts)
        place = [whole.sample_ids.index(name) for name in few.sample_ids]
        np.testing.assert_array_equal(few.raw, whole.raw[place])
        assert place == sorted(place) and few.path(0) == whole.path(place[0])
    assert set(one.sample_ids) < set(two.sample_ids)
    for split in ("val", "test"):
        same = garment_split(garments, split, images_per_class=1)
        assert same.fingerprint() == garment_split(garments, split).fingerprint()
    with pytest.raises(ValueError, match="2 attributes .class, kids., not one class"):
        garment_split(garments, "train", images_per_class=1, single_label=False)
    with pytest.raises(ValueError, match="unknown data option.*image_per_class"):
        garment_split(garments, "train", image_per_class=1)


def test_images_without_a_class_count_for_none(tmp_path):
    (tmp_path / "names.txt").write_text("colour=red\ncolour=blue\n")
    values = ["-1,-1"] * 9 + ["0,0"] * 9 + ["1,0"] * 3 + ["0,1"] * 3
    lines = [f"{k}.png\t{line}\n" for k, line in enumerate(values)]
    (tmp_path / "train.txt").write_text("".join(lines))
    few = altered(open_dataset(tmp_path, "train"), images_per_class=2)
    assert sorted(map(tuple, few.raw)) == [(-1, 1)] * 2 + [(1, -1)] * 2


def test_a_share_of_labels_is_wrong_in_training_and_validation(garments):
    noise, options = {"class": 0.5}, {"single_label": False}
    for split in ("train", "val", "test"):
        whole = garment_split(garments, split, **options)
        half = garment_split(garments, split, label_noise=noise, **options)
        more = garment_split(garments, split, label_noise={"class": 0.8}, **options)
        assert half.sample_ids == whole.sample_ids
        np.testing.assert_array_equal(half.raw[:, -1], whole.raw[:, -1])  # kids
        assert ((half.raw[:, :-1] == 1).sum(axis=1) == 1).all()
        wrong, wronger = ((d.raw != whole.raw).any(axis=1) for d in (half, more))
        assert not (wrong & ~wronger).any()  # less noise is within more
        assert wrong.any() == wronger.any() == (split != "test")
    every = garment_split(garments, "train", label_noise={"kids": 1.0}, **options)
    whole = garment_split(garments, "train", **options)
    np.testing.assert_array_equal(every.raw[:, -1], -whole.raw[:, -1])
    with pytest.raises(ValueError, match="label_noise: unknown attribute 'adult'"):
        altered(whole, label_noise={"adult": 0.1})
    with pytest.raises(ValueError, match="kids 2: must lie between 0 and 1"):
        altered(whole, label_noise={"kids": 2})
    with pytest.raises(ValueError, match="kids None: must lie between 0 and 1"):
        altered(whole, label_noise={"kids": None})
    for wrong in (0.2, "{kids: 0.2}", ["kids"]):
        with pytest.raises(ValueError, match="label_noise=.*: give a share by attribute"):
            altered(whole, label_noise=wrong)
    for wrong in (-1, 2.5, "x", True):
        with pytest.raises(ValueError, match="images_per_class=.*: give a whole number; 0: all"):
            altered(whole, images_per_class=wrong)


def test_the_seed_chooses_in_data_that_have_none_of_their_own(tmp_path):
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        for k in range(20):
            (tmp_path / "train" / name / f"{k}.png").touch()

    def chosen(**options):
        recipe = Recipe("", "", dataset="folders", data_options=options)
        return open_split(recipe, str(tmp_path), "train").sample_ids

    few = [chosen(images_per_class=5, seed=seed) for seed in (0, 1)]
    assert len(few[0]) == len(few[1]) == 10 and few[0] != few[1]
    with pytest.raises(ValueError, match="unknown data option.*'seed'"):
        chosen(seed=1)


def test_the_share_of_wrong_labels_is_as_asked_and_masks_stay_with_their_sample(parsing):
    whole = open_dataset(parsing, "trainval")
    noisy = altered(whole, label_noise=dict.fromkeys(whole.names, 0.3))
    assert abs((noisy.raw != whole.raw).mean() - 0.3) < 0.06  # of 660; sigma is 0.018
    assert list(noisy.with_regions) == list(whole.with_regions)
    k = noisy.with_regions[3]
    np.testing.assert_array_equal(noisy.regions(k), whole.regions(k))
    np.testing.assert_array_equal(noisy[k][0], whole[k][0])
    assert altered(whole) is whole and altered(whole, label_noise={"bag": 0}) is whole
