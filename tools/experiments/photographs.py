"""What is compared on photographs; docs/results.md holds the protocol and the verdicts.

The data are the user's own copies of published sets. Both arms of a comparison have the same
backbone, start, data, augmentation, optimiser, schedule and epochs, and as many trials of the
learning rate.
"""

from __future__ import annotations

from tools.experiments.controlled import BASELINE, Preset

FOCAL, VAA, MAIN, GRAD_CAM = "focal loss alone", "VAA", "A_ch, constant", "Grad-CAM, constant"
_PLAIN = ("method=baseline", "model=efficientnet_lite0")
_PLAIN_CIFAR = "model=cifar_resnet20_cifar10"
_CIFAR = (
    *("splits=train,val,test", "data_options.holdout=0.2"),
    *("mean=125.3,123.0,113.9", "std=63.0,62.1,66.7", "keep=best", "batch_size=64"),
    *("epochs=30", "schedule=cosine", "warmup_epochs=1"),
)
_RATES = ("0.025", "0.05", "0.1")


def _dreal(block: str) -> Preset:
    shared = (*_CIFAR, f"model={block}_resnet20_cifar10")
    arms = {BASELINE: ("method=baseline",), "all stages": ("method=dreal",)}
    return Preset(
        "icasc_cifar100_resnet110", "", arms, "top1", ("diversity",), shared=shared, rates=_RATES
    )


ABLATIONS = {
    "VAA without history": ("history_weights=12",),
    "VAA without focal loss": ("gamma=0", "weighting=none"),
    "VAA, tap at 1/16 alone": ("model_options.taps=stage5_activation2",),
    "VAA, last map alone": ("model_options.taps=stage8_activation0",),
}

PHOTOGRAPHS = {
    "vaa-clothing": Preset(
        "vaa_clothing_efficientnet_lite0",
        "",
        {BASELINE: _PLAIN, FOCAL: (*_PLAIN, "focal=true"), VAA: (), **ABLATIONS},
        "mAP",
        also=("mA",),
        rates=("2e-4", "5e-4", "1e-3"),
        rate_of=dict.fromkeys(ABLATIONS, VAA),
    ),
    "icasc-cifar10": Preset(
        "icasc_cifar100_resnet110",
        "",
        {
            BASELINE: ("method=baseline",),
            MAIN: ("start_epoch=15",),
            GRAD_CAM: ("start_epoch=15", "attention=grad_cam"),
        },
        "top1",
        ("overlap",),
        shared=(*_CIFAR, _PLAIN_CIFAR),
        rates=_RATES,
    ),
    "dreal-cifar10-se": _dreal("se"),
    "dreal-cifar10-cbam": _dreal("cbam"),
    "dreal-cifar10-srm": _dreal("srm"),
}
