"""The papers' settings: defaults of the methods' options, of functions and of blocks."""

from __future__ import annotations

import inspect

import pytest

from gluon_attn.method import METHODS
from gluon_attn.papers.autola import genotype, hoga, operations, search, supernet
from gluon_attn.papers.awmt import trend
from gluon_attn.papers.dreal import critic, reward
from gluon_attn.papers.icasc import attention
from gluon_attn.papers.vaa import history, losses, net

VAA = {
    "phase0_epochs": 0, "phase1_epochs": 5, "modules_lr": 1.0, "gamma": 2.0, "weighting": "prior",
    "history_length": 5, "history_start": 2, "history_weights": 5,
}  # fmt: skip
AWMT = {"window": 200, "val_batch_size": 10, "adaptive": True}
DREAL = {
    "stages": "all", "quality_weight": 1.0, "penalty": 1.0, "reward": "ratio", "hidden": 128,
    "critic_start": "chance", "spatial_grid": 7, "critic_optimizer": "adam", "critic_lr": 0.001,
    "sample": 0, "sample_seed": 0, "group": "net",
}  # fmt: skip
REID = {
    "images_per_identity": 4, "margin": 0.3, "soft_margin": False, "softmax_weight": 1.0,
    "triplet_weight": 1.0, "erase": 0.0,
}  # fmt: skip
OPTIONS = {
    "autola": {"second_order": False, "alpha_lr": 0.003, "alpha_beta1": 0.5, "alpha_beta2": 0.999,
               "alpha_wd": 0.001, "clip": 5.0},
    "awmt": {**AWMT, "freeze_batch_norm": True, "fc_bias_lr": 2.0, "no_class": "ignore",
             "heads": "prediction"},
    "baseline": {"focal": False, "gamma": 2.0, "weighting": "prior"},
    "dreal": DREAL, "reid": REID, "dreal_reid": {**DREAL, **REID},
    "icasc": {"attention": "channel_weighted", "gradient": "constant", "sigma": 0.55,
              "omega": 100.0, "theta": 0.8, "weight_as_inner": 1.0, "weight_as_last": 1.0,
              "weight_ac": 1.0, "normalize": False, "epsilon": 1e-6, "mask_resize": "bilinear",
              "inner_mask": "last", "detach_mask": False, "start_epoch": 0},
    "vaa": VAA, "vaa_awmt": {**VAA, **AWMT},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_methods(name):
    assert METHODS.get(name).OPTIONS == OPTIONS[name]


@pytest.mark.parametrize("call, defaults", [
    (trend.ValidationLossTrend, {"window": 200}), (critic.Critic, {"hidden": 128, "start": 0.0}),
    (critic.vector_size, {"grid": 7}), (critic.module_vector, {"grid": 7}),
    (critic.judge, {"grid": 7}), (reward.SingleLabelReward, {"penalty": 1.0, "form": "ratio"}),
    (reward.replacement_reward, {"penalty": 1.0, "form": "ratio"}),
    (attention.soft_mask, {"sigma": 0.55, "omega": 100}),
    (attention.attention_consistency, {"theta": 0.8}), (history.PredictionHistory, {"length": 5}),
    (losses.WeightedFocalLoss, {"gamma": 2.0, "weighting": "prior"}),
    (net.VAA, {"input_size": (224, 224), "variant": "supplement", "scale": 1}),
    (hoga.HOGA, {"affine": True}),
], ids=lambda value: getattr(value, "__name__", ""))  # fmt: skip
def test_defaults_of_functions_and_blocks(call, defaults):
    found = {n: p.default for n, p in inspect.signature(call).parameters.items()}
    assert {name: found[name] for name in defaults} == defaults


def test_constants():
    assert (genotype.NODES, operations.REDUCTION) == (4, 4)
    assert (hoga.REDUCTIONS, hoga.SEARCH_REDUCTIONS) == ((8, 8), (4, 16))
    assert (search.STEP, supernet.ALPHA_SCALE, trend.EPS) == (0.01, 0.001, 1e-8)
    assert (reward.TINY, attention.EPS) == (1e-30, 1e-6)
