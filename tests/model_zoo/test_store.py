"""Weight store against a real server on the loopback, a directory mirror and no mirror at all."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import itertools
import json
import logging
import os
import re
import shutil
import socketserver
import stat
import tempfile
import threading
import zipfile
from pathlib import Path

import pytest
from process_helpers import PATIENCE, finish, python, run_python, start, wait_for

from model_zoo import store, transfer

ROOT = str(Path(__file__).resolve().parents[2])
PAYLOAD = bytes(range(256)) * 2048  # 8 chunks; halves end between chunks


def entry_for(name, payload=PAYLOAD, **fields):
    digest = hashlib.sha256(payload).hexdigest()
    file = f"{name}-{digest[:8]}.params"
    return {"file": file, "sha256": digest, "size": len(payload), "classes": None, **fields}


def table(*names, **weights):
    weights = {**{n: entry_for(n) for n in names}, **weights}
    return json.dumps({"version": 1, "weights": weights}).encode()


FILE = entry_for("tiny")["file"]
REMOTE = f"gluon_attn/models/{FILE}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.files`` with ranges; ``server.faults`` spoil the next answers for .params."""

    def do_GET(self):
        server, path = self.server, self.path.lstrip("/")
        requested = self.headers.get("Range")
        server.seen.append((path, requested))
        server.encodings.append(self.headers.get("Accept-Encoding"))
        if path not in server.files:
            return self.send_error(404)
        fault = server.faults.pop(0) if server.faults and not path.endswith(".json") else None
        if isinstance(fault, int):
            return self.send_error(fault)
        body = server.files[path]
        start = int(re.match(r"bytes=(\d+)-", requested).group(1)) if requested else 0
        if fault == "ignore range":
            requested, start = None, 0
        if requested and start >= len(body):
            return self.send_error(416)
        self.send_response(206 if requested else 200)
        if requested:
            shift = 7 if fault == "wrong range" else 0
            self.send_header("Content-Range", f"bytes {start + shift}-{len(body) - 1}/{len(body)}")
        if fault != "no length":
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        body = body[start:]
        if fault in ("cut", "stall"):
            body = body[: len(body) // 2]
        self.wfile.write(body)
        self.wfile.flush()
        if fault == "stall":
            server.released.wait(PATIENCE)
        return None

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


@pytest.fixture
def server(monkeypatch):
    server = Server(("127.0.0.1", 0), Handler)
    server.files, server.faults, server.seen, server.encodings = {}, [], [], []
    server.released = threading.Event()
    server.files[store.INDEX] = table("tiny")
    server.files[REMOTE] = PAYLOAD
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv(transfer.MIRROR_VARIABLE, server.url)
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """No mirror, no home, short waits, and no proxy between the test and its own server."""
    monkeypatch.delenv(transfer.MIRROR_VARIABLE, raising=False)
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "mxnet_home"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(transfer, "BACKOFF", 0.01)
    monkeypatch.setattr(transfer, "TIMEOUT", (2.0, 5.0))


@pytest.fixture
def builtin(tmp_path, monkeypatch):
    """Replace the built-in table, which is empty as released, by given bytes."""

    def replace(content):
        (tmp_path / "builtin.json").write_bytes(content)
        monkeypatch.setattr(store, "BUILTIN", str(tmp_path / "builtin.json"))

    return replace


def directory_mirror(tmp_path, monkeypatch, files, form="path"):
    mirror = tmp_path / "mir ror"
    for name, content in files.items():
        (mirror / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror / name).write_bytes(content)
    value = str(mirror) if form == "path" else mirror.as_uri()
    monkeypatch.setenv(transfer.MIRROR_VARIABLE, value)
    return mirror


def fetches(server):
    return [requested for path, requested in server.seen if path.endswith((".params", ".zip"))]


def visible(directory):
    return sorted(n for n in os.listdir(directory) if not n.startswith("."))


# -------------------------------------------------------------------------------------- lookup


def test_lookup_order_root_then_mxnet_home_then_home(tmp_path, builtin):
    builtin(table("tiny"))
    places = [tmp_path / "root", tmp_path / "mxnet_home/models", tmp_path / "home/.mxnet/models"]
    for place in reversed(places):
        place.mkdir(parents=True)
        (place / FILE).write_bytes(PAYLOAD)
        assert store.get_model_file("tiny", root=str(tmp_path / "root")) == str(place / FILE)
    assert store.get_model_file("tiny") == str(places[1] / FILE)


def test_home_is_used_without_mxnet_home(tmp_path, builtin, monkeypatch):
    builtin(table("tiny"))
    monkeypatch.setenv("MXNET_HOME", "")
    place = tmp_path / "home/.mxnet/models"
    place.mkdir(parents=True)
    (place / FILE).write_bytes(PAYLOAD)
    assert store.get_model_file("tiny") == str(place / FILE)
    assert store.get_model_file("tiny", root="~/.mxnet/models") == str(place / FILE)


def test_offline_message_names_file_hash_directory_and_ways_out(tmp_path, builtin):
    builtin(table("tiny"))
    with pytest.raises(FileNotFoundError) as caught:
        store.get_model_file("tiny", root=str(tmp_path / "root"))
    text = str(caught.value)
    ways = ("MXNET_GLUON_REPO", "install gluon_attn again", "tools/train.py", "no mirror is set")
    for part in (FILE, entry_for("tiny")["sha256"], str(tmp_path / "root"), *ways):
        assert part in text
    assert "train_wider" not in text and "--base-params" not in text
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    "name, fields, remedy",
    [
        ("tiny", {"trained_with": "python tools/run tiny"}, "train it: python tools/run tiny"),
        ("tiny_digits", {}, "train it: tools/train.py --recipe RECIPE model=tiny_digits"),
        ("vaa_tiny_wider", {}, "train it: tools/train_wider.py"),
    ],
)
def test_what_to_do_is_what_fits_the_model(builtin, name, fields, remedy):
    builtin(table(**{name: entry_for(name, **fields)}))
    with pytest.raises(FileNotFoundError, match=re.escape(remedy)):
        store.get_model_file(name)


def test_a_name_without_weights(builtin):
    builtin(table())
    with pytest.raises(
        ValueError, match=r"'nonsuch'. Models with weights: efficientnet_lite0, .*_lite2;"
    ):
        store.get_model_file("nonsuch")
    builtin(table("tiny", "other"))
    with pytest.raises(
        ValueError, match="Models with weights: eff.*_lite2, other, tiny; .*resnet101_v1"
    ):
        store.get_model_file("nonsuch")


def test_released_table_is_valid_and_lists_gluon_resnets():
    known = store.entries()
    assert set(store.GLUON_RESNETS) <= set(known)
    assert store.pretrained_model_list() == sorted(known)
    assert known["resnet101_v1"].file == "resnet101_v1-d988c13d.params"


def test_nothing_is_contacted_unless_asked(builtin, monkeypatch):
    import socket

    def refuse(*_, **__):
        raise AssertionError("network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    builtin(table("tiny"))
    for name in ("tiny", "resnet18_v1"):
        with pytest.raises(FileNotFoundError):
            store.get_model_file(name)


@pytest.mark.parametrize("spoilt", [PAYLOAD[:-1], PAYLOAD[:-1] + b"x"])
def test_corrupt_cached_file_offline(tmp_path, builtin, spoilt):
    builtin(table("tiny"))
    path = tmp_path / FILE
    path.write_bytes(spoilt)
    with pytest.raises(ValueError, match="is corrupt: expected .*, found .*What to do") as caught:
        store.get_model_file("tiny", root=str(tmp_path))
    if len(spoilt) == len(PAYLOAD):
        assert hashlib.sha256(PAYLOAD).hexdigest() in str(caught.value)
        assert hashlib.sha256(spoilt).hexdigest() in str(caught.value)
    else:
        assert f"expected {len(PAYLOAD)} bytes, found {len(spoilt)}" in str(caught.value)
    assert path.read_bytes() == spoilt


@pytest.mark.parametrize("state", ["no folder", "a login page", "bad scheme", "damaged copy"])
def test_what_is_at_hand_asks_no_mirror(tmp_path, builtin, server, monkeypatch, state):
    builtin(table("tiny"))
    (tmp_path / FILE).write_bytes(PAYLOAD)
    server.files[store.INDEX] = b"<html>login</html>"
    values = {"no folder": str(tmp_path / "gone"), "bad scheme": "s3://bucket/x"}
    monkeypatch.setenv(transfer.MIRROR_VARIABLE, values.get(state, server.url))
    (tmp_path / store.INDEX_COPY).write_text('{"version": 1, "wei', encoding="utf-8")
    path, entry = store.find("tiny", root=str(tmp_path))
    assert path == str(tmp_path / FILE) and entry.file == FILE and server.seen == []
    assert store.entry_of_file(path, str(tmp_path)) == entry == store.builtin("tiny")


def test_a_damaged_copy_of_the_mirrors_table_is_none(tmp_path, monkeypatch, caplog):
    for content in (b'{"version": 1, "wei', table(tiny=3), b""):
        (tmp_path / store.INDEX_COPY).write_bytes(content)
        caplog.clear()
        assert "tiny" not in store.entries(str(tmp_path))
        assert store.INDEX_COPY in caplog.text and "not used" in caplog.text
    monkeypatch.setenv(transfer.MIRROR_VARIABLE, "http://127.0.0.1:9")  # nobody listens
    assert "tiny" not in store.entries(str(tmp_path))
    assert store.purge(str(tmp_path)) == [str(tmp_path / store.INDEX_COPY)]


def test_a_file_is_recognised_by_its_contents(tmp_path, builtin):
    builtin(table("tiny", other=entry_for("other", b"x" * len(PAYLOAD))))
    (tmp_path / "mine").write_bytes(PAYLOAD)
    assert store.entry_of_file(str(tmp_path / "mine")).name == "tiny"
    (tmp_path / "mine").write_bytes(PAYLOAD[::-1])
    for path in ("mine", "none", ""):
        assert store.entry_of_file(str(tmp_path / path)) is None


def test_corrupt_file_in_root_does_not_hide_a_good_one(tmp_path, builtin, caplog):
    builtin(table("tiny"))
    good = tmp_path / "mxnet_home/models"
    good.mkdir(parents=True)
    (good / FILE).write_bytes(PAYLOAD)
    (tmp_path / FILE).write_bytes(b"bad")
    assert store.get_model_file("tiny", root=str(tmp_path)) == str(good / FILE)
    assert "corrupt" in caplog.text


# -------------------------------------------------------------------------------------- tables


RECIPE = {"method": "vaa", "model": "tiny", "input_size": 32}


def bad_entry(**fields):
    return table(tiny={**entry_for("tiny"), **fields})


@pytest.mark.parametrize(
    "content, message",
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "is UTF-16 text"),
        (b"[]", "expected an object"),
        (b'{"version": 1, "weights": []}', "expected an object"),
        (b'{"version": 2, "weights": {}}', "version 2"),
        (table(**{"../tiny": entry_for("../tiny")}), "not a model name"),
        (b'{"version": 1, "weights": {"tiny": 3}}', "expected an object"),
        (bad_entry(sha256="0" * 63), "sha256"),
        (bad_entry(file="tiny-00000000.params"), "file must be tiny-"),
        (bad_entry(file="../" + FILE), "file must be tiny-"),
        (bad_entry(size=0), "size 0"),
        (bad_entry(size=True), "size True"),
        (bad_entry(classes="Male"), "classes"),
        (bad_entry(classes=[1]), "classes"),
        (bad_entry(classes=["a", "a"]), "classes must be distinct"),
        (bad_entry(recipe=[]), "recipe must be null or an object"),
        (bad_entry(recipe={"method": "vaa", "input_size": 32}), "recipe: model None"),
        (bad_entry(recipe={"method": "vaa", "model": "tiny"}), "recipe: input_size None"),
        (bad_entry(recipe=dict(RECIPE, input_size="x")), "recipe: input_size 'x'"),
        (bad_entry(recipe=dict(RECIPE, model_options=[1])), r"recipe: model_options \[1\]"),
        (bad_entry(schema=["x"]), "schema must be null or a list of objects"),
        (bad_entry(data=[]), "data must be null or an object"),
        (bad_entry(trained_with=3), "trained_with"),
        (bad_entry(score="excellent"), "score must be null or an object"),
        (bad_entry(score={"mAP": "excellent"}), "score: mAP 'excellent' is not a number"),
        (bad_entry(score={"mAP": 47.2}), "score: mAP 47.2 is not a number in 0..1"),
        (bad_entry(score={"samples": 0}), "score: samples 0"),
        (bad_entry(score={"split": 1}), "score: split 1"),
    ],
)
def test_malformed_tables_are_refused_by_name(tmp_path, monkeypatch, content, message):
    directory_mirror(tmp_path, monkeypatch, {store.INDEX: content})
    message = r"gluon_attn/models/weights\.json:.*" + message
    with pytest.raises(ValueError, match=message) as caught:
        store.get_model_file("tiny")
    assert b'"sha256"' not in content or "entry '" in str(caught.value)


def test_entries_carry_classes_recipe_and_score(tmp_path, monkeypatch):
    score = {"split": "test", "samples": 20, "mAP": 0.5}
    fields = dict(classes=["Male", "Hat"], recipe=RECIPE, score=score)
    content = table(tiny=entry_for("tiny", **fields))
    directory_mirror(tmp_path, monkeypatch, {store.INDEX: content})
    entry = store.entries()["tiny"]
    assert entry.classes == ("Male", "Hat") and entry.recipe == RECIPE
    assert entry.score == fields["score"] and entry.size == len(PAYLOAD)


def test_builtin_entries_win_over_the_mirrors(tmp_path, monkeypatch, builtin, caplog):
    builtin(table("tiny", "same"))
    content = table("same", "extra", tiny=entry_for("tiny", b"other"))
    directory_mirror(tmp_path, monkeypatch, {store.INDEX: content})
    known = store.entries()
    assert known["tiny"].file == FILE and "extra" in known
    assert [r.args[0] for r in caplog.records if r.levelno == logging.WARNING] == ["tiny"]


# ------------------------------------------------------------------------------------- mirrors


@pytest.mark.parametrize("form", ["path", "uri"])
def test_directory_mirror(tmp_path, monkeypatch, form):
    files = {store.INDEX: table("tiny"), REMOTE: PAYLOAD}
    directory_mirror(tmp_path, monkeypatch, files, form)
    path = Path(store.get_model_file("tiny"))
    assert path == tmp_path / "mxnet_home/models" / FILE and path.read_bytes() == PAYLOAD
    assert visible(path.parent) == [store.INDEX_COPY, FILE]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_directory_mirror_with_missing_or_wrong_file(tmp_path, monkeypatch):
    mirror = directory_mirror(tmp_path, monkeypatch, {store.INDEX: table("tiny")})
    with pytest.raises(FileNotFoundError, match=FILE):
        store.get_model_file("tiny", root=str(tmp_path / "root"))
    (mirror / REMOTE).write_bytes(PAYLOAD[::-1])
    with pytest.raises(ValueError, match="expected sha256 .* found"):
        store.get_model_file("tiny", root=str(tmp_path / "root"))
    assert visible(tmp_path / "root") == [store.INDEX_COPY]


@pytest.mark.parametrize(
    "mirror, error, message",
    [
        ("s3://bucket/x", ValueError, "MXNET_GLUON_REPO=s3://bucket/x: valid are"),
        ("gone", FileNotFoundError, "no such directory"),
        ("http://user:secret@127.0.0.1:9", OSError, "127.0.0.1:9"),
    ],
)
def test_mirrors_that_do_not_serve(tmp_path, builtin, monkeypatch, mirror, error, message):
    builtin(table("tiny"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(transfer.MIRROR_VARIABLE, mirror)
    with pytest.raises(error, match=message) as caught:
        store.get_model_file("tiny")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "server"])
def test_a_table_without_an_end_is_not_read_to_it(request, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(transfer, "MAX_SMALL", 1 << 17)
    files = {store.INDEX: b" " * (1 << 18)}
    if kind == "folder":
        mirror = str(directory_mirror(tmp_path, monkeypatch, files))
    else:
        request.getfixturevalue("server").files.update(files)
        mirror = transfer.mirror_location()
    with pytest.raises(OSError, match=f"{store.INDEX} has more than 131072 bytes"):
        transfer.read_small(mirror, store.INDEX)


def test_http_mirror_then_offline_from_the_copy_of_its_table(server, monkeypatch):
    path = store.get_model_file("tiny")
    assert Path(path).read_bytes() == PAYLOAD and fetches(server) == [None]
    assert store.get_model_file("tiny") == path and fetches(server) == [None]
    monkeypatch.setenv(transfer.MIRROR_VARIABLE, "http://127.0.0.1:9")  # nobody listens
    assert store.get_model_file("tiny") == path
    monkeypatch.delenv(transfer.MIRROR_VARIABLE)
    assert store.get_model_file("tiny") == path
    assert "tiny" in store.pretrained_model_list()


def test_mirror_without_table_still_serves_builtin_names(server, builtin):
    del server.files[store.INDEX]
    with pytest.raises(ValueError, match="no weights are known for 'tiny'"):
        store.get_model_file("tiny")
    builtin(table("tiny"))
    assert Path(store.get_model_file("tiny")).read_bytes() == PAYLOAD


def test_corrupt_cached_file_is_set_aside_and_fetched_again(server, tmp_path):
    (tmp_path / FILE).write_bytes(b"bad")
    path = store.get_model_file("tiny", root=str(tmp_path))
    assert Path(path).read_bytes() == PAYLOAD
    assert (tmp_path / (FILE + ".corrupt")).read_bytes() == b"bad"


# -------------------------------------------------------------------------------- broken servers


@pytest.mark.parametrize(
    "faults, ranges",
    [
        ([], [None]),
        (["cut"], [None, 262144]),
        (["cut", "cut", 503], [None, 262144, 393216, 393216]),
        ([500, 429, 503], [None] * 4),
        (["no length"], [None]),
        (["cut", "ignore range"], [None, 262144]),
        (["cut", "wrong range"], [None, 262144, None]),
        (["stall"], [None, 262144]),
    ],
)
def test_broken_transfers_are_resumed(server, monkeypatch, faults, ranges):
    monkeypatch.setattr(transfer, "TIMEOUT", (2.0, 0.3))
    assert len(PAYLOAD) == 8 * transfer.CHUNK
    server.faults = list(faults)
    path = store.get_model_file("tiny")
    assert Path(path).read_bytes() == PAYLOAD
    assert fetches(server) == [r and f"bytes={r}-" for r in ranges]
    assert server.encodings[-1] == "identity", "ranges of the file, not of a compressed stream"
    assert visible(os.path.dirname(path)) == [store.INDEX_COPY, FILE]


def test_short_answers_that_older_http_libraries_pass_on(server, monkeypatch):
    """urllib3 1.x ends a cut-off answer as if it were complete."""
    import requests

    whole = requests.Response.iter_content
    monkeypatch.setattr(
        requests.Response, "iter_content", lambda self, size: itertools.islice(whole(self, size), 4)
    )
    assert Path(store.get_model_file("tiny")).read_bytes() == PAYLOAD
    assert fetches(server) == [None, "bytes=262144-"]


def test_retries_are_bounded_and_the_next_call_goes_on(server, tmp_path):
    server.faults = ["cut"] + [503] * transfer.RETRIES
    with pytest.raises(OSError, match=rf"attempt {transfer.RETRIES + 1}\); the next call resumes"):
        store.get_model_file("tiny", root=str(tmp_path))
    assert visible(tmp_path) == [store.INDEX_COPY, FILE + ".part"]
    assert Path(store.get_model_file("tiny", root=str(tmp_path))).read_bytes() == PAYLOAD
    assert fetches(server)[-1] == "bytes=262144-"


@pytest.mark.parametrize("status, error", [(404, FileNotFoundError), (403, OSError)])
def test_refusals_are_not_retried(server, tmp_path, status, error):
    server.faults = [status]
    with pytest.raises(error, match=re.escape(f"{server.url}/{REMOTE}")):
        store.get_model_file("tiny", root=str(tmp_path))
    assert len(fetches(server)) == 1 and visible(tmp_path) == [store.INDEX_COPY]


def test_wrong_content_is_never_published(server, tmp_path):
    server.files[REMOTE] = PAYLOAD[::-1]
    with pytest.raises(ValueError, match="expected sha256 .* found .* deleted"):
        store.get_model_file("tiny", root=str(tmp_path))
    server.files[REMOTE] = PAYLOAD + b"more"
    with pytest.raises(ValueError, match="expected 524288 bytes, the mirror has 524292"):
        store.get_model_file("tiny", root=str(tmp_path))
    server.faults = ["no length"]
    with pytest.raises(ValueError, match="more than the announced 524288 bytes"):
        store.get_model_file("tiny", root=str(tmp_path))
    assert FILE not in os.listdir(tmp_path)


@pytest.mark.parametrize("stale", [b"stale" * 100, b"x" * len(PAYLOAD), PAYLOAD + b"tail"])
def test_a_stale_part_is_replaced(server, tmp_path, stale):
    (tmp_path / (FILE + ".part")).write_bytes(stale)
    path = store.get_model_file("tiny", root=str(tmp_path))
    assert Path(path).read_bytes() == PAYLOAD and fetches(server)[-1] is None


# -------------------------------------------------------------------- Gluon's own ImageNet ResNets


@pytest.fixture
def resnet18(monkeypatch):
    """Pretend that a small payload is Gluon's resnet18_v1."""
    from mxnet.gluon.model_zoo import model_store

    sha1 = hashlib.sha1(PAYLOAD).hexdigest()
    monkeypatch.setitem(model_store._model_sha1, "resnet18_v1", sha1)
    return f"resnet18_v1-{sha1[:8]}"


def zipped(packing=zipfile.ZIP_DEFLATED, **members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_gluon_resnet_from_a_local_file(tmp_path, resnet18):
    (tmp_path / f"{resnet18}.params").write_bytes(PAYLOAD)
    path = store.get_model_file("resnet18_v1", root=str(tmp_path))
    assert path == str(tmp_path / f"{resnet18}.params")
    (tmp_path / f"{resnet18}.params").write_bytes(PAYLOAD[::-1])
    with pytest.raises(ValueError, match=f"expected sha1 {resnet18[-8:]}.*--base-params"):
        store.get_model_file("resnet18_v1", root=str(tmp_path))


@pytest.mark.parametrize("left", ["nothing", "half", "all"])
def test_gluon_resnet_from_a_mirror_as_mxnet_lays_it_out(server, tmp_path, resnet18, left):
    """A killed process may have left a part of the archive."""
    content = zipped(**{f"{resnet18}.params": PAYLOAD, "../evil": b"x", "/tmp/evil": b"x"})
    server.files[f"gluon/models/{resnet18}.zip"] = content
    have = {"nothing": 0, "half": len(content) // 2, "all": len(content)}[left]
    if have:
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / f"{resnet18}.zip.part").write_bytes(content[:have])
    path = store.get_model_file("resnet18_v1", root=str(tmp_path / "root"))
    assert Path(path).read_bytes() == PAYLOAD
    assert visible(tmp_path / "root") == [f"{resnet18}.params"]
    assert fetches(server) == [f"bytes={have}-" if have else None]
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("how", ["other name", "slip", "garbage", "truncated", "wrong content",
                                 "encrypted", "lzma"])  # fmt: skip
def test_bad_archives_are_refused_and_removed(server, tmp_path, resnet18, how):
    member = f"{resnet18}.params"
    good = zipped(**{member: PAYLOAD})
    encrypted = bytearray(good)
    for at in (6, good.index(b"PK\1\2") + 8):  # a flag, in both headers
        encrypted[at] |= 1
    server.files[f"gluon/models/{resnet18}.zip"] = {
        "other name": zipped(**{"model.params": PAYLOAD}),
        "slip": zipped(**{f"../{member}": PAYLOAD}),
        "garbage": b"<html>",
        "truncated": good[: len(good) // 2],
        "wrong content": zipped(**{member: PAYLOAD[::-1]}),
        "encrypted": bytes(encrypted),
        "lzma": zipped(zipfile.ZIP_LZMA, **{member: PAYLOAD}),
    }[how]
    message = "but not|not a sound zip|expected sha1|is packed by method 14"
    with pytest.raises(ValueError, match=message):
        store.get_model_file("resnet18_v1", root=str(tmp_path / "root"))
    assert visible(tmp_path / "root") == [] and not (tmp_path / member).exists()


# --------------------------------------------------------------------- processes, locks and disks


GET = f"""
    import sys
    from model_zoo import store, transfer
    transfer.TIMEOUT = ({PATIENCE}, {PATIENCE})
    print(store.get_model_file("tiny", root=sys.argv[1]))
"""


def test_processes_fetch_the_same_file_once(server, tmp_path):
    """The first answer stalls halfway until both processes are there."""
    server.faults = ["stall"]
    processes = [start(python(GET, tmp_path)) for _ in range(2)]
    wait_for(lambda: [p for p, _ in server.seen].count(store.INDEX) == 2, "both processes")
    server.released.set()  # ends the cut-off answer; its reader resumes
    outputs = [finish(process) for process in processes]
    assert [out.strip() for _, out, _ in outputs] == [str(tmp_path / FILE)] * 2, outputs
    assert (tmp_path / FILE).read_bytes() == PAYLOAD
    assert fetches(server) == [None, "bytes=262144-"]


def test_a_killed_download_leaves_no_final_file_and_is_resumed(server, tmp_path):
    server.faults = ["stall"]
    process = start(python(GET, tmp_path))
    part = tmp_path / (FILE + ".part")
    wait_for(lambda: part.exists() and part.stat().st_size >= 131072, "half of the file")
    process.kill()
    finish(process)
    have = part.stat().st_size
    assert not (tmp_path / FILE).exists() and 0 < have < len(PAYLOAD)
    assert Path(store.get_model_file("tiny", root=str(tmp_path))).read_bytes() == PAYLOAD
    assert fetches(server) == [None, f"bytes={have}-"]


def test_lock_held_too_long_names_the_holder(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "LOCK_TIMEOUT", 0.2)
    entry = store.entries()["tiny"]
    with transfer.locked(str(tmp_path), entry):
        with pytest.raises(TimeoutError, match=rf"{FILE}\.lock, held by process {os.getpid()} on"):
            store.get_model_file("tiny", root=str(tmp_path))
    assert store.get_model_file("tiny", root=str(tmp_path)) == str(tmp_path / FILE)


@contextlib.contextmanager
def unprivileged():
    """Root may write anywhere: act as nobody meanwhile."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_read_only_root(server):
    """A good file in it is used; a missing one gives the way out instead of a bare errno."""
    root = Path(tempfile.mkdtemp())  # tmp_path lies in a directory closed to other users
    try:
        root.chmod(0o555)
        with unprivileged():
            with pytest.raises(PermissionError, match=r"cannot write .*pass a root= that is writ"):
                store.get_model_file("tiny", root=str(root))
        assert fetches(server) == []
        root.chmod(0o755)
        (root / FILE).write_bytes(PAYLOAD)
        root.chmod(0o555)
        with unprivileged():
            assert store.get_model_file("tiny", root=str(root)) == str(root / FILE)
        assert os.listdir(root) == [FILE]
    finally:
        root.chmod(0o755)
        shutil.rmtree(root)


def test_root_that_cannot_be_a_directory(server, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="pass a root="):
        store.get_model_file("tiny", root=str(tmp_path / "file" / "models"))


def test_full_disk_while_writing(server, tmp_path):
    script = """
        import resource, sys
        from model_zoo import store
        store.entries()  # imports MXNet
        resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
        try:
            store.get_model_file("tiny", root=sys.argv[1])
        except OSError as error:
            print(error)
    """
    _, output, errors = run_python(script, tmp_path / "root")
    assert f"no room for {FILE} ({len(PAYLOAD)} bytes" in output, errors
    assert visible(tmp_path / "root") == [store.INDEX_COPY]


def test_full_disk_known_beforehand(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match=rf"no room for {FILE} .*1000 free.*another root"):
        store.get_model_file("tiny", root=str(tmp_path))
    assert visible(tmp_path) == [store.INDEX_COPY]


def test_purge_deletes_only_this_stores_files(server, tmp_path):
    store.get_model_file("tiny", root=str(tmp_path))
    theirs = ["resnet18_v1-a0666292.params", "mine.params", "tiny.params", "tiny-best.params"]
    ours = [FILE + ".part", FILE + ".corrupt", "resnet18_v1-a0666292.zip.part"]
    for name in theirs + ours:
        (tmp_path / name).write_bytes(b"x")
    deleted = store.purge(str(tmp_path))
    assert {os.path.basename(p) for p in deleted} >= {FILE, store.INDEX_COPY, *ours}
    assert sorted(os.listdir(tmp_path)) == sorted(theirs)
    assert store.purge(str(tmp_path)) == [] and store.purge(str(tmp_path / "none")) == []
