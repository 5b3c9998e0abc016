"""Gradients of class scores at the last two feature layers, and how a loss on them is trained.

Sharpen Focus: Learning with Attention Separability and Consistency (ICASC), Wang, Wu, Karanam,
Peng, Singh, Liu, Metaxas, ICCV 2019. The attention maps of equations 1 and 2 are made from

    g = d (sum over images of Y^c) / dF

at the inner and the last feature layer F, for the true class and for the confusing class c. The
score Y^c is a logit, or the sum of several. The sum over the images matters where batch-norm works
with the statistics of the batch, through which images influence one another: automatic
differentiation of summed scores gives the same.

The loss L depends on the parameters through the feature maps and through g. ``constant`` leaves the
second way out. ``exact`` adds it: with d = dL/dg,

    grad <d, g>  =  grad of the directional derivative of Y^c, in direction d,

and that derivative is a forward pass (:mod:`gluon_attn.papers.icasc.tangents`), so its gradient
needs first-order differentiation only.
"""

from __future__ import annotations

from typing import Any, Mapping

import mxnet as mx
from mxnet import autograd

from gluon_attn.method import sum_of
from gluon_attn.nets.graph import GraphBlock, leaf
from gluon_attn.papers.icasc.cut import DIRECTIONS, Arrays, Tail

Array = Any  # NDArray


def true_and_confusing(logits: Array, label: Array, mask: Array) -> tuple[Array, Array, Array]:
    """Return the two score vectors of a batch, and for which images there are any.

    True, ``(B, A)`` multi-hot: all classes that the image is known to have. Confusing, ``(B, A)``
    one-hot, or all 0 if the image has every class: the class with the highest probability among
    those that it is known not to have. Valid, ``(B,)``: 0 where no true class is known.
    """
    true = label * mask
    others = (1 - label) * mask
    highest = (logits - 1e30 * (1 - others)).argmax(axis=1)
    confusing = mx.nd.one_hot(highest, label.shape[1]) * others
    return true, confusing, true.max(axis=1)


class ScorePass:
    """One forward pass of a batch, cut in three so that scores can be differentiated at the cuts.

    A frozen tail looks at scores as they are in inference, and nothing is trained. The feature maps
    ``inner`` and ``last`` are cut off from what is in front of them; ``statistics`` are what
    :meth:`Tail.update_statistics` takes, by name.
    """

    def __init__(self, tail: Tail, image: Array) -> None:
        self.tail, self.masks = tail, {}
        if tail.frozen:
            with autograd.pause(train_mode=False):
                self._trunk = tail.trunk.run({"data": image})
        else:
            with autograd.record():
                self._trunk = tail.trunk.run({"data": image})
            with autograd.pause(train_mode=True):
                self.masks = tail.masks(image.shape, image.context)
        self.before_stage = {name: leaf(array) for name, array in self._trunk.items()}
        with autograd.record():
            staged = tail.stage.run({**self.before_stage, **self.masks})
        # what the head reads of the stage; its batch statistics are no part of the graph behind
        self._staged = {n: a for n, a in staged.items() if n == "last" or n in tail.head.takes}
        self.before_head = {n: leaf(a) for n, a in {**self._trunk, **self._staged}.items()}
        with autograd.record():
            headed = tail.head.run({**self.before_head, **self.masks})
        self.statistics = {**staged, **headed}
        self.logits = headed["logits"]
        self.inner, self.last = self.before_head["inner"], self.before_head["last"]

    def gradients(self, vector: Array, inner: bool = True) -> dict[str, Array]:
        """Return the gradients of ``vector . logits`` at ``last`` and, if wanted, at ``inner``.

        ``vector (B, A)`` is constant, and one-hot for the score of one class.
        """
        with autograd.pause(train_mode=True):
            ahead = self._head_gradients(vector)
            found = {"last": ahead["last"]}
            if inner:
                names = [n for n in self._staged if n in ahead]
                (found["inner"],) = autograd.grad(
                    [self._staged[n] for n in names], [self.before_stage["inner"]],
                    [ahead[n] for n in names], retain_graph=True,
                )  # fmt: skip
                if "inner" in ahead:  # the head reads the inner map, too
                    found["inner"] = found["inner"] + ahead["inner"]
            return found

    def _head_gradients(self, vector: Array) -> dict[str, Array]:
        last = self.tail.gradient_at_last(vector, self.last, self.masks)
        if last is not None:
            return {"last": last}
        names = [name for name in self.tail.head.takes if name in self.before_head]
        leaves = [self.before_head[name] for name in names]
        return dict(zip(names, autograd.grad(self.logits, leaves, vector, retain_graph=True)))

    def backward(self, loss: Array) -> None:
        """Differentiate a recorded loss of ``logits``, ``inner`` and ``last`` in all parameters."""
        autograd.backward([loss])
        arriving = [self.before_head[name].grad for name in self._staged]
        autograd.backward(list(self._staged.values()), arriving)
        self.trunk_backward(self.before_stage, self.before_head)

    def trunk_backward(self, *leaves: Arrays) -> None:
        """Differentiate the trunk, whose outputs have the gradients found in ``leaves``."""
        arriving = [sum_of([found[name].grad for found in leaves]) for name in self._trunk]
        autograd.backward(list(self._trunk.values()), arriving)


class ExactPass:
    """A second pass through last stage and head that knows how the gradients of a score change.

    ``block`` is :meth:`Tail.directional`; ``directions`` are ``{'inner_true': dL/dg, …}`` of layers
    inner and last and both classes; what is left out is 0. ``changes`` says how the logits change,
    ``{'true': (B, A), 'confusing': (B, A)}``; the rest is as in :class:`ScorePass`.
    """

    def __init__(self, first: ScorePass, block: GraphBlock, directions: Arrays) -> None:
        self._first = first
        self.inner = first.before_stage["inner"]
        maps = {f"{n}_{d}": a for n, a in (("inner", self.inner), ("last", first.last))
                for d in DIRECTIONS}  # fmt: skip
        still = {name: a.zeros_like() for name, a in maps.items() if name not in directions}
        with autograd.record():
            found = block.run({**first.before_stage, **first.masks, **still, **directions})
        self.statistics = found
        self.logits, self.last = found["logits"], found["last"]
        self.changes = {d: found[f"change_{d}"] for d in DIRECTIONS}

    def backward(self, loss: Array, vectors: Mapping[str, Array]) -> None:
        """Differentiate a recorded loss in all parameters, also through the gradients of two
        scores.

        ``vectors`` are ``{'true': (B, A), 'confusing': (B, A)}``.
        """
        heads = [loss, *self.changes.values()]
        arriving = [loss.ones_like(), *(vectors[d] for d in self.changes)]
        autograd.backward(heads, arriving)
        self._first.trunk_backward(self._first.before_stage)
