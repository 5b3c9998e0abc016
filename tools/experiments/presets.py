"""What is compared on which data: the controlled experiments, by name.

The papers' numbers are quoted, never ours; see the page of each paper for their sources.
"""

from __future__ import annotations

import functools
import os
from typing import Any, Callable, Sequence

import numpy as np

from gluon_attn.figures.bars import arms_by_seed
from gluon_attn.figures.curves import bands
from gluon_attn.train.build import load_recipe
from tools.experiments.controlled import BASELINE, Preset, run_preset, trial_of, tuned
from tools.experiments.data import make_data
from tools.experiments.multitask import (
    AWMT,
    BASIC,
    SEPARATE,
    at_level,
    run_multitask,
    run_noise_curve,
)
from tools.experiments.photographs import (
    ALL_STAGES,
    AUTOLA,
    AUTOLA_SEARCH,
    CURVES,
    GRAD_CAM,
    LIGHT,
    MAIN,
    PHOTOGRAPHS,
    dreal_arms,
)
from tools.experiments.runner import (
    NO_DATA,
    Experiment,
    Make,
    Outcome,
    Published,
    Request,
    Rows,
    Scores,
    run_experiment,
)
from tools.experiments.search_compare import NONE, PUBLISHED, RANDOM, SEARCHED, compare

FEW = {"train": 80, "val": 30, "test": 40}  # scenes of a quick run
FEW_PEOPLE = {"train": 20, "val": 10, "test": 12}
QUICK = ("epochs=2", "warmup_epochs=0")

_KINDS = {
    GRAD_CAM: ("attention=grad_cam", "gradient=constant"),
    "Grad-CAM, exact": ("attention=grad_cam", "gradient=exact"),
    MAIN: ("attention=channel_weighted", "gradient=constant"),
    "A_ch, exact": ("attention=channel_weighted", "gradient=exact"),
}


def icasc_arms(
    start: int, also: Sequence[str], later: int | None = None
) -> dict[str, Sequence[str]]:
    """Return the arms of an ICASC experiment.

    All four kinds from the epoch ``start`` on, when the net knows something that can be attended
    to; the kinds named in ``also`` from the first epoch, as the paper's silence suggests; and where
    ``later`` is given the headline's kind from that epoch on, and with weights of 0.1: conditions
    under which the attention losses weigh less against cross-entropy.
    """
    arms: dict[str, Sequence[str]] = {BASELINE: ("method=baseline",)}
    arms.update({k: (*changes, f"start_epoch={start}") for k, changes in _KINDS.items()})
    arms.update({f"{k}, from the first epoch": (*_KINDS[k], "start_epoch=0") for k in also})
    if later is not None:
        arms[f"{MAIN}, from epoch {later + 1}"] = (*_KINDS[MAIN], f"start_epoch={later}")
        arms[f"{MAIN}, weights 0.1"] = (*arms[MAIN], *LIGHT)
    return arms


_ICASC, _DREAL = ("overlap",), ("critic", "diversity")
_STAGES = ("conv2_x", "conv3_x", "conv4_x", "conv5_x")
PRESETS = {
    "icasc-digit": Preset(
        "icasc_digits_single_resnet20", "digit", icasc_arms(6, list(_KINDS)), "top1", _ICASC
    ),
    "icasc-digits": Preset(
        "icasc_digits_resnet14", "digits", icasc_arms(6, [MAIN], 9), "mAP", _ICASC
    ),
    "icasc-people": Preset(
        "icasc_synthetic_resnet18", "people", icasc_arms(15, [MAIN], 20), "mAP", _ICASC
    ),
    "dreal-digit": Preset(
        "dreal_digits_single_resnet14", "digit", dreal_arms(*_STAGES[:-1]), "top1", _DREAL
    ),
    "dreal-people": Preset(
        "dreal_synthetic_resnet18", "people", dreal_arms(*_STAGES), "mAP", _DREAL
    ),
    **PHOTOGRAPHS,
}


def _maker(name: str, request: Request, changes: Sequence[str] = ()) -> Make:
    """Return a function ``overrides -> Recipe`` of a recipe."""
    quick = QUICK if request.quick else ()
    return lambda overrides: load_recipe(name, [*overrides, *changes, *quick])


def _data(kind: str, request: Request, few: dict[str, int] = FEW) -> str:
    folder, images = os.path.join(request.out, "data"), few if request.quick else None
    return make_data(kind, folder, images, request.workers)


def _outcome(
    scores: Scores, text: str, score: str, request: Request, *, figures: Any = ()
) -> Outcome:
    path = os.path.join(request.out, "seeds.png")
    arms_by_seed(scores, score, path)
    return Outcome(scores, text, {f"{score}, every seed": path, **dict(figures)})


def _preset(name: str, request: Request) -> Outcome:
    preset, images = PRESETS[name], None
    if request.quick:
        arms = {arm: preset.arms[arm] for arm in (BASELINE, HEADLINE[name])}
        preset = preset._replace(arms=arms, rates=(), rate_of={})
        images = FEW_PEOPLE if preset.data == "people" else FEW
    text, rows = run_preset(
        preset,
        _maker(preset.recipe, request),
        request.seeds,
        request.out,
        data_dir=request.data_dir,
        workers=request.workers,
        images=images,
        say=request.say,
    )
    score = f"{preset.score} %"
    scores = {arm: [row["score"][score] for row in found] for arm, found in rows.items()}
    return _outcome(scores, text, score, request, figures=_curves(rows, request.out))


def _curves(rows: Rows, out: str) -> dict[str, str]:
    """Draw what has a value per epoch; return ``{caption: path}``."""
    errors = {
        arm: [row["critic"]["critic error by epoch"] for row in found]
        for arm, found in rows.items()
        if found[0].get("critic")
    }
    if not errors:
        return {}
    path = os.path.join(out, "critic.png")
    bands(errors, "squared error of the critic", path)
    return {"critic's error over training": path}


def _vaa(request: Request) -> Outcome:
    def maker(name: str, *quick: str) -> Callable[[int], Any]:
        make = _maker(name, request, quick if request.quick else ())
        return lambda seed: make([f"seed={seed}"])

    makers = {
        "plain": maker("baseline_synthetic_resnet18"),
        "VAA": maker("vaa_synthetic_resnet18", "phase0_epochs=0"),
    }
    data = _data("scenes", request, FEW_PEOPLE)
    common = {"workers": request.workers, "say": request.say}
    done = run_experiment(makers, request.seeds, data, request.out, **common)
    return _outcome(done.scores, done.table, f"{done.score} %", request)


def _awmt(request: Request) -> Outcome:
    done = run_multitask(
        _maker("awmt_synthetic_resnet18", request),
        request.seeds,
        request.out,
        workers=request.workers,
        images=FEW_PEOPLE if request.quick else None,
        say=request.say,
    )
    return _outcome(_accuracies(done), done.text, "mean accuracy %", request)


def _noise_curve(name: str, request: Request) -> Outcome:
    curve = CURVES[name]
    if request.quick:
        preset = curve.preset._replace(rates=(), rate_of={})
        curve = curve._replace(preset=preset, levels=curve.levels[-1:])
    done = run_noise_curve(
        curve,
        _maker(curve.preset.recipe, request),
        request.seeds,
        request.out,
        data_dir=request.data_dir,
        workers=request.workers,
        say=request.say,
    )
    scores, levels = _accuracies(done), (0.0, *curve.levels)
    true = {arm: own for arm, own in scores.items() if arm in curve.preset.arms}
    series = {
        arm: np.transpose([scores[at_level(arm, level)] for level in levels])
        for arm in true
        if arm != SEPARATE  # trained with true labels only
    }
    path, places = os.path.join(request.out, "noise.png"), [100 * level for level in levels]
    bands(series, "mean test accuracy %", path, places, "wrong labels of the noisy tasks, %")
    figures = {"mean accuracy over wrong labels, line: mean, band: seeds": path}
    return _outcome(true, done.text, "mean accuracy %", request, figures=figures)


def _accuracies(done: Any) -> Scores:
    """Return the mean accuracies of all arms in percent, the basic model first."""
    order = dict.fromkeys((BASIC, SEPARATE, AWMT, *done.results))
    return {
        arm: [100 * result["overall"]["accuracy"] for result in done.results[arm]] for arm in order
    }


def _autola(kind: str, ways: Sequence[str], request: Request) -> Outcome:
    done = compare(
        _maker("hoga_search_digits", request),
        _maker("hoga_digits_resnet8", request),
        _data(kind, request),
        request.seeds,
        out=request.out,
        ways=ways,
        workers=request.workers,
        say=request.say,
    )
    return _search_outcome(done, RANDOM, request)


def _autola_photographs(request: Request) -> Outcome:
    if not request.data_dir:
        raise ValueError(NO_DATA)
    preset = AUTOLA._replace(rates=(), rate_of={}) if request.quick else AUTOLA
    make = _maker(preset.recipe, request)
    run_of = trial_of(request.out, make, request.data_dir, request.workers)
    settings, _ = tuned(preset, run_of, request.say)
    done = compare(
        _maker("hoga_search_cifar10", request, AUTOLA_SEARCH),
        make,
        request.data_dir,
        request.seeds,
        out=request.out,
        ways=[way for way in settings if way not in (SEARCHED, RANDOM)],
        settings=settings,
        workers=request.workers,
        say=request.say,
    )
    return _search_outcome(done, NONE, request)


def _search_outcome(done: Any, first: str, request: Request) -> Outcome:
    scores = {way: [100 * row["score"] for row in rows] for way, rows in done.rows.items()}
    scores = {first: scores.pop(first), **scores}
    return _outcome(scores, done.text, "top1 %", request)


_HEADLINES = {"vaa": "VAA", "dreal": ALL_STAGES, "icasc": MAIN}
HEADLINE = {name: _HEADLINES[name.partition("-")[0]] for name in PRESETS}
_LITE0 = "EfficientNet-Lite0 from ImageNet weights, 224 px"
_CIFAR10 = "CIFAR-10, 4,000 training images; {}ResNet-20 of width 16"
_GARMENTS = "clothing dataset, 14 classes{}; {}"
_WIDTH16 = "ResNet-18, width 16, 112 px"
_PLAIN0 = "EfficientNet-Lite0 from ImageNet weights, 112 px"
_SINGLE_LABEL = {
    "icasc-cifar10": _CIFAR10.format(""),
    **{f"dreal-cifar10-{b}": _CIFAR10.format(f"{b.upper()}-") for b in ("se", "cbam", "srm")},
    "icasc-garments": _GARMENTS.format("", _WIDTH16),
    "icasc-garments-lite0": _GARMENTS.format("", _PLAIN0),
    "icasc-garments-few": _GARMENTS.format(", 30 images each", _PLAIN0),
    "dreal-garments": _GARMENTS.format("", f"SE-{_WIDTH16}"),
}
_CIFAR100 = Published("CIFAR-100, ResNet-110, top-1 %", method="+3.33")
_CALTECH = Published("Caltech-256, VGG-19 or ResNet-18, top-1 %", method="up to +1.64")
_SRM101 = Published("ImageNet, SRM-ResNet-101, top-1 error %: less is better", "21.404", "20.474")
_WIDER = Published("WIDER-Attribute, ResNet-101, mAP %, as a later paper quotes it", "83.7", "86.4")
NO_ATTRIBUTES = Published("none: no attribute data in the paper", "-", "-")
_DIGIT = "one digit a scene, 10 classes; ResNet-20 (CIFAR), width 8, 32 px"
EXPERIMENTS = {
    **{
        name: Experiment(
            name.partition("-")[0].upper(), f"Clothing Co-Parsing, 22 attributes; {net}",
            "test mAP %", (BASELINE, HEADLINE[name]), published,
            functools.partial(_preset, name),
        )
        for name, net, published in (
            ("vaa-clothing", _LITE0, _WIDER),
            ("vaa-clothing-trained", f"{_LITE0}, that has learnt them", _WIDER),
            ("vaa-clothing-resnet18", f"{_WIDTH16}, from garments", _WIDER),
            ("icasc-clothing", f"{_WIDTH16}, from garments", NO_ATTRIBUTES),
        )
    },
    **{
        name: Experiment(
            name.partition("-")[0].upper(), data, "test top-1 %",
            (BASELINE, HEADLINE[name]),
            _CALTECH if "few" in name else _CIFAR100 if "icasc" in name else _SRM101,
            functools.partial(_preset, name),
        )
        for name, data in _SINGLE_LABEL.items()
    },
    **{
        name: Experiment(
            "AWMT", f"{data}; {net}",
            "mean test accuracy %", (BASIC, AWMT),
            Published("CelebA, ResNet-50, mean accuracy %", "90.42", "91.80"),
            functools.partial(_noise_curve, name),
        )
        for name, data, net in (
            ("awmt-clothing", "Clothing Co-Parsing, 8 attributes", f"{_WIDTH16}, from garments"),
            ("awmt-garments", "clothing dataset, 14 classes and the kids' flag", _PLAIN0),
        )
    },
    "autola-cifar10": Experiment(
        "AutoLA", "CIFAR-10, 4,000 training images; ResNet-20 of width 8, plain and with the "
        "published genotype", "test top-1 %", (NONE, PUBLISHED),
        Published("CIFAR-10, ResNet-20/32/56"),
        _autola_photographs,
    ),
    "vaa-people": Experiment(
        "VAA", "synthetic people, 14 attributes; ResNet-18, width 16, 112 px", "test mAP %",
        ("plain", "VAA"),
        _WIDER, _vaa,
    ),
    "icasc-digit": Experiment(
        "ICASC", _DIGIT, "test top-1 %", (BASELINE, HEADLINE["icasc-digit"]),
        _CIFAR100,
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
        _SRM101,
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
