"""From others' names to ours and back by the tables; which net of the zoo a file belongs to."""

from __future__ import annotations

import collections
import difflib
import fnmatch
import functools
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

from gluon_attn.core.registry import unknown_name
from gluon_attn.nets import CIFAR_DEPTHS
from model_zoo.adapters.tables import OWN, SCHEMES, TABLES, Table, candidates, names_of

Params = Mapping[str, Any]  # anything with a shape, by name
Shapes = Mapping[str, "tuple[int, ...]"]

# (units of each stage, bottleneck) -> depth
RESNETS: dict[Any, int] = {
    ((2, 2, 2, 2), False): 18, ((3, 4, 6, 3), False): 34, ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101, ((3, 8, 36, 3), True): 152,
}  # fmt: skip
# A layer of an attention block, behind the last layer of a residual branch.
BLOCKS = {
    "spatial.conv.weight": "cbam", "channel.reduce.weight": "se", "channel.conv.weight": "eca",
    "channel.weight": "srm",
}  # fmt: skip
LITE1_CHANNELS = 320  # of the last stage of EfficientNet-Lite0 and 1; 2 has more
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


class Translation(NamedTuple):
    """A file's parameters under our names.

    ``params`` are by our name, or by theirs where the net has no such parameter; ``outside`` are
    names that are not part of the net: other parts of a larger one; ``table`` is the one that fits.
    """

    params: dict[str, Any]
    outside: list[str]
    table: Table


def tables_of(scheme: str) -> list[Table]:
    """Return the tables of a naming scheme, or all with ``'auto'``."""
    if scheme not in ("auto", *SCHEMES):
        raise ValueError(unknown_name("naming scheme", scheme, ("auto", *SCHEMES)))
    return [table for table in TABLES if scheme in ("auto", table.scheme)]


def translate(
    targets: Iterable[str], params: Params, scheme: str = "auto", known: int = 0
) -> Translation | None:
    """Find the table under which most of a net's parameters are in a file, and apply it.

    ``targets`` are our names, of the net; ``known`` says how many fit without any table: a table
    must do better. None if no table fits even half of its layers.
    """
    best: Table | None = None
    found: dict[str, str] = {}
    prefixes = [""]
    for table, spelled in candidates(tables_of(scheme), params):
        wanted = {ours: theirs for ours, theirs in names_of(table).items() if ours in targets}
        names, starts = find_prefixed(spelled, wanted, table.separator)
        if len(names) > max(known, len(found), len(wanted) // 2):
            best, prefixes = table, starts
            found = {ours: spelled[theirs] for ours, theirs in names.items()}
    if best is None:
        return None
    renamed = {ours: _laid(best, ours, params[theirs], 0) for ours, theirs in found.items()}
    for make in best.defaults:
        renamed.update(make(targets, renamed))
    used, outside = set(found.values()), []
    for name, data in params.items():
        if name in used or name.rpartition(".")[2] in best.unused:
            continue
        renamed[name] = data
        if not name.startswith(prefixes[0]):
            outside.append(name)
    return Translation(renamed, outside, best)


def to_foreign(params: Params, scheme: str) -> dict[str, Any]:
    """Return the parameters of one net, ``{our name: anything}``, under the names of a scheme.

    Raises a ValueError if the scheme has no names for some parameter.
    """
    if scheme == "gluon":
        return dict(params)

    def fit(table: Table) -> tuple[int, int]:
        # A table of a longer VGG has a name for everything, but takes the dense layers for
        # convolutions, whose names are the same here and there.
        names = names_of(table)
        named = [ours for ours in params if ours in names]
        return len(named), sum(names[ours] != ours for ours in named)

    table = max(tables_of(scheme), key=fit)
    best = names_of(table)
    left = [ours for ours in params if ours not in best]
    renamed = {
        best[ours]: _laid(table, ours, data, 1) for ours, data in params.items() if ours in best
    }
    if left or len(renamed) != len(params):
        what = f"no name for {len(left)} of {len(params)} parameters ({', '.join(left[:3])}, …)"
        raise ValueError(
            f"scheme '{scheme}' has {what if left else 'the same name for two parameters'}. "
            "torchvision and gluoncv name ResNet v1b and wide ResNets (bias-free; v1 of depth 18 "
            "and 34 is the same net), torchvision also VGG, CIFAR ResNets and SE, CBAM, SRM and "
            "ECA in a ResNet, efficientnet_lite_pytorch EfficientNet-Lite; of a net with heads "
            "give its backbone"
        )
    return renamed


def _laid(table: Table, ours: str, array: Any, way: int) -> Any:
    for end, changes in table.layouts.items():
        if ours.endswith(end) and hasattr(array, "shape"):
            return changes[way](array)
    return array


def recognise(params: Params) -> tuple[str, dict[str, tuple[int, ...]]] | None:
    """Return ``(scheme, {our name: shape})`` of a file, whatever net it belongs to, or None."""
    best: dict[str, tuple[int, ...]] = {}
    scheme = ""
    for table, spelled in candidates((*OWN, *TABLES), params):
        names, _ = find_prefixed(spelled, names_of(table), table.separator)
        counted = {o.rpartition(".")[0] for o in names if o.endswith(".running_mean")}
        # VGG's tables know every layer both as convolution and as batch-norm.
        own = {
            ours: tuple(params[spelled[theirs]].shape)
            for ours, theirs in names.items()
            if (ours.rpartition(".")[0] in counted)
            == ours.endswith((".gamma", ".beta", ".running_mean", ".running_var"))
        }
        if len(own) > len(best) and _plausible(own):
            best, scheme = own, table.scheme
    return (scheme, best) if best else None


def _plausible(own: Shapes) -> bool:
    """Tell whether the stem and the first unit have the kernels that their kind demands."""
    small, stem = "features.3.0.body.0.weight" in own, own.get("features.0.weight", ())[2:]
    if stem and (small or "features.4.0.body.0.weight" in own):
        if (stem == (3, 3)) != small:
            return False
    first = own.get("features.4.0.body.0.weight")
    middle = own.get("features.4.0.body.3.weight")
    bottleneck = "features.4.0.body.6.weight" in own
    # An exported basic unit, read as a bottleneck, has its 3x3 convolutions elsewhere.
    kernels = [shape[2:] for shape in (first, middle) if shape]
    return not kernels or kernels == [(1, 1) if bottleneck else (3, 3), (3, 3)][: len(kernels)]


def nearest(missing: Iterable[str], unused: Sequence[str], limit: int = 3) -> list[tuple[str, str]]:
    """Return pairs of a missing name and the unused name that is most like it."""
    pairs: list[tuple[str, str]] = []
    for name in missing:
        close = difflib.get_close_matches(name, unused, n=1, cutoff=0.85)
        pairs += [(name, close[0])] if close else []
        if len(pairs) == limit:
            break
    return pairs


def find_prefixed(
    params: Iterable[str], wanted: Mapping[str, str], separator: str | None = None
) -> tuple[dict[str, str], list[str]]:
    """Find the prefix under which most of the wanted names are in a file.

    ``wanted`` is ``{key: name without the prefix}``; ``separator`` ends a prefix, None: only the
    empty one counts. Returns ``({key of wanted: name in the file}, prefixes)``: the prefixes under
    which most names are. If there are several, which is meant cannot be told, and there are no
    names.
    """
    counts: collections.Counter[str] = collections.Counter()
    values = set(wanted.values())
    for name in params:
        cuts = [0] + [i + 1 for i, character in enumerate(name) if character == separator]
        counts.update(name[:cut] for cut in cuts if name[cut:] in values)
    best = [prefix for prefix, count in counts.items() if count == max(counts.values())]
    if len(best) != 1:
        return {}, best
    return {key: best[0] + w for key, w in wanted.items() if best[0] + w in params}, best


# Which net


class Guess(NamedTuple):
    """A net of the zoo: its name for ``get_model``, or None if the zoo has no such net.

    ``text`` is for messages, ``scheme`` the naming scheme of the file.
    """

    model: str | None
    options: dict[str, Any]
    text: str
    scheme: str = ""


def guess_net(params: Params) -> Guess | None:
    """Return a :class:`Guess` for anything with a ``shape`` by name, in any scheme, or None."""
    found = recognise(params)
    if found is not None:
        scheme, shapes = found
        if scheme == "vaa_released":
            return _vaa(shapes)._replace(scheme=scheme)
        makers = _efficientnet, functools.partial(_cifar, params=params), _resnet, _vgg
        made = next(filter(None, (make(shapes) for make in makers)), None)
        if made is not None:
            return made._replace(scheme=scheme)
    for pattern, what in STRANGERS:
        if any(fnmatch.fnmatchcase(name, pattern) for name in params):
            return Guess(None, {}, what)
    return None


def explain(
    params: Params,
    targets: Params,
    missing: Iterable[str],
    extra: Sequence[str],
    *,
    table: Table | None = None,
) -> str:
    """Return sentences on why a file may not fit a net: what both are, and names that are close.

    ``params`` are the file's parameters, ``targets`` the net's, ``missing`` and ``extra`` names of
    net and file without a partner. ``table`` gives the missing ones the file's spelling.
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


def _efficientnet(shapes: Shapes) -> Guess | None:
    head = shapes.get("features.10.0.0.weight")
    if head is None or "features.9.0.body.6.weight" not in shapes:
        return None
    number = 0 if _units(shapes, 4) == 2 else 2 if head[1] > LITE1_CHANNELS else 1
    name = f"efficientnet_lite{number}"
    return _finished(name, name, shapes, {})


def _cifar(shapes: Shapes, params: Params) -> Guess | None:
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
    if depth not in CIFAR_DEPTHS[2:]:
        name, options = f"{block or 'cifar'}_resnet20_{data}", {"depth": depth, **options}
    return _finished(name, f"{name} for small images", shapes, options)


def _block(shapes: Shapes, place: str) -> str:
    """Return the attention block at a place of the first unit, or ''."""
    return next((name for layer, name in BLOCKS.items() if place + layer in shapes), "")


def _units(shapes: Shapes, stage: int) -> int:
    start = f"features.{stage}."
    return len({n.split(".")[2] for n in shapes if n.startswith(start) and ".body." in n})


def _resnet(shapes: Shapes) -> Guess | None:
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


def _vgg(shapes: Shapes) -> Guess | None:
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
    return _finished(name, name, shapes, {k: v for k, v in options.items() if v != usual[k]})


def _vaa(shapes: Shapes) -> Guess:
    stem, kernel = (
        shapes.get(name, (0,))
        for name in ("backbone.features.0.weight", "heads.attention.0.classifier.6.weight")
    )
    options = {"width": stem[0], "input_size": 16 * kernel[-1]}  # the map has stride 16
    usual = {"width": 64, "input_size": 224}
    name = "vaa_resnet101_released_wider"
    shapes = {"output.weight": shapes.get("backbone.output.weight", (0,))}
    return _finished(name, name, shapes, {k: v for k, v in options.items() if v != usual[k]})


def _finished(name: str, text: str, shapes: Shapes, options: dict[str, Any]) -> Guess:
    if "output.weight" in shapes:
        options["classes"] = shapes["output.weight"][0]
    listed = ", ".join(f"{key} {value}" for key, value in options.items())
    return Guess(name, options, f"{text} ({listed})" if listed else text)
