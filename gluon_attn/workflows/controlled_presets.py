"""What is compared on which drawn data: the presets of :mod:`gluon_attn.workflows.controlled`."""

from __future__ import annotations

from typing import NamedTuple

BASELINE = "baseline"
MAIN = "A_ch, constant"
_KINDS = {
    "Grad-CAM, constant": ("attention=grad_cam", "gradient=constant"),
    "Grad-CAM, exact": ("attention=grad_cam", "gradient=exact"),
    "A_ch, constant": ("attention=channel_weighted", "gradient=constant"),
    "A_ch, exact": ("attention=channel_weighted", "gradient=exact"),
}
_LIGHT = tuple(f"weight_{term}=0.1" for term in ("as_inner", "as_last", "ac"))


def icasc_arms(start, also, later=None):
    """Return the arms of an ICASC experiment.

    All four kinds from the epoch ``start`` on, when the net knows something that can be attended
    to; the kinds named in ``also`` from the first epoch, as the paper's silence suggests; and where
    ``later`` is given the headline's kind from that epoch on, and with weights of 0.1: conditions
    under which the attention losses weigh less against cross-entropy.
    """
    late = {kind: (*changes, f"start_epoch={start}") for kind, changes in _KINDS.items()}
    first = {f"{kind}, from the first epoch": _KINDS[kind] for kind in also}
    mild = {} if later is None else {
        f"{MAIN}, from epoch {later + 1}": (*_KINDS[MAIN], f"start_epoch={later}"),
        f"{MAIN}, weights 0.1": (*late[MAIN], *_LIGHT),
    }  # fmt: skip
    return {BASELINE: ("method=baseline",), **late, **first, **mild}


DREAL_ARMS = {
    BASELINE: ("method=baseline",),
    "all stages": (),
    **{name: (f"stages={name}",) for name in ("conv2_x", "conv3_x", "conv4_x", "conv5_x")},
}


class Preset(NamedTuple):
    """One experiment.

    Attributes:
        recipe: Name of the recipe.
        data: Key of ``DATA``.
        arms: ``{title: overrides}``, the baseline first.
        score: Test score that is compared.
        common: Overrides of all arms.
        measures: What else is measured of every run: names of
            ``gluon_attn.workflows.controlled_measures.MEASURES``.
    """

    recipe: str
    data: str
    arms: dict
    score: str
    common: tuple = ()
    measures: tuple = ()


# Digits of half to two thirds of a 36-pixel page, and maps of 16 x 16 and 8 x 8: with less, the net
# learns its training scenes by heart (see docs/results.md).
DIGIT = (
    "model_options.width=8", "input_size=32", "resize=36", "crop_min=32", "crop_max=36",
    "eval_crop=34", "epochs=12", "score=top1",
)  # fmt: skip
# The last epoch, not the best: the best may lie before the attention losses begin.
LATE = ("epochs=30", "keep=last")
# Scenes of 128 pixels shrunk to 46: the plain ResNet-14 has a validation mAP of 51 % when the
# attention losses begin, and of 60 % at the end.
DIGITS = (
    "model_options.depth=14", "model_options.width=8", "input_size=40", "resize=46", "crop_min=40",
    "crop_max=46", "eval_crop=43", "epochs=12", "batch_size=64", "lr=0.004", "keep=last",
)  # fmt: skip
PRESETS = {
    "icasc-digit": Preset(
        "icasc_digits_resnet18", "digit", icasc_arms(6, _KINDS), "top1",
        ("model=cifar_resnet20_cifar10", *DIGIT), ("overlap",),
    ),
    "icasc-digits": Preset(
        "icasc_digits_resnet18", "digits", icasc_arms(6, [MAIN], 9), "mAP",
        ("model=cifar_resnet20_cifar10", *DIGITS), ("overlap",),
    ),
    "icasc-people": Preset(
        "icasc_synthetic_resnet18", "people", icasc_arms(15, [MAIN], 20), "mAP", LATE, ("overlap",),
    ),
    "dreal-digit": Preset(
        "dreal_digits_resnet18", "digit", dict(list(DREAL_ARMS.items())[:-1]), "top1",
        ("model=se_resnet20_cifar10", *DIGIT, "model_options.depth=14"), ("critic", "diversity"),
    ),
    "dreal-people": Preset(
        "dreal_synthetic_resnet18", "people", DREAL_ARMS, "mAP", ("epochs=20",),
        ("critic", "diversity"),
    ),
}  # fmt: skip
IMAGES = {
    "digit": {"train": 2000, "val": 400, "test": 1000},
    "digit32": {"train": 2000, "val": 400, "test": 1000},
    "digits": {"train": 2000, "val": 300, "test": 500},
    "people": {"train": 150, "val": 120, "test": 300},
    "garments": {"train": 900, "val": 200, "test": 500},
}
SIDES = {"digit": 36, "digit32": 32}  # pixels of a page with one digit
