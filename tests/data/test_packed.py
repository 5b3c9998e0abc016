"""RecordIO: what is packed comes back, whatever happens in between."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import pytest
from kinds_helpers import refuses
from process_helpers import run_python

from gluon_attn.core.batch import LabelPolicy
from gluon_attn.core.schema import Attribute, Schema
from gluon_attn.data import AttributeDataset, BadImageError, images, open_dataset, pack, packing
from gluon_attn.data.images import NoOverlapError


class Memory(AttributeDataset):
    """Images made from their number; some raise."""

    def __init__(self, count=10, bad=None, seed=0, split="train", names=None, **options):
        raw = np.random.default_rng(seed).integers(-1, 2, (count, 3))
        ids = [f"{split}/é{i}.jpg" for i in range(count)]
        super().__init__(names or ("hat", "bag", "ärmel"), split, raw, ids, **options)
        self.bad = bad or {}

    def read(self, i):
        if i in self.bad:
            raise self.bad[i]("file.jpg", self.sample_ids[i], "is bad")
        random = np.random.default_rng(i)
        coarse = random.integers(0, 256, (6, 5, 3), np.uint8)
        return cv2.resize(coarse, (50 + i, 70), interpolation=cv2.INTER_CUBIC)


SIZES = {"size": 64, "train_size": 56, "workers": 2, "progress": False}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(packing, "CHUNK", 3)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_round_trip(tmp_path):
    source = Memory()
    info = pack(source, tmp_path / "train", **SIZES)
    packed = open_dataset(tmp_path, "train")
    assert sorted(files(tmp_path)) == ["train.idx", "train.json", "train.rec"]
    assert (packed.names, packed.sample_ids) == (source.names, source.sample_ids)
    np.testing.assert_array_equal(packed.raw, source.raw)
    assert packed.fingerprint() == source.fingerprint() == info["fingerprint"]
    for i in range(len(source)):
        expected = cv2.resize(source.read(i), (64, 64), interpolation=cv2.INTER_AREA)
        if source.read(i).shape[1] < 64:
            expected = cv2.resize(source.read(i), (64, 64))
        image, label, mask, index = packed[i]
        assert image.shape == (64, 64, 3) and index == i
        assert np.abs(image.astype(int) - expected).mean() < 2
        np.testing.assert_array_equal(label, source.raw[i] == 1)
    packed.verify()
    masked = open_dataset(tmp_path, "train", LabelPolicy(train="masked"))
    np.testing.assert_array_equal(masked.mask, source.raw != 0)


PEOPLE = Schema([Attribute("top", "multiclass", ("red", "blue"), "clothes"), Attribute("hat")])


def test_a_schema_survives_packing(tmp_path):
    source = Memory(names=PEOPLE.columns, schema=PEOPLE)
    assert repr(source) == "Memory(split='train', samples=10, attributes=2, columns=3)"
    pack(source, tmp_path / "train", **SIZES)
    packed = open_dataset(tmp_path, "train")
    assert packed.schema == PEOPLE and packed.schema.attributes[0].group == "clothes"
    assert packed.names == ("top=red", "top=blue", "hat")
    assert packed.fingerprint() == source.fingerprint()
    flat = Memory(names=PEOPLE.columns)
    assert flat.schema.is_binary and flat.fingerprint() != source.fingerprint()
    with pytest.raises(FileExistsError):
        pack(flat, tmp_path / "train", **SIZES)


def test_packs_without_a_schema_and_with_a_wrong_one(tmp_path):
    pack(Memory(names=PEOPLE.columns, schema=PEOPLE), tmp_path / "train", **SIZES)
    path = tmp_path / "train.json"
    info = json.loads(path.read_text())
    for wrong, message in (
        ([{"name": "top"}], "field 'schema': not an attribute schema"),
        (Schema.binary(["a", "b", "c"]).to_json(), "field 'schema' has other columns than 'names'"),
    ):
        path.write_text(json.dumps(dict(info, schema=wrong)))
        refuses(f"train.json: {message}", tmp_path, "train")
    del info["schema"]  # as packed by earlier versions
    path.write_text(json.dumps(info))
    assert open_dataset(tmp_path, "train").schema == Schema.binary(PEOPLE.columns)


def test_fingerprint_of_binary_attributes_is_that_of_earlier_versions():
    source = Memory(4)
    text = json.dumps([["hat", "bag", "ärmel"], source.sample_ids], separators=(",", ":"))
    digest = hashlib.sha256(text.encode() + source.raw.astype(np.int8).tobytes()).hexdigest()
    assert source.fingerprint() == digest
    grouped = Schema(Attribute(name, group="g") for name in source.names)
    assert Memory(4, schema=grouped).fingerprint() == digest
    refuses("schema has the columns top=red.*data set has hat", 4, by=Memory, schema=PEOPLE)


def test_a_record_stands_alone_for_mxnet(tmp_path):
    source = Memory()
    pack(source, tmp_path / "train", **SIZES)
    paths = [str(tmp_path / f"train.{kind}") for kind in ("idx", "rec")]
    reader = mx.recordio.MXIndexedRecordIO(*paths, "r")
    for i in range(len(source)):
        header, image = mx.recordio.unpack_img(reader.read_idx(i))
        assert header.id == i and image.shape == (64, 64, 3)
        np.testing.assert_array_equal(header.label[:3], source.raw[i] == 1)
        np.testing.assert_array_equal(header.label[3:], source.raw[i] != 0)
    iterator = mx.io.ImageRecordIter(
        path_imgrec=paths[1], data_shape=(3, 64, 64), label_width=6, batch_size=5
    )
    labels = np.concatenate([batch.label[0].asnumpy() for batch in iterator])
    np.testing.assert_array_equal(labels, np.hstack([source.raw == 1, source.raw != 0]))


def test_interrupted_packing_continues_to_the_same_bytes(tmp_path):
    pack(Memory(), tmp_path / "whole" / "train", **SIZES)
    broken = Memory(bad={7: BadImageError})
    with pytest.raises(BadImageError, match="file.jpg: is bad"):
        pack(broken, tmp_path / "part" / "train", **{**SIZES, "workers": 1})
    parts = tmp_path / "part" / "train.rec.parts"
    done = {path.stem for path in parts.glob("*.json")}
    assert {"00000", "00001"} <= done and "00002" not in done
    refuses("'train' is unfinished.*continues", tmp_path / "part", "train", error=FileNotFoundError)
    (parts / "00001.rec").write_bytes(b"half")  # as if killed between two files
    (parts / ".00002.rec.x").write_bytes(b"rest of a killed process")
    seen = []
    whole = Memory()
    read = whole.read
    whole.read = lambda i: seen.append(i) or read(i)
    pack(whole, tmp_path / "part" / "train", **{**SIZES, "workers": 3})
    missing = list(range(3, 9 if "00003" in done else 10))
    assert sorted(seen) == missing, "finished chunks are not made again"
    assert files(tmp_path / "part") == files(tmp_path / "whole")


def test_killed_while_joining_continues(tmp_path, monkeypatch):
    pack(Memory(), tmp_path / "whole" / "train", **SIZES)
    with monkeypatch.context() as patch:
        patch.setattr(packing, "OneHot", None)  # .rec and .idx exist, no .json
        with pytest.raises(TypeError):
            pack(Memory(), tmp_path / "part" / "train", **SIZES)
    refuses("unfinished", tmp_path / "part", "train", error=FileNotFoundError)
    pack(Memory(), tmp_path / "part" / "train", **SIZES)
    assert files(tmp_path / "part") == files(tmp_path / "whole")


def test_nothing_is_overwritten_silently(tmp_path):
    pack(Memory(), tmp_path / "train", **SIZES)
    before = files(tmp_path)
    with pytest.raises(FileExistsError, match="train.json exists; overwrite"):
        pack(Memory(seed=1), tmp_path / "train", **SIZES)
    broken = Memory(seed=1, bad={4: BadImageError})
    with pytest.raises(BadImageError):
        pack(broken, tmp_path / "train", overwrite=True, **SIZES)
    assert {k: v for k, v in files_only(tmp_path).items()} == before, "old files until the end"
    with pytest.raises(FileExistsError):
        pack(Memory(seed=2), tmp_path / "train", **SIZES)
    pack(Memory(seed=2), tmp_path / "train", overwrite=True, **SIZES)
    assert open_dataset(tmp_path, "train").fingerprint() == Memory(seed=2).fingerprint()
    assert sorted(files(tmp_path)) == sorted(before)


def files_only(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_parts_of_something_else_are_refused(tmp_path):
    with pytest.raises(BadImageError):
        pack(Memory(bad={9: BadImageError}), tmp_path / "train", **SIZES)
    with pytest.raises(ValueError, match="unfinished parts of other data or settings"):
        pack(Memory(), tmp_path / "train", quality=80, **SIZES)
    pack(Memory(), tmp_path / "train", quality=80, overwrite=True, **SIZES)
    (tmp_path / "val.rec").write_bytes(b"someone else's")
    with pytest.raises(FileExistsError, match="val.rec exists"):
        pack(Memory(split="val"), tmp_path / "val", **SIZES)


def test_bad_images_are_left_out_and_listed(tmp_path):
    source = Memory(bad={2: BadImageError, 5: NoOverlapError})
    refuses("é2.jpg", source, tmp_path / "train", by=pack, error=BadImageError, **SIZES)
    info = pack(source, tmp_path / "train", on_bad_image="skip", **SIZES)
    assert [item["id"] for item in info["skipped"]] == ["train/é2.jpg", "train/é5.jpg"]
    packed = open_dataset(tmp_path, "train")
    kept = [0, 1, 3, 4, 6, 7, 8, 9]
    assert packed.sample_ids == [source.sample_ids[i] for i in kept]
    assert packed.left_out == [("train/é2.jpg", "is bad"), ("train/é5.jpg", "is bad")]
    assert packed.fingerprint() == source.fingerprint(kept)
    packed.verify()
    with pytest.raises(ValueError, match="not one of 2 samples could be read"):
        every = Memory(2, bad={0: NoOverlapError, 1: NoOverlapError})
        pack(every, tmp_path / "none", **SIZES)


def test_a_skipping_pack_is_not_continued_as_a_strict_one(tmp_path, monkeypatch):
    source = Memory(bad={2: BadImageError})
    with monkeypatch.context() as patch:
        patch.setattr(packing, "_finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack(source, tmp_path / "train", on_bad_image="skip", **SIZES)
    with pytest.raises(BadImageError):
        pack(source, tmp_path / "train", on_bad_image="error", **SIZES)


def test_packing_at_the_training_size_is_refused(tmp_path):
    refuses("size=224 must exceed.*16925", Memory(), tmp_path / "train", by=pack, size=224)
    refuses("quality=0", Memory(), tmp_path / "train", by=pack, quality=0)


def test_contents_with_the_magic_word_survive(tmp_path, monkeypatch):
    magic = struct.pack("<I", 0xCED7230A)
    encode = packing._Chunks.encode

    def with_magic(self, i):
        header, jpeg = mx.recordio.unpack(encode(self, i))
        jpeg += b"\0" * (-len(jpeg) % 4) + magic + b"abcd" + magic + magic + b"x"
        header = mx.recordio.IRHeader(0, header.label, i, packing.zlib.crc32(jpeg))
        return mx.recordio.pack(header, jpeg)

    monkeypatch.setattr(packing._Chunks, "encode", with_magic)
    pack(Memory(), tmp_path / "train", **SIZES)
    packed = open_dataset(tmp_path, "train")
    packed.verify()
    assert bytes(packed.record(4)[0]).endswith(magic + b"abcd" + magic + magic + b"x")


def test_damage_is_found_and_named(tmp_path):
    pack(Memory(), tmp_path / "train", **SIZES)
    rec = tmp_path / "train.rec"
    data = rec.read_bytes()
    offsets = [int(x.split()[1]) for x in (tmp_path / "train.idx").read_text().splitlines()]
    flipped = bytearray(data)
    flipped[offsets[4] + 300] ^= 1
    rec.write_bytes(flipped)
    packed = open_dataset(tmp_path, "train")
    packed.read(3)
    with pytest.raises(BadImageError, match="train.rec: record 4 is damaged.*'train/é4.jpg'"):
        packed[4]
    refuses("record 4", by=packed.verify, error=BadImageError)
    lenient = open_dataset(tmp_path, "train", on_bad_image="skip")
    assert not lenient[4][2].any() and lenient.skipped[0][0] == "train/é4.jpg"
    rec.write_bytes(data)
    packed = open_dataset(tmp_path, "train")
    rec.write_bytes(data[: offsets[8] + 20])  # while it is open
    with pytest.raises(BadImageError, match="record 8 is truncated or damaged"):
        packed[8]
    refuses("train.rec: .* bytes, expected .*in or after record 8", tmp_path, "train")


def test_files_that_do_not_fit_together(tmp_path):
    pack(Memory(), tmp_path / "train", **SIZES)
    note = tmp_path / "train.json"
    text, info = note.read_text(), json.loads(note.read_text())
    index = tmp_path / "train.idx"
    index.write_text("\n".join(index.read_text().splitlines()[:-1]))
    refuses("train.idx: 9 records, 10 in the JSON", tmp_path, "train")
    index.write_text("a\tb\n")
    refuses("train.idx: malformed", tmp_path, "train")
    for places, message in (
        ([0, 5000, 200, *range(5001, 5008)], "record 2 begins before the one before it"),
        ([-4, *range(1, 10)], "record 0 begins before"),
        ([*range(9), 10**15], "the last record begins behind the end of the file"),
    ):
        index.write_text("".join(f"{k}\t{place}\n" for k, place in enumerate(places)))
        refuses(f"train.idx: malformed: {message}", tmp_path, "train")
    note.write_text(text[:50])
    refuses("train.json:1: not valid JSON", tmp_path, "train")
    note.write_text(json.dumps({**info, "format": "other"}))
    refuses("train.json: not of the format", tmp_path, "train")
    for key, value in (
        ("names", 3), ("sample_ids", None), ("raw", {"a": 1}), ("size", "x"), ("skipped", [1]),
        ("skipped", [{}]), ("rec_bytes", [1]), ("raw", [[1], "x"] * 5),
        ("raw", [[10**30] * 3] * 10),
    ):  # fmt: skip
        note.write_text(json.dumps({**info, key: value}))
        refuses("train.json: (not of the format|malformed)", tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="test.json is missing; packed splits .*: train"):
        open_dataset(tmp_path, "test")


def test_a_full_disk_leaves_nothing_that_looks_finished(tmp_path):
    script = """
        import resource, sys
        sys.path.insert(0, sys.argv[2])
        import test_packed as t
        t.packing.CHUNK = 8
        resource.setrlimit(resource.RLIMIT_FSIZE, (12000, 12000))
        try:
            t.pack(t.Memory(30), sys.argv[1], **t.SIZES)
        except OSError as error:
            print(error)
    """
    _, out, err = run_python(script, tmp_path / "train", Path(__file__).parent)
    assert "cannot write" in out and ".rec" in out, err
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ["plan.json"], left
    pack(Memory(30), tmp_path / "train", overwrite=True, **SIZES)
    open_dataset(tmp_path, "train").verify()


@pytest.mark.parametrize("height, width", [(16, 16), (64, 64), (100, 70), (250, 250), (256, 256)])
def test_a_window_is_a_part_of_the_whole_image(height, width):
    random = np.random.default_rng(height)
    coarse = random.integers(0, 256, (9, 9, 3), np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    jpeg = images.encode_tiles(image, 95)
    plain = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    whole = cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1)
    np.testing.assert_array_equal(whole, cv2.imdecode(plain, 1))
    for _ in range(60):
        left, top = (int(random.integers(0, side)) for side in (width, height))
        right = int(random.integers(left + 1, width + 1))
        bottom = int(random.integers(top + 1, height + 1))
        data, (x, y) = images.window(memoryview(jpeg), (left, top, right, bottom))
        part = cv2.imdecode(np.frombuffer(data, np.uint8), 1)
        assert x <= left and x + part.shape[1] >= right
        assert y <= top and y + part.shape[0] >= bottom
        np.testing.assert_array_equal(
            part[top - y : bottom - y, left - x : right - x], whole[top:bottom, left:right]
        )
    assert len(images.window(jpeg, (0, 0, 1, 1))[0]) < len(jpeg) or height <= 16
    other = plain.tobytes()
    assert images.window(other, (1, 1, 2, 2)) == (other, (0, 0)), "other JPEGs are left whole"
    assert images.window(b"short", (1, 1, 2, 2)) == (b"short", (0, 0))


def test_a_image_with_too_many_tiles_is_left_whole():
    jpeg = images.encode_tiles(np.zeros((2048, 2048, 3), np.uint8), 90)
    assert images.window(jpeg, (500, 500, 600, 600)) == (jpeg, (0, 0))


def test_windows_of_packed_images(tmp_path):
    pack(Memory(), tmp_path / "train", **SIZES)
    packed = open_dataset(tmp_path, "train")
    box = (40, 20, 60, 30)
    image, label, mask, (x, y) = packed.get_window(3, box)
    assert 0 < x <= 40 and 0 < y <= 20 and image.shape[0] < 64 and image.shape[1] < 64
    expected = packed.read(3)[20:30, 40:60]
    np.testing.assert_array_equal(image[20 - y : 30 - y, 40 - x : 60 - x], expected)
    np.testing.assert_array_equal(label, packed.label[3])
    (tmp_path / "train.rec").write_bytes(b"")
    assert packed.get_window(3, box)[3] == (x, y), "a record that was read stays in memory"
    refuses("record 4", 4, box, by=packed.get_window, error=BadImageError)
    packed.on_bad_image = "skip"
    image, _, mask, corner = packed.get_window(4, box)
    assert corner is None and not image.any() and not mask.any()
