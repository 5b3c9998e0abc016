"""Single-label data: rows that are never built, and every part of the data layer on them."""

from __future__ import annotations

import tracemalloc
import unicodedata

import mxnet as mx
import numpy as np
import pytest
from kinds_helpers import image, refuses

from gluon_attn.data import EvalTransform, Loader, detect_kind, open_dataset, pack, packing
from gluon_attn.data.base import ClassificationDataset, Known, OneHot, class_schema
from gluon_attn.data.images import BadImageError
from gluon_attn.data.protocol import official_split
from gluon_attn.data.synthetic.digits import draw_single as draw_scene
from gluon_attn.data.synthetic.digits import split_samples, write_digits_single
from gluon_attn.data.views import ChosenAttributes, altered
from gluon_attn.data.wider import GARMENTS
from gluon_attn.data.wider import choose_garments as choose
from gluon_attn.task import task_of

CLASSES = ("cat", "dog", "cow")


class Memory(ClassificationDataset):
    """Grey images, as light as their class number; some cannot be read."""

    def __init__(self, targets=(0, 1, 2, 1, 1, 0, 2), classes=CLASSES, bad=(), **options):
        ids = [f"{k}.jpg" for k in range(len(targets))]
        super().__init__(classes, "train", np.asarray(targets), ids, **options)
        self.bad = bad

    def read(self, i):
        if i in self.bad:
            raise BadImageError("file.jpg", self.sample_ids[i], "is bad")
        return np.full((40, 30, 3), 40 * self.targets[i], np.uint8)


@pytest.mark.parametrize(
    "key", [0, -1, 3, slice(1, 4), slice(None), np.array([4, 0, 4]), [2, 1], np.array([], int)]
)
def test_rows_are_those_of_the_matrix(key):
    targets = np.array([2, 0, 1, 1, 3])
    rows = OneHot(targets, 4, 1, 0, dtype=np.float32)
    matrix = np.eye(4, dtype=np.float32)[targets]
    np.testing.assert_array_equal(rows[key], matrix[key])
    assert rows[key].dtype == np.float32 and rows[key].flags.writeable
    np.testing.assert_array_equal(OneHot(targets, 4)[key], np.where(matrix, 1, -1)[key])
    np.testing.assert_array_equal(Known(rows.shape)[key], np.ones_like(matrix)[key])


def test_rows_as_a_matrix():
    rows = OneHot(np.array([1, 0]), 3)
    expected = [[-1, 1, -1], [1, -1, -1]]
    assert rows.shape == (2, 3) and len(rows) == 2 and rows.ndim == 2
    assert np.asarray(rows).tolist() == rows.copy().tolist() == [r.tolist() for r in rows]
    assert np.asarray(rows).tolist() == expected
    assert np.asarray(rows, np.float32).dtype == np.float32
    label, mask = rows.encode()
    assert label[:].tolist() == [[0, 1, 0], [1, 0, 0]] and mask[:].tolist() == [[1] * 3] * 2
    first = mask[0]
    first[:] = 0
    assert mask[0].all(), "a row is a copy"


@pytest.mark.parametrize("targets, message", [
    ([0, 3], "sample 1 has class number 3; valid are 0 to 2"),
    ([-1, 0], "sample 0 has class number -1"),
    ([0.0, 1.0], "whole numbers"),
    ([[0], [1]], "whole numbers"),
])  # fmt: skip
def test_impossible_class_numbers(targets, message):
    refuses(message, targets, by=Memory)


def test_repeated_class_names_get_their_number():
    assert class_schema(["crane", "hen", "crane"]).columns == (
        "class=crane (0)", "class=hen", "class=crane (2)",
    )  # fmt: skip
    with pytest.raises(ValueError):
        class_schema(["one"])


def test_fingerprint_depends_on_everything_and_on_nothing_else():
    one = Memory().fingerprint()
    assert one == Memory().fingerprint() == Memory(on_bad_image="skip").fingerprint()
    others = [Memory((0, 1, 2, 1, 1, 0, 1)), Memory(classes=("cat", "dog", "hen")),
              Memory((0, 1, 2, 1, 1, 0))]  # fmt: skip
    assert len({one, *(o.fingerprint() for o in others)}) == 4
    dataset = Memory()
    assert dataset.fingerprint(range(7)) == one != dataset.fingerprint([0, 1])
    assert dataset.fingerprint(np.arange(6)) == others[2].fingerprint()


def test_many_images_of_a_thousand_classes_take_little_memory():
    count = 100_000
    targets = np.arange(count) % 1000
    ids = ["x"] * count
    tracemalloc.start()
    dataset = ClassificationDataset([str(k) for k in range(1000)], "train", targets, ids)
    dataset.prior, dataset.counts(), dataset.fingerprint()
    dataset.label[12345], dataset.mask[5]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Built, the three matrices (raw, label, mask) would take 9 bytes an entry.
    assert peak < 0.2 * count * 1000


def test_a_run_tells_how_many_images_classes_have():
    dataset = Memory()
    assert task_of(dataset).describe(dataset) == "3 classes of 2 to 3 training images"


def test_packing_keeps_class_numbers_and_the_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "CHUNK", 3)
    source = Memory(bad=(1,))
    info = pack(source, tmp_path / "train", 32, train_size=28, workers=2, on_bad_image="skip",
                progress=False)  # fmt: skip
    assert info["targets"] == [0, 2, 1, 1, 0, 2] and "raw" not in info
    packed = open_dataset(tmp_path, "train")
    assert detect_kind(tmp_path) == "packed"
    assert packed.fingerprint() == source.fingerprint([0, 2, 3, 4, 5, 6]) == info["fingerprint"]
    assert packed.schema == source.schema and isinstance(packed.raw, OneHot)
    assert packed.raw.targets.tolist() == info["targets"]
    packed.verify()
    image, label, mask, _ = packed[1]
    assert abs(int(image.mean()) - 80) <= 1 and label.tolist() == [0, 0, 1] and mask.all()
    transform = EvalTransform(32, 28, 28)
    plain, windows = Loader(packed, transform, 6), Loader(packed, transform, 6)
    windows._windows = False
    np.testing.assert_allclose(
        next(iter(plain)).image.asnumpy(), next(iter(windows)).image.asnumpy(), atol=1e-5
    )
    read = mx.io.ImageRecordIter(
        path_imgrec=str(tmp_path / "train.rec"), data_shape=(3, 32, 32), batch_size=6, label_width=1
    )
    np.testing.assert_array_equal(next(read).label[0].asnumpy(), info["targets"])


def test_damaged_packs_are_found(tmp_path):
    pack(Memory(), tmp_path / "train", 32, train_size=28, progress=False)
    path = tmp_path / "train.json"
    text = path.read_text()
    path.write_text(text.replace('"targets":[0,1', '"targets":[1,1'))
    with pytest.raises(BadImageError, match="has other labels than the JSON"):
        open_dataset(tmp_path, "train").verify()
    path.write_text(text.replace('"targets":[0,1', '"targets":[9,1'))
    refuses("field 'targets': sample 0 has class number 9", tmp_path, "train")
    path.write_text(text.replace('"targets":[0,1,', '"targets":[0,'))
    refuses("6 label rows, 7 sample ids", tmp_path, "train")


def test_columns_cannot_be_chosen_from_one_attribute():
    dataset = Memory()
    same = ChosenAttributes(dataset, ["class"])
    assert same.raw is dataset.raw and same.fingerprint() == dataset.fingerprint()
    assert same.read(2).mean() == 80
    refuses("unknown attribute 'cat'", dataset, ["cat"], by=ChosenAttributes)


def test_official_splits():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 5, 300)
    training, test = np.arange(0, 200), np.arange(200, 300)
    parts = {s: official_split(s, {"trainval": training, "test": test}, targets) for s in
             ("train", "val", "trainval", "test")}  # fmt: skip
    np.testing.assert_array_equal(np.sort(np.r_[parts["train"], parts["val"]]), training)
    np.testing.assert_array_equal(parts["trainval"], training)
    np.testing.assert_array_equal(parts["test"], test)
    for k in range(5):  # a tenth of every class
        total = (targets[:200] == k).sum()
        assert (targets[parts["val"]] == k).sum() == round(0.1 * total)
    again = official_split("val", {"trainval": training, "test": test}, targets)
    np.testing.assert_array_equal(again, parts["val"])
    other = official_split("val", {"trainval": training, "test": test}, targets, seed=1)
    assert set(other) != set(again)
    refuses("holdout=1", "val", {"trainval": training, "test": test}, targets, 1, by=official_split)


def test_small_classes_keep_a_training_image():
    targets = np.array([0, 1, 1, 2, 2, 2])
    val = official_split("val", {"trainval": np.arange(6), "test": []}, targets, holdout=0.9)
    train = official_split("train", {"trainval": np.arange(6), "test": []}, targets, holdout=0.9)
    assert np.bincount(targets[train], minlength=3).tolist() == [1, 1, 1]
    assert np.bincount(targets[val], minlength=3).tolist() == [0, 1, 2]


@pytest.fixture
def folders(tmp_path):
    for k, name in enumerate(("b", "a", "c")):
        for number in range(3):
            image(tmp_path / "train" / name / f"{number}.PNG", 50 * k, (8, 9))
    image(tmp_path / "val" / "a" / "x.jpeg", 50, (8, 9))
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    return tmp_path


def test_folders(folders):
    assert detect_kind(folders) == "folders"
    train, val = open_dataset(folders, "train"), open_dataset(folders, "val")
    assert train.classes == val.classes == ("a", "b", "c")
    assert len(train) == 9 and train.targets.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert train.read(0).mean() == 50 and train.read(3).mean() == 0
    assert val.targets.tolist() == [0] and val.sample_ids == ["val/a/x.jpeg"]
    assert "train: 3 classes of 3 images each" in train.report.text()
    assert task_of(train).describe(train) == "3 classes of 3 training images each"
    few = altered(train, images_per_class=2)
    assert task_of(few).describe(few) == "3 classes of 2 training images each"
    (folders / "classes.txt").write_text("c\nb\na\n")
    assert open_dataset(folders, "val").targets.tolist() == [2]
    (folders / "classes.txt").write_text("c\nb\n")
    refuses("train/a is no class; known are c, b", folders, "train")
    (folders / "classes.txt").write_text("c\nc\n")
    refuses("'c' comes twice", folders, "train")
    refuses("test is missing", folders, "test", error=FileNotFoundError, kind="folders")


@pytest.mark.parametrize("name", ["validation", "valid", "Val", "Validation"])
def test_other_names_of_splits_are_taken_and_others_named(folders, name):
    before = open_dataset(folders, "val")
    (folders / "val").rename(folders / name)
    (folders / "train" / "a").parent.rename(folders / "training")
    (folders / "extra" / "a").mkdir(parents=True)
    (folders / "extra" / "a" / "x.jpeg").write_bytes(before.path(0).name.encode())
    val, train = open_dataset(folders, "val"), open_dataset(folders, "train")
    assert val.sample_ids == [f"{name}/a/x.jpeg"] and val.read(0).shape == (8, 9, 3)
    assert val.classes == train.classes == before.classes
    assert "not read: extra/ (--splits NAME" in train.report.text()
    assert open_dataset(folders, "extra").sample_ids == ["extra/a/x.jpeg"]


def test_of_two_names_of_a_split_the_filled_folder_is_read_and_the_other_named(folders, caplog):
    (folders / "validation").mkdir()
    val = open_dataset(folders, "val")
    told = f"{folders / 'validation'} is not read, it has no images; val/ is"
    assert val.sample_ids == ["val/a/x.jpeg"]
    assert told in val.report.text() and told in caplog.text
    (folders / "validation").rmdir()
    (folders / "val").rename(folders / "validation")
    (folders / "val").mkdir()
    val = open_dataset(folders, "val")
    assert val.sample_ids == ["validation/a/x.jpeg"]
    assert f"{folders / 'val'} is not read, it has no images; validation/ is" in val.report.text()
    image(folders / "val" / "a" / "y.jpeg", 50, (8, 9))
    val = open_dataset(folders, "val")
    assert val.sample_ids == ["val/a/y.jpeg"]
    assert f"{folders / 'validation'} is not read; val/ is" in val.report.text()


def test_a_class_in_two_forms_of_unicode_is_told(folders):
    for split, form in (("train", "NFC"), ("val", "NFD")):
        name = unicodedata.normalize(form, "K\u00e4tzchen")
        image(folders / split / name / "x.jpeg", 50, (8, 9))
    refuses("is no class; .* is written in two forms of Unicode: rename", folders, "val")


def test_a_split_under_another_name_is_missing_beside_what_is_there(folders):
    (folders / "val").rename(folders / "dev")
    told = "val is missing; .*val is val/ or valid/ or validation/; there is dev/, train/"
    refuses(told, folders, "val", error=FileNotFoundError)


def test_garments_are_exclusive():
    names = ["hat", "shorts", "skirt", "jeans", "longPants"]
    raw = np.array([
        [1, 1, -1, -1, -1],  # shorts
        [-1, -1, 1, -1, -1],  # skirt
        [1, -1, -1, 1, 1],  # jeans
        [0, -1, -1, 1, -1],  # jeans that end above the ankle
        [1, -1, -1, -1, 1],  # trousers
        [1, -1, -1, 0, 1],  # long, perhaps jeans: not said
        [1, 1, 1, -1, -1],  # two at once
        [1, -1, -1, -1, -1],  # none: a suit, or not to be seen
    ])  # fmt: skip
    chosen, targets = choose(raw, names)
    assert chosen.tolist() == [0, 1, 2, 3, 4]
    assert [GARMENTS[k] for k in targets] == ["shorts", "skirt", "jeans", "jeans", "trousers"]
    refuses("no attribute longPants", raw[:, :4], names[:4], by=choose)


def test_digit_scenes(tmp_path):
    images = {"train": 20, "val": 10, "test": 10}
    report = write_digits_single(tmp_path / "a", images, seed=3, progress=False, side=32)
    train, test = (open_dataset(tmp_path / "a", s) for s in ("train", "test"))
    assert detect_kind(tmp_path / "a") == "folders" and report["side"] == 32
    assert train.classes[:3] == ("zero", "one", "two") and train.read(0).shape == (32, 32, 3)
    assert train.class_counts.tolist() == [2] * 10 and test.class_counts.tolist() == [1] * 10
    assert train.report.ok and test.report.ok
    write_digits_single(tmp_path / "b", images, seed=3, progress=False, side=32)
    again = open_dataset(tmp_path / "b", "train")
    assert (again.read(5) == train.read(5)).all()
    with pytest.raises(FileExistsError, match="finished digits_single"):
        write_digits_single(tmp_path / "a", images, progress=False)
    for bad in ({"side": 8}, {"side": 256}, {"seed": -1}, {"images": {"train": 0}}):
        with pytest.raises(ValueError):
            write_digits_single(tmp_path / "c", progress=False, **bad)


def test_the_digit_is_where_it_is_said_and_of_its_class():
    samples = split_samples("train")
    images = {}
    for digit in (0, 1):  # all else equal, only the digit differs
        images[digit], place = draw_scene(np.random.default_rng(7), samples, digit)
    x, y, size = place
    apart = np.abs(images[0].astype(int) - images[1]).sum(2) > 60
    rows, columns = np.nonzero(apart)
    assert apart.sum() > 20
    assert np.abs(rows - y).max() < 0.9 * size and np.abs(columns - x).max() < 0.9 * size
