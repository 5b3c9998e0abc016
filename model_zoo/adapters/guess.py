"""Which net of the zoo a file of parameters belongs to, judged by names and shapes."""

from __future__ import annotations

import fnmatch
from typing import NamedTuple

from model_zoo.adapters.tables import names_of
from model_zoo.adapters.translate import nearest, recognise
from model_zoo.names import MODELS

# (units of each stage, bottleneck) -> depth
RESNETS = {
    ((2, 2, 2, 2), False): 18, ((3, 4, 6, 3), False): 34, ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101, ((3, 8, 36, 3), True): 152,
}  # fmt: skip
# A layer of an attention block, behind the last layer of a residual branch.
BLOCKS = {
    "spatial.conv.weight": "cbam", "channel.reduce.weight": "se", "channel.conv.weight": "eca",
    "channel.weight": "srm",
}  # fmt: skip
VGG_CONVOLUTIONS = {8: 11, 10: 13, 13: 16, 16: 19}
# Names that betray nets which the zoo has not, or has under other names.
STRANGERS = (
    ("*conv1.0.weight", "a ResNet with a deep stem (v1c, v1d, v1e, v1s)"),
    ("*features.denseblock*", "a DenseNet"),
    ("*features.*.conv.0.0.weight", "a MobileNet"),
    ("*.attn.qkv.*", "a vision transformer"),
    ("*encoder.layers.*self_attention*", "a vision transformer"),
    ("*Mixed_5b.*", "an Inception net"),
    ("*se_module.*", "an SE-ResNet of another package"),
    ("*.se.0.weight", "GluonCV's SE-ResNet"),
    ("*features.3.squeeze.weight", "a SqueezeNet"),
)


class Guess(NamedTuple):
    """A net of the zoo.

    Attributes:
        model: Name for ``get_model``, or None if the zoo has no such net.
        options: Arguments of the model.
        text: For messages.
        scheme: Naming scheme of the file.
    """

    model: str
    options: dict
    text: str
    scheme: str = ""


def guess_net(params):
    """Return a :class:`Guess` for parameters by name, or None.

    Args:
        params: Anything with a ``shape`` by name, in any naming scheme.
    """
    found = recognise(params)
    if found is not None:
        scheme, shapes = found
        if scheme == "vaa_released":
            return _vaa(shapes)._replace(scheme=scheme)
        made = _cifar(shapes, params) or _resnet(shapes) or _vgg(shapes)
        if made is not None:
            return made._replace(scheme=scheme)
    for pattern, what in STRANGERS:
        if any(fnmatch.fnmatchcase(name, pattern) for name in params):
            return Guess(None, {}, what)
    return None


def explain(params, targets, missing, extra, table=None):
    """Return sentences on why a file may not fit a net: what both are, and names that are close.

    Args:
        params: The file's parameters by name.
        targets: The net's.
        missing, extra: Names of the net and of the file that have no partner.
        table: Gives the missing ones the file's spelling; None: the file has our names.
    """
    parts, (theirs, ours) = [], (guess_net(params), guess_net(targets))
    if theirs is not None and (ours is None or theirs.text != ours.text):
        parts.append(f"The file looks like {theirs.text}")
        parts += [f"the net like {ours.text}"] if ours is not None else []
    spelled = names_of(table) if table is not None else {}
    missing = [spelled.get(name, name) for name in missing]
    close = [f"{a} ~ {b}" for a, b in nearest(missing, extra)]
    text = ", ".join(parts) + ". " if parts else ""
    return text + (f"Nearest names: {'; '.join(close)}. " if close else "")


def _cifar(shapes: dict, params: dict) -> Guess | None:
    """Return the ResNet for small images of these shapes, or None."""
    if "features.3.0.body.0.weight" not in shapes or "features.0.weight" not in shapes:
        return None
    if any(".layer4." in f".{name}" for name in params):
        return Guess(None, {}, "a ResNet for small images with four stages, which the zoo has not")
    units = {_units(shapes, stage) for stage in (3, 4, 5)}
    if len(units) > 1:
        return Guess(None, {}, f"a ResNet for small images with {units} units in its stages")
    depth, width = 6 * units.pop() + 2, shapes["features.0.weight"][0]
    classes = shapes.get("output.weight", (10,))[0]
    block = _block(shapes, "features.3.0.body.5.")
    data = "cifar100" if classes == 100 and not block else "cifar10"
    options = {"width": width} if width != 16 else {}
    name = f"{block or 'cifar'}_resnet{depth}_{data}"
    if name not in MODELS.names():
        name, options = f"{block or 'cifar'}_resnet20_{data}", {"depth": depth, **options}
    return _finished(name, f"{name} for small images", shapes, options)


def _block(shapes: dict, place: str) -> str:
    """Return the attention block at a place of the first unit, or ''."""
    return next((name for layer, name in BLOCKS.items() if place + layer in shapes), "")


def _units(shapes: dict, stage: int) -> int:
    start = f"features.{stage}."
    return len({n.split(".")[2] for n in shapes if n.startswith(start) and ".body." in n})


def _resnet(shapes):
    """Return the ResNet of these shapes, or None."""
    if "features.4.0.body.0.weight" not in shapes or "features.0.weight" not in shapes:
        return None
    units = tuple(_units(shapes, stage) for stage in range(4, 8))
    first, middle = (shapes[f"features.4.0.body.{i}.weight"] for i in (0, 3))
    last = shapes.get("features.4.0.body.6.weight")
    depth, stem = RESNETS.get((units, last is not None)), shapes["features.0.weight"][0]
    if middle[1] != first[0]:
        return Guess(None, {}, f"a ResNeXt with units {units} (grouped convolutions)")
    if depth is None:
        kind = "bottlenecks" if last else "basic units"
        return Guess(None, {}, f"a ResNet with {units} {kind}, which the zoo has not")
    version = "v1" if "features.4.0.body.0.bias" in shapes else "v1b"
    wide, block = first[0] == 2 * stem, _block(shapes, f"features.4.0.body.{8 if last else 5}.")
    name = f"wide_resnet{depth}_2" if wide else f"resnet{depth}_{version}"
    name = f"{block}_resnet{depth}" if block else name
    same = depth < 50 and not wide and not block
    text = f"{name}, the same net as resnet{depth}_v1" if same else name
    return _finished(name, text, shapes, {} if stem == 64 else {"width": stem})


def _vgg(shapes):
    """Return the VGG of these shapes, or None."""
    weights = {n: s for n, s in shapes.items() if n.startswith("features.") and len(s) == 4}
    depth = VGG_CONVOLUTIONS.get(len(weights))
    dense = [s for n, s in shapes.items() if n.startswith("features.") and len(s) == 2]
    if depth is None or len(dense) != 2 or "features.0.weight" not in shapes:
        return None
    name = f"vgg{depth}_bn" if "features.1.gamma" in shapes else f"vgg{depth}"
    first = max(dense, key=lambda shape: shape[1])
    side = round((first[1] / list(weights.values())[-1][0]) ** 0.5)
    options = {"width": shapes["features.0.weight"][0], "hidden": first[0], "input_size": 32 * side}
    usual = {"width": 64, "hidden": 4096, "input_size": 224}
    return _finished(
        name, name, shapes, {k: v for k, v in options.items() if v != usual[k]}
    )  # fmt: skip


def _vaa(shapes):
    stem, kernel = (
        shapes.get(name, (0,))
        for name in ("backbone.features.0.weight", "heads.attention.0.classifier.6.weight")
    )
    options = {"width": stem[0], "input_size": 16 * kernel[-1]}  # the map has stride 16
    usual = {"width": 64, "input_size": 224}
    name = "vaa_resnet101_released_wider"
    shapes = {"output.weight": shapes.get("backbone.output.weight", (0,))}
    return _finished(name, name, shapes, {k: v for k, v in options.items() if v != usual[k]})


def _finished(name, text, shapes, options):
    if "output.weight" in shapes:
        options["classes"] = shapes["output.weight"][0]
    listed = ", ".join(f"{key} {value}" for key, value in options.items())
    return Guess(name, options, f"{text} ({listed})" if listed else text)
