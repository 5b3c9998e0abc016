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
needs
first-order differentiation only.
"""

from __future__ import annotations

import mxnet as mx
from mxnet import autograd

from gluon_attn.method import sum_of
from gluon_attn.papers.icasc.tail import DIRECTIONS


class ScorePass:
    """One forward pass of a batch, cut in three so that scores can be differentiated at the cuts.

    Args:
        tail: :class:`gluon_attn.papers.icasc.tail.Tail`; a frozen one looks at scores as they
        are in
            inference, and nothing is trained.
        image: ``(B, 3, H, W)``.

    Attributes:
        logits: ``(B, A)``.
        inner: Inner feature map ``(B, C, h, w)``, cut off from the trunk.
        last: Last feature map ``(B, C', h', w')``, cut off from the stage.
    """

    def __init__(self, tail, image):
        self.tail, self.masks = tail, {}
        if tail.frozen:
            with autograd.pause(train_mode=False):
                self._trunk = tail.trunk.run({"data": image})
        else:
            with autograd.record():
                self._trunk = tail.trunk.run({"data": image})
            with autograd.pause(train_mode=True):
                self.masks = tail.masks(image.shape, image.context)
        self.before_stage = {name: _leaf(array) for name, array in self._trunk.items()}
        with autograd.record():
            self.staged = tail.stage.run({**self.before_stage, **self.masks})
        read = [n for n in self.staged if n == "last" or n in tail.head.takes]
        ahead = {**self._trunk, **{name: self.staged[name] for name in read}}
        self.before_head = {name: _leaf(array) for name, array in ahead.items()}
        with autograd.record():
            self.headed = tail.head.run({**self.before_head, **self.masks})
        self.logits = self.headed["logits"]
        self.inner, self.last = self.before_head["inner"], self.before_head["last"]

    def gradients(self, vector, inner=True):
        """Return the gradients of the scores ``vector . logits`` at the feature maps.

        Args:
            vector: ``(B, A)``, constant; one-hot for the score of one class.
            inner: Whether the gradient at the inner map is wanted; that at the last map costs
                little.

        Returns:
            ``(inner, last)``, shaped like the maps; inner is None if not wanted.
        """
        with autograd.pause(train_mode=True):
            ahead = self._head_gradients(vector)
            if not inner:
                return None, ahead["last"]
            names = [n for n in self.staged if n in ahead]
            (gradient,) = autograd.grad(
                [self.staged[n] for n in names], [self.before_stage["inner"]],
                [ahead[n] for n in names], retain_graph=True,
            )  # fmt: skip
            if "inner" in ahead:  # the head reads the inner map, too
                gradient = gradient + ahead["inner"]
            return gradient, ahead["last"]

    def _head_gradients(self, vector):
        linear = self.tail.closed_form
        if linear:
            weight = self.tail.params[linear.weight].data(vector.context)
            mask = self.masks[linear.mask] if linear.mask else None
            return {"last": linear.gradient(vector, weight, self.last, mask)}
        names = [name for name in self.tail.head.takes if name in self.before_head]
        found = autograd.grad(
            self.logits, [self.before_head[name] for name in names], vector, retain_graph=True
        )
        return dict(zip(names, found))

    def backward(self, loss):
        """Differentiate a recorded loss of ``logits``, ``inner`` and ``last`` in all parameters."""
        autograd.backward([loss])
        names = [name for name in self.staged if name in self.before_head]
        autograd.backward(
            [self.staged[n] for n in names], [self.before_head[n].grad for n in names]
        )
        self.trunk_backward(self.before_stage, self.before_head)

    def trunk_backward(self, *leaves):
        """Differentiate the trunk, whose outputs have the gradients found in ``leaves``."""
        names = list(self._trunk)
        gradients = [sum_of([found[name].grad for found in leaves]) for name in names]
        autograd.backward([self._trunk[n] for n in names], gradients)


class ExactPass:
    """A second pass through last stage and head that knows how the gradients of a score change.

    Args:
        first: :class:`ScorePass` of the same images.
        block: :meth:`gluon_attn.papers.icasc.tail.Tail.directional` of its tail.
        directions: ``{'inner_true': d, …}`` for layers inner and last and both classes: dL/dg.

    Attributes:
        logits, inner, last: As those of :class:`ScorePass`.
        outputs: All outputs by name.
    """

    def __init__(self, first, block, directions):
        self._first = first
        self.inner = first.before_stage["inner"]
        with autograd.record():
            self.outputs = block.run({**first.before_stage, **first.masks, **directions})
        self.logits, self.last = self.outputs["logits"], self.outputs["last"]

    def backward(self, loss, vectors):
        """Differentiate a recorded loss in all parameters, also through the scores' gradients.

        Args:
            loss: Array.
            vectors: The two vectors ``(B, A)`` whose scores were differentiated.
        """
        changes = [self.outputs[f"change_{direction}"] for direction in DIRECTIONS]
        autograd.backward([loss] + changes, [loss.ones_like()] + list(vectors))
        self._first.trunk_backward(self._first.before_stage)


def true_and_confusing(logits, label, mask):
    """Return the two score vectors of a batch, and for which images there are any.

    True: all classes that the image is known to have. Confusing: the class with the highest
    probability among those that it is known not to have.

    Args:
        logits: ``(B, A)``.
        label: ``(B, A)`` in {0, 1}.
        mask: ``(B, A)`` in {0, 1}; 0 where the label is not known.

    Returns:
        ``(true, confusing, valid)``: ``(B, A)``, multi-hot; ``(B, A)``, one-hot, or all 0 if the
        image has every class; ``(B,)``, 0 where no true class is known.
    """
    true = label * mask
    others = (1 - label) * mask
    highest = (logits - 1e30 * (1 - others)).argmax(axis=1)
    confusing = mx.nd.one_hot(highest, label.shape[1]) * others
    return true, confusing, true.max(axis=1)


def _leaf(array):
    leaf = array.detach()
    leaf.attach_grad()
    return leaf
