"""Prediction: images and boxes in; table, JSON, CSV and overlays out."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from export_helpers import CLASSES, PREPROCESS, SIZE, export, make_net
from process_helpers import run

from gluon_attn.cli import common as cli
from gluon_attn.cli.predict import main
from gluon_attn.core import errors
from gluon_attn.export import Predictor, backends, export_model
from gluon_attn.tasks import images as predict
from gluon_attn.tasks.predictions import csv_pieces

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """An export with maps and one without."""
    folder = tmp_path_factory.mktemp("exports")
    net = make_net()
    for name in ("maps", "plain"):
        export(net, folder / name, with_maps=name == "maps")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Image/test/0--Parade/{a,b}.jpg and Image/test/1--Party/c.png, each of another size."""
    root = tmp_path_factory.mktemp("data") / "Image"
    rng = np.random.RandomState(0)
    for k, name in enumerate(("0--Parade/a.jpg", "0--Parade/b.jpg", "1--Party/c.png")):
        path = root / "test" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.randint(0, 256, (40 + k, 30, 3)).astype(np.uint8))
    (root / "test" / "notes.txt").write_text("not an image")
    return root


def call(exports, *arguments, export="plain"):
    """Return the exit status of the command."""
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda: main([str(exports / export), *map(str, arguments)]))
    return stopped.value.code


@pytest.fixture(scope="module")
def failed(exports, error):
    """A function that returns the one line of a call that must fail with code 2."""
    return lambda *words: error("predict.py", exports / "plain", *words)


def expected(exports, paths):
    return Predictor(exports / "plain")([str(path) for path in paths])


def read_csv(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


@pytest.fixture(scope="module")
def paths(images):
    return sorted(images.rglob("*.[jp][pn]g"))


# --- what comes out -----------------------------------------------------------------------------
def test_table(exports, images, paths, capsys):
    assert call(exports, images) == 0
    out, err = capsys.readouterr()
    probabilities = expected(exports, paths)
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}
    for column, name in enumerate(CLASSES):
        shown = [float(word) for word in lines[name] if word != "*"]
        np.testing.assert_allclose(shown, probabilities[:, column], atol=5e-4)
        assert lines[name].count("*") == (probabilities[:, column] >= 0.5).sum()
    assert lines["attribute"] == ["a.jpg", "b.jpg", "c.png"] and err == ""


def test_table_of_many_people_comes_in_blocks():
    record = {"box": [1, 2, 3.5, 4], "probabilities": {"hat": 0.25}, "positives": [], "error": None}
    records = [dict(record, image=f"{'long' * 9}{k}.jpg") for k in range(7)]
    table = predict.format_table(records, ["hat"], columns=3)
    assert table.count("attribute") == 3 and table.count("0.250") == 7
    assert table.count("1,2,3.5,4") == 7 and max(map(len, table.splitlines())) < 100


def test_of_very_many_classes_the_most_probable_are_shown():
    names = [f"class{n}" for n in range(200)]
    records = [
        {"image": f"{k}.jpg", "box": None, "positives": [], "error": None,
         "probabilities": {name: (n == 7 * k) + 1e-4 * n for n, name in enumerate(names)}}
        for k in (1, 2)
    ]  # fmt: skip
    table = predict.format_table(records, names)
    rows = [line.split() for line in table.splitlines()[2:-2]]
    assert [row[0] for row in rows] == ["class7", "class14", *names[-4:]]
    assert rows[0] == ["class7", "1.001", "0.001"] and "5 most probable" in table


def test_json_and_csv(exports, images, paths, tmp_path):
    out = tmp_path / "new" / "r.json"
    assert call(exports, *paths, "--json", out, "--threshold", "0.25") == 0
    contents = json.loads(out.read_text())
    assert contents["export"] == "tiny" and contents["classes"] == list(CLASSES)
    assert contents["thresholds"] == [0.25] * 4
    assert [p["image"] for p in contents["people"]] == [str(path) for path in paths]
    actual = [[p["probabilities"][name] for name in CLASSES] for p in contents["people"]]
    np.testing.assert_allclose(actual, expected(exports, paths), atol=1e-6)
    for person, row in zip(contents["people"], actual):
        assert person["positives"] == [c for c, v in zip(CLASSES, row) if v >= 0.25]
    # Images may stand behind flags.
    out = tmp_path / "r.csv"
    assert call(exports, paths[0], "--csv", out, "--batch-size", "2", *paths[1:]) == 0
    rows = read_csv(out)
    assert rows[0]["image"] == str(paths[0]) and rows[0]["x"] == rows[0]["error"] == ""
    again = [[float(row[name]) for name in CLASSES] for row in rows]
    np.testing.assert_allclose(again, actual, atol=2e-6)


def test_as_a_program_from_a_clone(exports, images):
    """Neither installed nor on PYTHONPATH, run from elsewhere; standard output is pure."""
    command = [sys.executable, str(ROOT / "tools/predict.py"), exports / "plain", images]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    code, out, err = run([*command, "--json", "-"], env=environment)
    assert code == 0 and len(json.loads(out)["people"]) == 3, err


def test_overlays(exports, images, tmp_path, failed):
    assert call(exports, images, "--heatmaps", tmp_path / "maps", export="maps") == 0
    made = sorted((tmp_path / "maps").iterdir())
    assert [path.name for path in made] == ["00000_a.png", "00001_b.png", "00002_c.png"]
    assert all(cv2.imread(str(path)).std() > 1 for path in made)
    err = failed(images, "--heatmaps", tmp_path / "none")
    assert "no attention maps" in err and "--with-maps" in err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_files_are_whole_whatever_becomes_of_the_console(
    exports, images, tmp_path, monkeypatch, encoding
):
    """The console lacks the characters of a class, and its reader leaves at once."""
    names = ("帽…", *CLASSES[1:])
    export_model(make_net(), tmp_path / "x", "x", names, SIZE, PREPROCESS, check=False)
    read, write = os.pipe()
    os.close(read)
    stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(write, "wb")), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "__stdout__", stream)
    files = [tmp_path / "r.json", tmp_path / "r.csv"]
    assert call(tmp_path, images, "--json", files[0], "--csv", files[1], export="x") == 0
    assert json.loads(files[0].read_text(encoding="utf-8"))["classes"][0] == "帽…"
    rows = read_csv(files[1])
    assert len(rows) == 3 and 0 <= float(rows[0]["帽…"]) <= 1
    assert call(tmp_path, images, "--json", "-", export="x") == 0


def test_an_ascii_console_shows_the_table_and_json(monkeypatch, capsys):
    record = {"box": None, "probabilities": {"帽": 0.25}, "positives": [], "error": None}
    records = [dict(record, image=f"{'x' * 40}.jpg")]
    for printed in (
        lambda: print(predict.format_table(records, ["帽"])),
        lambda: errors.print_data(json.dumps(records, ensure_ascii=False)),
    ):
        read, write = os.pipe()
        stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(write, "wb")), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "__stdout__", stream)
        assert cli.status_of(printed) == 0
        os.close(write)
        with os.fdopen(read, encoding="ascii") as file:
            text = file.read()
        if text.startswith("["):
            assert json.loads(text) == records
        else:
            assert "\\u5e3d" in text and "..." in text and "0.250" in text


def test_one_result_at_most_goes_to_standard_output(exports, images, capsys):
    assert call(exports, images, "--json", "-", "--csv", "-") == 2
    assert "only one of" in capsys.readouterr().err


def test_probabilities_that_are_not_finite_are_a_dash_and_null():
    """JSON has no such number: on its way through the file of records it becomes None."""
    record = {"image": "a.jpg", "box": None, "probabilities": {"hat": None},
              "positives": [], "error": None}  # fmt: skip
    assert predict.format_table([record], ["hat"]).splitlines()[2].split() == ["hat", "-"]
    assert "".join(csv_pieces(predict.csv_rows([record], ["hat"]))).endswith("\na.jpg,,,,,,\n")


# --- bad images ---------------------------------------------------------------------------------
def test_bad_image_is_an_error_or_skipped_and_listed(exports, images, tmp_path, capsys, failed):
    good, half = images / "test/0--Parade/a.jpg", tmp_path / "half.jpg"
    half.write_bytes(good.read_bytes()[:300])
    assert "half.jpg" in failed(good, half)
    out = tmp_path / "r.csv"
    assert call(exports, half, good, "--on-bad-image", "skip", "--csv", out) == 0
    assert f"skipped: {half}: is truncated" in capsys.readouterr().out
    rows = read_csv(out)
    assert "truncated" in rows[0]["error"] and rows[0]["hat"] == "" and rows[1]["hat"] != ""
    assert call(exports, half, good, "--on-bad-image", "skip", "--json", "-") == 0
    people = json.loads(capsys.readouterr().out)["people"]
    assert people[0]["probabilities"] == {} and "truncated" in people[0]["error"]


FILES = {
    "film.mp4": b"\0\0\0\x18ftypisom" + bytes(99), "a.gif": b"GIF89a" + bytes(99),
    "a.jpg": b"<html>404</html>", "b.json": b'{"x/y.jpg": [[0, 0, 1, 1]]}',
}  # fmt: skip


@pytest.mark.parametrize(
    "words, message",
    [
        ("IMAGES --threshold 2", "threshold 2.0"), ("IMAGES --batch-size 0", "batch_size 0"),
        ("IMAGES --backend magic", "valid are mxnet"), ("IMAGES --threads 0", "threads 0"),
        ("IMAGES --backend mxnet-int8", "variant; add it with"),
        ("IMAGES --backend onnxruntime", "variant; add it with"),
        ("EMPTY", "no images in this folder"),
        ("gone.jpg", "gone.jpg: does not exist"),
        ("film.mp4", "film.mp4: is a video: extract its frames"), ("a.gif", "a.gif: is a GIF"),
        ("a.jpg", "a.jpg: is a web page"),
        ("https://host/a.jpg", "a.jpg: is a URL: download the image"),
        ("IMAGES --boxes b.json", "lists none of the 3 images.*x/y.jpg.*0--Parade/a.jpg"),
    ],
)  # fmt: skip
def test_errors_are_one_line(images, tmp_path, monkeypatch, failed, words, message):
    monkeypatch.chdir(tmp_path)
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "empty").mkdir()
    words = words.replace("IMAGES", str(images)).replace("EMPTY", "empty")
    assert re.search(message, failed(*words.split()))


def test_files_that_are_read_are_not_written_over(exports, images, failed):
    photo, described = images / "test" / "1--Party" / "c.png", exports / "plain" / "tiny.json"
    for flag, path in (("--csv", photo), ("--json", described)):
        before = path.read_bytes()
        assert f"{flag} {path} is a file that is read: give another" in failed(images, flag, path)
        assert path.read_bytes() == before


# --- backends -----------------------------------------------------------------------------------
def test_backend_measured_once_then_remembered(exports, paths, tmp_path, monkeypatch):
    monkeypatch.setattr(backends, "SECONDS", 0.01)
    copy = shutil.copytree(str(exports / "plain"), str(tmp_path / "x")) and tmp_path
    options = [*paths, "--batch-size", "2", "--threads", "1", "--json", tmp_path / "r.json"]
    for backend, chosen in (("auto", "mxnet"), ("fastest", None), ("auto", None)):
        assert call(copy, *options, "--backend", backend, export="x") == 0
        contents = json.loads((tmp_path / "r.json").read_text())
        assert contents["backend"].startswith("mxnet") and contents["precision"] == "fp32"
        assert chosen in (None, contents["backend"])
        found = [list(person["probabilities"].values()) for person in contents["people"]]
        np.testing.assert_allclose(found, expected(exports, paths), rtol=0, atol=1e-5)
    (record,) = json.loads((tmp_path / "x" / "tiny-speed.json").read_text())["measured"]
    assert (record["batch_size"], record["threads"]) == (2, 1)
    assert set(record["images_per_s"]) == {"mxnet", "mxnet-fused"}


# --- boxes --------------------------------------------------------------------------------------
BOXES = {
    "test/0--Parade/b.jpg": [[1, 2, 10, 20], [0, 0, 30, 41]],
    "test/1--Party/c.png": [[3, 3, 9, 9]],
}


def wider(boxes):
    targets = [
        {"file_name": key, "scene_id": 0, "targets": [{"attribute": [], "bbox": b} for b in value]}
        for key, value in boxes.items()
    ]
    return {"images": targets, "attribute_id_map": {}, "scene_id_map": {}}


def as_csv(boxes, header="path,x,y,w,h\n"):
    return header + "".join(
        f"{key},{','.join(map(str, box))}\n" for key, value in boxes.items() for box in value
    )


def test_boxes(exports, images, tmp_path, caplog):
    (tmp_path / "boxes.json").write_text(json.dumps(BOXES))
    out = tmp_path / "r.json"
    with caplog.at_level(logging.WARNING):
        assert call(exports, images, "--boxes", tmp_path / "boxes.json", "--json", out) == 0
    assert "1 images without boxes left out" in caplog.text and "a.jpg" in caplog.text
    people = json.loads(out.read_text())["people"]
    assert [p["box"] for p in people] == [*BOXES["test/0--Parade/b.jpg"], [3, 3, 9, 9]]
    pixels = cv2.imread(str(images / "test/1--Party/c.png"))[3:12, 3:12, ::-1]
    probabilities = Predictor(exports / "plain")([np.ascontiguousarray(pixels)])[0]
    np.testing.assert_allclose(list(people[2]["probabilities"].values()), probabilities, atol=1e-6)


def test_a_table_of_boxes_may_have_the_heading_of_a_prediction_and_more_images(tmp_path, caplog):
    (tmp_path / "b.csv").write_text("image,x,y,w,h\na.jpg,1,2,3,4\nlost.jpg,1,2,3,4\n")
    boxes = predict.read_boxes(tmp_path / "b.csv")
    assert boxes == {"a.jpg": [[1, 2, 3, 4]], "lost.jpg": [[1, 2, 3, 4]]}
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((9, 9, 3), np.uint8))
    entries = predict.find_images([tmp_path / "a.jpg"])
    predict.match_boxes(entries, boxes, tmp_path / "b.csv")
    assert "1 paths are of no image that was given, and left out: lost.jpg" in caplog.text
    caplog.clear()
    predict.match_boxes(entries, {"a.jpg": [[1, 2, 3, 4]], "x\\b.jpg": []}, tmp_path / "b.csv")
    assert "1 paths are of no image" in caplog.text and "left out: x\\b.jpg" in caplog.text


def test_boxes_by_absolute_path_or_relative_to_their_file(exports, images, tmp_path):
    path = images / "test/0--Parade/a.jpg"
    for file, key in (
        (tmp_path / "a.json", str(path)),
        (images / "test" / "b.json", "0--Parade/a.jpg"),
        (tmp_path / "c.json", os.path.relpath(path)),
    ):
        file.write_text(json.dumps({key: [[0, 0, 5, 5]]}))
        boxes = predict.read_boxes(file)
        entries, found = predict.match_boxes(predict.find_images([path]), boxes, file)
        file.unlink()
        assert [p.path for p in entries] == [str(path)] and found == [[[0, 0, 5, 5]]]


def test_boxes_that_show_nothing_or_next_to_nothing(exports, images, tmp_path, caplog, failed):
    boxes = {"test/0--Parade/a.jpg": [[1, 2, 10, 20], [500, 0, 5, 5], [0, 0, 0, 5]],
             "test/1--Party/c.png": [[0.1, 0.2, 0.5, 0.5], [0.3, 0.2, 0.5, 0.5]]}  # fmt: skip
    (tmp_path / "b.json").write_text(json.dumps(boxes))
    err = failed(images, "--boxes", tmp_path / "b.json")
    assert "a.jpg: box [500.0, 0.0, 5.0, 5.0] lies outside the image of 30x40 pixels" in err
    caplog.clear()
    options = ("--boxes", tmp_path / "b.json", "--on-bad-image", "skip", "--batch-size", 2)
    assert call(exports, images, *options, "--csv", tmp_path / "r.csv") == 0
    rows = read_csv(tmp_path / "r.csv")
    assert [bool(row["error"]) for row in rows] == [False, True, True, False, False]
    assert [row["hat"] == "" for row in rows] == [False, True, True, False, False]
    assert "width and height above 0" in rows[2]["error"]
    assert caplog.text.count("not fractions of the image") == 1 and "c.png" in caplog.text


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("b.csv", "path,x,y,w,h\na.jpg,1,2,3,4\na.jpg,1,2,3\n", "b.csv, line 3: 4 fields"),
        ("b.csv", "a.jpg,1,2,3,wide\n", "b.csv, line 1: .*is not a box"),
        ("b.csv", "a.jpg,1,2,inf,4\n", "b.csv, line 1: .*is not a box"),
        ("b.json", '{"a.jpg": [[1, 2, 3, 4]],\n "b.jpg": [[1, 2', "b.json:2: not valid JSON"),
        ("b.json", "[]", "a list; expected an object"),
        ("b.json", '{"a.jpg": 5}', "record 'a.jpg': not a list of boxes"),
        ("b.json", '{"a.jpg": [[1, 2, 3, 4], [1, 2]]}', "record 'a.jpg', box 1"),
        ("b.json", '{"a.jpg": ["1234"]}', "record 'a.jpg', box 0: '1234'"),
        ("b.json", '{"a.jpg": [[1, 2, NaN, 4]]}', "record 'a.jpg', box 0: .*is not a box"),
        ("b.json", '{"images": [{"targets": []}]}', "image 0: needs file_name"),
        ("b.json", '{"images": [{"file_name": "a.jpg", "targets": [{"bbox": null}]}]}',
         "image 0 'a.jpg', target 0: None"),
        ("b.json", None, "no such file of boxes"),
    ],
)  # fmt: skip
def test_malformed_boxes_name_line_or_record(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError if text is not None else FileNotFoundError, match=message):
        predict.read_boxes(tmp_path / name)


@pytest.mark.parametrize(
    "name, text",
    [
        ("boxes.json", json.dumps(BOXES)),
        ("wider_attribute_test.json", json.dumps(wider(BOXES))),
        ("boxes.csv", as_csv(BOXES)),
        ("bare.csv", as_csv(BOXES, header="")),
    ],
)
def test_files_of_boxes(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert predict.read_boxes(tmp_path / name) == BOXES


def test_images_are_found_once_in_order(images):
    folder = images / "test"
    found = predict.find_images([folder / "1--Party" / "c.png", folder])
    assert [p.key for p in found] == ["c.png", "0--Parade/a.jpg", "0--Parade/b.jpg"]
    with pytest.raises(ValueError, match="no images given"):
        predict.find_images([])
