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
    Not run, for the reason given; there are none at present.
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
from process_helpers import run, run_tool

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
MARK = re.compile(r"^<!-- (?:runnable|run\b|not run)", re.M)  # for this file, well written or not
MARKS = {
    "python": re.compile(rf"{PYTHON.pattern}|not run: needs \w{{3}}.*|(file|line): .*"),
    "console": re.compile(r"run(: nightly)?|not run: needs \w{3}.*|"),
}
SHELLS = ("sh", "bash", "console")


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
def test_blocks_say_what_is_done_with_them():
    """A mark that is misspelt or stands elsewhere would leave its block out unnoticed."""
    for block in BLOCKS:
        if block.language in MARKS:
            assert MARKS[block.language].fullmatch(block.mark), f"{block.place}: {block.mark}"
        else:
            assert not MARK.match(f"<!-- {block.mark}"), f"{block.place}: {block.mark}"
    marked = [block for block in BLOCKS if MARK.match(f"<!-- {block.mark}")]
    assert len(marked) == sum(len(MARK.findall(text)) for text in PAGES.values())
    # None is left out at present; count them here only if there is no other way.
    assert not [block.place for block in marked if block.mark.startswith("not run")]


def test_the_search_for_blocks_finds_them():
    text = "a\n<!-- runnable -->\n```python\n1\n```\n<!-- note -->\n\n```sh\nmake x # y\n```\n"
    first, second = blocks_of("p", text)
    assert first == Block("p", 3, "runnable", "python", "1\n")
    assert (second.mark, commands_of(second)) == ("", [["make", "x"]])
    assert len(PYTHON_BLOCKS) > 25 and len(SHELL_BLOCKS) > 35


# -- Python ----------------------------------------------------------------------------------------
def give_export(folder, **options):
    """Export an untrained VAA net of an eighth of the width under the name that a page uses."""
    from gluon_attn.export import export_model
    from model_zoo import WIDER_ATTRIBUTES, get_model

    net = get_model("vaa_resnet18_w16_synthetic", width=8, input_size=64)
    net.initialize()
    preprocess = {"mean": (124.0, 117.0, 104.0), "std": (58.0, 57.0, 57.0), "resize": 72}
    export_model(net, folder, "vaa", WIDER_ATTRIBUTES, 64, {**preprocess, "crop": 64}, **options)


def give_readme():
    image = np.zeros((160, 160, 3), np.uint8)
    cv2.circle(image, (80, 80), 53, (40, 160, 220), -1)
    assert cv2.imwrite("photo.jpg", image)
    give_export("exports/vaa", with_maps=True, check=False)


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
    """An export of a re-identification net, and three images."""
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
    export_model(net, "exports/reid", "reid", classes, values.pop("size"), values, check=False)
    for k, name in enumerate(("query", "a", "b")):
        image = np.random.default_rng(k).integers(0, 256, (64, 32, 3), np.uint8)
        cv2.imwrite(f"{name}.jpg", image)


def give_deployment():
    """An export of synthetic people's attributes that has an int8 form."""
    run_tool("prepare_data.py",
             *"synthetic --out data/people --train 4 --val 12 --test 4 -j 1".split())  # fmt: skip
    give_export("exports/people")
    run_tool("export.py", *"--export exports/people --int8 --calib data/people".split())


def installed(block):
    """Return whether the packages are there that a block needs."""
    _, _, names = block.mark.partition(": needs ")
    return all(map(importlib.util.find_spec, names.replace(",", " ").split()))


def nightly(block):
    return block.mark.endswith(": nightly")


def cases(chosen):
    """One case per page with the blocks that always run, a nightly one with all of them."""
    found = []
    for page in PAGES:
        blocks = [b for b in chosen if b.page == page and installed(b)]
        plain = [b for b in blocks if not nightly(b)]
        if plain:
            found.append(pytest.param(page, plain, id=page))
        if blocks != plain:
            found.append(pytest.param(page, blocks, id=f"{page}-all", marks=pytest.mark.nightly))
    return found


# What a page's blocks may take for granted, as its text says: made before its first blocks, or
# before its nightly ones.
GIVEN = {"README.md": give_readme, "docs/analysis.md": give_analysis, "docs/reid.md": give_reid}
GIVEN_NIGHTLY = {"docs/deployment.md": give_deployment}


@pytest.mark.parametrize(
    "page, blocks", cases([b for b in PYTHON_BLOCKS if PYTHON.fullmatch(b.mark)])
)
def test_python_blocks_run(page, blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    GIVEN.get(page, lambda: None)()
    if any(map(nightly, blocks)):
        GIVEN_NIGHTLY.get(page, lambda: None)()
    namespace = {}
    for block in blocks:
        if block.mark == "runnable: isolated":
            run_isolated(block, tmp_path)
        elif ">>>" in block.source:
            run_doctest(block, namespace)
        else:
            exec(compile(block.source, block.place, "exec"), namespace)


@pytest.mark.parametrize(
    "page, blocks", cases([b for b in SHELL_BLOCKS if b.mark.startswith("run")])
)
def test_console_blocks_print_what_they_show(page, blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        for part in re.split(r"^\$ ", block.source, flags=re.M)[1:]:
            command, *shown = part.splitlines()
            words = shlex.split(command, comments=True)
            _, out, err = run_tool(Path(words[1]).name, *words[2:])
            printed = [" ".join(line.split()) for line in (out + err).splitlines()]
            shown = [" ".join(line.split()) for line in shown if line.strip() and line != "..."]
            rest = iter(printed)
            missing = [line for line in shown if not line.startswith("(the same")]
            missing = [line for line in missing if line not in rest]
            assert not missing, f"{block.place}: {command} printed\n" + "\n".join(printed)


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
        return "" if f"onnxruntime-web@{web.VERSION}" in rest else "another engine"
    if program == "export" and len(rest) == 1 and "=" in rest[0]:
        return ""
    return "a program that this test does not know"


def test_commands_are_read_by_the_tools_themselves(monkeypatch):
    problems = {}
    for block in SHELL_BLOCKS:
        commands = commands_of(block)
        assert commands, f"{block.place}: a block of commands without one"
        for words in commands:
            problems[f"{block.place}: {' '.join(words)}"] = problem_of_command(words, monkeypatch)
    assert not {command: problem for command, problem in problems.items() if problem}


def test_commands_of_recipes_are_read_by_the_tools_themselves(monkeypatch):
    problems, read = {}, {}
    for name in recipe.names():
        text = re.sub(r"\(.*?\)", "", recipe.find(name).text, flags=re.S).replace("NAME", name)
        text = re.search(r"^Command +(.*?)^(?=[A-Z]\w+ {2})", text, re.M | re.S)[1]
        for line in filter(str.strip, re.split(r"(?=gluon-attn |python )", text)):
            words = shlex.split(line.replace(name, "vaa_wider_resnet101"))  # read once for all
            if tuple(words) not in read:
                read[tuple(words)] = problem_of_command(words, monkeypatch)
            problem = read[tuple(words)]
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
