"""CIFAR-10 and CIFAR-100: both official versions, and pickles that must not be obeyed."""

from __future__ import annotations

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from formats.tiny import write_tiny
from formats.tiny_classes import python2_pickle
from kinds_helpers import refuses

from gluon_attn.data import detect_kind, open_dataset
from gluon_attn.data.cifar import CIFAR10, CIFAR100
from gluon_attn.data.safe_pickle import load_pickle

ARCHIVES = {form.folder: form.archive for form in CIFAR10 + CIFAR100}


def image(value):
    """An image whose red, green and blue planes and rows can be told apart."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = value, value + 1, value + 2
    image[0, 5] = 255, 0, 7
    return image


def planes(value):
    return np.concatenate([image(value)[..., c].ravel() for c in range(3)])


def write_cifar10(root, version, size=4):
    """Write five batches of ``size`` images; image n has value 4n and class n % 10."""
    folder = root / ("cifar-10-batches-py" if version == "python" else "cifar-10-batches-bin")
    folder.mkdir(parents=True)
    names = [f"name{k}" for k in range(10)]
    for batch in range(6):
        numbers = range(batch * size, (batch + 1) * size)
        pixels = np.stack([planes(4 * n) for n in numbers])
        targets = [n % 10 for n in numbers]
        name = "test_batch" if batch == 5 else f"data_batch_{batch + 1}"
        if version == "python":
            content = {"data": pixels, "labels": targets, "batch_label": "x", "filenames": ["y"]}
            (folder / name).write_bytes(python2_pickle(content))
        else:
            rows = b"".join(bytes([t]) + p.tobytes() for t, p in zip(targets, pixels))
            (folder / f"{name}.bin").write_bytes(rows)
    if version == "python":
        (folder / "batches.meta").write_bytes(python2_pickle({"label_names": names}))
    else:
        (folder / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    return folder


@pytest.mark.parametrize("version", ["python", "binary"])
def test_cifar10(tmp_path, version):
    folder = write_cifar10(tmp_path, version)
    for root in (tmp_path, folder):
        assert detect_kind(root) == "cifar10"
        trainval, test = open_dataset(root, "trainval"), open_dataset(root, "test")
        assert len(trainval) == 20 and len(test) == 4
        assert trainval.classes == tuple(f"name{k}" for k in range(10))
        np.testing.assert_array_equal(trainval.targets, np.arange(20) % 10)
        np.testing.assert_array_equal(test.targets, [0, 1, 2, 3])
        for k in (0, 7, 19):
            np.testing.assert_array_equal(trainval.read(k), image(4 * k))
        np.testing.assert_array_equal(test.read(3), image(4 * 23))
    assert "trainval: 20 images, published 50,000" in trainval.report.text()
    assert "published 10,000" in test.report.text()


def test_both_versions_are_the_same_data(tmp_path):
    for version in ("python", "binary"):
        write_cifar10(tmp_path / version, version)
    a, b = (open_dataset(tmp_path / v, "train") for v in ("python", "binary"))
    assert a.fingerprint() == b.fingerprint() and len(a) == 10
    assert all((a.read(k) == b.read(k)).all() for k in range(len(a)))
    val = open_dataset(tmp_path / "binary", "val")
    assert sorted(a.sample_ids + val.sample_ids) == [f"train/{k:05d}" for k in range(20)]
    assert (val.class_counts == 1).all()
    for dataset in (a, val):  # images stay with their labels through the choice
        for k in range(len(dataset)):
            number = int(dataset.sample_ids[k][-5:])
            assert dataset.targets[k] == number % 10
            np.testing.assert_array_equal(dataset.read(k), image(4 * number))


@pytest.mark.parametrize("version", ["python", "binary"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_archives_are_read_as_their_folders(tmp_path, name, version):
    write_tiny(name, tmp_path / "tree", version=version)
    train = open_dataset(tmp_path / "tree", "train")
    (folder,) = [p for p in (tmp_path / "tree").iterdir() if p.is_dir()]
    archive = tmp_path / "packed" / ARCHIVES[folder.name]
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    assert detect_kind(archive.parent) == detect_kind(tmp_path / "tree") == name
    again = open_dataset(archive.parent, "train")
    assert again.fingerprint() == train.fingerprint()
    np.testing.assert_array_equal(again.read(3), train.read(3))


@pytest.mark.parametrize("version", ["python", "binary"])
def test_superclasses(tmp_path, version):
    write_tiny("cifar100", tmp_path, version=version)
    fine = open_dataset(tmp_path, "trainval")
    coarse = open_dataset(tmp_path, "trainval", coarse=True)
    assert len(coarse.classes) == 20 and coarse.classes[3] == "super_03"
    np.testing.assert_array_equal(coarse.targets, fine.targets // 5)


def test_damaged_files_are_named(tmp_path):
    folder = write_cifar10(tmp_path / "binary", "binary")
    path = folder / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-5])
    refuses(r"data_batch_2.bin: .* not a multiple of 3073", tmp_path / "binary", "train")
    path.write_bytes(b"\x0b" + bytes(3072))
    refuses("data_batch_2.bin: image 0 has class 11", tmp_path / "binary", "train")
    path.unlink()
    refuses(r"data_batch_2\.bin", tmp_path / "binary", "train", error=FileNotFoundError)
    (folder / "batches.meta.txt").write_text("only\ntwo\n")
    refuses("2 class names, not 10", tmp_path / "binary", "test")
    folder = write_cifar10(tmp_path / "python", "python")
    path = folder / "test_batch"
    good = path.read_bytes()
    for cut in (0, 1, 50, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:cut])
        refuses("test_batch: damaged or no pickle", tmp_path / "python", "test")
    for content, message in (
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "as many 'labels'"),
        ({"data": np.zeros((1, 3071), np.uint8), "labels": [1]}, r"needs 'data' \(N, 3072\)"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, "image 0 has class 10"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": ["a"]}, "must be whole numbers"),
        ({"data": np.zeros((1, 3072), np.uint8), "fine_labels": [1]}, "keys data, fine_labels"),
        ([1, 2], "found the keys \\(none\\)"),
    ):
        path.write_bytes(python2_pickle(content))
        refuses(message, tmp_path / "python", "test")
    with pytest.raises(FileNotFoundError, match="meta is missing; looked for cifar-100-python"):
        open_dataset(tmp_path / "python" / "cifar-10-batches-py", "train", kind="cifar100")
    with pytest.raises(ValueError, match="holds several that fit: .*binary, .*python; give the"):
        open_dataset(tmp_path, "train", kind="cifar10")
    archive = tmp_path / "archive" / "cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(b"no archive")
    refuses("no tar archive", archive.parent, "train", kind="cifar10")


class Evil:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [os.system, os.mkdir, eval, __import__, io.open, getattr,
                                      np.load, np.fromfile])  # fmt: skip
def test_nothing_is_executed(tmp_path, protocol, function):
    target = str(tmp_path / "made")
    data = pickle.dumps({"data": [Evil(function, target)]}, protocol)
    refuses("refused, the pickle asks for .*nothing was executed", data, "file", by=load_pickle)
    assert not os.path.exists(target)


def test_known_names_do_no_harm_either():
    for module, name in (("numpy", "dtype.__init__"), ("numpy", "load"), ("os", "_reconstruct")):
        data = f"c{module}\n{name}\n.".encode()
        refuses("asks for", data, "file", by=load_pickle)
    refuses("refers to objects outside", b"Pother\n.", "file", by=load_pickle)
    loop = []
    loop.append(loop)
    refuses("damaged", pickle.dumps(loop, 2), "file", by=load_pickle)
    refuses("not of bytes", pickle.dumps(np.zeros(3), 2), "file", by=load_pickle)
    with pytest.raises(ValueError, match="not of bytes|malformed"):
        load_pickle(pickle.dumps(np.array([Evil(eval, "1")][:0], object), 2), "file")


@pytest.mark.parametrize(
    "program",
    [
        b"]r\xff\xff\xff\x3f",  # the place in a memo that this names took 16 GB
        b"})" + b"\x85" * 300_000 + b"K\x01s",  # the hash of this key ended the process
        b"](}" + b")" + b"\x85" * 300_000 + b"K\x01ue",
        b"]q\0" + b"".join(b"]q%c(h%ch%ce" % (k, k - 1, k - 1) for k in range(1, 60)),
        b"(]" + b")" * 99 + b"\x91",
        b"B\xff\xff\xff\x7fabc",
        b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    ],
    ids=["memo", "key", "keys", "laughs", "set", "length", "frame"],
)
def test_pickles_that_would_fill_the_memory_or_end_the_process(program):
    try:
        found = load_pickle(b"\x80\x04" + program + b".", "file")
    except ValueError as error:
        assert str(error).startswith("file: damaged or no pickle")
    else:
        assert found == []


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_and_texts_of_either_python(order):
    array = np.asarray(np.arange(12, dtype=np.uint8).reshape(3, 4), order=order)
    value = {"data": array, "labels": [1, 2], b"name": b"caf\xe9"}
    for data in (pickle.dumps(value, 2), python2_pickle(value)):
        found = load_pickle(data, "file")
        np.testing.assert_array_equal(found["data"], array)
        assert found["labels"] == [1, 2] and found["name"] == "café"
    assert b"\x8c" not in python2_pickle(value) and b"X\x04" not in python2_pickle(value)
