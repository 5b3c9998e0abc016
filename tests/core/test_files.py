"""Atomic files: whole or as before, whatever happens to the disk, the process or the machine."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import signal
import stat
import tempfile
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn
from process_helpers import ended_process, run_python

from gluon_attn.core import errors, files

posix = pytest.mark.skipif(os.name != "posix", reason="file modes, signals")


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def fail(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- all or nothing -----------------------------------------------------------------------------


def test_written_as_given_and_nothing_else_is_left(tmp_path):
    files.write_text(tmp_path / "new" / "a.txt", "é\n\r\n")
    files.write_bytes(str(tmp_path / "new" / "b"), b"\x00\xff")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "é\n\r\n".encode()
    assert (tmp_path / "new" / "b").read_bytes() == b"\x00\xff"
    assert sorted(os.listdir(tmp_path / "new")) == ["a.txt", "b"]


def test_until_the_end_of_the_body_the_old_file_is_there(tmp_path):
    path = tmp_path / "a"
    for content in (b"one", b"two"):
        with files.atomic_path(path) as temporary:
            with open(temporary, "wb") as file:
                file.write(content)
            assert os.path.dirname(temporary) == str(tmp_path) and temporary != str(path)
            assert not path.exists() if content == b"one" else path.read_bytes() == b"one"
        assert path.read_bytes() == content and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt(), OSError(28, "full")])
def test_a_body_that_fails_leaves_the_old_file(tmp_path, error):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(type(error)):
        with files.atomic_path(tmp_path / "a") as temporary:
            with open(temporary, "wb") as file:
                file.write(b"new")
            raise error
    assert (tmp_path / "a").read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_content_is_on_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    """A crash of the machine between any two steps leaves the old file or the new one."""
    done = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle):
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def note_replace(*names):
        done.append("rename")
        replace(*names)

    monkeypatch.setattr(files.os, "fsync", note_fsync)
    monkeypatch.setattr(files.os, "replace", note_replace)
    files.write_bytes(tmp_path / "a", b"x")
    assert done == ["file", "rename", "folder"]


@posix
@pytest.mark.parametrize("moment", ["body", "publish"])
def test_a_killed_process_leaves_the_old_file_and_the_next_write_cleans_up(tmp_path, moment):
    script = """
        import os, signal, sys
        from gluon_attn.core import files
        def kill(*_):
            os.kill(os.getpid(), signal.SIGKILL)
        if sys.argv[2] == "publish":
            files.os.replace = kill
        with files.atomic_path(sys.argv[1]) as temporary:
            with open(temporary, "wb") as file:
                file.write(b"new" * 9999)
                file.flush()
                if sys.argv[2] == "body":
                    kill()
    """
    path = tmp_path / "a.params"
    path.write_bytes(b"old")
    others = [".a.params.otherhost-1-0123456789ab.tmp", ".a.params.tmp", ".b.params.1.tmp"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    assert run_python(script, path, moment)[0] == -signal.SIGKILL
    assert path.read_bytes() == b"old" and len(os.listdir(tmp_path)) == 5
    files.write_bytes(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "a.params"])


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "a"
    with files.atomic_path(path) as first:
        with files.atomic_path(path) as second:
            for temporary in (first, second):
                with open(temporary, "w") as file:
                    file.write(os.path.basename(temporary))
        assert path.read_text() == os.path.basename(second)
    assert path.read_text() == os.path.basename(first) and os.listdir(tmp_path) == ["a"]


# --- full disks and other refusals --------------------------------------------------------------


def test_errors_of_other_files_are_not_put_down_to_this_one(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        with files.atomic_path(tmp_path / "a"):
            open(tmp_path / "source")
    assert str(tmp_path / "source") in str(caught.value) and "cannot write" not in str(caught.value)
    with pytest.raises(OSError) as caught:
        with files.atomic_path(tmp_path / "outer"), files.atomic_path(tmp_path / "inner"):
            fail()
    assert str(caught.value).count("cannot write") == 1 and "inner" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_folders_in_the_way(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="cannot write .*folder"):
        files.write_text(tmp_path / "folder", "x")
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="cannot write .*file/a"):
        files.write_text(tmp_path / "file" / "a", "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_file_systems_that_cannot_flush_folders(tmp_path, monkeypatch):
    fsync = os.fsync

    def refuse(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(files.os, "fsync", refuse)
    files.write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"
    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="cannot write"):
        files.write_text(tmp_path / "a", "y")
    assert (tmp_path / "a").read_text() == "x"


# --- permissions, links, devices, names ---------------------------------------------------------


@posix
@pytest.mark.parametrize("mask", [0o027, 0o000])
def test_umask_holds_for_new_files_and_the_permissions_of_old_ones_stay(tmp_path, mask):
    before = os.umask(mask)
    try:
        files.write_text(tmp_path / "a", "x")
        assert mode_of(tmp_path / "a") == 0o666 & ~mask
        os.chmod(tmp_path / "a", 0o640)
        files.write_text(tmp_path / "a", "y")
        assert mode_of(tmp_path / "a") == 0o640
    finally:
        assert os.umask(before) == mask


@posix
def test_a_write_protected_file_is_not_replaced():
    script = """
        import os, sys
        from gluon_attn.core import files
        os.chdir(sys.argv[1])
        if os.geteuid() == 0:  # root may write anywhere
            os.seteuid(65534)
        try:
            files.write_text("a", "new")
        except PermissionError as error:
            print(error)
    """
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to other users
        os.chmod(folder, 0o777)
        path = Path(folder, "a")
        path.write_text("old")
        path.chmod(0o444)
        _, out, err = run_python(script, folder)
        assert "cannot write a: " in out and "write-protected" in out, err
        assert path.read_text() == "old" and os.listdir(folder) == ["a"]


@posix
def test_symbolic_links_stay(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "a")
    for text in ("new", "newer"):  # the link leads nowhere at first
        files.write_text(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "disk" / "a").read_text() == text
    assert os.listdir(tmp_path / "disk") == ["a"]


@posix
def test_devices_and_pipes_are_written_to_not_replaced(tmp_path):
    files.write_text(os.devnull, "x")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        files.write_bytes(tmp_path / "pipe", b"through")
        assert os.read(reader, 99) == b"through"
    finally:
        os.close(reader)
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize("name", ["ü" * 127, "a [b] (c)*+.json"])
def test_unusual_names(tmp_path, name):
    for _ in range(2):
        files.write_text(tmp_path / name, "x")
    assert os.listdir(tmp_path) == [name]


# --- parameters ---------------------------------------------------------------------------------


def make_net(value=None):
    net = nn.HybridSequential()
    net.add(nn.Dense(3, in_units=4), nn.BatchNorm(in_channels=3))
    net.initialize(mx.init.Uniform(1) if value is None else mx.init.Constant(value))
    return net


def test_parameters_come_back_bit_by_bit_and_are_what_gluon_writes(tmp_path):
    net, other = make_net(), make_net()
    files.save_parameters(net, tmp_path / "a.params")
    net.save_parameters(str(tmp_path / "gluon.params"))
    assert files.sha256_of(tmp_path / "a.params") == files.sha256_of(tmp_path / "gluon.params")
    other.load_parameters(str(tmp_path / "a.params"))
    for name, parameter in net._collect_params_with_prefix().items():
        copy = other._collect_params_with_prefix()[name]
        np.testing.assert_array_equal(parameter.data().asnumpy(), copy.data().asnumpy())


BFLOAT16 = np.dtype([("bfloat16", np.uint16)])  # as MXNet calls it


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", BFLOAT16])
def test_dict_of_any_type_also_with_nan(tmp_path, dtype):
    array = mx.nd.array([1, -2]).astype(dtype)
    arrays = {"arg:a": array, "aux:b": mx.nd.array([np.nan, np.inf, -0.0])}
    files.save_parameters(arrays, tmp_path / "a")
    read = mx.nd.load(str(tmp_path / "a"))
    assert list(read) == ["arg:a", "aux:b"] and np.isnan(read["aux:b"].asnumpy()[0])
    assert read["arg:a"].dtype == array.dtype
    assert read["arg:a"].astype("float32").asnumpy().tolist() == [1, -2]


@posix
@pytest.mark.parametrize("count", [300, 300000])
def test_full_disk_is_noticed_though_mxnet_does_not(tmp_path, count):
    """A small file fits into MXNet's write buffer, whose last flush it does not check."""
    script = """
        import resource, sys
        import mxnet as mx
        from gluon_attn.core import files
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        data = mx.nd.ones((int(sys.argv[2]),))
        if len(sys.argv) > 3:
            mx.nd.save(sys.argv[3], {"w": data})  # no error
        for write in (
            lambda path: files.save_parameters({"w": data}, path),
            lambda path: files.write_text(path, "x" * 1001),
        ):
            try:
                write(sys.argv[1])
            except OSError as error:
                print(error)
    """
    path = tmp_path / "a.params"
    path.write_bytes(b"old")
    unnoticed = [tmp_path / "b.params"] if count == 300 else []
    _, text, err = run_python(script, path, count, *unnoticed)
    for part in (f"cannot write {path}: ", "disk full", "bytes free", "free some space"):
        assert text.count(part) == 2, err
    assert path.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == sorted(["a.params", *(p.name for p in unnoticed)])
    assert all(p.stat().st_size < 4 * count for p in unnoticed)


@pytest.mark.parametrize("spoil", ["fewer", "other values", "other type"])
def test_what_does_not_read_back_is_not_published(tmp_path, monkeypatch, spoil):
    (tmp_path / "a").write_bytes(b"old")
    save = mx.nd.save

    def save_otherwise(path, arrays):
        first, *rest = arrays
        changed = {
            "fewer": {k: arrays[k] for k in rest},
            "other values": dict(arrays, **{first: arrays[first] + 1e-6}),
            "other type": dict(arrays, **{first: arrays[first].astype("float64")}),
        }
        save(path, changed[spoil])

    monkeypatch.setattr(mx.nd, "save", save_otherwise)
    with pytest.raises(OSError, match="does not read back"):
        files.save_parameters(make_net(), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_what_cannot_be_saved_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    deferred, empty = nn.Dense(2), nn.HybridSequential()
    deferred.initialize()
    for thing, error, message in (
        (deferred, ValueError, "cannot save .*a: .*run the net once"),
        (nn.Dense(2, in_units=2), ValueError, "initialise the net"),
        (empty, ValueError, "no parameters"),
        ({}, ValueError, "no parameters"),
        ({"w": np.ones(2)}, TypeError, "not NDArrays: w"),
        ([mx.nd.ones(2)], TypeError, "got list"),
    ):
        with pytest.raises(error, match=message):
            files.save_parameters(thing, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


# --- the rest -----------------------------------------------------------------------------------


def test_digests(tmp_path):
    content = b"0123456789" * 300000  # several blocks
    (tmp_path / "a").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    assert files.sha256_of(tmp_path / "a") == files.digest_of(str(tmp_path / "a")) == expected
    assert files.sha256_of_bytes(content) == expected
    assert files.digest_of(tmp_path / "a", "sha1") == hashlib.sha1(content).hexdigest()
    # FIPS 180-2, appendix B.1
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256_of_bytes(b"abc") == known


@pytest.mark.parametrize(
    "text, line",
    [
        ('Traceback (most recent call last):\n  File "../x.cc", line 9\nMXNetError: why', "why"),
        ("[07:00:00] x.cc:9: Check failed: why\nStack trace:\n  [bt] (0) f\n", "failed: why"),
        ("\n\nwhy\nand more", "why"),
        ("", "RuntimeError"),
    ],
)
def test_line_that_says_what_happened(text, line):
    found = errors.first_line(RuntimeError(text))
    assert found.endswith(line) and "\n" not in found and not found.startswith("Traceback")


def test_line_of_real_mxnet_errors(tmp_path):
    mx.nd.save(str(tmp_path / "a"), {"w": mx.nd.ones((50, 3))})
    os.truncate(tmp_path / "a", 100)
    for act, part in (
        (lambda: mx.nd.load(str(tmp_path / "a")), "Invalid NDArray file"),
        (lambda: mx.nd.ones((2, 3)).reshape((7,)), "target shape size"),
        (lambda: mx.sym.load_json("garbage"), "Expect '{'"),
    ):
        with pytest.raises(mx.base.MXNetError) as caught:
            act()
        assert part in errors.first_line(caught.value)


@posix
def test_running_processes():
    assert files.is_running(os.getpid()) and files.is_running(1)
    assert not files.is_running(ended_process())


# -- JSON ------------------------------------------------------------------------


def test_json_has_no_numbers_that_are_none(tmp_path):
    value = {"a": [math.nan, (1.5, -math.inf)], "b": {"c": math.inf}, "d": "NaN", "e": None}
    text = files.json_text(value)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": [None, [1.5, None]], "b": {"c": None}, "d": "NaN", "e": None,
    }  # fmt: skip
    files.write_json(tmp_path / "a.json", value)
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == text
    assert files.json_text([0.1, "é"], None) == '[0.1, "é"]\n'
    assert math.isnan(files.or_nan(None)) and files.or_nan(0.5) == 0.5


def test_names_that_are_no_utf8_survive_in_json(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    files.write_json(tmp_path / "a.json", {"image": name})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"image": name}
