"""Packing in shards: together they are the whole to the byte, or the one that is wrong is named."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from kinds_helpers import refuses
from test_packed import SIZES, Memory, files, files_only

from gluon_attn.core.shards import Shard
from gluon_attn.data import BadImageError, EvalTransform, Loader, open_dataset, pack, packing
from gluon_attn.data.images import NoOverlapError
from gluon_attn.data.packing import merge

COUNT = 20


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(packing, "CHUNK", 3)


def pack_shards(folder, of, source=None, **options):
    for number in range(of, 0, -1):  # in any order
        pack(source or Memory(COUNT), folder / "train", shard=Shard(number, of),
             **{**SIZES, **options})  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of the unsharded pack."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "CHUNK", 3)
        pack(Memory(COUNT), folder / "train", **SIZES)
    return folder


@pytest.mark.parametrize("total", [0, 1, 3, 7, 1000])
@pytest.mark.parametrize("of", [1, 2, 3, 7, 64])
def test_spans_are_a_partition_and_even(total, of):
    spans = [Shard(k, of).span(total) for k in range(1, of + 1)]
    assert [i for span in spans for i in span] == list(range(total))
    assert max(map(len, spans)) - min(map(len, spans)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/", "a/b", "-1/4", "1/2/3", "1/123456", ""])
def test_a_wrong_shard_is_refused(text):
    refuses(f"shard '{text}': valid are 1/N to N/N", text, by=Shard.parse)


@pytest.mark.parametrize("of", [1, 2, 3, 7, 25])
def test_merged_shards_are_the_whole_to_the_byte(tmp_path, whole, of):
    pack_shards(tmp_path, of)
    assert len(files(tmp_path)) == 3 * of
    merge(tmp_path, "train", tmp_path / "out")
    assert files(tmp_path / "out") == files(whole)
    merge(tmp_path, "train")  # beside them, where the merged one is read from then on
    assert {k: v for k, v in files_only(tmp_path).items() if "-of-" not in k} == files(whole)
    refuses("train.json exists; overwrite", tmp_path, "train", by=merge, error=FileExistsError)
    merge(tmp_path, "train", overwrite=True)


def test_samples_left_out_stay_left_out(tmp_path):
    source = Memory(COUNT, bad={2: BadImageError, 9: NoOverlapError, 10: BadImageError})
    pack(source, tmp_path / "whole" / "train", on_bad_image="skip", **SIZES)
    pack_shards(tmp_path / "shards", 10, source, on_bad_image="skip")
    packed = open_dataset(tmp_path / "shards", "train")
    assert packed.left_out == open_dataset(tmp_path / "whole", "train").left_out
    packed.verify()
    merge(tmp_path / "shards", "train", tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    nothing = Memory(2, bad={0: NoOverlapError, 1: NoOverlapError})
    pack_shards(tmp_path / "none", 2, nothing)
    refuses("not one of 2 samples", tmp_path / "none", "train", by=merge)


def test_shards_are_read_as_the_merged_pack(tmp_path, whole):
    pack_shards(tmp_path, 3)
    sharded, one = open_dataset(tmp_path, "train"), open_dataset(whole, "train")
    assert sharded.info == one.info and sharded.fingerprint() == one.fingerprint()
    sharded.verify()
    found = []
    for dataset in (sharded, one):
        loader = Loader(dataset, EvalTransform(64, 64, 56), 8, shuffle=True, seed=3, workers=2)
        loader.set_epoch(5)
        found.append([(b.index.tolist(), b.image.asnumpy(), b.label.asnumpy()) for b in loader])
    for ours, theirs in zip(*found):
        assert ours[0] == theirs[0]
        np.testing.assert_array_equal(ours[1], theirs[1])
        np.testing.assert_array_equal(ours[2], theirs[2])
    (part,) = (open_dataset(tmp_path, "train-00002-of-00003"),)  # one of them by its own name
    part.verify()
    assert part.sample_ids == one.sample_ids[6:13]


def test_damage_names_the_shard_and_its_record(tmp_path):
    pack_shards(tmp_path, 2)
    rec = tmp_path / "train-00002-of-00002.rec"
    data = bytearray(rec.read_bytes())
    data[-40] ^= 1
    rec.write_bytes(data)
    packed = open_dataset(tmp_path, "train")
    packed.read(9)
    refuses("-00002-of-00002.rec: record 9 is damaged", by=packed.verify, error=BadImageError)
    rec.write_bytes(data[:-200])
    refuses("-00002-of-00002.rec: .* it breaks off in or after record", tmp_path, "train", by=merge)


class Killed(BaseException):
    """The end of the process, at a moment when a file gets its name."""


@pytest.mark.parametrize("at", range(9))
def test_a_shard_that_is_killed_continues(tmp_path, whole, monkeypatch, at):
    """Seven samples: plan, three chunks of two files each, then index, records and JSON."""
    made, rename = [], os.replace

    def replace(source, target):
        if len(made) == at:
            raise Killed
        made.append(target)
        rename(source, target)

    pack_shards(tmp_path, 3)
    for path in tmp_path.glob("train-00002*"):
        path.unlink()
    one = {**SIZES, "workers": 1, "shard": Shard(2, 3)}
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            pack(Memory(COUNT), tmp_path / "train", **one)
    message = r"lack train-00002-of-00003.json \(unfinished\)"
    for read in (merge, open_dataset):
        refuses(f"{message}.*--shard 2/3", tmp_path, "train", by=read, error=FileNotFoundError)
    again, read = [], Memory.read
    monkeypatch.setattr(Memory, "read", lambda self, i: again.append(i) or read(self, i))
    pack(Memory(COUNT), tmp_path / "train", **one)
    done = sum(str(name).endswith(".json") for name in made[1:])
    assert again == list(range(6, 13))[3 * done :]
    merge(tmp_path, "train", tmp_path / "out")
    assert files(tmp_path / "out") == files(whole)


def test_a_merge_that_is_killed_is_repeated(tmp_path, whole, monkeypatch):
    pack_shards(tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(packing, "write_text", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            merge(tmp_path, "train")
    assert open_dataset(tmp_path, "train").info["count"] == COUNT, "the shards are still read"
    merge(tmp_path, "train")
    assert {k: v for k, v in files(tmp_path).items() if "-of-" not in k} == files(whole)


def edit(path, **changes):
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, **changes}))


def copy(folder, source, target):
    for kind in ("json", "rec", "idx"):
        shutil.copy(folder / f"{source}.{kind}", folder / f"{target}.{kind}")


FIRST, SECOND = "train-00001-of-00002", "train-00002-of-00002"
WRONG = {
    "missing": (lambda d: (d / f"{SECOND}.json").unlink(), rf"lack {SECOND}.json \(missing\)"),
    "doubled": (lambda d: copy(d, FIRST, SECOND), rf"{SECOND}.json holds shard 1/2: .*copy of"),
    "two jobs": (
        lambda d: pack(Memory(COUNT), d / "train", shard=Shard(1, 3), **SIZES),
        rf"mixed: {FIRST}.json is one of 2 shards, train-00001-of-00003.json one of 3",
    ),
    "beyond": (lambda d: copy(d, FIRST, "train-00003-of-00002"), "there is no shard 3/2"),
    "other settings": (
        lambda d: pack(Memory(COUNT), d / "train", quality=80, overwrite=True,
                       shard=Shard(2, 2), **SIZES),
        rf"{SECOND}.json and {FIRST}.json differ in quality",
    ),
    "other data": (
        lambda d: pack(Memory(COUNT, seed=1), d / "train", overwrite=True, shard=Shard(2, 2),
                       **SIZES),
        rf"{SECOND}.json and {FIRST}.json differ in source_fingerprint",
    ),
    "more data": (
        lambda d: edit(d / f"{SECOND}.json", shard={"number": 2, "of": 2, "samples": 21}),
        rf"{SECOND}.json: not the 11 samples of shard 2/2",
    ),
    "other labels": (
        lambda d: edit(d / f"{SECOND}.json", raw=[[1, 1, 1]] * 10), "not the samples that were"
    ),
    "other encoder": (
        lambda d: edit(d / f"{SECOND}.json", encoder="OpenCV 9"), "differ in encoder",
    ),
    "no shard": (
        lambda d: edit(d / f"{SECOND}.json", shard=None), rf"{SECOND}.json: malformed",
    ),
    "index": (
        lambda d: (d / f"{SECOND}.idx").write_text("0\t0\n"), rf"{SECOND}.idx: 1 records, 10"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_shards_that_do_not_belong_together_are_named(tmp_path, kind):
    pack_shards(tmp_path, 2)
    spoil, message = WRONG[kind]
    spoil(tmp_path)
    error = FileNotFoundError if kind == "missing" else ValueError
    refuses(message, tmp_path, "train", tmp_path / "out", by=merge, error=error)
    if kind != "other labels":
        refuses(message, tmp_path, "train", error=error)
    assert not (tmp_path / "out").exists()


def test_another_shard_is_not_overwritten(tmp_path):
    pack(Memory(COUNT), tmp_path / "train", shard=Shard(1, 2), **SIZES)
    with pytest.raises(FileExistsError, match="train-00001-of-00002.json exists"):
        pack(Memory(COUNT), tmp_path / "train", shard=Shard(1, 2), **SIZES)
