"""Rules over the source files, each one search that lists what breaks it; layers: import-linter."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for top in ("gluon_attn", "model_zoo", "tools")
    for path in sorted((ROOT / top).rglob("*.py"))
}
OPTIONAL = (
    "gluoncv", "onnx", "onnxruntime", "openvino", "pycocotools", "torch", "tensorboardX",
)  # fmt: skip
PAPERS = ("vaa", "icasc", "hoga", "autola", "awmt", "dreal")
ENGINE = [f"gluon_attn/train/{name}.py" for name in ("fit", "checkpoint", "log", "schedule")]
LAWS_OF_GRAPHS = ("shape", "asnumpy", "asscalar", "context", "ctx", "wait_to_read", "as_in_context")


def imports_at_the_top(tree):
    """Yield ``(package, line)`` of what a file imports outside of functions."""
    left = [tree]
    while left:
        node = left.pop()
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        yield from ((name.partition(".")[0], node.lineno) for name in names)
        functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        left += [n for n in ast.iter_child_nodes(node) if not isinstance(n, functions)]


def imports_too_early(name, source):
    for package, line in imports_at_the_top(ast.parse(source)):
        if package in OPTIONAL:
            yield f"{line}: optional package {package} at module level"
        if package == "mxnet" and name.startswith("gluon_attn/core/"):
            yield f"{line}: core must not load mxnet"


def papers_in_the_engine(name, source):
    """Find papers in identifiers and strings, but for docstrings."""
    tree = ast.parse(source if name in ENGINE else "")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body[0].value.value = ""
    text = ast.dump(tree).lower()
    return [paper for paper in PAPERS if re.search(rf"(?<![a-z]){paper}", text)]


def long_files(name, source):
    lines, most = len(source.splitlines()), 120 if re.match(r"tools/\w+\.py", name) else 500
    return [f"{lines} lines, at most {most}"] if lines > most else []


def values_in_a_graph(name, source):
    """Find what a file's ``hybrid_forward`` methods use that a graph does not have."""
    for function in ast.walk(ast.parse(source if "hybrid_forward" in source else "")):
        if isinstance(function, ast.FunctionDef) and function.name == "hybrid_forward":
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and node.attr in LAWS_OF_GRAPHS:
                    yield f"{node.lineno}: .{node.attr}"


SEARCHES = (imports_too_early, papers_in_the_engine, long_files, values_in_a_graph)


@pytest.mark.parametrize("search", SEARCHES)
def test_no_file_has(search):
    assert len(TEXTS) > 50 and set(ENGINE) < set(TEXTS)
    found = [f"{name}:{what}" for name, text in TEXTS.items() for what in search(name, text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("search, name, source, expected", [
    (imports_too_early, "gluon_attn/core/files.py", "import mxnet as mx", 1),
    (imports_too_early, "gluon_attn/core/a.py",
     "try:\n import mxnet\nexcept ImportError:\n pass", 1),
    (imports_too_early, "gluon_attn/train/log.py", "from tensorboardX import SummaryWriter", 1),
    (imports_too_early, "tools/train.py", "if True:\n import onnx.mapping", 1),
    (imports_too_early, "gluon_attn/losses/focal.py", "import mxnet\nfrom .onnx import x", 0),
    (imports_too_early, "gluon_attn/train/log.py", "def f():\n from tensorboardX import S", 0),
    (imports_too_early, "gluon_attn/core/files.py", "def f():\n import mxnet", 0),
    (papers_in_the_engine, ENGINE[0], "class VAATraining: pass", 1),
    (papers_in_the_engine, ENGINE[0], "if name == 'with_hoga': x.icasc_weight", 2),
    (papers_in_the_engine, ENGINE[0], '"""As VAA."""\ndef f():\n    "DREAL says so."\n # awmt', 0),
    (long_files, "tools/x.py", "\n" * 121, 1), (long_files, "gluon_attn/x.py", "\n" * 501, 1),
    (long_files, "tools/bench/x.py", "\n" * 500, 0),
    (values_in_a_graph, "a.py",
     "class A:\n def hybrid_forward(self, F, x):\n  return x.reshape(x.shape)", 1),
])  # fmt: skip
def test_the_searches_find_what_they_look_for_and_nothing_else(search, name, source, expected):
    assert len(list(search(name, source))) == expected
