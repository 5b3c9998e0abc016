"""Detection without GluonCV: the recipes have the supplement's values, errors the remedy."""

from __future__ import annotations

import sys

import pytest
from gluoncv_helpers import gluoncv_or_skip
from process_helpers import run_python

from gluon_attn.coco import parts
from gluon_attn.coco.parts import INSTALL, gluoncv_module
from gluon_attn.train.build import load_recipe
from model_zoo import get_model, list_models


@pytest.mark.parametrize("block", ("", "se_", "cbam_", "hoga_"))
def test_recipes_hold_the_supplements_values(block):
    for prefix, model, wd in (
        ("ssd300", "ssd300_", 5e-4),
        ("faster_rcnn", "faster_rcnn_fpn_", 1e-4),
    ):
        recipe = load_recipe(f"{prefix}_coco_{block}resnet50")
        assert recipe.model == f"{model}{block}resnet50_coco" and recipe.model in list_models()
        assert (recipe.optimizer, recipe.lr, recipe.momentum, recipe.wd) == ("sgd", 0.01, 0.9, wd)
        values = recipe.epochs, recipe.batch_size, recipe.lr_epochs
        assert (recipe.schedule, recipe.lr_factor) == ("step", 0.1)
        if prefix == "ssd300":
            assert values == (65, 128, (43, 54)) and recipe.input_size == 300
            assert recipe.options["warmup_epochs"] == 1 and not recipe.options["decay_vectors"]
        else:
            assert values == (14, 2, (8, 11)) and recipe.options["warmup_epochs"] == 0
            assert recipe.options["warmup_updates"] == 500


@pytest.mark.parametrize("name", ["ssd96_resnet18_w16_tiny", "faster_rcnn_fpn_resnet18_w16_tiny"])
def test_without_gluoncv_it_says_what_to_install(name, monkeypatch):
    for module in [m for m in sys.modules if m.split(".")[0] == "gluoncv"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "gluoncv", None)
    with pytest.raises(ImportError, match="parts of GluonCV") as error:
        get_model(name)
    assert INSTALL in str(error.value) and "--no-deps" in INSTALL
    with pytest.raises(ImportError, match="gluoncv"):
        gluoncv_module("nn.bbox")

    def fail(name):  # beside a newer NumPy
        raise AttributeError("module 'numpy' has no attribute 'object'")

    monkeypatch.setattr(parts.importlib, "import_module", fail)
    with pytest.raises(ImportError, match="AttributeError: module 'numpy' has no .*pip install"):
        gluoncv_module("nn.bbox")


def test_gluoncv_loads_beside_a_newer_torch(tmp_path):
    """GluonCV refuses PyTorch 2, which has nothing to do with what is used of it here."""
    gluoncv_or_skip()
    (tmp_path / "torch.py").write_text("__version__ = '2.9.0'\n", encoding="utf-8")
    script = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from gluon_attn.coco.parts import gluoncv_module
        gluoncv_module("nn.bbox")
        assert "torch" not in sys.modules
        import torch
        print(torch.__version__)
    """
    code, out, err = run_python(script, tmp_path)
    assert (code, out.strip()) == (0, "2.9.0"), err
