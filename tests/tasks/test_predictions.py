"""Files of records: continued from any byte, merged to the bytes of one run, refused if wrong."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from kinds_helpers import refuses
from process_helpers import run_python

from gluon_attn.core.files import json_text
from gluon_attn.core.shards import Shard
from gluon_attn.task import TASKS, Predicting
from gluon_attn.tasks import predictions
from gluon_attn.tasks.predictions import Records, json_pieces, merge, scan

COUNT = 23
HEAD = {"export": "x", "classes": ["hat", "bäg"], "thresholds": [0.5, 0.5]}
NAMES = [f"{k % 2}/é{k // 2}.jpg" for k in range(COUNT)]  # two of every name
NAMES[4] = "0/\udcff.jpg"  # a name that is no UTF-8


class Stopped(BaseException):
    """What ends a process."""


class Net:
    """Stands for an export; image 7 cannot be read, 8 has no boxes, every fifth has two people."""

    directory, sidecar = "x", {"name": "x"}
    task = TASKS.get("attributes")

    def __init__(self, head=HEAD, names=NAMES, stop=None):
        self.head, self.names, self.stop = head, list(names), stop
        self.seen, self.before = [], {}

    def find(self, some, before):
        self.before[some[0]] = before
        for i in some:
            if i == self.stop:
                raise Stopped
            self.seen.append(i)
            for k in range(0 if i == 8 else 2 if i % 5 == 0 else 1):
                error = f"{self.names[i]}: bad" if i == 7 else None
                values = {} if error else {"hat": (i + k / 7) / 30, "bäg": [None, 1e-9][i % 2]}
                yield {"image": self.names[i], "box": [k, 0, 5, 5.5], "probabilities": values,
                       "positives": ["hat"], "error": error}  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Chunks of four images, and no table."""
    monkeypatch.setattr(predictions, "CHUNK", 3)
    monkeypatch.setattr(predictions, "SHOWN", 0)
    monkeypatch.setattr(
        type(Net.task), "predict",
        lambda self, net, options: Predicting(net.names, None, net.find, net.head),
    )  # fmt: skip


def predict(folder, shard=None, net=None, **flags):
    """Predict to ``folder/r.json`` and ``r.csv``; return the stand-in for the net."""
    net = net or Net()
    given = {"json": str(folder / "r.json"), "csv": str(folder / "r.csv"), "batch_size": 2,
             "overwrite": False, "on_bad_image": "skip", "heatmaps": None, "draw": None,
             "shard": Shard.parse(shard) if shard else None}  # fmt: skip
    predictions.run(net, SimpleNamespace(**{**given, **flags}))
    return net


def results(folder):
    return [(folder / f"r.{kind}").read_bytes() for kind in ("json", "csv")]


def no_locks(*_):
    raise OSError(95, "not supported")


@pytest.fixture
def whole(tmp_path):
    predict(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == ["r.csv", "r.json"]
    return results(tmp_path / "whole")


def test_the_texts_are_those_of_all_records_at_once(tmp_path, whole):
    records, net = [], Net()
    for i in range(COUNT):
        records += net.find([i], len(records))
    counted = predict(tmp_path).before
    assert counted == {i: net.before[i] for i in range(0, COUNT, 4)}
    expected = json_text({**HEAD, "people": records}).encode("utf-8", "backslashreplace")
    assert whole[0] == expected and json.loads(whole[0])["people"] == records
    lines = whole[1].decode().splitlines()
    assert lines[0] == "image,x,y,w,h,hat,bäg,error" and len(lines) == 1 + len(records)
    assert sum("0/é1.jpg" in line for line in lines) == sum("1/é1.jpg" in line for line in lines)
    assert "1/é3.jpg,0,0,5,5.5,,,1/é3.jpg: bad" in lines


@pytest.mark.parametrize("records", [[], [{"a": "0\n", "b": []}], [{"a": {"b": [1, [2]]}}] * 3])
def test_json_in_pieces_is_json(records):
    head = {"x": [0], "name": "0"}
    assert "".join(json_pieces(head, "all", records)) == json_text({**head, "all": records})


@pytest.mark.parametrize("of", [1, 2, 3, 9])
def test_merged_shards_are_the_whole_to_the_byte(tmp_path, whole, of):
    for number in range(of, 0, -1):
        predict(tmp_path, f"{number}/{of}")
    merge(tmp_path, "r", tmp_path / "out")
    assert results(tmp_path / "out") == whole
    merge(tmp_path, "r")
    assert results(tmp_path) == whole
    refuses("exists; overwrite", tmp_path, "r", by=merge, error=FileExistsError)
    merge(tmp_path, "r", overwrite=True)
    again = predict(tmp_path, f"1/{of}")
    assert not again.seen, "a shard that is there is kept"
    assert predict(tmp_path, f"{of}/{of}", overwrite=True).seen[-1:] in ([COUNT - 1], [])


def test_a_shard_continues_wherever_it_was_killed(tmp_path, whole):
    """Every byte of the file may be the last that reached the disk."""
    for number in (1, 2):
        predict(tmp_path, f"{number}/2")
    path = tmp_path / "r-00002-of-00002.jsonl"
    begun, data = Path(f"{path}.unfinished"), path.read_bytes()
    places = range(0, len(data) + 1, 41)
    seen = set()
    for end in [*places, len(data) - 1, len(data)]:
        path.unlink()
        begun.write_bytes(data[:end])
        if end % 5 == 0:
            refuses(r"00002.jsonl \(unfinished\).*--shard 2/2", tmp_path, "r", by=merge,
                    error=FileNotFoundError)  # fmt: skip
        net = predict(tmp_path, "2/2")
        assert path.read_bytes() == data and not begun.exists()
        seen.add(len(net.seen))
    assert seen == {11, 7, 3, 0}, "whole chunks are not predicted again"
    merge(tmp_path, "r", tmp_path / "out")
    assert results(tmp_path / "out") == whole


@pytest.mark.parametrize("stop", [0, 3, 4, 5, 8, 9, 19, 20, COUNT - 1])
def test_a_run_that_is_stopped_continues(tmp_path, whole, stop, caplog):
    with pytest.raises(Stopped):
        predict(tmp_path, net=Net(stop=stop))
    left = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert left == (["r.json.unfinished"] if stop >= 4 else [])
    assert ("the same command continues" in caplog.text) == (stop >= 4)
    assert predict(tmp_path).seen == list(range(stop // 4 * 4, COUNT))
    assert results(tmp_path) == whole


def test_a_full_disk_keeps_what_is_done(tmp_path, whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(predictions, "_write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict(tmp_path)
    assert predict(tmp_path).seen == [] and results(tmp_path) == whole


def test_what_was_begun_otherwise_is_begun_again_but_not_in_shards(tmp_path, whole):
    other = {**HEAD, "thresholds": [0.1, 0.1]}
    with pytest.raises(Stopped):
        predict(tmp_path, net=Net(other, stop=20))
    assert len(predict(tmp_path).seen) == COUNT and results(tmp_path) == whole
    with pytest.raises(Stopped):
        predict(tmp_path, "1/1", net=Net(other, stop=20))
    refuses("unfinished and this call differ in thresholds", tmp_path, "1/1", by=predict)
    predict(tmp_path, "1/1", overwrite=True)
    refuses("1.jsonl and this call differ in thresholds", tmp_path, "1/1", Net(other), by=predict)


def test_the_policy_for_bad_images_may_change(tmp_path, whole):
    """An error that was skipped is not kept by a run that must not have any."""
    with pytest.raises(Stopped):
        predict(tmp_path, net=Net(stop=20))
    assert predict(tmp_path, on_bad_image="error").seen[0] == 4


def test_two_processes_do_not_write_one_shard(tmp_path):
    class Twice(Net):
        def find(self, some, before):
            refuses("another process is writing it", tmp_path, "1/1", by=predict, error=OSError)
            return super().find(some, before)

    predict(tmp_path, "1/1", Twice())
    assert scan(tmp_path / "r-00001-of-00001.jsonl").done == COUNT


@pytest.mark.parametrize("lock", [None, SimpleNamespace(LOCK_EX=2, LOCK_NB=4, flock=no_locks)])
def test_where_there_are_no_locks_a_shard_is_written_without(tmp_path, whole, monkeypatch, lock):
    monkeypatch.setitem(sys.modules, "fcntl", lock)
    predict(tmp_path, "1/1")
    merge(tmp_path, "r")
    assert results(tmp_path) == whole


def test_a_shard_that_another_process_has_just_finished_is_left_alone(tmp_path, monkeypatch):
    import fcntl

    path = tmp_path / "r-00001-of-00001.jsonl"
    lock = SimpleNamespace(
        LOCK_EX=2, LOCK_NB=4, flock=lambda *_: os.replace(f"{path}.unfinished", path)
    )
    monkeypatch.setitem(sys.modules, "fcntl", lock)
    refuses("another process is writing it", tmp_path, "1/1", by=predict, error=OSError)
    monkeypatch.setitem(sys.modules, "fcntl", fcntl)
    path.rename(f"{path}.unfinished")
    Path(f"{path}.unfinished").write_bytes(b"[]\n")
    refuses("not of the format '.*'; remove it", tmp_path, "1/1", by=predict)


def spoil(path, at, byte=None):
    data = bytearray(path.read_bytes())
    data[at] = data[at] ^ 1 if byte is None else byte
    path.write_bytes(data)


def move(folder, source, target):
    (folder / f"r-{source}.jsonl").rename(folder / f"r-{target}.jsonl")


FIRST, SECOND = "00001-of-00002", "00002-of-00002"
WRONG = {
    "missing": (lambda d: (d / f"r-{FIRST}.jsonl").unlink(), rf"lack r-{FIRST}.jsonl \(missing"),
    "doubled": (
        lambda d: (d / f"r-{SECOND}.jsonl").write_bytes((d / f"r-{FIRST}.jsonl").read_bytes()),
        rf"r-{SECOND}.jsonl holds shard 1/2: .*copy of r-{FIRST}.jsonl; predict --shard 2/2",
    ),
    "two jobs": (lambda d: predict(d, "3/3"), f"mixed: r-{FIRST}.jsonl is one of 2 shards, r-0000"),
    "beyond": (lambda d: move(d, SECOND, "00003-of-00002"), "there is no shard 3/2"),
    "other images": (
        lambda d: predict(d, "2/2", Net(names=[*NAMES[:-1], "other"]), overwrite=True),
        rf"r-{SECOND}.jsonl and r-{FIRST}.jsonl differ in images",
    ),
    "fewer images": (
        lambda d: predict(d, "2/2", Net(names=NAMES[:-1]), overwrite=True), "differ in .*count",
    ),
    "other batches": (
        lambda d: predict(d, "2/2", batch_size=5, overwrite=True), "differ in chunk",
    ),
    "other net": (
        lambda d: predict(d, "2/2", Net({**HEAD, "backend": "y"}), overwrite=True),
        rf"r-{SECOND}.jsonl and r-{FIRST}.jsonl differ in backend",
    ),
    "other files": (lambda d: predict(d, "2/2", csv=None, overwrite=True), "differ in outputs"),
    "cut": (
        lambda d: os.truncate(d / f"r-{SECOND}.jsonl", 1500),
        rf"r-{SECOND}.jsonl: damaged or cut off behind image \d+ of 11; copy it again",
    ),
    "flipped": (lambda d: spoil(d / f"r-{SECOND}.jsonl", -80), "cut off behind image 8 of 11"),
    "longer": (
        lambda d: (d / f"r-{SECOND}.jsonl").open("ab").write(b"{}\n"), "cut off behind image 11",
    ),
    "no records": (lambda d: spoil(d / f"r-{SECOND}.jsonl", 0), "not of the format"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_shards_that_do_not_belong_together_are_named(tmp_path, kind):
    for number in (1, 2):
        predict(tmp_path, f"{number}/2")
    wrong, message = WRONG[kind]
    wrong(tmp_path)
    error = FileNotFoundError if kind == "missing" else ValueError
    refuses(message, tmp_path, "r", tmp_path / "out", by=merge, error=error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags", [
    {"json": None, "csv": None}, {"json": "-"}, {"json": "x.json"}, {"heatmaps": "x"},
    {"draw": "x"},
])  # fmt: skip
def test_flags_that_do_not_go_with_shards(tmp_path, flags):
    refuses("--shard", tmp_path, "1/2", by=predict, **flags)
    assert not list(tmp_path.iterdir())


def test_many_people_are_told_in_a_line(tmp_path, monkeypatch, capsys, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(predictions, "SHOWN", COUNT)
    plain = [f"{k % 2}/é{k // 2}.jpg" for k in range(COUNT)]
    predict(tmp_path, net=Net(names=plain))
    assert "0/é1.jpg" in capsys.readouterr().out and "images/s" not in caplog.text
    monkeypatch.setattr(predictions, "SHOWN", COUNT - 1)
    predict(tmp_path, net=Net(names=plain))
    assert capsys.readouterr().out == ""
    assert "23 images, 27 records, 1 of them errors; 23 images in" in caplog.text
    predict(tmp_path, net=Net(names=plain), json=None, csv=None)
    assert "1/é1.jpg" in capsys.readouterr().out, "without a file there is a table"


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Records of four hundred images are 40 MB here; kept, they would show."""
    script = """
        import resource, sys
        sys.path.insert(0, sys.argv[2])
        from pathlib import Path
        import test_predictions as t
        def find(some, before):
            for i in some:
                yield {"image": str(i), "box": None, "error": None, "positives": [],
                       "probabilities": {"hat": i}, "text": chr(65 + i % 26) * 100_000}
        t.Net.find = lambda self, some, before: find(some, before)
        t.predictions.SHOWN = 0
        type(t.Net.task).predict = lambda self, net, options: t.Predicting(
            net.names, None, net.find, net.head)
        for count in (20, 400):
            t.predict(Path(sys.argv[1]), net=t.Net(names=[str(i) for i in range(count)]))
            print("peak", t.peak())
    """
    _, out, err = run_python(script, tmp_path, Path(__file__).parent)
    few, many = (int(line.split()[1]) for line in out.splitlines() if line.startswith("peak"))
    assert (tmp_path / "r.json").stat().st_size > 40e6, err
    assert many - few < 15_000, (few, many)


def test_records_can_be_read_again(tmp_path):
    predict(tmp_path, "1/1")
    records = Records([tmp_path / "r-00001-of-00001.jsonl"])
    assert list(records) == list(records) and len(list(records)) == 27
