"""Folders as people have them: what is an image, what is hidden, what is passed over."""

from __future__ import annotations

import os
import unicodedata

import cv2
import numpy as np
import pytest
from kinds_helpers import image, refuses, rewrite

from gluon_attn.data import DATASETS, BadImageError, detect_kind, open_dataset, scan
from gluon_attn.data.images import image_size, read_image
from gluon_attn.data.scan import Passed, list_images
from gluon_attn.tasks.images import ImageFile, find_images, match_boxes

HIDDEN = (
    ".DS_Store", "._1.jpg", ".1.jpg", "Thumbs.db", "desktop.ini", "Desktop.ini", ".nfs0001",
    ".ipynb_checkpoints/1.jpg", "__MACOSX/._1.jpg", "__MACOSX/1.jpg", "@eaDir/1.jpg", "Icon\r",
    "#recycle/1.jpg", ".git/1.png",
)  # fmt: skip


def encoded(suffix, pixels):
    suffix = {".jfif": ".jpg"}.get(suffix, suffix)
    grey = suffix in (".pbm", ".pgm")
    return cv2.imencode(suffix, pixels[..., 0] if grey else pixels)[1].tobytes()


def litter(folder):
    for name in HIDDEN:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image")


@pytest.mark.parametrize("suffix", scan.SUFFIXES)
def test_every_suffix_is_decoded(suffix, tmp_path):
    pixels = np.full((48, 32, 3), 200, np.uint8)
    path = tmp_path / f"a{suffix.upper()}"
    path.write_bytes(encoded(suffix, pixels))
    assert read_image(path, "a").shape == (48, 32, 3) and image_size(path, "a") == (32, 48)
    assert list_images(tmp_path) == [path.name]
    for name in (f"{suffix[1:]}", f"a{suffix}.part", f"a{suffix}~"):
        assert not scan.is_image_name(name)


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_things_are_nothing(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    passed = Passed()
    assert list_images(tmp_path, passed) == [] == list_images(tmp_path, passed, deep=False)
    assert scan.subfolders(tmp_path) == [] == scan.files(tmp_path) and not scan.has_images(tmp_path)
    assert passed.text() == ""


def test_a_hidden_folder_above_hides_nothing(tmp_path):
    image(tmp_path / ".cache" / "__MACOSX" / "a.jpg")
    assert list_images(tmp_path / ".cache" / "__MACOSX") == ["a.jpg"]


def test_what_is_passed_over_is_counted_by_kind(tmp_path, caplog):
    litter(tmp_path)
    for name in ("a.heic", "b.HEIC", "c.gif", "notes.txt", "README", "x.jpg.part"):
        (tmp_path / name).write_bytes(b"")
    for name in ("10.jpg", "9.JPEG", "sub/1.png", "frames.jpg/2.TIF"):
        image(tmp_path / name) if name[-3:] != "TIF" else image(tmp_path / name.lower())
    passed = Passed(tmp_path)
    assert list_images(tmp_path, passed) == ["10.jpg", "9.JPEG", "frames.jpg/2.tif", "sub/1.png"]
    told = "6 files passed over: 2 HEIC, 1 GIF, 1 PART, 1 TXT, 1 without suffix"
    assert passed.text() == told
    passed.log()
    assert caplog.text.count(told) == 1 and str(tmp_path) in caplog.text
    passed = Passed()
    assert list_images(tmp_path, passed, deep=False) == ["10.jpg", "9.JPEG"]
    assert passed.kinds["folder"] == 2
    one = Passed()
    one.add("a.heic")
    assert one.text() == "1 file passed over: 1 HEIC"


def test_links_are_followed_and_loops_are_not(tmp_path):
    image(tmp_path / "real" / "deep" / "a.jpg")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "b.jpg").symlink_to(tmp_path / "real" / "deep" / "a.jpg")
    (folder / "linked").symlink_to(tmp_path / "real")
    (folder / "loop").symlink_to(folder)
    (tmp_path / "real" / "up").symlink_to(folder)
    (folder / "broken.jpg").symlink_to(tmp_path / "nothing.jpg")
    os.mkfifo(folder / "pipe.jpg")
    passed = Passed()
    assert list_images(folder, passed) == ["b.jpg", "broken.jpg", "linked/deep/a.jpg"]
    assert passed.text() == "1 file passed over: 1 special file"
    with pytest.raises(BadImageError, match="broken.jpg: is a link to .*nothing.jpg, which does"):
        read_image(folder / "broken.jpg", "x")


def test_names_of_lists_and_names_on_disk(tmp_path):
    accented = unicodedata.normalize("NFD", "été")
    image(tmp_path / "a" / "b.jpg")
    image(tmp_path / accented / "c.jpg")
    image(tmp_path / "odd\\name.jpg")
    for name, found in (
        ("a/b.jpg", "a/b.jpg"), ("a\\b.jpg", "a/b.jpg"), ("a\\none.jpg", "a\\none.jpg"),
        ("odd\\name.jpg", "odd\\name.jpg"), ("été/c.jpg", f"{accented}/c.jpg"),
        ("été\\c.jpg", f"{accented}/c.jpg"), ("none.jpg", "none.jpg"),
    ):  # fmt: skip
        assert scan.stored_name(tmp_path, name) == found


def test_images_in_another_format_than_the_list_says(tmp_path):
    image(tmp_path / "1.png")
    assert scan.ImageFolder(tmp_path, "1.jpg") / "7.jpg" == tmp_path / "7.png"
    assert scan.ImageFolder(tmp_path, "1.png") / "7.png" == tmp_path / "7.png"
    assert scan.ImageFolder(tmp_path, "2.jpg") / "2.jpg" == tmp_path / "2.jpg"
    (tmp_path / "1.png").rename(tmp_path / "1.JPEG")
    assert scan.ImageFolder(tmp_path, "1.jpg") / "a.b.jpg" == tmp_path / "a.b.JPEG"
    image(tmp_path / "1.jpg")
    assert scan.ImageFolder(tmp_path, "1.jpg").suffix is None, "as the list says, if it is there"


def test_long_lists_are_shortened():
    assert scan.shortened(["a", "b"], "- ") == ["- a", "- b"]
    assert scan.shortened([str(k) for k in range(scan.SHOWN)])[-1] == f"  {scan.SHOWN - 1}"
    assert scan.shortened([str(k) for k in range(1000 + scan.SHOWN)])[-1] == "  … and 1,000 more"


@pytest.fixture
def pets(tmp_path):
    for split in ("train", "val"):
        for k, name in enumerate(("cat", "dog")):
            image(tmp_path / split / name / "1.jpg", 40 * k)
    return tmp_path


def everywhere(root):
    return [root, *(path for path in root.rglob("*") if path.is_dir())]


def test_litter_changes_nothing(pets, caplog):
    plain = {split: open_dataset(pets, split).fingerprint() for split in ("train", "val")}
    for folder in everywhere(pets):
        litter(folder)
    assert detect_kind(pets) == "folders"
    for split, fingerprint in plain.items():
        dataset = open_dataset(pets, split)
        assert dataset.fingerprint() == fingerprint and dataset.classes == ("cat", "dog")
        assert [dataset[i][0].mean() for i in range(2)] == [0, 40] and dataset.report.ok
    assert not caplog.records


def test_formats_links_and_folders_that_look_like_images(pets, tmp_path_factory, caplog):
    dog = pets / "train" / "dog"
    for name in ("2.heic", "3.GIF", "4.HEIC"):
        (dog / name).write_bytes(b"")
    for name in ("5.JFIF", "6.tiff"):
        (dog / name).write_bytes(encoded(name[1:].lower(), np.full((8, 6, 3), 9, np.uint8)))
    image(dog / "frames.jpg" / "7.png")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    image(elsewhere / "8.jpg")
    (pets / "train" / "owl").symlink_to(elsewhere)
    image(pets / "train" / "stray.png")
    train = open_dataset(pets, "train")
    assert train.classes == ("cat", "dog", "owl")
    assert train.sample_ids == [
        "train/cat/1.jpg", "train/dog/1.jpg", "train/dog/5.JFIF", "train/dog/6.tiff",
        "train/dog/frames.jpg/7.png", "train/owl/8.jpg",
    ]  # fmt: skip
    assert all(train[i][0].size for i in range(len(train)))
    told = "4 files passed over: 2 HEIC, 1 GIF, 1 outside of the class folders"
    assert caplog.text.count("passed over") == 1 and told in caplog.text
    assert "train: 1 images lie in folders of their class's, such as dog/frames.jpg/7.png" in (
        train.report.text()
    )


def test_images_one_folder_deeper_are_found(pets):
    for name in ("cat", "dog"):
        (pets / "train" / name / "1.jpg").rename(pets / "1.jpg")
        (pets / "train" / name / "images").mkdir()
        (pets / "1.jpg").rename(pets / "train" / name / "images" / "1.jpg")
    assert detect_kind(pets) == "folders"
    train = open_dataset(pets, "train")
    assert train.sample_ids == ["train/cat/images/1.jpg", "train/dog/images/1.jpg"]
    assert train.targets.tolist() == [0, 1] and train.read(1).mean() == 40


def test_a_class_without_images_stays_a_class_and_is_named(pets, caplog):
    (pets / "train" / "cow").mkdir()
    train, val = open_dataset(pets, "train"), open_dataset(pets, "val")
    assert train.classes == val.classes == ("cat", "cow", "dog"), "the order of logits is the same"
    assert train.class_counts.tolist() == [1, 0, 1] and not train.report.ok and val.report.ok
    assert f"{pets / 'train'}: no images of cow" in caplog.text
    assert f"{pets / 'train'}: no images of cow" in train.report.text()
    (pets / "val" / "cow").mkdir()
    assert not open_dataset(pets, "val").report.ok, "an empty folder is a mistake there, too"


def test_a_split_without_any_image_says_what_is_there_instead(pets):
    for name in ("cat", "dog"):
        (pets / "train" / name / "1.jpg").rename(pets / "train" / name / "1.HEIC")
    refuses(r"in its class folders \(2 files passed over: 2 HEIC", pets, "train", kind="folders")
    for name in ("cat", "dog"):
        (pets / "train" / name / "1.HEIC").unlink()
    refuses(r"class folders \(they are empty; images end in .bmp, ", pets, "train", kind="folders")


@pytest.mark.parametrize("kind", ("market", "duke", "reid_market", "reid_duke"))
def test_pedestrians_may_have_another_format_and_company(kind, trees, tmp_path, caplog):
    root = trees.copy(kind, tmp_path / "tree")
    reader = DATASETS.get(kind)
    plain = reader(root, "train")
    for folder in everywhere(root):
        litter(folder)
    (root / "bounding_box_train" / "0002_c1s1_000451_03.heic").write_bytes(b"")
    assert reader(root, "train").fingerprint() == plain.fingerprint()
    assert caplog.text.count("1 file passed over: 1 HEIC") == 1
    for path in list((root / "bounding_box_train").glob("[0-9]*.jpg")):
        path.rename(path.with_suffix(".PNG"))
    again = reader(root, "train")
    assert again.sample_ids == [name[:-4] + ".PNG" for name in plain.sample_ids]
    assert (again.read(0) == plain.read(0)).all() if plain.path(0).exists() else True
    assert list(again.identities) == list(plain.identities)


@pytest.mark.parametrize("kind, folder", [
    ("celeba", "Img/img_align_celeba"), ("peta", "images"), ("pa100k", "data"),
    ("rap", "RAP_dataset"), ("voc", "VOCdevkit/VOC2012/JPEGImages"),
    ("cub200", "CUB_200_2011/images"),
])  # fmt: skip
def test_listed_images_in_another_format(kind, folder, trees, tmp_path):
    root = trees.copy(kind, tmp_path / "tree")
    plain = open_dataset(root, "train")
    pixels = plain.read(1)
    for path in list((root / folder).rglob("*.*g")):
        saved = cv2.imread(str(path))
        path.unlink()
        cv2.imwrite(str(path.with_suffix(".bmp")), saved)
    again = open_dataset(root, "train")
    assert again.path(1).suffix == ".bmp" and again.fingerprint() == plain.fingerprint()
    assert (again.read(1) == pixels).all()


@pytest.mark.parametrize("kind, name", [
    ("list", "train.txt"), ("cub200", "CUB_200_2011/images.txt"),
    ("wider_srn", "wider_att/wider_att_train_imglist.txt"),
])  # fmt: skip
def test_lists_that_were_made_on_windows(kind, name, trees, tmp_path):
    root = trees.copy(kind, tmp_path / "tree")
    plain = open_dataset(root, "train")
    rewrite(root / name, (root / name).read_bytes().replace(b"/", b"\\"))
    again = open_dataset(root, "train")
    assert again.fingerprint() == plain.fingerprint() and (again.read(0) == plain.read(0)).all()


@pytest.mark.parametrize("kind, name", [
    ("wider", "Annotations/wider_attribute_trainval.json"),
    ("coco", "annotations/instances_train2017.json"),
])  # fmt: skip
def test_annotations_that_were_made_on_windows(kind, name, trees, tmp_path):
    root = trees.copy(kind, tmp_path / "tree")
    split = DATASETS.get(kind).splits[0]
    if kind == "coco":  # whose official names have no folder
        content = (root / name).read_bytes().replace(b'"file_name": "', b'"file_name": "sub\\\\')
        (root / split).rename(root / "sub")
        (root / split).mkdir()
        (root / "sub").rename(root / split / "sub")
    else:
        content = (root / name).read_bytes().replace(b"/0--Parade/", b"\\\\0--Parade\\\\")
    rewrite(root / name, content)
    dataset = DATASETS.get(kind)(root, split)
    assert all(dataset.read(i).size for i in range(len(dataset)))


def test_lists_with_blanks_for_tabs(trees, tmp_path):
    root = trees.copy("list", tmp_path / "tree")
    plain = open_dataset(root, "train")
    text = (root / "train.txt").read_text().replace("\t1,0", "    1 , 0  ").replace("\t", " ")
    assert "\t" not in text and "train 2.png 0,-1" in text
    rewrite(root / "train.txt", text.encode())
    assert open_dataset(root, "train").fingerprint() == plain.fingerprint()


def test_folders_to_predict(tmp_path, caplog):
    litter(tmp_path)
    for name in ("b.jfif.jpg", "a.JPG", "sub/c.png", "frames.jpg/d.png"):
        image(tmp_path / name)
    for name in ("x.heic", "y.gif"):
        (tmp_path / name).write_bytes(b"")
    found = find_images([tmp_path])
    assert [p.key for p in found] == ["a.JPG", "b.jfif.jpg", "frames.jpg/d.png", "sub/c.png"]
    assert all(os.path.isfile(image.path) for image in found)
    assert caplog.text.count("2 files passed over: 1 GIF, 1 HEIC") == 1
    given = find_images([tmp_path / "._1.jpg", tmp_path / "x.heic"])
    assert len(given) == 2, "what is named is taken as it is"
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "x.heic").write_bytes(b"")
    refuses(r"in this folder \(1 file passed over: 1 HEIC; ", [tmp_path / "none"], by=find_images)


def test_boxes_of_files_that_were_made_on_windows(tmp_path):
    images = [ImageFile(str(tmp_path / "a" / "b.jpg"), "a/b.jpg")]
    assert match_boxes(images, {"a\\b.jpg": [[1, 2, 3, 4]]}, tmp_path / "boxes.json") == (
        images, [[[1, 2, 3, 4]]],
    )  # fmt: skip
