"""Predictor: the evaluation's numbers from images, however they are given."""

from __future__ import annotations

import functools
import io
import logging
import threading

import cv2
import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon
from mxnet.gluon import nn
from PIL import Image
from process_helpers import at_once, wait_for

from gluon_attn.core.schema import Attribute, Schema
from gluon_attn.data.transforms import EvalTransform
from gluon_attn.export import Predictor, export_model, sidecar
from gluon_attn.export.backends import MXNetBackend
from gluon_attn.export.images import Preprocess, read_image
from gluon_attn.tasks.images import format_table

CLASSES = ("hat", "bag", "skirt")
MEAN, STD = (123.68, 116.779, 103.939), (58.393, 57.12, 57.375)


class Net(gluon.HybridBlock):
    """Logits and one attention map; small, but every pixel counts."""

    output_names = ("logits", "attention_stem")
    attention_outputs = ("attention_stem",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.stem = nn.HybridSequential()
            self.stem.add(nn.Conv2D(8, 3, strides=2, padding=1), nn.BatchNorm())
            self.score = nn.Conv2D(len(CLASSES), 1)
            self.head = nn.Dense(len(CLASSES))

    def hybrid_forward(self, F, x):
        score = self.score(self.stem(x))
        flat = F.softmax(F.reshape(score, shape=(0, 0, -1)), axis=-1)
        attention = F.reshape_like(flat, score)
        return self.head(F.broadcast_mul(attention, score)), attention


def export(directory, size=24, resize=32, crop=28, classes=CLASSES, **options):
    mx.random.seed(3)
    net = Net()
    net.initialize(mx.init.Xavier(magnitude=6))
    preprocess = {"mean": MEAN, "std": STD, "resize": resize, "crop": crop}
    export_model(net, directory, "tiny", classes, size, preprocess, check=False, **options)
    return net


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("predictor") / "x"
    return export(directory, with_maps=True), directory


@pytest.fixture(scope="module")
def predictor(made):
    return Predictor(made[1], batch_size=4)


def make_image(number, height=40, width=30):
    image = np.random.RandomState(number).randint(0, 256, (height, width, 3)).astype(np.uint8)
    return cv2.blur(image, (3, 3))


def make_images():
    return [make_image(number, 40 + number, 30 + 2 * number) for number in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten PNG files of different sizes, and half a JPEG."""
    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(make_images()):
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    data = cv2.imencode(".jpg", make_image(0, 200, 200))[1].tobytes()
    (folder / "half.jpg").write_bytes(data[: len(data) // 2])
    return folder


@pytest.fixture(scope="module")
def paths(folder):
    return [folder / f"{number}.png" for number in range(10)]


def reference(net, images):
    """Evaluate without an export: the evaluation's transform, the net itself, a NumPy sigmoid."""
    transform = EvalTransform(resize=32, crop=28, size=24, mean=MEAN, std=STD)
    logits, attention = net(mx.nd.array(np.stack([transform(image) for image in images])))
    return 1 / (1 + np.exp(-logits.asnumpy().astype(np.float64))), attention.asnumpy()


# --- pre-processing -----------------------------------------------------------------------------


@pytest.mark.parametrize("resize, crop, size", [(32, 28, 24), (24, None, 24), (20, 16, 33)])
@pytest.mark.parametrize("shape", [(97, 41), (12, 90), (32, 32), (9, 5)])
def test_pixels_equal_the_evaluation_transform_to_the_bit(resize, crop, size, shape):
    given = {"mean": MEAN, "std": STD, "resize": resize, "crop": crop}
    ours = Preprocess(sidecar.input_entry(size, given))(make_image(5, *shape))
    theirs = EvalTransform(resize=resize, crop=crop, size=size, mean=MEAN, std=STD)(
        make_image(5, *shape)
    )
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs)


def test_visible_part_is_what_the_centre_crop_leaves():
    image = make_image(0, 320, 160)
    entry = sidecar.input_entry(24, {"mean": MEAN, "std": STD, "resize": 32, "crop": 16})
    np.testing.assert_array_equal(Preprocess(entry).visible(image), image[80:240, 40:120])
    entry = sidecar.input_entry(24, {"mean": MEAN, "std": STD})
    assert Preprocess(entry).visible(image) is image


# --- the same numbers, however the images are given ---------------------------------------------


def test_files_give_the_evaluations_probabilities(made, predictor, paths):
    expected, attention = reference(made[0], make_images())
    assert expected.std(axis=0).min() > 1e-3  # the images do make a difference
    probabilities = predictor(paths)
    assert probabilities.shape == (10, 3) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-5)
    maps = predictor.attention(paths)
    assert list(maps) == ["attention_stem"]
    np.testing.assert_allclose(maps["attention_stem"], attention, rtol=0, atol=1e-5)


def test_every_way_of_giving_images(predictor, paths):
    expected = predictor(paths)
    arrays = [read_image(path) for path in paths]
    np.testing.assert_array_equal(predictor([str(path) for path in paths]), expected)
    np.testing.assert_array_equal(predictor(arrays), expected)
    np.testing.assert_array_equal(predictor(iter(arrays)), expected)
    prepared = np.stack([predictor.preprocess(image) for image in arrays])
    np.testing.assert_array_equal(predictor(prepared), expected)
    np.testing.assert_array_equal(predictor(mx.nd.array(prepared)), expected)
    np.testing.assert_allclose(predictor(paths[3]), expected[3:4], rtol=0, atol=1e-6)
    same = np.stack([make_image(n) for n in range(3)])
    np.testing.assert_array_equal(predictor(same), predictor(list(same)))
    assert predictor([]).shape == (0, 3)
    assert predictor.attention([])["attention_stem"].shape == (0, 3, 12, 12)


@pytest.mark.parametrize(
    "count, rows", [(1, [1]), (2, [2]), (3, [4]), (4, [4]), (5, [4, 4]), (9, [4, 4, 4])]
)
def test_batches_have_few_shapes_and_do_not_matter(made, paths, count, rows, monkeypatch):
    other, seen = Predictor(made[1], batch_size=4), []
    run = other._backend.run
    monkeypatch.setattr(other._backend, "run", lambda x: seen.append(len(x)) or run(x))
    expected = Predictor(made[1], batch_size=64)(paths)[:count]
    np.testing.assert_allclose(other(paths[:count]), expected, rtol=0, atol=1e-6)
    assert seen == rows


@pytest.mark.parametrize(
    "warmup, rows", [((), []), (1, [1]), ([1, 3], [1, 4]), ((2, 64), [2, 4]), (4, [4])]
)
def test_warm_up_runs_the_shapes_that_will_come(made, monkeypatch, warmup, rows):
    seen, run = [], MXNetBackend.run

    def spy(self, batch):
        seen.append((batch.shape[0], float(np.abs(batch).max())))
        return run(self, batch)

    monkeypatch.setattr(MXNetBackend, "run", spy)
    predictor = Predictor(made[1], batch_size=4, warmup=warmup)
    assert seen == [(count, 0.0) for count in rows]
    assert predictor([make_image(1)]).shape == (1, 3)


class WatchedLock:
    """A lock that counts who has asked for it."""

    def __init__(self):
        self.lock, self.asked = threading.Lock(), []

    def __enter__(self):
        self.asked.append(threading.get_ident())
        self.lock.acquire()

    def __exit__(self, *_):
        self.lock.release()


def test_the_network_never_runs_twice_at_once(made, paths, monkeypatch):
    predictor, running, most = Predictor(made[1], batch_size=4), [], []
    block, lock = predictor._backend._block, WatchedLock()

    def run_when_all_have_come(x):
        running.append(x)
        wait_for(lambda: len(set(lock.asked)) >= 6 or len(running) >= 6, "all callers")
        most.append(len(running))
        out = block(x)
        running.pop()
        return out

    monkeypatch.setattr(predictor._backend, "_block", run_when_all_have_come)
    monkeypatch.setattr(predictor._backend, "_lock", lock)
    at_once(*[functools.partial(predictor, paths[:3])] * 6)
    assert most == [1] * 6


# --- records ------------------------------------------------------------------------------------


def test_records_of_boxes(predictor, paths):
    boxes = [[[2, 3, 10, 20], [-5, 0, 12.5, 99]], [], None, np.array([[0, 0, 30, 30]])]
    records = predictor.predict(paths[:4], boxes)
    assert [(r["image"], r["box"]) for r in records] == [
        (str(paths[0]), [2, 3, 10, 20]),
        (str(paths[0]), [-5, 0, 12.5, 99]),
        (str(paths[2]), None),
        (str(paths[3]), [0, 0, 30, 30]),
    ]
    image = read_image(paths[0])
    expected = predictor(
        [image[3:23, 2:12], image[:, :8], paths[2], read_image(paths[3])[:30, :30]]
    )
    actual = [[r["probabilities"][name] for name in CLASSES] for r in records]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-7)
    by_path = predictor.predict(
        paths[:4], {paths[0]: boxes[0], str(paths[1]): [], paths[3]: boxes[3]}
    )
    assert by_path == records


def test_positives_follow_the_thresholds(made, paths):
    predictor = Predictor(made[1])
    record = predictor.predict(paths[:1])[0]
    value = record["probabilities"]["bag"]
    predictor.set_thresholds([1.0, value, 1.0])
    assert predictor.predict(paths[:1])[0]["positives"] == ["bag"]  # at the threshold counts
    predictor.set_thresholds(0)
    assert predictor.predict(paths[:1])[0]["positives"] == list(CLASSES)
    with pytest.raises(ValueError, match="2 thresholds for 3 classes"):
        predictor.set_thresholds([0.1, 0.2])


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name, error", [("half.jpg", ValueError), ("no.jpg", FileNotFoundError)])
def test_bad_image_is_an_error_that_names_it(predictor, paths, folder, name, error):
    with pytest.raises(error, match=name):
        predictor([*paths[:2], folder / name, *paths[2:]])


def test_skipped_images_keep_their_row(predictor, paths, folder, caplog):
    mixed = [paths[0], folder / "half.jpg", paths[1], folder / "no.jpg"]
    with caplog.at_level(logging.WARNING):
        probabilities = predictor(mixed, on_bad_image="skip")
    assert np.isnan(probabilities[[1, 3]]).all()
    np.testing.assert_allclose(probabilities[[0, 2]], predictor(paths[:2]), atol=1e-6)
    assert "half.jpg" in caplog.text and "no.jpg" in caplog.text
    records = predictor.predict(mixed, on_bad_image="skip")
    assert [bool(r["error"]) for r in records] == [False, True, False, True]
    assert records[1]["probabilities"] == {} and records[1]["positives"] == []


def test_bad_boxes_name_the_image(predictor, paths, folder):
    for box in ([500, 0, 5, 5], [0, 0, 0, 5], [0, 0, 5], [0, 0, float("nan"), 5]):
        with pytest.raises(ValueError, match=r"0\.png.*box"):
            predictor.predict(paths[:1], [[box]])
    records = predictor.predict(paths[:1], [[[500, 0, 5, 5], [0, 0, 5, 5]]], on_bad_image="skip")
    assert [bool(r["error"]) for r in records] == [True, False]
    with pytest.raises(ValueError, match="1 lists of boxes for 2 images"):
        predictor.predict(paths[:2], [[]])
    with pytest.raises(ValueError, match="boxes for other.jpg"):
        predictor.predict(paths[:2], {"other.jpg": []})
    for wrong in ([[1, 2, 3, 4]], [5], ["1,2,3,4"], [["1,2,3,4"]], [np.arange(4)]):
        with pytest.raises(ValueError, match=r"0\.png: boxes are .*give a list of boxes for each"):
            predictor.predict(paths[:1], wrong)
    with pytest.raises(ValueError, match="boxes are 5: give a list of boxes per image"):
        predictor.predict(paths[:1], 5)
    with pytest.raises(ValueError, match="boxes are 'b.json': give lists"):
        predictor.predict(paths[:1], "b.json")


def test_boxes_in_fractions_are_doubted_once(predictor, paths, caplog):
    with caplog.at_level(logging.WARNING):
        predictor.predict(paths[:2], [[[0, 0, 9, 0.5]], [[5, 5, 1.5, 1]]])
        assert not caplog.text
        records = predictor.predict(paths[:2], [[[0.1, 0.2, 0.5, 0.5]], [[0, 0, 1, 1]]])
    assert [record["error"] for record in records] == [None, None]
    assert caplog.text.count("pixels, not fractions of the image") == 1
    assert "0.png: box [0.1, 0.2, 0.5, 0.5]" in caplog.text


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((2, 3, 24, 25), np.float32), r"float32 input of shape \(3, 24, 25\)"),
        (np.zeros((2, 24, 24, 3), np.float32), r"must be normalised RGB \(3, 24, 24\)"),
        (np.zeros((2, 3, 24, 24), np.uint8), r"0: uint8 .*channels .* image.transpose\(1, 2, 0\)"),
        (np.zeros((2, 24, 24, 4), np.uint8), r"0: uint8 array \(24, 24, 4\): .*image\[..., :3\]"),
        (np.zeros((2, 3, 24, 24), np.float64), "0: float64 array .*transpose.*255"),
        (np.zeros((24, 24), np.uint8), r"0: uint8 array \(24, 24\): .*np.dstack\(\[image\] \* 3\)"),
        (np.zeros((24, 24, 2), np.uint8), r"np.dstack\(\[image\[..., 0\]\] \* 3\)"),
        (np.zeros((3, 24, 24), np.uint8), r"uint8 array \(3, 24, 24\): give uint8 RGB \(h, w, 3\)"),
        ([np.zeros((2, 24, 24, 3), np.uint8)], "0: .*a batch is given as it is, not in a list"),
        ([np.zeros((24, 24, 3), np.float32)], r"must be normalised RGB \(3, 24, 24\).*\* 255"),
        ([np.full((24, 24, 3), 7, np.float32)], r"0 to 255: image.astype\('uint8'\)"),
        ([np.zeros((24, 24, 3))], r"0: float64 array .*\(image \* 255\).round\(\)"),
        ([np.zeros((24, 24, 3), bool)], r"0: bool array .*\(image \* 255\)"),
        ([np.zeros((24, 24, 3), np.uint16)], r"0: uint16 array .*\(image >> 8\)"),
        ([np.zeros((24, 24, 3), int)], r"0: int64 array .*image.astype\('uint8'\)"),
        ([np.zeros((0, 24, 3), np.uint8)], r"0: uint8 array \(0, 24, 3\): .*is empty"),
        ([np.zeros((0, 24, 3), np.float32)], r"float32 input of shape \(0, 24, 3\)"),
        ([make_image(1), np.zeros(5, np.uint8)], r"image 1: uint8 array \(5,\)"),
        (np.array(None), r"0: object array \(\)"),
    ],
)  # fmt: skip
def test_wrong_arrays(predictor, images, message):
    with pytest.raises(ValueError, match=message):
        predictor(images)


@pytest.mark.parametrize(
    "images, message",
    [
        ([make_image(1), None], "image 1: None is no image: give a path, the bytes of a file"),
        (None, "images are None: give a list of paths, bytes, PIL images or uint8 RGB arrays"),
        (5, "images are of type int: give a list"),
        ([5], "image 0: int is no image"), ([[make_image(1)]], "image 0: list is no image"),
        ([b"GIF89a" + bytes(20)], "image 0: is a GIF"),
        (io.BytesIO(b"x"), r"image 0: is an open file: .*file.read\(\)"),
        (["no.jpg"], "no.jpg: does not exist in "),
    ],
)  # fmt: skip
def test_what_is_no_image_is_named_by_position_or_path(predictor, images, message):
    with pytest.raises(ValueError, match=message):
        predictor(images)


def test_images_of_any_kind(predictor, paths):
    expected = predictor(paths[:3])
    files = [path.read_bytes() for path in paths[:3]]
    opened = [Image.open(path) for path in paths[:3]]
    for same in (files, opened, [bytearray(files[0]), memoryview(files[1]), mx.nd.array(
        read_image(paths[2]), dtype="uint8")], np.array([str(path) for path in paths[:3]]),
        {path: None for path in paths[:3]}):  # fmt: skip
        np.testing.assert_array_equal(predictor(same), expected)
    for one in (files[0], opened[0], Image.open(paths[0]).convert("RGBA")):
        np.testing.assert_allclose(predictor(one), expected[:1], rtol=0, atol=1e-6)
    many = [opened[0]] * 20  # one object for all threads
    np.testing.assert_allclose(predictor(many), np.repeat(expected[:1], 20, 0), rtol=0, atol=1e-6)
    assert [r["image"] for r in predictor.predict([files[0], paths[1], opened[2]])] == [
        0, str(paths[1]), 2
    ]  # fmt: skip
    boxes = {0: [[1, 2, 9, 9]], paths[1]: [[1, 2, 9, 9], [0, 0, 5, 5]]}
    records = predictor.predict([files[0], paths[1], opened[2]], boxes)
    assert [(r["image"], r["box"]) for r in records] == [
        (0, [1, 2, 9, 9]), (str(paths[1]), [1, 2, 9, 9]), (str(paths[1]), [0, 0, 5, 5]), (2, None)
    ]  # fmt: skip


def test_records_come_while_images_are_still_read(predictor, paths):
    maps = predictor.attention(paths[:2])["attention_stem"]
    for record, values in zip(predictor.stream(paths[:2], with_maps=True), maps):
        np.testing.assert_array_equal(record["attention"]["attention_stem"], values)
    records = predictor.stream([*paths, "no.jpg"])
    assert next(records)["image"] == str(paths[0])
    with pytest.raises(FileNotFoundError, match="no.jpg"):
        list(records)
    assert list(predictor.stream(paths)) == predictor.predict(paths)


def test_softmax_and_an_export_without_maps(tmp_path, paths):
    export(tmp_path / "x", activation="softmax")
    predictor = Predictor(tmp_path / "x")
    np.testing.assert_allclose(predictor(paths).sum(axis=1), 1, atol=1e-6)
    with pytest.raises(ValueError, match="no attention maps.*--with-maps"):
        predictor.attention(paths)
    with pytest.raises(ValueError, match="--with-maps"):
        predictor.predict(paths, with_maps=True)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"backend": "coreml"}, "backend 'coreml': valid are mxnet, .*openvino, auto, fastest"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"threads": -1}, "threads -1"),
        ({"threads": 1.5}, "threads 1.5: valid are whole numbers from 1"),
        ({"warmup": 0}, "warmup 0"),
        ({"warmup": [1, "many"]}, "warmup 'many'"),
        ({"ctx": "gpu:99"}, "gpu:99"),
    ],
)
def test_wrong_options(made, options, message):
    with pytest.raises(ValueError, match=message):
        Predictor(made[1], **options)
    with pytest.raises(ValueError, match="valid are error, skip"):
        Predictor(made[1])([], on_bad_image="ignore")


# --- attributes with several classes -------------------------------------------------------------

COLOURED = Schema([Attribute("hat"), Attribute("upper", "multiclass", ("red", "blue"))])


def test_of_a_multiclass_attribute_the_most_probable_class_is_predicted(tmp_path):
    export(tmp_path / "x", classes=COLOURED.columns, schema=COLOURED, thresholds=0.999)
    predictor = Predictor(tmp_path / "x")
    assert predictor.schema == COLOURED
    records = predictor.predict(
        list(np.random.default_rng(0).integers(0, 256, (6, 40, 30, 3), np.uint8))
    )
    for record in records:
        values = record["probabilities"]
        red = values["upper=red"] > values["upper=blue"]
        assert record["attributes"] == {"hat": False, "upper": "red" if red else "blue"}
        assert record["positives"] == ["upper=red" if red else "upper=blue"]
    assert {record["attributes"]["upper"] for record in records} == {"red", "blue"}
    named = [dict(record, image="a.jpg") for record in records]
    assert "the most probable" in format_table(named, predictor.classes)


def test_exports_from_before_the_schema_are_of_binary_attributes(tmp_path):
    export(tmp_path / "x")
    contents = sidecar.read_sidecar(tmp_path / "x")
    del contents["schema"]
    sidecar.write_sidecar(tmp_path / "x", contents)
    predictor = Predictor(tmp_path / "x")
    assert predictor.schema == Schema.binary(CLASSES)
    assert "attributes" not in predictor.predict(np.zeros((1, 40, 30, 3), np.uint8))[0]


def test_a_schema_of_other_columns_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the schema has the columns hat, upper=red, upper=blue"):
        export(tmp_path / "x", schema=COLOURED)
    assert not (tmp_path / "x").exists()
