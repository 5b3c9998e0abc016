"""Rules over the source files, read from their syntax trees; import-linter keeps the layers."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for top in ("gluon_attn", "model_zoo", "tools") for path in (ROOT / top).rglob("*.py")
)
TOPS = ("gluon_attn", "model_zoo", "tools")
OPTIONAL = (
    "gluoncv", "onnx", "onnxruntime", "openvino", "pycocotools", "torch", "tensorboardX",
)  # fmt: skip
PAPERS = ("vaa", "icasc", "hoga", "autola", "awmt", "dreal")
LAWS_OF_GRAPHS = ("shape", "asnumpy", "asscalar", "context", "ctx", "wait_to_read", "as_in_context")


def module_of(path):
    """Return the dotted name of a source file, without ``__init__``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree, module, is_package=False):
    """Yield ``(dotted name, line, whether at module level)`` of everything a file imports."""
    inside = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inside.update(id(child) for child in ast.walk(node) if child is not node)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")
            cut = node.level - (1 if is_package else 0)
            start = package[: len(package) - cut] if node.level else []
            source = ".".join(start + ([node.module] if node.module else []))
            # `from gluon_attn import runtime` is an import of gluon_attn.runtime
            whole = source in TOPS or not node.module
            names = [f"{source}.{alias.name}" if whole else source for alias in node.names]
        else:
            continue
        for name in names:
            yield name, node.lineno, id(node) not in inside


def complaints(source, module, is_package=False, exists=lambda name: True):
    """Return what a file imports against the rules, one line of text each.

    Args:
        source: Its text.
        module: Its dotted name.
        is_package: Whether it is an ``__init__.py``.
        exists: Tells whether a dotted name is a module; else it is a name inside one.
    """
    found = []
    for name, line, top in imports(ast.parse(source), module, is_package):
        where, package = f"{module}:{line}", name.split(".")[0]
        if package in OPTIONAL and top:
            found.append(f"{where}: optional package {package} at module level")
        if package == "mxnet" and top and module.startswith("gluon_attn.core."):
            found.append(f"{where}: core must not load mxnet")
    return found


ENGINE = ("fit.py", "checkpoint.py", "log.py", "schedule.py")


def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


TEXTS = {path: path.read_text(encoding="utf-8") for path in SOURCES}


def listed(search):
    """Return a line for everything that a search finds in the sources."""
    found = [
        f"{p.relative_to(ROOT)}: {what}" for p, text in TEXTS.items() for what in search(p, text)
    ]
    return "\n".join(found)


def test_imports_obey_the_layers():
    assert not listed(lambda path, text: complaints(
        text, module_of(path), path.name == "__init__.py", is_module
    ))  # fmt: skip


@pytest.mark.parametrize(
    "module, source, expected",
    [
        ("gluon_attn.core.files", "import mxnet as mx", "must not load mxnet"),
        ("gluon_attn.core.images", "import mxnet as mx", "must not load mxnet"),
        (
            "gluon_attn.core.registry",
            "try:\n import mxnet\nexcept ImportError:\n pass",
            "must not load",
        ),
        ("gluon_attn.train.log", "from tensorboardX import SummaryWriter", "optional package"),
        ("tools.train", "if True:\n import onnx.mapping", "optional package onnx"),
    ],
)
def test_the_checker_finds_offences(module, source, expected):
    found = complaints(source, module)
    assert len(found) == 1 and expected in found[0]


@pytest.mark.parametrize(
    "module, source",
    [
        ("gluon_attn.losses.focal", "import mxnet\nfrom gluon_attn.losses.reduction import x"),
        ("gluon_attn.losses.focal", "from .reduction import x\nfrom ..batch import Batch"),
        ("gluon_attn.train.log", "def f():\n from tensorboardX import SummaryWriter"),
        ("gluon_attn.core.files", "def f():\n import mxnet"),
        ("gluon_attn.runtime", "def f():\n import gluon_attn\n gluon_attn.__version__"),
        ("gluon_attn.train.trained", "from model_zoo import get_model"),
        ("tools.train", "from gluon_attn.workflows import cli"),
    ],
)
def test_the_checker_leaves_the_rest_alone(module, source):
    assert complaints(source, module) == []


def code_words(tree):
    """Return the lower-case text of all identifiers and strings but docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body[0].value.value = ""
    return ast.dump(tree).lower()


def papers_in(source):
    text = code_words(ast.parse(source))
    return [name for name in PAPERS if re.search(rf"(?<![a-z]){name}", text)]


def test_the_engine_names_no_paper():
    paths = [ROOT / "gluon_attn" / "train" / name for name in ENGINE]
    assert not listed(lambda path, text: papers_in(text) if path in paths else [])


def test_the_search_for_papers_can_find_one():
    assert papers_in("class VAATraining: pass") == ["vaa"]
    assert papers_in("if name == 'with_hoga': x.icasc_weight") == ["icasc", "hoga"]
    assert papers_in('"""As VAA."""\ndef f():\n    "DREAL says so."\n    # awmt\n') == []


def too_long(path, text):
    lines, most = len(text.splitlines()), 120 if path.parent == ROOT / "tools" else 500
    return [f"{lines} lines, at most {most}"] if lines > most else []


def test_files_are_short():
    assert not listed(too_long)
    assert too_long(ROOT / "tools" / "x.py", "\n" * 121)
    assert too_long(ROOT / "x.py", "\n" * 501) and not too_long(ROOT / "x.py", "\n" * 500)


def impure(source):
    """Return what a file's ``hybrid_forward`` methods use that a graph does not have."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef) and function.name == "hybrid_forward":
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and node.attr in LAWS_OF_GRAPHS:
                    found.append(f"line {node.lineno}: .{node.attr}")
    return found


def test_hybrid_forward_asks_for_no_values():
    assert not listed(lambda path, text: impure(text))


def test_the_search_for_values_can_find_one():
    source = "class A:\n def hybrid_forward(self, F, x):\n  return x.reshape(x.shape)"
    assert impure(source) == ["line 3: .shape"]


def test_there_is_something_to_check():
    assert len(SOURCES) > 50
