"""What is compared on which drawn data: the presets of :mod:`tools.experiments.controlled`."""

from __future__ import annotations

from typing import NamedTuple

BASELINE = "baseline"
MAIN = "A_ch, constant"
_KINDS = {
    "Grad-CAM, constant": ("attention=grad_cam", "gradient=constant"),
    "Grad-CAM, exact": ("attention=grad_cam", "gradient=exact"),
    MAIN: ("attention=channel_weighted", "gradient=constant"),
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
    first = {f"{kind}, from the first epoch": (*_KINDS[kind], "start_epoch=0") for kind in also}
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
        data: A kind of ``tools.experiments.controlled_data``.
        arms: ``{title: overrides}``, the baseline first.
        score: Test score that is compared.
        measures: What else is measured of every run: names of
            ``tools.experiments.controlled_measures.MEASURES``.
    """

    recipe: str
    data: str
    arms: dict
    score: str
    measures: tuple = ()


PRESETS = {
    "icasc-digit": Preset(
        "icasc_digits_single_resnet20", "digit", icasc_arms(6, _KINDS), "top1", ("overlap",),
    ),
    "icasc-digits": Preset(
        "icasc_digits_resnet14", "digits", icasc_arms(6, [MAIN], 9), "mAP", ("overlap",),
    ),
    "icasc-people": Preset(
        "icasc_synthetic_resnet18", "people", icasc_arms(15, [MAIN], 20), "mAP", ("overlap",),
    ),
    "dreal-digit": Preset(
        "dreal_digits_single_resnet14", "digit", dict(list(DREAL_ARMS.items())[:-1]), "top1",
        ("critic", "diversity"),
    ),
    "dreal-people": Preset(
        "dreal_synthetic_resnet18", "people", DREAL_ARMS, "mAP", ("critic", "diversity"),
    ),
}  # fmt: skip
