"""Consoles that lack characters, pipes that are closed early, and errors as one line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys

import pytest
from process_helpers import run

from gluon_attn.cli import common as cli
from gluon_attn.cli.train import training_flags
from gluon_attn.core import errors
from gluon_attn.core.errors import describe, naming

HAT = "帽…\udce9😀"  # Chinese, a mark, a byte of a file name that is no UTF-8, beyond 16 bits


class Pipe:
    """A pipe as standard output, in a given encoding."""

    def __init__(self, encoding):
        self.read, write = os.pipe()
        raw = io.FileIO(write, "wb")
        self.stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding)

    def close(self):
        os.close(self.read)

    def text(self):
        """Return all that was written, as bytes."""
        os.close(self.stream.fileno())
        with os.fdopen(self.read, "rb") as file:
            return file.read()


@pytest.fixture
def stdout(monkeypatch):
    """A function that makes standard output a pipe of an encoding, and prepares it."""

    def make(encoding="ascii", name="stdout"):
        pipe = Pipe(encoding)
        monkeypatch.setattr(sys, name, pipe.stream)
        monkeypatch.setattr(sys, f"__{name}__", pipe.stream)
        errors.prepare_console()
        return pipe

    return make


def test_a_console_shows_what_it_can(stdout):
    pipe = stdout("ascii")
    print(HAT, "± × → – ≥ é")
    errors.flush_console()
    expected = "\\u5e3d...\\udce9\\ud83d\\ude00 +- x -> - >= \\u00e9\n"
    assert pipe.text() == expected.encode().replace(b"\n", os.linesep.encode())


def test_other_consoles_keep_what_they_have(stdout):
    pipe = stdout("utf-8")
    print("帽…é")
    errors.flush_console()
    assert pipe.text().decode("utf-8").strip() == "帽…é"
    pipe = stdout("latin-1")
    print("帽é")
    errors.flush_console()
    assert pipe.text().strip() == b"\\u5e3d\xe9"


def test_data_for_programs_come_back_as_they_were(stdout):
    """The mark of a table is replaced, that of a name is not."""
    pipe = stdout("ascii")
    errors.print_data(json.dumps({"name": HAT}, ensure_ascii=False))
    errors.flush_console()
    text = pipe.text()
    assert b"\\u2026" in text and json.loads(text) == {"name": HAT}


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_reader_that_leaves_is_no_error(stdout, name):
    pipe = stdout("utf-8", name)
    done = []

    def work():
        pipe.close()
        for _ in range(3):
            print("x" * 100_000, file=getattr(sys, name), flush=True)
        done.append(True)

    assert cli.status_of(work) == 0 and done
    print("more", file=getattr(sys, name))
    errors.flush_console()


def test_line_by_line_stays_line_by_line(stdout):
    pipe = stdout("utf-8")
    assert not sys.stdout.line_buffering
    sys.stdout = io.TextIOWrapper(
        io.FileIO(os.dup(pipe.stream.fileno()), "wb"), "utf-8", line_buffering=True,
        write_through=True,
    )  # fmt: skip
    sys.__stdout__ = sys.stdout  # as python -u makes it
    errors.prepare_console()
    assert sys.stdout.line_buffering and sys.stdout.write_through
    print("at once")
    assert os.read(pipe.read, 100).strip() == b"at once"


def test_a_closed_output_takes_everything(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "__stdout__", None)
    assert cli.status_of(lambda: sys.stdout.write("x") and 0) == 0
    sys.stdout.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_the_output_is_an_error(monkeypatch, capsys):
    stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO("/dev/full", "wb")))
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "__stdout__", stream)
    assert cli.status_of(lambda: print("x")) == 2
    assert "No space left" in capsys.readouterr().err
    with contextlib.suppress(OSError):
        sys.stdout.close()


def test_a_command_whose_reader_leaves_ends_quietly(repository):
    """To the very end of the interpreter, which writes what is left."""
    read, write = os.pipe()
    os.close(read)
    code, _, error = run(
        [sys.executable, "-m", "gluon_attn.runtime", "--quick"], cwd=repository, stdout=write,
        env=dict(os.environ, PYTHONIOENCODING="ascii"),
    )  # fmt: skip
    os.close(write)
    assert (code, error) == (0, "")


# ------------------------------------------------------------- errors


def error_of(raised, capsys):
    def fail():
        raise raised

    assert cli.status_of(fail) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ValueError("two\n  lines"), "error: two lines"),
        (FileNotFoundError(2, "No such file", "x.png"), "error: [Errno 2] No such file: 'x.png'"),
        (ImportError("pip install it"), "error: pip install it"),
    ],
)
def test_expected_errors_are_their_text(raised, expected, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tool"])
    assert error_of(raised, capsys) == expected


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        (KeyError("iscrowd"), "KeyError: 'iscrowd'"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("Traceback (most recent call last):\n  x\nmx: bad\n"), "RuntimeError: mx: "),
    ],
)
def test_what_a_library_raises_names_the_files_of_the_command(
    raised, text, capsys, monkeypatch, tmp_path
):
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setattr(sys, "argv", ["tool", "--data-dir", str(data), f"--out={tmp_path}", "lr=1"])
    line = error_of(raised, capsys)
    assert line.startswith(f"error: {text}") and f", with {data}, {tmp_path} (" in line
    assert "line " in line and line.endswith("GLUON_ATTN_TRACEBACK=1 shows how it came to that)")


def test_a_traceback_is_there_for_who_asks(monkeypatch):
    monkeypatch.setenv("GLUON_ATTN_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        cli.status_of(lambda: 1 // 0)


def test_ctrl_c_has_its_own_status(capsys):
    def stop():
        raise KeyboardInterrupt

    assert cli.status_of(stop, "stopped; the same command continues") == 130
    assert capsys.readouterr().err == "stopped; the same command continues\n"
    assert cli.status_of(lambda: None) == 0 and cli.status_of(lambda: 3) == 3


class OwnError(ValueError):
    pass


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        (KeyError("iscrowd"), ValueError, "FILE: KeyError: 'iscrowd'"),
        (ValueError("line 3"), ValueError, "FILE: line 3"),
        (ValueError("FILE/a.txt: line 3"), ValueError, "FILE/a.txt: line 3"),
        (OwnError("line 3"), OwnError, "FILE: line 3"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), ValueError, "FILE: 'utf-8' codec"),
        (FileNotFoundError("gone"), FileNotFoundError, "gone"),
        (ImportError("pip install x"), ImportError, "pip install x"),
        (StopIteration(), ValueError, "FILE: StopIteration"),
    ],
)
def test_naming(raised, kind, text):
    with pytest.raises(Exception) as caught, naming("FILE"):
        raise raised
    assert type(caught.value) is kind and str(caught.value).startswith(text)
    assert describe(caught.value) == " ".join(str(caught.value).split())


# ------------------------------------------------------------- words in any order

PAIRS = ["lr=0.5", "model_options.width=8", "model_options={'width': 8}"]


@pytest.mark.parametrize("place", [0, 4, 9])
@pytest.mark.parametrize("pair", PAIRS)
def test_key_value_may_stand_anywhere(place, pair):
    words = ["--recipe", "R", "--data-dir", "D", "--save-dir", "S", "--seeds", "0", "1"]
    parser = training_flags("search")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    args = cli.parse(parser, [*words[:place], pair, "epochs=2", *words[place:]])
    assert args.overrides == [pair, "epochs=2"] and args.seeds == [0, 1]
    assert (args.recipe, args.data_dir, args.save_dir) == ("R", "D", "S")


def test_what_looks_like_key_value_may_be_a_name():
    words = ["--recipe", "R", "--data-dir", "D", "lr=1", "--save-dir", "runs=2"]
    args = cli.parse(training_flags("train"), words)
    assert args.save_dir == "runs=2" and args.overrides == ["lr=1"]


def test_set_takes_its_own_key_value():
    parser = cli.parser("experiment")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value")
    args = cli.parse(parser, ["--set", "lr=1", "epochs=2", "--seeds", "0"])
    assert args.set == ["lr=1", "epochs=2"] and args.seeds == [0]
