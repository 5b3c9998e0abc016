"""How others name the parameters of our nets: one table per naming scheme and family.

A row is ``(our layer, their layer, kind)``; the kind says which parameters the layer has. In a row
stand ``{s}`` for the stage (1 to 4), ``{f}`` for its place among our ``features`` (4 to 7; ``{c}``
in nets for small images, 3 to 5), ``{u}`` for the unit in the stage (from 0), and for names that
count layers through a stage: ``{t0} {t1} {t2}`` the three convolutions of a bottleneck, ``{p0}
{p1}`` the two of a basic unit, ``{g0} {g1} {g2}`` those of a bottleneck where the shortcut of unit
0 takes part in the count.

A table is read in both directions, so it must be one to one for every net; a test checks that.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any, Callable, Iterable, NamedTuple, Sequence

import mxnet as mx
import numpy as np

UNITS = 36  # units of the longest stage, that of ResNet-152
EPSILON = 1e-5  # of batch-norm, ours and PyTorch's
SHORTCUT = re.compile(r"(features\.\d+\.\d+)\.downsample\.([01])\.(\w+)")

Rows = tuple  # of (our layer, their layer, kind)
log = logging.getLogger(__name__)

# Parameters of a layer: ours and theirs. PyTorch calls gamma and beta weight and bias.
STATISTICS = (("running_mean", "running_mean"), ("running_var", "running_var"))
CONV, AFFINE = (("weight", "weight"),), (("weight", "weight"), ("bias", "bias"))
GLUON = {
    "conv": CONV, "affine": AFFINE, "norm": (("gamma", "gamma"), ("beta", "beta"), *STATISTICS),
    "pair": CONV,
}  # fmt: skip
TORCH = {
    "conv": CONV, "affine": AFFINE, "norm": (("gamma", "weight"), ("beta", "bias"), *STATISTICS),
    "pair": (("weight", "cfc"),),  # SRM's weights of mean and standard deviation
}  # fmt: skip


class Table(NamedTuple):
    """A naming scheme for one family of nets; see the module.

    Attributes:
        scheme: What users call it; several tables may share one.
        rows: ``(our layer, their layer, kind)``.
        leaves: Parameters of each kind, as pairs.
        separator: Between their layer's and parameter's name.
        unused: Last part of names of theirs that mean nothing to us.
        mark: Part of one of their names that only nets of this table have; '' for any.
        aliases: ``(pattern, replacement)``: other spellings of their names, for reading.
        layouts: ``{end of our name: (their array to ours, ours to theirs)}`` where shapes differ.
        defaults: Makers of parameters that our nets have and theirs lack, which makes both the same
            net: from our names of the net and the file's parameters under them.
    """

    scheme: str
    rows: Rows
    leaves: dict[str, tuple[tuple[str, str], ...]] = GLUON
    separator: str = "."
    unused: tuple[str, ...] = ()
    mark: str = ""
    aliases: tuple[tuple[str, str], ...] = ()
    layouts: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {}
    defaults: tuple[Callable[[Iterable[str], dict[str, Any]], dict[str, Any]], ...] = ()


RESNET_LAYERS = (
    ("features.0", "conv1", "conv"),
    ("features.1", "bn1", "norm"),
    ("features.{f}.{u}.body.0", "layer{s}.{u}.conv1", "conv"),
    ("features.{f}.{u}.body.1", "layer{s}.{u}.bn1", "norm"),
    ("features.{f}.{u}.body.3", "layer{s}.{u}.conv2", "conv"),
    ("features.{f}.{u}.body.4", "layer{s}.{u}.bn2", "norm"),
    ("features.{f}.{u}.body.6", "layer{s}.{u}.conv3", "conv"),
    ("features.{f}.{u}.body.7", "layer{s}.{u}.bn3", "norm"),
    ("features.{f}.{u}.downsample.0", "layer{s}.{u}.downsample.0", "conv"),
    ("features.{f}.{u}.downsample.1", "layer{s}.{u}.downsample.1", "norm"),
    ("output", "fc", "affine"),
)

# CIFAR ResNets as most repositories call their layers.
CIFAR_LAYERS = tuple(
    (ours.replace("{f}", "{c}"), theirs, kind)
    for ours, theirs, kind in RESNET_LAYERS
    if "conv3" not in theirs and "bn3" not in theirs
)
# Attention blocks, behind the last batch-norm of a unit, as their published code calls them: SE as
# in moskomule/senet.pytorch, the others as their authors do.
BLOCK_LAYERS = {
    "se": (("channel.reduce", "se.fc.0", "affine"), ("channel.expand", "se.fc.2", "affine")),
    "cbam": (
        ("channel.reduce", "cbam.ChannelGate.mlp.1", "affine"),
        ("channel.expand", "cbam.ChannelGate.mlp.3", "affine"),
        ("spatial.conv", "cbam.SpatialGate.spatial.conv", "conv"),
        ("spatial.norm", "cbam.SpatialGate.spatial.bn", "norm"),
    ),
    "srm": (("channel", "srm", "pair"), ("channel.norm", "srm.bn", "norm")),
    "eca": (("channel.conv", "eca.conv", "conv"),),
}
ALIASES = (
    (r"(^|\.)linear\.", r"\1fc."),
    (r"(layer\d\.\d+\.)shortcut\.", r"\1downsample."),
    (r"\.rclb\.fc\.", ".se.fc."),  # SE and SRM in the code of SRM's authors
    (r"\.rclb\.(cfc|bn\.)", r".srm.\1"),
)
LAYOUTS = {
    ".channel.weight": (
        lambda array: array.T.reshape((2, -1, 1, 1)), lambda array: array.reshape((2, -1)).T,
    ),
    ".channel.conv.weight": (
        lambda array: array.reshape((1, 1, -1, 1)), lambda array: array.reshape((1, 1, -1)),
    ),
}  # fmt: skip


def _with_block(layers: Rows, block: str) -> Rows:
    """Return the rows of a ResNet with an attention block in every unit."""
    stage = "{c}" if layers is CIFAR_LAYERS else "{f}"
    places = ("5",) if layers is CIFAR_LAYERS else ("5", "8")  # basic units and bottlenecks
    return layers + tuple(
        (f"features.{stage}.{{u}}.body.{place}.{ours}", f"layer{{s}}.{{u}}.{theirs}", kind)
        for place in places
        for ours, theirs, kind in BLOCK_LAYERS[block]
    )


# GluonCV's v1b as an export or an old save_params names it, without the net's prefix.
EXPORTED_STEM = (
    ("features.0", "conv0", "conv"),
    ("features.1", "batchnorm0", "norm"),
    ("features.{f}.0.downsample.0", "down{s}_conv0", "conv"),
    ("features.{f}.0.downsample.1", "down{s}_batchnorm0", "norm"),
    ("output", "dense0", "affine"),
)
EXPORTED_BASIC = EXPORTED_STEM + (
    ("features.{f}.{u}.body.0", "layers{s}_conv{p0}", "conv"),
    ("features.{f}.{u}.body.1", "layers{s}_batchnorm{p0}", "norm"),
    ("features.{f}.{u}.body.3", "layers{s}_conv{p1}", "conv"),
    ("features.{f}.{u}.body.4", "layers{s}_batchnorm{p1}", "norm"),
)
EXPORTED_BOTTLENECK = EXPORTED_STEM + (
    ("features.{f}.{u}.body.0", "layers{s}_conv{t0}", "conv"),
    ("features.{f}.{u}.body.1", "layers{s}_batchnorm{t0}", "norm"),
    ("features.{f}.{u}.body.3", "layers{s}_conv{t1}", "conv"),
    ("features.{f}.{u}.body.4", "layers{s}_batchnorm{t1}", "norm"),
    ("features.{f}.{u}.body.6", "layers{s}_conv{t2}", "conv"),
    ("features.{f}.{u}.body.7", "layers{s}_batchnorm{t2}", "norm"),
)

# Files of VAA's repository: the backbone is Gluon's ResNet-101 v1 with a second dense layer; stages
# 2, 3 and 4 are the attention modules on stage3_activation19, stage3_activation22 and
# stage4_activation2. The parts before the slash are names of files.
VAA_BACKBONE = (
    ("backbone.features.0", "backbone_resnet/conv0", "conv"),
    ("backbone.features.1", "backbone_resnet/batchnorm0", "norm"),
    ("backbone.features.{f}.{u}.body.0", "backbone_resnet/stage{s}_conv{g0}", "affine"),
    ("backbone.features.{f}.{u}.body.1", "backbone_resnet/stage{s}_batchnorm{g0}", "norm"),
    ("backbone.features.{f}.{u}.body.3", "backbone_resnet/stage{s}_conv{g1}", "conv"),
    ("backbone.features.{f}.{u}.body.4", "backbone_resnet/stage{s}_batchnorm{g1}", "norm"),
    ("backbone.features.{f}.{u}.body.6", "backbone_resnet/stage{s}_conv{g2}", "affine"),
    ("backbone.features.{f}.{u}.body.7", "backbone_resnet/stage{s}_batchnorm{g2}", "norm"),
    ("backbone.features.{f}.0.downsample.0", "backbone_resnet/stage{s}_conv3", "conv"),
    ("backbone.features.{f}.0.downsample.1", "backbone_resnet/stage{s}_batchnorm3", "norm"),
    ("backbone.output", "backbone_resnet/dense1", "affine"),
)
# Our layer of a module, the repository's file, and there the layer's counted name.
VAA_MODULE = (
    ("mask.0", "fatt", "conv0", "affine"),
    ("mask.1", "fatt", "batchnorm0", "norm"),
    ("mask.3", "fatt", "conv1", "affine"),
    ("mask.4", "fatt", "batchnorm1", "norm"),
    ("mask.6", "fatt", "conv2", "affine"),
    ("confidence", "fconv", "conv0", "affine"),
    ("classifier.0", "fsr", "conv0", "affine"),
    ("classifier.1", "fsr", "batchnorm0", "norm"),
    ("classifier.3", "fsr", "conv1", "affine"),
    ("classifier.4", "fsr", "batchnorm1", "norm"),
    ("classifier.6", "fsr", "conv2", "affine"),
    ("classifier.7", "fsr", "batchnorm2", "norm"),
    ("classifier.10", "fsr", "dense0", "affine"),  # ours has a Flatten in front of it
)
VAA_HEADS = tuple(
    (f"heads.attention.{module}.{ours}", f"{file}_stage_{module + 2}/{theirs}", kind)
    for module in range(3)
    for ours, file, theirs, kind in VAA_MODULE
)
VAA_FILES = ("backbone_resnet",) + tuple(
    f"{part}_stage_{stage}" for stage in (2, 3, 4) for part in ("fconv", "fatt", "fsr")
)

# Place of the first dense layer among the features of VGG-11, 13, 16, 19, plain and batch-norm.
VGG_DENSE = (21, 25, 31, 37, 29, 35, 44, 53)


def _vgg(dense: int) -> Rows:
    """Return the rows of torchvision's VGG whose convolutions end in front of layer ``dense``."""
    layers = tuple(
        (f"features.{i}", f"features.{i}", kind)
        for i in range(dense - 2)
        for kind in ("affine", "norm")
    )
    return layers + (
        (f"features.{dense}", "classifier.0", "affine"),
        (f"features.{dense + 2}", "classifier.3", "affine"),
        ("output", "classifier.6", "affine"),
    )


def _same(rows: Rows, conv: str = "affine") -> Rows:
    """Return rows that give our own names on both sides; v1 has biases where v1b has none."""
    return tuple((ours, ours, conv if kind == "conv" else kind) for ours, _, kind in rows)


# The PyTorch port of EfficientNet-Lite counts its blocks through all stages.
EFFICIENTNET_UNITS = (1, 2, 2, 3, 3, 4, 1), (1, 3, 3, 4, 4, 5, 1)  # Lite0; Lite1 and Lite2
EFFICIENTNET_BODY = (
    ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"),
)  # fmt: skip


def _efficientnet(units: Sequence[int]) -> Rows:
    head, number = f"features.{3 + len(units)}.0", 0
    rows = [("features.0", "_conv_stem", "conv"), ("features.1", "_bn0", "norm")]
    for stage, count in enumerate(units):
        for unit in range(count):
            layers = EFFICIENTNET_BODY if stage else EFFICIENTNET_BODY[1:]  # nothing to widen
            for place, (conv, norm) in enumerate(layers):
                ours, theirs = f"features.{3 + stage}.{unit}.body", f"_blocks.{number}"
                rows.append((f"{ours}.{3 * place}", f"{theirs}.{conv}", "conv"))
                rows.append((f"{ours}.{3 * place + 1}", f"{theirs}.{norm}", "norm"))
            number += 1
    rows += [(f"{head}.0", "_conv_head", "conv"), (f"{head}.1", "_bn1", "norm")]
    return (*rows, ("output", "_fc", "affine"))


# Parameters that our nets have and theirs lack.


def zero_biases(targets: Iterable[str], params: dict[str, Any]) -> dict[str, Any]:
    """Return biases of 0 for squeeze-and-excitation without biases."""
    made = {}
    for name in targets:
        layer, _, leaf = name.rpartition(".")
        weight = params.get(f"{layer}.weight")
        gate = leaf == "bias" and layer.endswith((".channel.reduce", ".channel.expand"))
        if gate and name not in params and weight is not None:
            made[name] = mx.nd.zeros(weight.shape[:1])
    return made


def parameter_free_shortcuts(targets: Iterable[str], params: dict[str, Any]) -> dict[str, Any]:
    """Return the projections that equal the shortcuts without parameters of CIFAR ResNets.

    The paper's option A takes every second pixel in both directions and adds channels of zeros, as
    many in front as behind: ``pad(x[:, :, ::2, ::2], planes // 4)``. Our nets have option B there,
    a convolution 1x1 of stride 2 with batch-norm. With a kernel that is 1 from channel ``i`` to
    ``i + planes // 4`` and 0 elsewhere, and a batch-norm with scale 1, shift 0, mean 0 and variance
    ``1 - eps``, it computes the same: products with 0 and 1 are exact, and
    ``x / sqrt(1 - eps + eps)`` is x up to one rounding.

    Only where the file has no shortcut at all: a file that lacks some is damaged.
    """
    wanted = [match for match in map(SHORTCUT.fullmatch, targets) if match]
    if not wanted or any(SHORTCUT.fullmatch(name) for name in params):
        return {}
    made = {}
    for match in wanted:
        first = params.get(f"{match[1]}.body.0.weight")
        if first is None or first.shape[0] != 2 * first.shape[1] or first.shape[1] % 2:
            return {}
        made[match[0]] = mx.nd.array(_identity(match[2], match[3], *first.shape[:2]))
    log.info("no weights of shortcuts: taken as those without parameters, zeros on both sides")
    return made


def _identity(layer: str, leaf: str, out: int, channels: int) -> np.ndarray:
    if layer == "1":
        value = {"gamma": 1, "running_var": 1 - EPSILON}.get(leaf, 0)
        return np.full(out, value, np.float32)
    kernel = np.zeros((out, channels, 1, 1), np.float32)
    kernel[np.arange(channels) + out // 4, np.arange(channels)] = 1
    return kernel


COUNTER: dict[str, Any] = {
    "unused": ("num_batches_tracked",)
}  # of PyTorch's batch-norm since 0.4.1
RESNET: dict[str, Any] = {
    **COUNTER,
    "aliases": ALIASES,
    "layouts": LAYOUTS,
    "defaults": (zero_biases,),
}
CIFAR: dict[str, Any] = {**RESNET, "defaults": (zero_biases, parameter_free_shortcuts)}
TABLES = (
    Table("torchvision", RESNET_LAYERS, TORCH, **RESNET),
    Table("torchvision", CIFAR_LAYERS, TORCH, **CIFAR),
    *(
        Table("torchvision", _with_block(layers, block), TORCH, mark=rows[0][1], **options)
        for layers, options in ((RESNET_LAYERS, RESNET), (CIFAR_LAYERS, CIFAR))
        for block, rows in BLOCK_LAYERS.items()
    ),
    *(Table("torchvision", _vgg(dense), TORCH, **COUNTER) for dense in VGG_DENSE),
    *(
        Table("efficientnet_lite_pytorch", _efficientnet(units), TORCH, **COUNTER)
        for units in EFFICIENTNET_UNITS
    ),
    Table("gluoncv", RESNET_LAYERS),
    Table("gluoncv_exported", EXPORTED_BASIC, separator="_"),
    Table("gluoncv_exported", EXPORTED_BOTTLENECK, separator="_"),
    Table("vaa_released", VAA_BACKBONE + VAA_HEADS, separator="_"),
)
# Our own names, which are Gluon's; for recognising a file. Saving and loading need no table.
OWN = (
    Table("gluon", _same(RESNET_LAYERS)),
    Table("gluon", _same(CIFAR_LAYERS)),
    *(
        Table("gluon", _same(_with_block(layers, block)), mark=rows[0][0])
        for layers in (RESNET_LAYERS, CIFAR_LAYERS)
        for block, rows in BLOCK_LAYERS.items()
    ),
    Table("gluon", _same((*_vgg(max(VGG_DENSE) + 4), ("output", "", "affine")))),
    *(Table("gluon", _same(_efficientnet(units), "conv")) for units in EFFICIENTNET_UNITS),
)
SCHEMES = tuple(dict.fromkeys(["gluon", *(table.scheme for table in TABLES)]))


@lru_cache(maxsize=None)
def _layers(rows: Rows) -> tuple[tuple[str, str, str], ...]:
    """Return all ``(our layer, their layer, kind)`` of rows with their places filled in."""
    places = [_places(stage, unit) for stage in range(1, 5) for unit in range(UNITS)]
    return tuple(
        dict.fromkeys(
            (ours.format(**place), theirs.format(**place), kind)
            for ours, theirs, kind in rows
            for place in (places if "{" in ours else places[:1])
        )
    )


def _places(stage: int, unit: int) -> dict[str, int]:
    counted = {f"t{k}": 3 * unit + k for k in range(3)}
    counted.update((f"p{k}", 2 * unit + k) for k in range(2))
    counted.update((f"g{k}", 3 * unit + (unit > 0) + k) for k in range(3))
    return {"s": stage, "f": stage + 3, "c": stage + 2, "u": unit, **counted}


def names_of(table: Table) -> dict[str, str]:
    """Return ``{our parameter: their parameter}`` for every net of the table's family."""
    return {
        f"{ours}.{leaf}": f"{theirs}{table.separator}{their_leaf}"
        for ours, theirs, kind in _layers(table.rows)
        for leaf, their_leaf in table.leaves[kind]
    }


def candidates(
    tables: Iterable[Table], params: Iterable[str]
) -> list[tuple[Table, dict[str, str]]]:
    """Return the tables that a file may belong to, each with ``{spelling: name in the file}``."""
    spellings: dict[Any, dict[str, str]] = {}
    found = []
    for table in tables:
        if table.aliases not in spellings:
            spellings[table.aliases] = _spelled(table.aliases, params)
        names = spellings[table.aliases]
        if any(table.mark in name for name in names):
            found.append((table, names))
    return found


def _spelled(aliases: tuple[tuple[str, str], ...], params: Iterable[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for name in params:
        spelled = name
        for pattern, replacement in aliases:
            spelled = re.sub(pattern, replacement, spelled)
        names[spelled if spelled not in names else name] = name
    return names
