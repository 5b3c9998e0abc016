"""Every code block of README.md and docs/*.md is run, or says why not.

A comment in the line above a block tells what is done with it:

``<!-- runnable -->``
    Python: run in an empty folder (with what GIVEN makes there), all such blocks of a page in one
    namespace; with ``>>>`` as a doctest.
``<!-- runnable: isolated -->``, ``<!-- runnable: nightly -->``
    In a Python that cannot import this package; with the nightly tests only.
``<!-- runnable: needs NAME -->``
    Only where the optional package NAME is installed.
``<!-- run -->``, ``<!-- run: nightly -->``
    A console block: its commands are run, one after the other in one folder per page, and must
    print what the block shows.
``<!-- not run: needs … -->``
    Not run, for the reason given; counted and listed below.
``<!-- file: PATH -->``, ``<!-- line: PATH after … -->``
    A step of CONTRIBUTING.md, done by test_contributing.

Python blocks must have such a line. Commands without one are read by the tool's own parser and
nothing more: most of them need data, or hours.
"""

from __future__ import annotations

import argparse
import contextlib
import doctest
import importlib.util
import io
import itertools
import json
import logging
import os
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from process_helpers import run

from gluon_attn.core import recipe
from gluon_attn.export import web

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
}
FENCE = re.compile(r"(?:^<!-- ([^\n]+?) -->\n)?^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
SETTING = re.compile(r"[A-Z_]+=")  # of a variable, before the command
PYTHON = re.compile(r"runnable(: (isolated|nightly|needs [\w, ]+))?")
SHELLS = ("sh", "bash", "console")
NOT_RUN = 0  # such blocks on all pages; raise it only if there is no other way


class Block(NamedTuple):
    """A fenced block: where, what comment stands above it, language, contents."""

    page: str
    line: int
    mark: str
    language: str
    source: str

    @property
    def place(self):
        return f"{self.page}:{self.line}"


def blocks_of(page, text):
    """Return the blocks of a page; a comment that is none of ours is no mark."""
    found = []
    for match in FENCE.finditer(text):
        mark, language, source = match.groups()
        line = text[: match.start(3)].count("\n")
        found.append(Block(page, line, mark or "", language, source))
    return found


BLOCKS = [block for page, text in PAGES.items() for block in blocks_of(page, text)]
PYTHON_BLOCKS = [block for block in BLOCKS if block.language == "python"]
SHELL_BLOCKS = [block for block in BLOCKS if block.language in SHELLS]


def commands_of(block):
    """Return the command lines of a shell block, in a console block those behind ``$``."""
    text = block.source.replace("\\\n", " ")
    lines = text.splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    words = [shlex.split(line, comments=True) for line in lines]
    words = [list(itertools.dropwhile(SETTING.match, found)) for found in words]
    return [found for found in words if found]


# -- which blocks there are ------------------------------------------------------------------------


def test_every_python_block_says_what_is_done_with_it():
    unclear = [
        block.place
        for block in PYTHON_BLOCKS
        if not PYTHON.fullmatch(block.mark)
        and not block.mark.startswith(("not run: needs ", "file: ", "line: "))
    ]
    assert not unclear, "no mark above the block (see the head of this file)"


def test_blocks_that_are_not_run_are_few():
    left_out = [f"{block.place}: {block.mark}" for block in BLOCKS if block.mark[:7] == "not run"]
    print("\n".join(left_out))
    assert all(re.search(r": not run: needs \w{3}", line) for line in left_out)
    assert len(left_out) == NOT_RUN, left_out


def test_marks_stand_above_blocks_that_they_fit():
    for block in BLOCKS:
        if PYTHON.fullmatch(block.mark):
            assert block.language == "python", block.place
        if re.fullmatch(r"run(: nightly)?", block.mark):
            assert block.language == "console", block.place
    # A mark that is misspelt or stands elsewhere would leave its block out without a word.
    marks = {page: len(re.findall(r"^<!-- (?:runnable|run\b|not run)", text, re.M))
             for page, text in PAGES.items()}  # fmt: skip
    known = re.compile(rf"{PYTHON.pattern}|run(: nightly)?|not run: needs .+")
    for page, number in marks.items():
        good = [b for b in BLOCKS if b.page == page and known.fullmatch(b.mark)]
        assert len(good) == number, page


def test_the_search_for_blocks_finds_them():
    text = "a\n<!-- runnable -->\n```python\n1\n```\n<!-- note -->\n\n```sh\nmake x # y\n```\n"
    first, second = blocks_of("p", text)
    assert first == Block("p", 3, "runnable", "python", "1\n")
    assert (second.mark, commands_of(second)) == ("", [["make", "x"]])
    assert len(PYTHON_BLOCKS) > 25 and len(SHELL_BLOCKS) > 35


# -- Python ----------------------------------------------------------------------------------------


def draw_picture(path, side=160):
    """Write a picture that is not one colour."""
    image = np.zeros((side, side, 3), np.uint8)
    cv2.circle(image, (side // 2, side // 2), side // 3, (40, 160, 220), -1)
    assert cv2.imwrite(path, image)


def small_vaa():
    """Return an untrained VAA net of an eighth of the width, and how its pictures are prepared."""
    from model_zoo import get_model

    net = get_model("vaa_resnet18_w16_synthetic", width=8, input_size=64)
    net.initialize()
    preprocess = {"mean": (124.0, 117.0, 104.0), "std": (58.0, 57.0, 57.0), "resize": 72}
    return net, dict(preprocess, crop=64)


def give_export(folder, **options):
    """Export that net under the name that a page uses."""
    from gluon_attn.export import export_model
    from model_zoo import WIDER_ATTRIBUTES

    net, preprocess = small_vaa()
    export_model(net, folder, "vaa", WIDER_ATTRIBUTES, 64, preprocess, **options)


def give_readme():
    draw_picture("photo.jpg")
    give_export("exports/vaa", with_maps=True)


def give_analysis():
    """Two untrained nets in the folders of finished runs, and birds in the official format."""
    import mxnet as mx
    from formats.tiny import write_tiny

    from gluon_attn.core.files import sha256_of
    from gluon_attn.core.recipe import Recipe
    from gluon_attn.data import open_dataset
    from gluon_attn.train.build import build_net

    write_tiny("cub200", "CUB", {"train": 8, "val": 8, "test": 80})
    dataset = open_dataset("CUB", "test")
    for name, method in (("icasc", "icasc"), ("plain", "baseline")):
        recipe = Recipe(method=method, model="resnet18_w16_synthetic", model_options={"width": 8},
                        input_size=32, resize=36, crop_min=32, crop_max=32,
                        eval_crop=32)  # fmt: skip
        net = build_net(recipe, len(dataset.names))
        net.initialize(mx.init.Xavier())
        net(mx.nd.zeros((1, 3, 32, 32)))
        os.makedirs(f"runs/{name}")
        net.save_parameters(f"runs/{name}/best.params")
        best = {"sha256": sha256_of(f"runs/{name}/best.params"), "recipe": recipe.to_dict(),
                "classes": list(dataset.names), "schema": dataset.schema.to_json(),
                "epoch": 0, "data": {}, "versions": {}}  # fmt: skip
        Path(f"runs/{name}/best.json").write_text(json.dumps(best))


def give_reid():
    """An export of a re-identification net, and three pictures."""
    import mxnet as mx

    from gluon_attn.core.recipe import Recipe
    from gluon_attn.export import export_model
    from gluon_attn.task import task_of
    from model_zoo import get_model

    net = get_model("reid_resnet18_w16_synthetic", width=8, input_size=64)
    net.initialize(mx.init.Xavier())
    recipe = Recipe("reid", net.name, mean=(120, 115, 100), std=(60, 57, 58))
    values = task_of(net).preprocess(recipe, net)
    classes = [f"person {k}" for k in range(net.classes)]
    export_model(
        net, "exports/reid", "reid", classes, values.pop("size"), values, check=False
    )  # fmt: skip
    for k, name in enumerate(("query", "a", "b")):
        picture = np.random.default_rng(k).integers(0, 256, (64, 32, 3), np.uint8)
        cv2.imwrite(f"{name}.jpg", picture)


def give_deployment():
    """An export of drawn people's attributes that has an int8 form."""
    run_tool("prepare_data.py synthetic --out data/people --train 4 --val 12 --test 4 -j 1")
    give_export("exports/people")
    run_tool("export.py --export exports/people --int8 --calib data/people")


# What a page's blocks may take for granted, as its text says: made before its first blocks, or
# before its nightly ones.
GIVEN = {"README.md": give_readme, "docs/analysis.md": give_analysis, "docs/reid.md": give_reid}
GIVEN_NIGHTLY = {"docs/deployment.md": give_deployment}


def needed_by(block):
    match = re.fullmatch(r"runnable: needs ([\w, ]+)", block.mark)
    return match.group(1).replace(",", " ").split() if match else []


def python_cases():
    """One case per page with the blocks that always run, one more with all of them."""
    cases = []
    for page in PAGES:
        blocks = [b for b in PYTHON_BLOCKS if b.page == page and PYTHON.fullmatch(b.mark)]
        extra = [b for b in blocks if b.mark == "runnable: nightly" or needed_by(b)]
        plain = [b for b in blocks if b not in extra]
        if plain:
            cases.append(pytest.param(page, plain, id=page))
        if extra:
            marks = [pytest.mark.nightly] if any("nightly" in b.mark for b in extra) else []
            cases.append(pytest.param(page, blocks, id=f"{page}-all", marks=marks))
    return cases


@pytest.mark.parametrize("page, blocks", python_cases())
def test_python_blocks_run(page, blocks, tmp_path, monkeypatch):
    for name in {name for block in blocks for name in needed_by(block)}:
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    GIVEN.get(page, lambda: None)()
    if any(block.mark == "runnable: nightly" for block in blocks):
        GIVEN_NIGHTLY.get(page, lambda: None)()
    namespace = {}
    for block in blocks:
        if block.mark == "runnable: isolated":
            run_isolated(block, tmp_path)
        elif ">>>" in block.source:
            run_doctest(block, namespace)
        else:
            exec(compile(block.source, block.place, "exec"), namespace)


def run_doctest(block, namespace):
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    test = doctest.DocTestParser().get_doctest(
        block.source, namespace, block.page, str(ROOT / block.page), block.line
    )
    assert test.examples
    report = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False, optionflags=options)
    failed, _ = runner.run(test, out=report.write, clear_globs=False)
    assert not failed, report.getvalue()
    namespace.update(test.globs)


def run_isolated(block, folder):
    """Run a block where importing our packages fails, wherever they are installed."""
    head = "import sys\nsys.modules['gluon_attn'] = sys.modules['model_zoo'] = None\n"
    command = [sys.executable, "-I", "-W", "ignore", "-c", head + block.source]
    code, out, err = run(command, cwd=folder)
    assert code == 0, f"{block.place}: {err}"
    assert len(out.splitlines()) == 14, f"{block.place}: {out}"


# -- commands --------------------------------------------------------------------------------------


class Parsed(BaseException):
    """Raised instead of going on, once a tool has read its arguments."""


def parse_for_real(tool, words, monkeypatch):
    """Let a script, or with a dotted name a module, read its arguments; return its complaint."""

    def stopping(original):
        def parse_and_stop(self, args=None, namespace=None):
            original(self, args, namespace)
            raise Parsed

        return parse_and_stop

    complaint = io.StringIO()
    with monkeypatch.context() as patch, contextlib.redirect_stderr(complaint):
        for name in ("parse_args", "parse_intermixed_args"):
            original = getattr(argparse.ArgumentParser, name)
            patch.setattr(argparse.ArgumentParser, name, stopping(original))
        patch.setattr(sys, "argv", [tool, *words])
        patch.setattr(sys, "path", list(sys.path))
        try:
            if tool.endswith(".py"):
                runpy.run_path(str(ROOT / tool), run_name="__main__")
            else:
                runpy.run_module(tool, run_name="__main__", alter_sys=False)
        except Parsed:
            return ""
        except SystemExit as end:
            return complaint.getvalue() or f"ends with {end.code}"
    return "does not read its arguments"


def problem_of_command(words, monkeypatch):
    """Return what is wrong with a command of a page, or an empty string."""
    program, rest = words[0], words[1:]
    if program == "python" and rest[0].startswith("tools/"):
        if not (ROOT / rest[0]).is_file():
            return "no such script"
        return parse_for_real(rest[0], rest[1:], monkeypatch)
    if program == "python" and rest[0] == "-m":
        if importlib.util.find_spec(rest[1]) is None:
            return "no such module"
        return parse_for_real(rest[1], rest[2:], monkeypatch)
    if program == "gluon-attn":
        return parse_for_real("gluon_attn", rest, monkeypatch)
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        return "" if rest[0] in targets else "no such target"
    if program == "pip" and rest[0] == "install":
        extras = re.findall(r"gluon_attn\[(\w+)\]", " ".join(rest))
        known = (ROOT / "pyproject.toml").read_text()
        return "" if all(f"\n{extra} = [" in known for extra in extras) else "no such extra"
    if program == "npm":
        return "" if rest[-1] == f"onnxruntime-web@{web.VERSION}" else "another engine"
    if program == "export" and len(rest) == 1 and "=" in rest[0]:
        return ""
    return "a program that this test does not know"


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=lambda block: block.place)
def test_commands_are_read_by_the_tools_themselves(block, monkeypatch):
    commands = commands_of(block)
    assert commands, "a block of commands without one"
    found = {" ".join(words): problem_of_command(words, monkeypatch) for words in commands}
    assert not {command: problem for command, problem in found.items() if problem}


def test_commands_of_recipes_are_read_by_the_tools_themselves(monkeypatch):
    problems = {}
    for name in recipe.names():
        text = re.sub(r"\(.*?\)", "", recipe.find(name).text, flags=re.S).replace("NAME", name)
        text = re.search(r"^Command +(.*?)^(?=[A-Z]\w+ {2})", text, re.M | re.S)[1]
        for line in filter(str.strip, re.split(r"(?=gluon-attn |python )", text)):
            problem = problem_of_command(shlex.split(line), monkeypatch)
            if problem or " --recipe " in line and f" --recipe {name} " not in line:
                problems[line] = problem or "another recipe"
    assert not problems


def test_wrong_commands_are_noticed(monkeypatch):
    for line in (
        "python tools/train.py --recipe vaa_wider_resnet101",  # lacks --data-dir
        "python tools/predict.py x y --heat",
        "python tools/prepare_data.py tiny nothing --out x",
        "gluon-attn train --recipe vaa_wider_resnet101", "gluon-attn nothing",
        "python tools/nothing.py", "python -m gluon_attn.nothing", "make nothing", "curl x",
        'pip install "gluon_attn[nothing]"',
    ):  # fmt: skip
        assert problem_of_command(shlex.split(line), monkeypatch), line


def run_tool(line):
    """Run a tool in this process and folder; return what it prints."""
    tool, *words = shlex.split(line) if isinstance(line, str) else line
    out, argv, path = io.StringIO(), sys.argv, list(sys.path)
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    sys.argv = [tool, *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            runpy.run_path(str(ROOT / "tools" / Path(tool).name), run_name="__main__")
    except SystemExit as end:
        out.write(f"\n{end.code}\n" if isinstance(end.code, str) else "")
    finally:
        sys.argv, sys.path[:] = argv, path
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
    return out.getvalue()


def outputs_of(block):
    """Return ``[(words of a command, lines shown for it)]``; lines that leave out are left out."""
    found = []
    for line in block.source.splitlines():
        if line.startswith("$ "):
            found.append((shlex.split(line[2:], comments=True), []))
        elif line.strip() and line != "..." and not line.startswith("(the same"):
            found[-1][1].append(" ".join(line.split()))
    return found


def run_console(blocks):
    for block in blocks:
        for words, shown in outputs_of(block):
            printed = [" ".join(line.split()) for line in run_tool(words[1:]).splitlines()]
            rest = iter(printed)
            missing = [line for line in shown if line not in rest]
            assert not missing, f"{block.place}: {' '.join(words)} printed\n" + "\n".join(printed)


def console_cases():
    cases = []
    for page in PAGES:
        marked = [b for b in SHELL_BLOCKS if b.page == page and b.mark.startswith("run")]
        plain = [b for b in marked if b.mark == "run"]
        if plain:
            cases.append(pytest.param(plain, id=page))
        if len(marked) > len(plain):
            cases.append(pytest.param(marked, id=f"{page}-all", marks=pytest.mark.nightly))
    return cases


@pytest.mark.parametrize("blocks", console_cases())
def test_console_blocks_print_what_they_show(blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_console(blocks)
