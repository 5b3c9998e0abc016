"""CONTRIBUTING.md, done: its files and lines, in a copy of the tree, keep the contracts."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap

import pytest
from process_helpers import run

BLOCK = re.compile(r"<!-- (file|line): (\S+)(?: after (.*?))? -->\n```python\n(.*?)```", re.S)

CHECK = """
import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
import gluon_attn, mxnet as mx, numpy as np
from contracts import suites, test_contracts as examples
from gluon_attn.blocks import BLOCKS
from gluon_attn.core.recipe import Recipe
from gluon_attn.data import DATASETS, detect_kind
from gluon_attn.losses.hinge import HingeLoss
from gluon_attn.method import METHODS
from gluon_attn.metrics.hamming import hamming_score
from gluon_attn.papers.icasc.tangents import missing_rules
from gluon_attn.task import TASKS
from model_zoo import get_model, list_models
import gluon_attn.papers, cv2, pathlib

assert gluon_attn.__file__.startswith(sys.argv[1])
suites.check_block(BLOCKS.get("half"))
suites.check_loss(HingeLoss(), *examples.binary())
suites.check_method(METHODS.get("hinge"), examples.net_of("resnet18_w16_synthetic", width=8))
suites.check_metric(hamming_score)
recipe = Recipe.load("hinge_synthetic_resnet18")
assert (recipe.method, recipe.options, recipe.model) == (
    "hinge", {"weight": 0.5}, "resnet18_w16_synthetic")
root = pathlib.Path(sys.argv[1]) / "shots"
(root / "photos").mkdir(parents=True)
for name in "abc":
    cv2.imwrite(str(root / "photos" / f"{name}.png"), np.full((8, 8, 3), 9, np.uint8))
(root / "shots.csv").write_text("train,a.png,1,-1\\ntrain,b.png,0,1\\ntest,c.png,1,1\\n")
assert detect_kind(root) == "shots"
for split in ("train", "test"):
    suites.check_dataset(DATASETS.get("shots"), root, split)
assert "hamming" in TASKS.get("rounded").scores
suites.check_task("rounded")
assert {"half_resnet50", "half_resnet18_w16_synthetic"} <= set(list_models())
net = get_model("half_resnet18_w16_synthetic", input_size=32, width=8)
suites.awaken(net)
suites.check_model(net, 32)
print("every step holds")
"""


@pytest.fixture(scope="module")
def tree(repository, tmp_path_factory):
    """A copy of the sources in which the page's steps are done."""
    root = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__", "*.params", "fixtures")
    for name in ("gluon_attn", "model_zoo", "tests"):
        shutil.copytree(repository / name, root / name, ignore=ignore)
    page = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    steps = BLOCK.findall(page)
    assert len(steps) == page.count("```python")
    for kind, name, after, text in steps:
        path = root / name
        if kind == "file":
            assert not path.exists(), f"{name} is there already"
            path.write_text(text)
        else:
            lines = path.read_text(encoding="utf-8")
            assert lines.count(after.rstrip()) == 1, f"{name} has no single line {after!r}"
            added = textwrap.indent(text.rstrip(), " " * 4)
            path.write_text(lines.replace(after.rstrip(), f"{after.rstrip()}\n{added}"))
    return root


def test_every_step_of_the_page_holds(tree):
    # its coverage would be that of the copy
    plain = {name: value for name, value in os.environ.items() if name[:8] != "COV_CORE"}
    code, out, err = run([sys.executable, "-c", CHECK, tree], env=plain)
    assert code == 0 and "every step holds" in out, err[-3000:]
