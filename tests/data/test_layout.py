"""Where a data set is: unpacked archives, parent folders, two downloads side by side."""

from __future__ import annotations

import inspect
import shutil

import pytest
from kinds_helpers import KINDS, fingerprints, image, refuses, rewrite

from gluon_attn.core.schema import Schema
from gluon_attn.data import DATASETS, detect_kind, detection_order, layout, open_dataset
from gluon_attn.data.base import Reader, Samples
from gluon_attn.data.folders import Folders
from tools import prepare_data


@pytest.mark.parametrize("kind", KINDS)
def test_a_data_set_is_found_where_unpacking_left_it(kind, trees, tmp_path):
    root = trees.copy(kind, tmp_path / "plain")
    plain, reader = fingerprints(kind, root), DATASETS.get(kind)
    for place in ("Data-master", "download/Data-v1.0 (2)"):
        parent = tmp_path / place.replace("/", " ")
        shutil.copytree(root, parent / place)
        # What macOS adds to archives looks the same, but for its hidden names.
        shutil.copytree(root, parent / "__MACOSX" / place)
        (parent / "Readme.txt").write_text("by its authors")
        assert fingerprints(kind, parent) == plain
        assert reader.home(parent) == parent / place and reader.home(root) == root
        assert all(reader.has_split(parent, split) for split in reader.expected_splits(parent))
        if kind in detection_order():
            assert detect_kind(parent) == detect_kind(root) == kind
            shutil.copytree(root, parent / "copy" / "of" / "it")  # farther away: the nearer counts
            assert detect_kind(parent) == kind or place.count("/")


def test_the_same_layouts_are_checked_and_packed(trees, tmp_path, capsys):
    trees.copy("peta", tmp_path / "data" / "PETA-master")
    assert prepare_data.main(["peta", "--check", str(tmp_path / "data")]) == 0
    assert "all counts are as generated" in capsys.readouterr().out
    sizes = ["--size", "32", "--train-size", "24", "-j", "1"]
    command = ["peta", "--root", str(tmp_path / "data"), "--out", str(tmp_path / "out"), *sizes]
    assert prepare_data.main(command) == 0
    plain = open_dataset(tmp_path / "data" / "PETA-master", "val")
    assert open_dataset(tmp_path / "out", "val").fingerprint() == plain.fingerprint()


def test_two_that_are_equally_near_are_not_guessed_between(trees, tmp_path):
    trees.copy("peta", tmp_path / "a")
    trees.copy("celeba", tmp_path / "b")
    refuses(r"several data sets: .*/a \(peta\), .*/b \(celeba\); give", tmp_path, by=detect_kind)
    assert len(open_dataset(tmp_path, "val", kind="peta")) == 4, "a kind that is named is found"
    trees.copy("peta", tmp_path / "c")
    refuses("holds several that fit: .*/a, .*/c; give the one", tmp_path, "val", kind="peta")


def test_a_split_is_not_taken_from_another_folder(trees, tmp_path):
    root = trees.copy("folders", tmp_path / "tree")
    (root / "backup").mkdir()
    (root / "val").rename(root / "backup" / "val")
    assert not Folders.has_split(root, "val")
    refuses("val is missing; looked for", root, "val", error=FileNotFoundError, kind="folders")


@pytest.mark.parametrize("kind", ["market", "duke"])
def test_images_and_attributes_of_two_downloads(kind, trees, tmp_path):
    root = trees.copy(kind, tmp_path / "Data-v15")
    plain = open_dataset(root, "train").fingerprint()
    (root / "Attribute-master").mkdir()
    name = f"{kind}_attribute.mat"
    inside = (root / name).rename(root / "Attribute-master" / name)
    assert detect_kind(root) == kind and open_dataset(root, "train").fingerprint() == plain
    (tmp_path / "Attribute-master").mkdir()
    inside.rename(tmp_path / "Attribute-master" / name)
    assert detect_kind(tmp_path) == kind
    assert open_dataset(tmp_path, "train").fingerprint() == plain
    with pytest.raises(FileNotFoundError, match="looks like market without market_attribute.mat"
                       ", or duke without duke_attribute.mat; looked for market: "):  # fmt: skip
        detect_kind(root)
    given = open_dataset(root, "train", kind=kind, attributes=tmp_path / "Attribute-master" / name)
    assert given.fingerprint() == plain


@pytest.mark.parametrize("kind, annotation, place", [
    ("pa100k", "annotation.mat", "annotation/annotation.mat"),
    ("pa100k", "annotation.mat", "HydraPlus-Net-master/annotation.mat"),
    ("pa100k", "data", "release_data/release_data"),
    ("pa100k", "data", "data/release_data/release_data"),
    ("peta", "images", "PETA-New/images"),
    ("rap", "RAP_annotation/RAP_annotation.mat", "RAP_annotation.mat"),
    ("celeba", "Anno/list_attr_celeba.txt", "list_attr_celeba.txt"),
    ("celeba", "Img/img_align_celeba", "img_align_celeba/img_align_celeba"),
    ("celeba", "Img/img_align_celeba", "celeba/img_align_celeba"),
    ("imagenet", "ILSVRC2012_devkit_t12", "devkit"),
    ("imagenet", "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12.tar/ILSVRC2012_devkit_t12"),
    ("voc", "VOCdevkit/VOC2012", "VOC2012"),
    ("voc", "VOCdevkit/VOC2012", "VOC2012_train_val/VOC2012_train_val"),
    ("cub200", "CUB_200_2011", "CUB_200_2011-master/CUB_200_2011"),
    ("caltech256", "256_ObjectCategories", "256_objectcategories/256_ObjectCategories"),
])  # fmt: skip
def test_parts_lie_where_each_download_puts_them(kind, annotation, place, trees, tmp_path):
    root = trees.copy(kind, tmp_path / "tree")
    reader = DATASETS.get(kind)
    splits = reader.expected_splits(root)
    plain = {split: reader(root, split).fingerprint() for split in splits}
    moved = (root / annotation).rename(tmp_path / "moved")
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    moved.rename(root / place)
    assert detect_kind(root) == kind
    for split, fingerprint in plain.items():
        dataset = reader(root, split)
        assert dataset.fingerprint() == fingerprint and dataset.read(0).size


def test_images_of_another_data_set_are_not_one_folder_per_class(trees, tmp_path):
    root = trees.copy("wider", tmp_path / "tree")
    shutil.rmtree(root / "Annotations")
    refuses("no data set recognised in", root, by=detect_kind, error=FileNotFoundError)
    assert detect_kind(root / "Image") == "folders", "it is what was asked for"


@pytest.mark.parametrize("kind, gone, message", [
    ("celeba", "Eval", "looks like celeba without list_eval_partition.txt; looked for celeba: "),
    ("cub200", "CUB_200_2011/classes.txt", "looks like cub200 without classes.txt"),
    ("list", "names.txt", "no data set recognised"),
])  # fmt: skip
def test_what_is_lacking_is_named(kind, gone, message, trees, tmp_path):
    root = trees.copy(kind, tmp_path / "tree")
    path = root / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if kind == "list":  # of which nothing else tells
        for name in ("train", "val", "test"):
            (root / f"{name}.txt").unlink()
    refuses(message, root, by=detect_kind, error=FileNotFoundError)


def test_a_file_of_a_common_name_stands_in_no_way(trees, tmp_path):
    trees.copy("folders", tmp_path / "photos")
    (tmp_path / "classes.txt").write_text("cat\n")
    assert detect_kind(tmp_path) == "folders"


def test_a_folder_with_many_folders_is_not_searched(tmp_path):
    for k in range(layout.MOST + 1):
        (tmp_path / "many" / f"{k}").mkdir(parents=True)
    image(tmp_path / "many" / "3" / "train" / "cat" / "1.jpg")
    levels = list(layout.levels(tmp_path))
    assert levels == [[tmp_path], [tmp_path / "many"], []]
    refuses("no data set recognised", tmp_path, by=detect_kind, error=FileNotFoundError)


def test_folders_of_others_in_the_parent_are_passed_over(trees, tmp_path, monkeypatch):
    trees.copy("list", tmp_path / "mine")
    trees.copy("list", tmp_path / "theirs")
    allowed = layout.os.access
    monkeypatch.setattr(
        layout.os, "access", lambda path, mode: path.name != "theirs" and allowed(path, mode)
    )
    assert detect_kind(tmp_path) == "list" and len(open_dataset(tmp_path, "train")) == 2


def im2rec(folder, pixels=b"\xff\xd8 not packed by this package"):
    """Write what MXNet's im2rec does: label in the header, the second id 0."""
    import mxnet as mx

    folder.mkdir(parents=True, exist_ok=True)
    writer = mx.recordio.MXIndexedRecordIO(
        str(folder / "train.idx"), str(folder / "train.rec"), "w"
    )
    for k in range(3):
        writer.write_idx(k, mx.recordio.pack(mx.recordio.IRHeader(0, float(k), k, 0), pixels))
    writer.close()
    (folder / "train.lst").write_text("".join(f"{k}\t{k}.0\tcat/{k}.jpg\n" for k in range(3)))


def test_records_of_im2rec_are_called_what_they_are(tmp_path):
    im2rec(tmp_path)
    told = "train.rec was written by MXNet's im2rec or the like, .*Pack the images they were made"
    for kind in ("auto", "packed"):
        with pytest.raises(FileNotFoundError, match=told) as caught:
            open_dataset(tmp_path, "train", kind=kind)
        assert "\n" not in str(caught.value) and "tools/prepare_data.py folders" in str(
            caught.value
        )
    (tmp_path / "train.rec").unlink()
    with pytest.raises(FileNotFoundError, match="train.lst was written by MXNet's im2rec"):
        detect_kind(tmp_path)


def test_records_of_im2rec_beside_the_images_are_in_no_way(trees, tmp_path):
    for kind in ("folders", "list", "imagenet"):
        root = trees.copy(kind, tmp_path / kind)
        plain = fingerprints(kind, root)
        im2rec(root)
        assert detect_kind(root) == kind and fingerprints(kind, root) == plain


def test_our_records_without_their_json_are_told_apart(trees, tmp_path):
    root = trees.copy("packed", tmp_path / "tree")
    for split in ("train", "val", "test"):
        (root / f"{split}.json").unlink()
    assert detect_kind(root) == "packed"
    with pytest.raises(FileNotFoundError, match="train.json is missing: copy it, too, or pack the"):
        open_dataset(root, "train")
    rewrite(root / "train.rec", b"\x0a\x23\xd7\xce short")
    with pytest.raises(FileNotFoundError, match="train.rec was written by MXNet's im2rec or"):
        open_dataset(root, "train", kind="packed")


def test_a_reader_says_only_what_its_format_is(tmp_path, monkeypatch):
    """One class: recognised, opened, compared with its published sizes, its settings known."""
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))

    @DATASETS.register("toy")
    class Toy(Reader):
        title, looks_for, valid = "Toy", "toy.txt beside shots/", ("train", "test")
        detection = 5
        published = {"train": {"images": 2}}

        @classmethod
        def parts(cls, split):
            return layout.file_part("toy.txt"), layout.folder_part("shots", images=True)

        def samples(self, found, split, flip=False):
            table, folder = found.each()
            names = table.read_text().split()
            raw = [[-1 if flip else 1, -1] for _ in names]
            return Samples(Schema.binary(["hat", "bag"]), raw, names, folder)

    (tmp_path / "Toy-master").mkdir()
    (tmp_path / "Toy-master" / "toy.txt").write_text("a.png b.png")
    for name in ("a.png", "b.png"):
        image(tmp_path / "Toy-master" / "shots" / name)
    assert detect_kind(tmp_path) == "toy" and detection_order()[1] == "toy"
    train = open_dataset(tmp_path, "train", flip=True)
    assert train.raw.tolist() == [[-1, -1]] * 2 and train.read(0).shape == (24, 16, 3)
    assert train.report.ok and "labels of 'train'" in train.report.text()
    assert list(inspect.signature(Toy).parameters)[2:] == ["policy", "on_bad_image", "flip"]
    refuses("Toy: unknown split 'val'", tmp_path, "val", by=Toy)
    refuses("colour", tmp_path, "train", by=Toy, error=TypeError, colour=1)
