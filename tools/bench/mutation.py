"""Mutation testing: do the tests of a folder notice a wrong operator, number or condition in it?

``make mutation ARGS='papers/vaa --count 60'`` changes one place of the code at a time, in a copy
of the tree, and runs the tests of that folder until one fails. Sites are a seeded sample, each with
one of cosmic-ray's operators. Annotations, docstrings and messages are left out: they compute
nothing. Results go to ``build/mutation/NAME.json``; a mutant in there is not run again. cosmic-ray
8.7 must be installed beside what the tests need.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from gluon_attn.core.files import write_json  # noqa: E402
from gluon_attn.core.text import read_json, read_text  # noqa: E402

TARGETS = {
    **{f"papers/{name}": ([f"gluon_attn/papers/{name}"],
                          ["tests/papers/test_defaults.py", f"tests/papers/{name}"])
       for name in ("vaa", "awmt", "icasc", "dreal", "autola")},
    "losses": (["gluon_attn/losses"], ["tests/losses"]),
    "multilabel": (["gluon_attn/metrics/multilabel.py"], ["tests/metrics/test_multilabel.py"]),
}  # fmt: skip
LIMIT = 600  # seconds; a mutant that runs longer hangs, and counts as killed


def sites(path):
    """Return ``{(line, column): [(operator, occurrence), ...]}`` of a file."""
    from cosmic_ray.ast import get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    skipped = _not_computed(ast.parse(read_text(path)))
    found = {}
    for name in operator_names():
        try:
            operator = get_operator(name)()
        except TypeError:  # needs arguments, as those that exchange variables do
            continue
        places = [p for node in _walk(get_ast(read_text(path)))
                  for p in operator.mutation_positions(node)]  # fmt: skip
        for occurrence, (start, _) in enumerate(places):
            if not any(first <= start <= last for first, last in skipped):
                found.setdefault(start, []).append((name, occurrence))
    return found


def _walk(node):
    yield node
    for child in getattr(node, "children", ()):
        yield from _walk(child)


def _not_computed(tree):
    """Return where annotations, docstrings and what is raised or logged stand."""
    nodes = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = node.args
            every = [*arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            nodes += [a.annotation for a in every if a is not None] + [node.returns]
        elif isinstance(node, ast.AnnAssign):
            nodes.append(node.annotation)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            nodes += node.exc.args
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            nodes.append(node)
    return [
        ((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset))
        for node in nodes if node is not None
    ]  # fmt: skip


def chosen(sources, count, seed):
    """Return a seeded sample of mutants: ``[(path, operator, occurrence), ...]``."""
    every = []
    for source in sources:
        listed = subprocess.run(
            ["git", "ls-files", source], cwd=ROOT, capture_output=True, text=True
        )
        for file in (ROOT / name for name in listed.stdout.split() if name.endswith(".py")):
            every += [(file, site, kinds) for site, kinds in sorted(sites(file).items())]
    draw = random.Random(seed)
    sample = every if count >= len(every) else draw.sample(every, count)
    return [(file, *draw.choice(kinds)) for file, _, kinds in sample], len(every)


def run(tree, tests):
    """Run the tests in a tree; return whether they pass."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        found = subprocess.run(
            command, cwd=tree, env=environment, timeout=LIMIT, capture_output=True
        )
    except subprocess.TimeoutExpired:
        return False
    return found.returncode == 0


def mutate(target, count, seed):
    """Test a sample of mutants of a target and print what survives."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    sources, tests = TARGETS[target]
    mutants, total = chosen(sources, count, seed)
    out = ROOT / "build" / "mutation" / f"{target.replace('/', '-')}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    known, found = read_json(out) if out.exists() else {}, {}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in ("gluon_attn", "model_zoo", "tests", "tools", "pyproject.toml"):
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, tree / name)
            elif (ROOT / name).exists():
                shutil.copy(ROOT / name, tree / name)
        if not run(tree, tests):
            raise SystemExit(f"{target}: {' '.join(tests)} fail without any mutant")
        for number, (file, operator, occurrence) in enumerate(mutants, 1):
            inside, text = file.relative_to(ROOT), read_text(file)
            mutant = mutate_code(text, get_operator(operator)(), occurrence)
            if not _differs(text, mutant):
                continue
            lines = difflib.unified_diff(text.splitlines(), mutant.splitlines(), lineterm="", n=0)
            key = f"{inside}\n" + "\n".join(list(lines)[2:])
            if key not in known:
                (tree / inside).write_text(mutant, encoding="utf-8")
                known[key] = not run(tree, tests)
                (tree / inside).write_text(text, encoding="utf-8")
                write_json(out, known)
            found[key] = known[key]
            print(f"{number}/{len(mutants)} {'killed' if known[key] else 'SURVIVED'} {key}\n")
    print(f"{target}: {sum(found.values())} of {len(found)} killed; {total} sites")


def _differs(text, mutant):
    """Tell whether a mutant is another program: 1e+30 is 1e30, and what cannot be read is none."""
    try:
        return mutant is not None and ast.dump(ast.parse(mutant)) != ast.dump(ast.parse(text))
    except SyntaxError:
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("target", nargs="*", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--count", type=int, default=60, help="mutants of each (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for target in options.target or TARGETS:
        mutate(target, options.count, options.seed)


if __name__ == "__main__":
    main()
