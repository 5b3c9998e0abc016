"""The controlled experiments of :mod:`tools.experiments.reproduce`, by name.

The papers' numbers are quoted, never ours; see the page of each paper for their sources.
"""

from __future__ import annotations

import functools
import os

from gluon_attn.figures.bars import arms_by_seed
from gluon_attn.figures.curves import bands_by_epoch
from gluon_attn.train.build import load_recipe
from tools.experiments.controlled import run_preset
from tools.experiments.controlled_data import make_data
from tools.experiments.controlled_presets import BASELINE, MAIN, PRESETS
from tools.experiments.experiment import run_experiment
from tools.experiments.multitask import run_multitask
from tools.experiments.reproduce import Experiment, Outcome, Published
from tools.experiments.search_compare import RANDOM, SEARCHED, compare

FEW = {"train": 80, "val": 30, "test": 40}  # scenes of a quick run
FEW_PEOPLE = {"train": 20, "val": 10, "test": 12}
QUICK = ("epochs=2", "warmup_epochs=0")


def _maker(name, request, changes=()):
    """Return a function ``overrides -> Recipe`` of a recipe."""
    quick = QUICK if request.quick else ()
    return lambda overrides: load_recipe(name, [*overrides, *changes, *quick])


def _outcome(scores, text, score, request, figures=()):
    path = os.path.join(request.out, "seeds.png")
    arms_by_seed(scores, score, path)
    return Outcome(scores, text, {f"{score}, every seed": path, **dict(figures)})


def _preset(name, request):
    preset = PRESETS[name]
    if request.quick:
        arms = list(preset.arms)
        few = FEW_PEOPLE if preset.data == "people" else FEW
        preset = preset._replace(arms={arm: preset.arms[arm] for arm in (arms[0], HEADLINE[name])})
    text, rows = run_preset(
        preset, _maker(preset.recipe, request), request.seeds, request.out, request.workers,
        few if request.quick else None, request.say,
    )  # fmt: skip
    scores = {arm: [row["score"][f"{preset.score} %"] for row in found]
              for arm, found in rows.items()}  # fmt: skip
    return _outcome(scores, text, f"{preset.score} %", request, _curves(rows, request.out))


def _curves(rows, out):
    """Draw what has a value per epoch; return ``{caption: path}``."""
    errors = {
        arm: [row["critic"]["critic error by epoch"] for row in found]
        for arm, found in rows.items() if found[0].get("critic")
    }  # fmt: skip
    if not errors:
        return {}
    path = os.path.join(out, "critic.png")
    bands_by_epoch(errors, "squared error of the critic", path)
    return {"critic's error over training": path}


def _vaa(request):
    few = FEW_PEOPLE if request.quick else None
    data = make_data("scenes", os.path.join(request.out, "data"), few, request.workers)
    recipes = {"plain": "baseline_synthetic_resnet18", "VAA": "vaa_synthetic_resnet18"}
    quick = ("phase0_epochs=0",) if request.quick else ()
    makers = {
        title: functools.partial(_seeded, _maker(name, request, quick if title == "VAA" else ()))
        for title, name in recipes.items()
    }  # fmt: skip
    done = run_experiment(makers, request.seeds, data, request.out, request.workers, request.say)
    return _outcome(done.scores, done.table, f"{done.score} %", request)


def _seeded(make, seed):
    return make([f"seed={seed}"])


def _awmt(request):
    done = run_multitask(
        _maker("awmt_synthetic_resnet18", request), request.seeds, request.out, request.workers,
        FEW_PEOPLE if request.quick else None, request.say,
    )  # fmt: skip
    scores = {
        method: [100 * result["overall"]["accuracy"] for result in results]
        for method, results in done.results.items()
    }  # fmt: skip
    scores = {arm: scores[arm] for arm in ("basic model", "separate models", "AWMT")}
    return _outcome(scores, done.text, "mean accuracy %", request)


def _autola(kind, ways, request):
    few = FEW  # scenes; of people, more than one a scene
    data = make_data(
        kind, os.path.join(request.out, "data"), few if request.quick else None, request.workers
    )
    done = compare(
        _maker("hoga_search_digits", request), _maker("hoga_digits_resnet8", request),
        data, request.seeds, request.out, ways, request.workers, request.say,
    )  # fmt: skip
    scores = {way: [100 * row["score"] for row in rows] for way, rows in done.rows.items()}
    scores = {RANDOM: scores.pop(RANDOM), **scores}
    return _outcome(scores, done.text, "top1 %", request)


HEADLINE = {name: "all stages" if "dreal" in name else MAIN for name in PRESETS}
NO_ATTRIBUTES = Published("none: no attribute data in the paper", "-", "-")
_DIGIT = "one digit a scene, 10 classes; ResNet-20 (CIFAR), width 8, 32 px"
EXPERIMENTS = {
    "vaa-people": Experiment(
        "VAA", "synthetic people, 14 attributes; ResNet-18, width 16, 112 px", "test mAP %",
        ("plain", "VAA"),
        Published("WIDER-Attribute, ResNet-101, mAP %, as a later paper quotes it", "83.7", "86.4"),
        _vaa,
    ),
    "icasc-digit": Experiment(
        "ICASC", _DIGIT, "test top-1 %", (BASELINE, HEADLINE["icasc-digit"]),
        Published("CIFAR-100, ResNet-110, top-1 %", method="+3.33"),
        functools.partial(_preset, "icasc-digit"),
    ),
    "icasc-digits": Experiment(
        "ICASC", "several digits a scene, 10 labels; ResNet-14 (CIFAR), width 8, 40 px",
        "test mAP %", (BASELINE, HEADLINE["icasc-digits"]),
        Published("VOC2012, ResNet-18, mAP %", "77.44", "83.17"),
        functools.partial(_preset, "icasc-digits"),
    ),
    "icasc-people": Experiment(
        "ICASC", "synthetic people, 14 attributes; ResNet-18, width 16, 112 px", "test mAP %",
        (BASELINE, HEADLINE["icasc-people"]), NO_ATTRIBUTES,
        functools.partial(_preset, "icasc-people"),
    ),
    "awmt-people": Experiment(
        "AWMT", "synthetic people, 5 attributes with label noise; ResNet-18, width 16, 48 px",
        "mean test accuracy %", ("basic model", "AWMT"),
        Published("CelebA, ResNet-50, mean accuracy %", "90.42", "91.80"), _awmt,
    ),
    "dreal-digit": Experiment(
        "DREAL", _DIGIT.replace("ResNet-20", "SE-ResNet-14"), "test top-1 %",
        (BASELINE, HEADLINE["dreal-digit"]),
        Published("ImageNet, SRM-ResNet-101, top-1 error %: less is better", "21.404", "20.474"),
        functools.partial(_preset, "dreal-digit"),
    ),
    "dreal-people": Experiment(
        "DREAL", "synthetic people, 14 attributes; SE-ResNet-18, width 16, 112 px", "test mAP %",
        (BASELINE, HEADLINE["dreal-people"]), NO_ATTRIBUTES,
        functools.partial(_preset, "dreal-people"),
    ),
    "autola-digit": Experiment(
        "AutoLA", "one digit a scene, 10 classes; ResNet-8 (CIFAR), width 8, 32 px; random "
        "genotypes against searched ones", "test top-1 %", (RANDOM, SEARCHED),
        Published("CIFAR-10, ResNet-20/32/56"),
        functools.partial(_autola, "digit32", ("none", "SE", "CBAM", "HOG-SE", "HOG-CBAM")),
    ),
    "autola-people": Experiment(
        "AutoLA", "synthetic people, lower garment, 4 classes; ResNet-8 (CIFAR), width 8, 32 px; "
        "random genotypes against searched ones", "test top-1 %", (RANDOM, SEARCHED),
        Published("none: no people in the paper", "-", "-"),
        functools.partial(_autola, "garments", ("none",)),
    ),
}  # fmt: skip
