"""ICASC: learning with attention separability and consistency.

Sharpen Focus: Learning with Attention Separability and Consistency, Wang, Wu, Karanam, Peng, Singh,
Liu, Metaxas, ICCV 2019 ("paper"), with its supplementary material ("supplement").

Two attention maps of an image, that of its class and that of the class it is most easily taken for,
should lie apart (L_AS, at the inner and at the last feature layer), and the inner layer should look
where the last one does (L_AC):

    L = L_C + L_AS^in + L_AS^la + L_AC                                          (equation 6)

Only training changes: the net and its inference stay what they are.

Legend: B batch, A classes or attributes, A^T and A^Conf attention of the true and of the confusing
class; la last, in inner feature layer.

Deviations and assumptions, all listed in docs/icasc.md: the size of the mask at the inner layer,
images without a known class, small constants.
"""

from __future__ import annotations

from mxnet import autograd
from mxnet.gluon import HybridBlock

from gluon_attn.core.registry import unknown_name
from gluon_attn.losses.classification import objective
from gluon_attn.method import METHODS, Method, split_batch, sum_of
from gluon_attn.papers.icasc.gradients import ExactPass, ScorePass, true_and_confusing
from gluon_attn.papers.icasc.losses import (
    attention_consistency,
    attention_separation,
    normalized,
    resize_like,
    soft_mask,
)
from gluon_attn.papers.icasc.maps import MAPS
from gluon_attn.papers.icasc.tail import Tail

CHOICES = {
    "attention": tuple(sorted(MAPS)),
    "gradient": ("constant", "exact"),
    "mask_resize": ("bilinear", "corners"),
    "inner_mask": ("last", "inner"),
}
TERMS = ("as_inner", "as_last", "ac")


class AttentionTerms(HybridBlock):
    """The three attention losses of equation 6.

    Inputs: last feature map and the gradients of both scores there, each ``(B, C, h, w)``; valid
    ``(B,)``, a factor on all terms; and, unless no inner term is wanted, the same three arrays of
    the inner layer. Outputs: ``L_AS^la``, and with the inner layer ``L_AS^in`` and ``L_AC``, each
    ``(B,)``.

    Args:
        options: Values of :attr:`ICASC.OPTIONS`.
    """

    def __init__(self, options, **kwargs):
        super().__init__(**kwargs)
        self._options = dict(options)

    def _pair(self, features, true, confusing):
        attention = MAPS[self._options["attention"]]
        maps = attention(features, true), attention(features, confusing)
        return tuple(map(normalized, maps)) if self._options["normalize"] else maps

    def _mask(self, F, a_true):
        mask = soft_mask(a_true, self._options["sigma"], self._options["omega"])
        return F.BlockGrad(mask) if self._options["detach_mask"] else mask

    def hybrid_forward(self, F, last, last_true, last_conf, valid, inner=None, inner_true=None,
                       inner_conf=None):  # fmt: skip
        """Return the losses, each ``(B,)``."""
        true, confusing = self._pair(last, last_true, last_conf)
        mask = self._mask(F, true)
        terms = [attention_separation(true, confusing, mask)]  # Eq. 3, last layer
        if inner is not None:
            true, confusing = self._pair(inner, inner_true, inner_conf)
            large = resize_like(mask, true, self._options["mask_resize"] == "corners")
            own = large if self._options["inner_mask"] == "last" else self._mask(F, true)
            terms.append(attention_separation(true, confusing, own))  # Eq. 3, inner layer
            terms.append(attention_consistency(true, large, self._options["theta"]))  # Eq. 5
        return [F.broadcast_mul(term, valid) for term in terms]


@METHODS.register("icasc")
class ICASC(Method):
    """Any net with two or more stages, on single-label or multi-label data.

    The classification loss is that of the data (softmax or masked binary cross-entropy, on the
    net's ``logits``). All weights 0 is the plain baseline.
    """

    OPTIONS = {
        "attention": "channel_weighted",  # or "grad_cam"; paper, Eqs. 2 and 1
        "gradient": "constant",  # or "exact": also through the channel weights
        "sigma": 0.55,  # paper, Eq. 4
        "omega": 100.0,  # paper, Eq. 4
        "theta": 0.8,  # paper, Eq. 5
        "weight_as_inner": 1.0,  # paper, Eq. 6
        "weight_as_last": 1.0,
        "weight_ac": 1.0,
        "normalize": False,  # True: maps are divided by their maxima first
        "mask_resize": "bilinear",  # to the inner layer; "corners": with corners aligned
        "inner_mask": "last",  # mask of L_AS at the inner layer; "inner": made from its own map
        "detach_mask": False,  # True: no gradient through the mask
        "start_epoch": 0,  # first epoch with attention losses
    }

    FLOAT32_ONLY = "because its losses are made of gradients"

    def __init__(self, net, ctx, task, optimization, options=None):
        super().__init__(net, ctx, task, optimization, options=options)
        self._check_options()
        schema = self.task.schema
        self._name = "ce" if schema is not None and schema.is_single_label else "bce"
        self._classification = objective(schema)
        self._weights = [float(self.options[f"weight_{term}"]) for term in TERMS]
        self._needs_inner = bool(self._weights[0] or self._weights[2])
        self._terms = AttentionTerms(self.options)
        self._terms.hybridize(static_alloc=True, static_shape=True)
        self._tail = Tail(net, self.ctx)
        self._directional = None
        if self.options["gradient"] == "exact":
            self._directional = self._tail.directional()

    def _check_options(self):
        for name, valid in CHOICES.items():
            if self.options[name] not in valid:
                raise ValueError(unknown_name(f"value of {name}", self.options[name], valid))
        for name in ("sigma", "omega", "start_epoch", *(f"weight_{term}" for term in TERMS)):
            if self.options[name] < 0:
                raise ValueError(f"{name}={self.options[name]}: must be >= 0")

    @property
    def attends(self):
        """Whether attention losses are part of the current epoch's loss."""
        return any(self._weights) and self.epoch >= self.options["start_epoch"]

    def losses(self, outputs, batch):
        """Return the classification loss, ``(B,)``: all there is without attention."""
        return {self._name: self._classification(outputs["logits"], batch.label, batch.mask)}

    def train_step(self, batch, held_out=None):
        """Make one update; see :meth:`gluon_attn.method.Method.train_step`."""
        if not self.attends:
            return super().train_step(batch, held_out)
        micro = self.optimization.accumulate
        parts = split_batch(batch, self.ctx, micro)
        if micro > 1:
            self.net.collect_params().zero_grad()
        totals = {}
        for step in range(micro):
            for part in parts[step::micro]:
                for name, value in self._differentiate(part).items():
                    totals.setdefault(name, []).append(value)
        self.trainer.step(len(batch.index))
        with autograd.pause():
            return {n: sum_of([v.sum().as_in_context(self.ctx[0]) for v in vs])
                    for n, vs in totals.items()}  # fmt: skip

    def _differentiate(self, part):
        """Make all gradients of one device's share; return its losses, each ``(B,)``."""
        run = ScorePass(self._tail, part.image)
        with autograd.pause():
            vectors = true_and_confusing(run.logits, part.label, part.mask)
        true, confusing, valid = vectors
        found = [run.gradients(vector, self._needs_inner) for vector in (true, confusing)]
        gradients = {
            "last_true": found[0][1], "last_confusing": found[1][1],
            "inner_true": found[0][0], "inner_confusing": found[1][0],
        }  # fmt: skip
        if self._directional is None:
            losses = self._recorded_losses(run, part, gradients, valid)
            run.backward(losses["loss"])
            self._tail.update_statistics({**run.staged, **run.headed})
            return losses
        exact = ExactPass(run, self._directional, self._directions(run, gradients, valid))
        losses = self._recorded_losses(exact, part, gradients, valid)
        exact.backward(losses["loss"], (true, confusing))
        self._tail.update_statistics(exact.outputs)
        return losses

    def _recorded_losses(self, run, part, gradients, valid):
        with autograd.record():
            losses = self.losses({"logits": run.logits}, part)
            losses.update(self._attention_losses(run.inner, run.last, gradients, valid))
            return dict(losses, loss=sum_of(losses.values()))

    def _attention_losses(self, inner, last, gradients, valid):
        """Return the weighted terms by name; those of weight 0 are left out."""
        inputs = [last, gradients["last_true"], gradients["last_confusing"], valid]
        if self._needs_inner:
            inputs += [inner, gradients["inner_true"], gradients["inner_confusing"]]
        terms = dict(zip(("as_last", "as_inner", "ac"), self._terms(*inputs)))
        weights = dict(zip(TERMS, self._weights))
        return {name: weights[name] * terms[name] for name in TERMS if weights[name]}

    def _directions(self, run, gradients, valid):
        """Return how the attention losses change with the scores' gradients, dL/dg."""
        present = {name: g for name, g in gradients.items() if g is not None}
        for gradient in present.values():
            gradient.attach_grad()
        with autograd.record():
            losses = self._attention_losses(run.inner.detach(), run.last.detach(), gradients, valid)
            total = sum_of(losses.values())
        found = dict(zip(present, autograd.grad(total, list(present.values()))))
        for name, gradient in gradients.items():
            if gradient is None:
                found[name] = run.before_stage["inner"].zeros_like()
            else:
                gradients[name] = gradient.detach()
        return found
