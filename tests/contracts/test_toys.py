"""Each suite finds what is wrong: one toy per fault, and the right one beside it."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import HybridBlock, nn

from contracts import suites
from gluon_attn.blocks import SE, AttentionBlock
from gluon_attn.data import AttributeDataset
from gluon_attn.method import Method
from gluon_attn.metrics.multilabel import mean_accuracy


def fails(check, *args, match, **settings):
    with pytest.raises(AssertionError, match=match):
        check(*args, **settings)


# ---------------------------------------------------------------------------------- blocks


class Pooling(AttentionBlock):
    def hybrid_forward(self, F, x):
        return F.Pooling(x, kernel=(2, 2), stride=(2, 2))


class Gate(HybridBlock):
    """A channel gate that learns; ``spread`` adds what a toy does wrong."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.conv = nn.Conv2D(channels, 1, in_channels=channels)

    def hybrid_forward(self, F, x):
        return F.sigmoid(self.conv(F.mean(x, axis=(2, 3), keepdims=True)))


class Chain(AttentionBlock):
    gate = Gate

    def __init__(self, channels, **kwargs):
        super().__init__(channels, **kwargs)
        with self.name_scope():
            self.add_gate("channel", self.gate(channels))


class OtherMap(Chain):
    """A gate of one map that says it has one value per channel."""

    class gate(Gate):
        def __init__(self, channels, **kwargs):
            super().__init__(1, **kwargs)

        def hybrid_forward(self, F, x):
            return F.sigmoid(F.mean(x, axis=1, keepdims=True))

    def hybrid_forward(self, F, x):
        return F.broadcast_mul(x, self.channel(x))


class NotAChain(Chain):
    def hybrid_forward(self, F, x):
        return x + super().hybrid_forward(F, x)


class Frozen(Chain):
    class gate(Gate):
        def hybrid_forward(self, F, x):
            return 0 * super().hybrid_forward(F, x) + 0.5


class AsksForTheMode(AttentionBlock):
    def hybrid_forward(self, F, x):
        return x * (2 if F is mx.nd else 3)


class Unknown(AttentionBlock):
    def hybrid_forward(self, F, x):
        return F.erf(x)


@pytest.mark.parametrize(
    "toy, match",
    [
        (Pooling, "became"), (OtherMap, "channel map"), (NotAChain, "chain of its gates"),
        (Frozen, "no gradient reaches"), (AsksForTheMode, "the graph gives other numbers"),
        (Unknown, "cannot differentiate it.*erf"), (Gate, "not an AttentionBlock"),
    ],
)  # fmt: skip
def test_blocks(toy, match):
    fails(suites.check_block, toy, match=match)
    suites.check_block(SE)


# ---------------------------------------------------------------------------------- losses


class SquareLoss(HybridBlock):
    def hybrid_forward(self, F, logits, label, mask):
        return F.sum(mask * (logits - label) ** 2, axis=1)


class WithoutMask(SquareLoss):
    def hybrid_forward(self, F, logits, label, mask):
        return F.sum((logits - label) ** 2, axis=1)


class MeanOverBatch(SquareLoss):
    def hybrid_forward(self, F, logits, label, mask):
        each = super().hybrid_forward(F, logits, label, mask)
        return F.broadcast_add(0 * each, F.mean(each))


class PerLabel(SquareLoss):
    def hybrid_forward(self, F, logits, label, mask):
        return mask * (logits - label) ** 2


class MaskedAfterwards(SquareLoss):
    """The value is right, the gradient is not: the mask is behind a stop."""

    def hybrid_forward(self, F, logits, label, mask):
        each = mask * (logits - label) ** 2
        return F.sum(each + logits - F.BlockGrad(logits), axis=1)


@pytest.mark.parametrize(
    "toy, match",
    [
        (WithoutMask, "mask 0 has a loss"), (PerLabel, "no value per sample"),
        (MeanOverBatch, "order|others of its batch"), (MaskedAfterwards, "mask 0 has a gradient"),
    ],
)  # fmt: skip
def test_losses(toy, match):
    label = mx.nd.array(np.random.default_rng(1).random((6, 5)) < 0.5)
    mask = mx.nd.array(np.random.default_rng(2).random((6, 5)) < 0.5)
    fails(suites.check_loss, toy(), suites.noise(6, 5), label, mask, match=match)
    suites.check_loss(SquareLoss(), suites.noise(6, 5), label, mask)


# --------------------------------------------------------------------------------- methods


class Fitting(Method):
    """Least squares with a memory of the mean loss."""

    OPTIONS = {"decay": 0.5}

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.memory = mx.nd.ones(1)

    def losses(self, outputs, batch):
        each = ((outputs["logits"] - batch.label) ** 2).sum(axis=1)
        return {"square": each * self.memory}

    def after_step(self, outputs, batch):
        each = ((outputs["logits"] - batch.label) ** 2).sum(axis=1)
        self.memory = self.memory * self.options["decay"] + each.mean()

    def state(self):
        return {"memory": self.memory.asnumpy()}

    def load_state(self, state):
        self.memory = mx.nd.array(state["memory"])


class Forgetful(Fitting):
    def load_state(self, state):
        pass


class HiddenMemory(Fitting):
    """Its memory is no part of its state."""

    def state(self):
        return {}

    def load_state(self, state):
        pass


class ReadsBack(Fitting):
    def after_step(self, outputs, batch):
        super().after_step(outputs, batch)
        self.memory.asnumpy()


class Idle(Fitting):
    def losses(self, outputs, batch):
        return {"square": 0 * super().losses(outputs, batch)["square"]}


class TakesAnything(Fitting):
    def __init__(self, net, ctx, task, optimization, *, options=None):
        super().__init__(net, ctx, task, optimization)


def linear():
    net = nn.HybridSequential()
    net.add(nn.Flatten(), nn.Dense(5, in_units=3 * 32 * 32))
    net.initialize(mx.init.Normal(0.01))
    return net


@pytest.mark.parametrize(
    "toy, match",
    [
        (Forgetful, "memory did not come back"), (HiddenMemory, "after a checkpoint the step"),
        (ReadsBack, "read back within the step"), (Idle, "nothing is trained"),
        (TakesAnything, "unknown option"),
    ],
)  # fmt: skip
def test_methods(toy, match):
    fails(suites.check_method, toy, linear, match=match)
    suites.check_method(Fitting, linear)


# -------------------------------------------------------------------------------- data sets


class Squares(AttributeDataset):
    """Eight images of two attributes, one label of which is not known."""

    looks_for = "nothing"

    def __init__(self, root, split, policy=None):
        raw = np.ones((8, 2), np.int8)
        raw[::2, 0] = -1
        raw[3, 1] = 0
        super().__init__(("a", "b"), split, raw, [f"{split} {k}" for k in range(8)], policy=policy)

    def read(self, i):
        return np.full((4, 4, 3), i, np.uint8)


class ForgetsTheMask(Squares):
    def __init__(self, root, split, policy=None):
        super().__init__(root, split, None)
        self.mask = np.ones_like(self.label)


class Floats(Squares):
    def read(self, i):
        return super().read(i) / np.float32(255)


class Random(Squares):
    def read(self, i):
        return np.random.randint(0, 255, (4, 4, 3)).astype(np.uint8)


class Endless(Squares):
    def __getitem__(self, i):
        return super().__getitem__(i % 8)


class TwoNames(Squares):
    def __init__(self, root, split, policy=None):
        super().__init__(root, split, policy)
        self.sample_ids[1] = self.sample_ids[0]


@pytest.mark.parametrize(
    "toy, match",
    [
        (ForgetsTheMask, "not masked"), (Floats, ""), (Random, "differs when read twice"),
        (Endless, "exists"), (TwoNames, ""),
    ],
)  # fmt: skip
def test_datasets(toy, match):
    fails(suites.check_dataset, toy, None, "train", match=match)
    suites.check_dataset(Squares, None, "train")


# ---------------------------------------------------------------------------------- metrics


def changes_its_input(probs, label, mask):
    probs[probs < 0.5] = 0
    return mean_accuracy(probs, label, mask)


@pytest.mark.parametrize(
    "toy, match",
    [
        (lambda p, y, m: mean_accuracy(p, y), "what is masked counts"),
        (changes_its_input, "changes its input"),
        (lambda p, y, m: float(p[0, 0]), "order counts"),
        (lambda p, y, m: 1 - mean_accuracy(p, y, m), "a perfect net scores less"),
        (lambda p, y, m: 2 * mean_accuracy(p, y, m), "better than perfect"),
        (lambda p, y, m: "high", "no number"),
    ],
)
def test_metrics(toy, match):
    fails(suites.check_metric, toy, match=match)
    suites.check_metric(mean_accuracy)


# ----------------------------------------------------------------------- models and backends


class Net(HybridBlock):
    output_names, attention_outputs, classes = ("logits", "map"), ("map",), 4

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2D(4, 3, in_channels=3)

    def hybrid_forward(self, F, x):
        maps = self.conv(x)
        return F.mean(maps, axis=(2, 3)), maps


class Swapped(Net):
    def hybrid_forward(self, F, x):
        return super().hybrid_forward(F, x)[::-1]


class Unnamed(Net):
    output_names = ("logits",)
    attention_outputs = ()


class Constant(Net):
    def hybrid_forward(self, F, x):
        logits, maps = super().hybrid_forward(F, x)
        return 0 * logits, maps


@pytest.mark.parametrize(
    "toy, match",
    [(Swapped, "logits"), (Unnamed, "2 outputs, 1 names"), (Constant, "do not depend")],
)
def test_models(toy, match):
    for net in (toy(), Net()):
        suites.awaken(net)
        if type(net) is toy:
            fails(suites.check_model, net, 8, match=match)
        else:
            suites.check_model(net, 8)


class Doubling:
    outputs = 1

    def run(self, batch):
        if batch.shape[1:] != (3, 4, 4):
            raise ValueError("give (B, 3, 4, 4)")
        return [2 * batch] * self.outputs


class Twice(Doubling):
    outputs = 2


class TakesAnyShape(Doubling):
    def run(self, batch):
        return [2 * batch]


class Wide(Doubling):
    def run(self, batch):
        return [value.astype(np.float64) for value in super().run(batch)]


@pytest.mark.parametrize(
    "toy, match", [(Twice, "2 outputs"), (TakesAnyShape, "is accepted"), (Wide, "")]
)
def test_backends(toy, match):
    def expected(images):
        return [2 * images]

    fails(suites.check_backend, toy(), (3, 4, 4), expected, match=match)
    suites.check_backend(Doubling(), (3, 4, 4), expected)


# --------------------------------------------------------------------------------- recipes


GOOD = """'''A recipe.

Command    gluon-attn train --recipe good.py
Hardware   2 CPU cores
Hours      0.1
Paper      none
Ours       not run
Deviates   in nothing
'''

method = "vaa"
model = "vaa_resnet18_w16_synthetic"
"""


@pytest.mark.parametrize("old, new, match", [
    ("resnet18_w16", "resnet19", "unknown model vaa_resnet19_synthetic"),
    ("Hours      0.1\n", "", "its text does not say Hours"),
    ("Ours ", "Result ", "its text does not say Ours"),
    ('method = "vaa"', 'method = "vaa"\ndataset = "wide"', "no data wide"),
    ('method = "vaa"', 'method = "vaa"\noptions = {"gama": 1.0}', "method vaa has no gama"),
])  # fmt: skip
def test_recipes(tmp_path, old, new, match):
    path = tmp_path / "good.py"
    path.write_text(GOOD)
    suites.check_recipe(str(path))
    path.write_text(GOOD.replace(old, new))
    fails(suites.check_recipe, str(path), match=match)
