"""Every way to an image sees it upright: readers, packs, evaluation, prediction, boxes."""

from __future__ import annotations

import json
import logging
import shutil

import cv2
import mxnet as mx
import numpy as np
import pytest
from images_helpers import encoded, scene, stored
from kinds_helpers import KINDS, refuses, rewrite
from mxnet.gluon import nn
from PIL import Image

from gluon_attn.coco.keypoints_task import find_in_files
from gluon_attn.data import DATASETS, EvalTransform, Loader, pack
from gluon_attn.data.images import BadImageError, decode
from gluon_attn.data.prepare import pack_splits
from gluon_attn.export import Predictor, export_model
from gluon_attn.export.images import crop_box
from gluon_attn.tasks import images as workflow
from gluon_attn.tasks.data import predict, predict_export

PIXELS = ("cifar10", "cifar100")  # hold pixels, no image files
MEAN, STD = (120, 120, 120), (60, 60, 60)
SIZES = {"size": 24, "train_size": 16}


def files_of(root):
    return [p for p in sorted(root.rglob("*")) if p.suffix.lower() in (".jpg", ".jpeg", ".png")]


def paint(root):
    """Give every image below ``root`` contents of its own."""
    for number, path in enumerate(files_of(root)):
        shape = decode(path.read_bytes(), path, "s").shape
        noise = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
        rewrite(path, encoded(noise, "PNG"))


def lay_down(root):
    """Store every image below ``root`` turned, with the EXIF orientation that tells."""
    for number, path in enumerate(files_of(root)):
        orientation = 2 + number % 7
        upright = decode(path.read_bytes(), path, "s")
        rewrite(path, encoded(stored(upright, orientation), "PNG", orientation))


def open_kind(root, kind):
    if kind == "packed":
        pack(DATASETS.get("list")(root, "train"), root / "out" / "train", **SIZES,
             progress=False, overwrite=True)  # fmt: skip
        root = root / "out"
    reader = DATASETS.get(kind)
    data = reader(root, reader.expected_splits(root)[0])
    return data, [data.read(i) for i in range(min(len(data), 8))]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(PIXELS)))
def test_every_reader_sees_images_upright(trees, tmp_path, kind):
    root = trees.copy("list" if kind == "packed" else kind, tmp_path / "tree")
    paint(root)
    before, images = open_kind(root, kind)
    lay_down(root)
    after, again = open_kind(root, kind)
    assert after.fingerprint() == before.fingerprint()
    for image, same in zip(images, again):
        np.testing.assert_array_equal(same, image)


def test_wider_says_how_many_images_are_turned(trees, tmp_path):
    root = trees.copy("wider", tmp_path / "tree")
    data = DATASETS.get("wider")(root, "train")
    assert "EXIF" not in data.report.text() and data.report.counts[0].clipped == 0
    lay_down(root)
    data = DATASETS.get("wider")(root, "train")
    assert data.report.counts[0].clipped == 0 and not data.report.counts[0].dropped
    assert "EXIF orientation turns 2 images; boxes are read as of the upright" in data.report.text()


@pytest.fixture
def coco(trees, tmp_path):
    return trees.copy("coco", tmp_path / "tree")


def annotated_sizes(root, change):
    path = root / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    for record in content["images"]:
        record["width"], record["height"] = change(record["width"], record["height"])
    for record in content["annotations"]:
        record["bbox"] = [1, 2, 30, 20]
    rewrite(path, json.dumps(content).encode())


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_coco_sizes_tell_which_image_the_boxes_are_of(coco, caplog, orientation):
    first = DATASETS.get("coco")(coco, "train2017")
    image, path = first.read(0), first.path(0)
    rewrite(path, encoded(stored(image, orientation), "PNG", orientation))
    np.testing.assert_array_equal(first.read(0), image)
    assert not caplog.text
    annotated_sizes(coco, lambda w, h: (h, w))
    data = DATASETS.get("coco")(coco, "train2017")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_array_equal(data.read(0), stored(image, orientation))
    assert data[0][1].tolist()[0] == [1, 2, 31, 22]
    assert caplog.text.count("only if its EXIF orientation is overlooked") == 1
    assert "exchange width and height in" in caplog.text


def test_coco_sizes_that_fit_neither_way_mention_exif(coco):
    data = DATASETS.get("coco")(coco, "train2017")
    image, path = data.read(0), data.path(0)
    height, width = image.shape[:2]
    rewrite(path, encoded(np.zeros((20, 30, 3), np.uint8), "PNG", 6))
    with pytest.raises(BadImageError, match=r"is 20 x 30 \(30 x 20 without its EXIF orientation 6"):
        data.read(0)
    rewrite(path, encoded(np.ascontiguousarray(image.transpose(1, 0, 2)), "PNG"))
    words = f"is {height} x {width}, the annotation says {width} x {height}; it may have lost its"
    refuses(f"{words} EXIF orientation", 0, by=data.read, error=BadImageError)


def test_packs_from_before_are_not_taken_for_new_ones(trees, tmp_path):
    root = trees.copy("list", tmp_path / "tree")
    data = {"train": DATASETS.get("list")(root, "train")}
    list(pack_splits(data, tmp_path / "p", progress=False, **SIZES))
    assert "kept" in next(pack_splits(data, tmp_path / "p", progress=False, **SIZES))
    path = tmp_path / "p/train.json"
    info = json.loads(path.read_text())
    assert info.pop("orientation") == "upright"
    path.write_text(json.dumps(info))
    with pytest.raises(FileExistsError, match="differs in orientation; use --overwrite"):
        next(pack_splits(data, tmp_path / "p", progress=False, **SIZES))
    assert DATASETS.get("packed")(tmp_path / "p", "train").read(0).shape == (24, 24, 3)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A net for which every pixel counts, and its export."""
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, strides=2, activation="relu"), nn.Dense(2))
    net.initialize(mx.init.Xavier(magnitude=9))
    folder = tmp_path_factory.mktemp("export") / "x"
    options = {"mean": MEAN, "std": STD, "resize": 16}
    export_model(net, folder, "x", ("hat", "bag"), 16, options, check=False)
    return net, folder


def photos(root, kind):
    """Write a data set as a phone saves it, JPEG with all eight orientations; return the files."""
    rng, rows = np.random.default_rng(5), []
    for number in range(16):
        image = cv2.resize(rng.integers(0, 256, (3, 5, 3), np.uint8), (40, 24 + number))
        orientation = 1 + number % 8
        path = root / (f"train/{number % 2}/{number}.jpg" if kind == "folders" else f"{number}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(stored(image, orientation), "JPEG", orientation, quality=95))
        rows.append(f"{path.relative_to(root)}\t{number % 2},{1 - number % 2}\n")
    (root / "names.txt").write_text("hat\nbag\n")
    (root / "train.txt").write_text("".join(rows))


@pytest.mark.parametrize("kind", ["list", "folders"])
def test_evaluation_and_prediction_give_the_same_probabilities(tmp_path, net, kind):
    photos(tmp_path, kind)
    data = DATASETS.get(kind)(tmp_path, "train")
    loader = Loader(data, EvalTransform(resize=16, crop=None, size=16, mean=MEAN, std=STD), 4)
    evaluated = predict(net[0], loader, len(data), mx.cpu()).probs
    assert evaluated.std(axis=0).min() > 0.01
    paths = [data.path(i) for i in range(len(data))]
    predicted = Predictor(net[1])(paths)
    np.testing.assert_allclose(predicted, evaluated, rtol=0, atol=1e-5)
    np.testing.assert_allclose(predict_export(net[1], data).probs, predicted, rtol=0, atol=1e-6)
    # The law is not empty: it fails for images as they are stored.
    lying = [decode(path.read_bytes(), path, "s", upright=False) for path in paths]
    assert np.abs(Predictor(net[1])(lying) - evaluated)[1:].max() > 0.01


def test_evaluation_and_prediction_cut_the_same_boxes(trees, tmp_path, net):
    root = trees.copy("wider", tmp_path / "tree")
    paint(root)
    lay_down(root)
    shutil.rmtree(root / "Image" / "test")
    data = DATASETS.get("wider")(root, "trainval")
    images = workflow.find_images([root / "Image"])
    file = root / "Annotations" / "wider_attribute_trainval.json"
    images, boxes = workflow.match_boxes(images, workflow.read_boxes(file), file)
    paths = [image.path for image in images]
    records = workflow.predict_people(Predictor(net[1]), paths, boxes)
    predicted = [list(record["probabilities"].values()) for record in records]
    evaluated = Predictor(net[1])([data.read(i) for i in range(8)])
    np.testing.assert_allclose(predicted, evaluated, rtol=0, atol=1e-6)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_predictor_sees_files_bytes_and_pillow_images_alike(tmp_path, net, orientation):
    image, predictor = scene(), Predictor(net[1])
    data = encoded(stored(image, orientation), "PNG", orientation)
    (tmp_path / "x.png").write_bytes(data)
    pillow = Image.open(tmp_path / "x.png")
    forms = [tmp_path / "x.png", data, pillow, pillow.copy(), pillow.convert("RGBA"), image, pillow]
    np.testing.assert_array_equal(predictor(forms), predictor([image] * len(forms)))
    box = [3, 4, 10, 12]
    crops = predictor.predict(forms, [[box]] * len(forms))
    expected = predictor([crop_box(image, box)])[0]
    for record in crops:
        np.testing.assert_allclose(list(record["probabilities"].values()), expected, atol=1e-6)


def test_keypoints_are_looked_for_in_the_upright_image(tmp_path, caplog):
    image, seen = scene(), []

    def finder(people, batch_size, workers):
        seen.append((people.read(0), people.boxes.tolist(), people.scores.tolist()))
        return np.zeros((len(people), 17, 2)), np.ones((len(people), 17))

    (tmp_path / "x.png").write_bytes(encoded(stored(image, 6), "PNG", 6))
    images = workflow.find_images([tmp_path / "x.png"])
    list(find_in_files(finder, images))
    # The first and the third box show nothing of the upright image, but would of the stored one.
    boxes = [[[2, 30, 5, 5], [2, 3, 5, 6], [0, 24, 9, 9], [0.1, 0.2, 0.5, 0.5]]]
    scores = [[1.0, 0.5, 1.0, 0.25]]
    records = list(find_in_files(finder, images, boxes, scores, on_bad_image="skip"))
    for found, _, _ in seen:
        np.testing.assert_array_equal(found, image)
    assert seen[0][1] == [[0, 0, 40, 24]]
    np.testing.assert_allclose(seen[1][1], [[2, 3, 7, 9], [0.1, 0.2, 0.6, 0.7]], rtol=1e-6)
    assert seen[1][2] == [0.5, 0.25]
    errors = {tuple(record["box"]): record["error"] for record in records}
    assert "lies outside the image of 40x24 pixels" in errors[2, 30, 5, 5]
    assert errors[2, 3, 5, 6] is None and len(errors) == 4
    assert caplog.text.count("not fractions of the image") == 1
    refuses("x.png: box .* lies outside", by=lambda: list(find_in_files(finder, images, boxes)))
    nothing = list(find_in_files(finder, images, [[[50, 0, 5, 5]]], on_bad_image="skip"))
    assert len(nothing) == 1 and nothing[0]["error"] and len(seen) == 2
