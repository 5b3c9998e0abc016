"""What is compared on photographs; docs/results.md holds the protocol and the verdicts.

The data are the user's own copies of published sets. Both arms of a comparison have the same
backbone, start, data, augmentation, optimiser, schedule and epochs, and as many trials of the
learning rate.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Mapping, Sequence

from tools.experiments.controlled import BASELINE, Preset
from tools.experiments.multitask import ARMS, AWMT, BASIC, SEPARATE, NoiseCurve
from tools.experiments.search_compare import FIXED, NONE, PUBLISHED, RANDOM, SEARCHED

FOCAL, VAA, MAIN, GRAD_CAM = "focal loss alone", "VAA", "A_ch, constant", "Grad-CAM, constant"
ALL_STAGES, FROM_ZERO = "all stages", "critic that starts at 0"
RANDOM_CRITIC = "critic that learns nothing"
_LITE0 = "baseline_clothing_efficientnet_lite0"
_NARROW = "model=resnet18_w16_clothing"
_PLAIN_NARROW = ("method=baseline", _NARROW)
_ICASC_NARROW = ("method=icasc", _NARROW, "start_epoch=15")
_LIGHTER = f"{MAIN}, weights 0.1"
_PLAIN_CIFAR = "model=cifar_resnet20_cifar10"
_CIFAR = (
    *("splits=train,val,test", "data_options.holdout=0.2"),
    *("mean=125.3,123.0,113.9", "std=63.0,62.1,66.7", "keep=last", "batch_size=64"),
    *("schedule=cosine", "warmup_epochs=1"),
)
_EPOCHS, _SHORT = "epochs=30", "epochs=20"  # ICASC and DREAL, AutoLA's eleven ways
_RATES = ("0.05", "0.1", "0.2")
_CHOSEN = ("lr=0.2",)  # of these, by the SE net with and without DREAL
LIGHT = tuple(f"weight_{term}=0.1" for term in ("as_inner", "as_last", "ac"))
_CIFAR100 = "icasc_cifar100_resnet110"  # what it says of data and schedule is overridden


# Small nets on garments, from scratch; those of the package are called …_garments.
_SMALL = (
    *("dataset=clothing_dataset", "data_options.single_label=true", "score=top1", "keep=best"),
    *("input_size=112", "resize=128", "crop_min=96", "crop_max=128", "eval_crop=128", "epochs=40"),
)
_SMALL_RATES, _LITE0_RATES = ("1e-3", "2e-3", "4e-3"), ("5e-4", "1e-3", "2e-3")
_CLOTHING_RATES = ("5e-4", "1e-3", "2e-3")  # of nets that have learnt garments


def _icasc(
    recipe: str, start: int, *shared: str, rates: tuple[str, ...] = _LITE0_RATES,
    alone: bool = False,
) -> Preset:  # fmt: skip
    """Return the comparison of ICASC, from an epoch on, with the same net without it.

    With ``alone``, Grad-CAM has trials of its own, else it takes the rate of A_ch.
    """
    own = ("method=icasc", f"start_epoch={start}")
    arms = {BASELINE: ("method=baseline",), MAIN: own, GRAD_CAM: (*own, "attention=grad_cam")}
    rate_of = {} if alone else {GRAD_CAM: MAIN}
    measures = ("overlap", "margin")
    return Preset(recipe, "", arms, "top1", measures, shared=shared, rates=rates, rate_of=rate_of)


def dreal_arms(*stages: str) -> dict[str, Sequence[str]]:
    """Return the baseline, DREAL in all stages, and in some alone."""
    alone = {stage: ("method=dreal", f"stages={stage}") for stage in stages}
    return {BASELINE: ("method=baseline",), ALL_STAGES: ("method=dreal",), **alone}


def _dreal(
    recipe: str, *shared: str, rates: tuple[str, ...], stages: tuple[str, ...] = (),
    controls: bool = True,
) -> Preset:  # fmt: skip
    """Return the comparison of DREAL in all stages with the same net without it.

    With ``stages``, DREAL is also tried in each of these alone, and in all of them with a critic
    that stays as initialised; with ``controls``, with a critic that starts at 0.
    """
    arms, measures = dreal_arms(*stages), ("critic", "diversity") if stages else ("diversity",)
    if controls:
        arms[FROM_ZERO] = ("method=dreal", "critic_start=zero")
    if stages:
        arms[RANDOM_CRITIC] = ("method=dreal", "critic_lr=0.0", "critic_start=zero")
    rate_of = dict.fromkeys(list(arms)[2:], ALL_STAGES)
    return Preset(recipe, "", arms, "top1", measures, shared=shared, rates=rates, rate_of=rate_of)


_VAA_LITE0 = ("method=vaa", "model=vaa_efficientnet_lite0")
_ONE_COSINE = (*_VAA_LITE0, "epochs=14", "phase0_epochs=4", "phase1_epochs=6")
# From a net that has learnt the attributes: a cosine a phase, a higher rate for the new modules.
_PHASES = (
    *(*_VAA_LITE0, "epochs=11", "phase0_epochs=0", "phase1_epochs=6", "modules_lr=40.0"),
    *("schedule=cyclic_cosine", "lr_epochs=6"),
)
_NO_FOCAL = {"VAA without focal loss": ("gamma=0", "weighting=none")}
ABLATIONS = {  # of the ResNet-18: of 30 epochs, with taps on the maps of 14 x 14 and 7 x 7
    "VAA without history": ("history_weights=30",),
    **_NO_FOCAL,
    "VAA, maps of 14 x 14 alone": ("model_options.taps=stage2_activation1",),
    "VAA, maps of 7 x 7 alone": ("model_options.taps=stage3_activation1",),
}


def _vaa(
    recipe: str, plain: tuple[str, ...], rates: tuple[str, ...], own: tuple[str, ...] = (), *,
    ablations: Mapping[str, Sequence[str]] = MappingProxyType({}),
    measures: tuple[str, ...] = ("attributes", "localisation"), **more: Any,
) -> Preset:  # fmt: skip
    """Return the comparison of VAA with the plain net, and with that under focal loss.

    ``plain`` and ``own`` are overrides of the plain net and of VAA; ablations take VAA's rate.
    """
    arms = {BASELINE: plain, FOCAL: (*plain, "focal=true"), VAA: own, **ablations}
    rate_of = dict.fromkeys(ablations, VAA)
    return Preset(
        recipe, "", arms, "mAP", measures, also=("mA",), rates=rates, rate_of=rate_of, **more
    )


PHOTOGRAPHS = {
    "vaa-clothing": _vaa(_LITE0, (), ("2e-4", "4e-4", "8e-4"), own=_ONE_COSINE, probe=True),
    "vaa-clothing-trained": _vaa(
        _LITE0,
        ("epochs=5",),
        ("1e-4", "2e-4", "4e-4"),
        measures=("attributes", "heads", "localisation"),
        own=_PHASES,
        ablations={arm: (*_PHASES, *changes) for arm, changes in _NO_FOCAL.items()},
        shared=("keep=last", "warmup_epochs=0"),
        start=("lr=8e-4",),
    ),
    "vaa-clothing-resnet18": _vaa(
        "vaa_clothing_resnet18",
        _PLAIN_NARROW,
        _CLOTHING_RATES,
        ablations=ABLATIONS,
    ),
    "icasc-clothing": Preset(
        "vaa_clothing_resnet18",
        "",
        {
            BASELINE: _PLAIN_NARROW,
            MAIN: _ICASC_NARROW,
            GRAD_CAM: (*_ICASC_NARROW, "attention=grad_cam"),
            _LIGHTER: (*_ICASC_NARROW, *LIGHT),
        },
        "mAP",
        ("attributes", "overlap", "localisation"),
        also=("mA",),
        shared=("keep=last",),
        rates=_CLOTHING_RATES,
        rate_of=dict.fromkeys((GRAD_CAM, _LIGHTER), MAIN),
    ),
    "icasc-cifar10": _icasc(_CIFAR100, 15, *_CIFAR, _EPOCHS, _PLAIN_CIFAR, rates=_RATES),
    **{
        f"dreal-cifar10-{block}": _dreal(
            *(_CIFAR100, *_CIFAR, _EPOCHS, f"model={block}_resnet20_cifar10", *own),
            rates=rates,
            stages=stages,
            controls=block != "srm",
        )
        for block, own, rates, stages in (
            ("se", (), _RATES, ("conv2_x", "conv3_x", "conv4_x")),
            ("cbam", _CHOSEN, (), ()),
            ("srm", _CHOSEN, (), ()),
        )
    },
    "icasc-garments": _icasc(
        "icasc_synthetic_resnet18", 20, *_SMALL, rates=_SMALL_RATES, alone=True
    ),
    "icasc-garments-lite0": _icasc("icasc_garments_efficientnet_lite0", 3, "keep=last"),
    "icasc-garments-few": _icasc(
        *("icasc_garments_efficientnet_lite0", 10, "keep=last"),
        *("data_options.images_per_class=30", "epochs=20"),
    ),
    "dreal-garments": _dreal(
        "icasc_synthetic_resnet18", *_SMALL, "model_options.attention=se", rates=_SMALL_RATES
    ),
}


def _awmt(
    recipe: str, noisy: tuple[str, ...], levels: tuple[float, ...], *shared: str,
    rates: tuple[str, ...], windows: tuple[int, ...] = (),
) -> NoiseCurve:  # fmt: skip
    """Return the comparison of AWMT over wrong labels; further windows take its learning rate."""
    longer = {f"{AWMT}, window {k}": (f"window={k}",) for k in windows}
    own = {SEPARATE: BASIC, **dict.fromkeys(longer, AWMT)}
    arms = {**ARMS, **longer}
    preset = Preset(recipe, "", arms, "accuracy", shared=shared, rates=rates, rate_of=own)
    return NoiseCurve(preset, noisy, levels)


CURVES = {  # every second attribute gets wrong labels, or the class does
    "awmt-clothing": _awmt(
        "vaa_clothing_resnet18",
        ("pants", "dress", "legwear", "shorts"),
        (0.1, 0.2, 0.4),
        *("method=awmt", _NARROW, "score=accuracy", "epochs=20"),
        *("window=16", "val_batch_size=32"),
        "attributes=bag,pants,skirt,dress,coat,legwear,jeans,shorts",
        rates=_CLOTHING_RATES,
        windows=(63,),  # seven passes over the validation split
    ),
    "awmt-garments": _awmt(
        "awmt_garments_efficientnet_lite0",
        ("class",),
        (0.2, 0.4),
        "keep=last",
        rates=("1.25e-4", "2.5e-4", "5e-4"),
    ),
}


# AutoLA: the ways of search_compare, and the plain net with as many parameters, or as much time.
_W8 = (*_CIFAR, _SHORT, "model_options.width=8")
WIDER, COSTLIER, LONGER = "none, wider", "none, as many multiply-adds", "none, as long"
_PUBLISHED = dict.fromkeys(("HOG-SE", "HOG-CBAM", SEARCHED, RANDOM), PUBLISHED)
AUTOLA = Preset(
    "hoga_cifar10_resnet20",
    "",
    {
        **{way: (f"model_options.attention={s}",) if s else () for way, s in FIXED.items()},
        WIDER: ("model_options.width=9",),
        COSTLIER: ("epochs=26",),
        LONGER: ("epochs=133",),  # a step of the published one takes 6.65 times that of none
        **{way: () for way in (SEARCHED, RANDOM)},
    },
    "top1",
    shared=(*_W8, _PLAIN_CIFAR),
    rates=_RATES,
    rate_of={**_PUBLISHED, **dict.fromkeys((WIDER, COSTLIER, LONGER), NONE)},
)
# Of the recipe hoga_search_cifar10.
AUTOLA_SEARCH = (*_W8, "model_options.depth=8", "alpha_lr=0.02")

NAMES = (*PHOTOGRAPHS, *CURVES, "autola-cifar10")
