"""What detectors and keypoint nets share: GluonCV's parts, our ResNets' stages, suppression, warm-up.

This is the one place where GluonCV is imported: its parts are used where they are published.
GluonCV 0.10.5 asks pip for an OpenCV that wants another numpy; installed without its requirements
it runs on ours.
"""  # noqa: E501

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Iterable, Iterator, Sequence

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock, SymbolBlock, nn
from mxnet.gluon.parameter import Constant, ParameterDict

from gluon_attn.core.batch import Batch
from gluon_attn.method import Method
from gluon_attn.nets import attention_blocks
from gluon_attn.nets.taps import TappedStage

Tensor = Any  # NDArray or Symbol
Array = np.ndarray

INSTALL = "pip install --no-deps gluoncv==0.10.5.post0 portalocker"
CLIP = 4.135  # log(1000 / 16): most that a side may be stretched, as a logarithm; keeps exp finite
KEEP_ALL = 2.0  # an overlap that no two boxes reach: box_nms then only sorts


@contextmanager
def _without_torch() -> Iterator[None]:
    """Hide PyTorch: GluonCV refuses to be imported where it finds version 2 or later."""
    modules: dict = sys.modules
    found = modules.get("torch")
    modules["torch"] = None  # importing it raises ImportError, which GluonCV takes for "absent"
    try:
        yield
    finally:
        del modules["torch"]
        if found is not None:
            modules["torch"] = found


def gluoncv_module(name: str = "") -> Any:
    """Return a module of GluonCV, such as ``nn.bbox``; PyTorch of any version may be installed.

    An ImportError says what to do where GluonCV is not installed or cannot be loaded.
    """
    for alias, kind in (("bool", bool), ("int", int), ("float", float)):
        if alias not in np.__dict__:  # removed in numpy 1.24; GluonCV's anchors use them
            setattr(np, alias, kind)
    try:
        if "gluoncv" not in sys.modules:
            with _without_torch():
                importlib.import_module("gluoncv")
        return importlib.import_module(f"gluoncv.{name}" if name else "gluoncv")
    except Exception as error:  # beside other packages than it was made for it fails in many ways
        what = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise ImportError(
            f"detection and keypoint nets are made of parts of GluonCV, which cannot be loaded "
            f"({what}); {INSTALL}"
        ) from error


class CocoNet(HybridBlock):
    """What nets on the stages of a ResNet share."""

    taps, tap_names, attention_outputs = (), (), ()
    input_size: tuple  # height and width

    def attention_blocks(self) -> list:
        return attention_blocks(self)


class StageFeatures(HybridBlock):
    """The stem and the first stages of a ResNet, attention blocks included.

    Its parameters are those of the net and keep their names (``features.4.0.body.0.weight``). Image
    ``(B, 3, H, W)`` to the list of the maps of ``stages``, numbered from 1, in order; later ones
    are left out. The stages ``keep`` keep the resolution of the one before: all strides 1. A
    ValueError for a net with taps or without such stages.
    """

    def __init__(self, net: HybridBlock, stages: Sequence[int], keep: Sequence[int] = ()) -> None:
        super().__init__()
        layers = list(net.features)
        places = [k for k, layer in enumerate(layers) if isinstance(layer, TappedStage)]
        valid = range(1, len(places) + 1)
        if getattr(net, "taps", ()) or not stages or not {*stages, *keep} <= set(valid):
            raise ValueError(
                f"features of stages {tuple(stages)} (stride 1: {tuple(keep)}) of a "
                f"{type(net).__name__}: it must have no taps, and its stages are {list(valid)}"
            )
        for number in keep:
            for convolution in layers_of(layers[places[number - 1]], nn.Conv2D):
                if convolution._kwargs["stride"] == (2, 2):
                    convolution._kwargs["stride"] = (1, 1)
        self._wanted = [places[number - 1] for number in sorted(stages)]
        self._whole = SimpleNamespace(net=net)  # not a child: its last layers are not used
        self.features = nn.HybridSequential(prefix="")
        for layer in layers[: self._wanted[-1] + 1]:
            self.features.add(layer)

    @property
    def whole(self) -> HybridBlock:
        """The complete net, of which weight files are."""
        return self._whole.net

    def parameters_of_stages(self, count: int) -> list:
        """Return the parameters of the stem and the first ``count`` stages; none for 0."""
        found: list = []
        passed = 0
        for layer in self.features:
            passed += isinstance(layer, TappedStage)
            if count and passed <= count:
                found += layer.collect_params().values()
        return found

    def hybrid_forward(self, F: Any, x: Tensor) -> list:
        maps = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self._wanted:
                maps.append(x)
        return maps


def layers_of(block: HybridBlock, kind: type) -> list:
    """Return the layers of a kind inside a block."""
    found: list = []
    block.apply(lambda layer: found.append(layer) if isinstance(layer, kind) else None)
    return found


def pyramid(channels: int) -> HybridBlock:
    """Return GluonCV's FPN as a block of its own: C2 … C5 to P2 … P6, P6 by subsampling P5."""
    expander = gluoncv_module("nn.feature").FPNFeatureExpander
    # The pyramid alone: GluonCV's grows it on a backbone of one input.
    neck: Any = type("Neck", (expander, _SeveralInputs), {})
    names = [f"c{k}" for k in range(2, 6)]
    with mx.name.NameManager():  # else the names that are looked up carry the prefix of a scope
        inputs = [mx.sym.var(name, dtype="float32") for name in names]
        taps = [mx.sym.identity(v, name=f"{name}_in") for v, name in zip(inputs, names)]
        used = dict.fromkeys(("use_1x1", "use_upsample", "use_elewadd", "use_p6"), True)
        used.update(dict.fromkeys(("p6_conv", "no_bias"), False))
        ends = {"outputs": [f"{name}_in" for name in names], "inputs": inputs}
        block = neck(mx.sym.Group(taps), num_filters=[channels] * 4, **ends, **used)
    for name, parameter in block.collect_params().items():
        parameter.init = "zeros" if name.endswith("bias") else mx.init.Xavier()
    return block


class _SeveralInputs(SymbolBlock):
    """Takes a group of inputs apart, as SymbolBlock wants a list."""

    def __init__(self, outputs: Any, inputs: Any, params: Any = None) -> None:
        super().__init__(outputs, [inputs[k] for k in range(len(inputs.list_outputs()))], params)


def infer_shapes(net: Any, traced: HybridBlock) -> Any:
    """Return a net with all parameter shapes inferred from a symbol: running a detector takes time.

    ``traced`` is the net or the part of it that holds its parameters.
    """
    outputs = traced(mx.sym.var("data"))
    group = mx.sym.Group(list(outputs) if isinstance(outputs, (list, tuple)) else [outputs])
    arguments, _, auxiliary = group.infer_shape(data=(1, 3, *net.input_size))
    shapes = dict(zip(group.list_arguments(), arguments))
    shapes.update(zip(group.list_auxiliary_states(), auxiliary))
    for name, parameter in net.collect_params().items():
        parameter.shape = shapes[name]
    return net


class ClasswiseNms(HybridBlock):
    """Non-maximum suppression in each class, then the D detections of the highest scores.

    Inputs: scores ``(B, N, K)`` in [0, 1] without background; boxes ``(B, N, 4)``, or ``(B, N, K,
    4)`` with ``own_boxes``, where each class has its own: corners x1, y1, x2, y2. Outputs: classes
    ``(B, D)`` counted from 0, scores ``(B, D)`` falling, boxes ``(B, D, 4)``; -1 everywhere in rows
    without a detection.

    Args:
        overlap: Intersection over union above which the lower score is dropped.
        threshold: Score that a candidate must exceed.
        per_class: So many candidates of a class take part and are kept.
    """

    def __init__(
        self,
        classes: int,
        overlap: float = 0.45,
        threshold: float = 0.05,
        *,
        per_class: int = 200,
        detections: int = 100,
        own_boxes: bool = False,
    ) -> None:
        super().__init__()
        if not (0 <= overlap <= 1 and 0 <= threshold <= 1):
            raise ValueError(f"overlap={overlap}, threshold={threshold}: valid are 0 to 1")
        counts = {"classes": classes, "per_class": per_class, "detections": detections}
        if min(counts.values()) < 1:
            raise ValueError(f"{counts}: all must be positive")
        self.classes, self.detections = classes, min(detections, classes * per_class)
        self._rules = {"overlap_thresh": overlap, "valid_thresh": threshold, "topk": per_class}
        self._own_boxes = own_boxes

    def hybrid_forward(self, F: Any, scores: Tensor, boxes: Tensor) -> tuple:
        scores = F.expand_dims(F.transpose(scores, axes=(0, 2, 1)), axis=3)  # (B, K, N, 1)
        if self._own_boxes:
            boxes = F.transpose(boxes, axes=(0, 2, 1, 3))
        else:
            boxes = F.broadcast_axis(F.expand_dims(boxes, axis=1), axis=1, size=self.classes)
        numbers = F.reshape(F.contrib.arange_like(scores, axis=1), shape=(1, -1, 1, 1))
        rows = F.concat(F.broadcast_like(numbers, scores), scores, boxes, dim=3)
        rows = F.reshape(rows, shape=(-3, 0, 0))  # (B K, N, 6)
        common = {"id_index": 0, "score_index": 1, "coord_start": 2, "force_suppress": False}
        rows = F.contrib.box_nms(rows, **self._rules, **common)
        rows = F.slice_axis(rows, axis=1, begin=0, end=self._rules["topk"])
        rows = F.reshape(F.reshape(rows, shape=(-4, -1, self.classes, 0, 0)), shape=(0, -3, 0))
        rows = F.contrib.box_nms(
            rows, overlap_thresh=KEEP_ALL, valid_thresh=0, topk=self.detections, **common
        )
        rows = F.slice_axis(rows, axis=1, begin=0, end=self.detections)
        flat = (F.slice_axis(rows, axis=2, begin=k, end=k + 1) for k in (0, 1))
        classes, found = (F.reshape(column, shape=(0, -1)) for column in flat)
        return classes, found, F.slice_axis(rows, axis=2, begin=2, end=6)


def trainable(net: HybridBlock, without: Iterable = ()) -> ParameterDict:
    """Return the parameters of a net but constants such as anchors, and those given."""
    every, fixed = net.collect_params(), {parameter.name for parameter in without}
    chosen = ParameterDict(every.prefix)
    for name, parameter in every.items():
        if name not in fixed and parameter._differentiable and not isinstance(parameter, Constant):
            chosen.update({name: parameter})
    return chosen


class DetectorMethod(Method):
    """Trains nets whose ``method`` is ``trains``; the learning rate rises linearly at first.

    A batch's ``label`` is ``(B, 1 + M, 5)``: corners in pixels of the input and class of each box,
    -1 in rows without one; its first row is the frame that the image takes of the input, no object.

    Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017, section 2.2.
    """

    trains = ""
    WARM_UP = {
        "warmup_epochs": 0.0,  # passes over the training data; adds to warmup_updates
        "warmup_updates": 0,
        "warmup_start": 0.0,  # share of the learning rate at the first update
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if getattr(self.net, "method", None) != self.trains:
            raise ValueError(
                f"method '{self.trains}' trains models named {self.trains}…, not a "
                f"{type(self.net).__name__}"
            )
        for name in ("warmup_epochs", "warmup_updates"):
            if self.options[name] < 0:
                raise ValueError(f"{name}={self.options[name]}: must not be negative")
        if not 0 <= self.options["warmup_start"] <= 1:
            raise ValueError(f"warmup_start={self.options['warmup_start']}: valid are 0 to 1")
        self._rate = 0.0

    def set_learning_rate(self, lr: float) -> None:
        self._rate = lr

    def warm_up(self, done: int, batch_size: int) -> float:
        """Return the factor on the learning rate after ``done`` updates."""
        # Whole batches only: images that do not fill one are left out of a pass.
        images = self.options["warmup_epochs"] * self.task.num_samples
        length = self.options["warmup_updates"] + int(images // batch_size)
        start = self.options["warmup_start"]
        return 1.0 if done >= length else start + (1 - start) * done / length

    def train_step(self, batch: Batch, held_out: Batch | None = None) -> dict:
        done = self.trainer.optimizer.num_update
        self.trainer.set_learning_rate(self._rate * self.warm_up(done, self.rows(batch)))
        return super().train_step(batch, held_out)
