"""Training of SSD: its loss, no weight decay of vectors, linear warm-up."""

from __future__ import annotations

from mxnet.gluon.parameter import ParameterDict

from gluon_attn.coco import warmup
from gluon_attn.coco.features import no_decay_of_vectors
from gluon_attn.coco.ssd_loss import MultiBoxLoss, SsdTargets
from gluon_attn.method import METHODS, Method


def trainable(net, without=()):
    """Return the parameters of a net but constants such as anchors, and those given."""
    chosen = ParameterDict(net.collect_params().prefix)
    fixed = {parameter.name for parameter in without}
    found = net.collect_params()
    chosen.update({n: p for n, p in found.items() if n not in fixed and p._differentiable
                   and not type(p).__name__ == "Constant"})  # fmt: skip
    return chosen


@METHODS.register("ssd")
class SsdMethod(Method):
    """Train a :class:`gluon_attn.coco.ssd.SSD`.

    A batch's ``label`` is ``(B, 1 + M, 5)``: corners in pixels of the input and class of each box,
    -1 in rows without one; its first row is the picture's own frame, not an object.
    """

    OPTIONS = dict(
        warmup.OPTIONS,
        warmup_epochs=1.0,
        overlap=0.5,
        negative_ratio=3.0,
        normalize="image",  # or 'batch'
        decay_vectors=False,  # whether biases and batch-norm decay, too
        expand=4.0,  # largest side of the canvas around a picture; 1: none. The loader asks for it
        crop=True,  # the loader asks for it
        colour=True,  # the loader asks for it
    )

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if getattr(self.net, "method", None) != "ssd":
            raise ValueError(
                f"method 'ssd' trains models named ssd…, not a {type(self.net).__name__}"
            )
        self._warmup = warmup.WarmUp(self.options, self.task.num_samples)
        self._targets = SsdTargets(self.options["overlap"])
        self._loss = MultiBoxLoss(self.options["negative_ratio"], self.options["normalize"])
        self._loss.hybridize()
        self._rate = None

    def begin_phase(self, phase):
        """Train all parameters; vectors do not decay."""
        if not self.options["decay_vectors"]:
            no_decay_of_vectors(self.net)
        self.train_parameters(phase, trainable(self.net))

    def forward(self, image):
        """Return logits, offsets and anchors, by name."""
        return dict(zip(self.net.raw.output_names, self.net.raw(image)))

    def losses(self, outputs, batch):
        """Return the class and the box loss, each ``(B,)``."""
        boxes, classes = batch.label[:, 1:, :4], batch.label[:, 1:, 4]
        labels, targets = self._targets(outputs["anchors"], boxes, classes)
        found = self._loss(outputs["logits"], outputs["offsets"], labels, targets)
        return dict(zip(("class", "box"), found))

    def set_learning_rate(self, lr):
        """Set the learning rate behind the warm-up."""
        self._rate = lr

    def train_step(self, batch, held_out=None):
        """Make one update at the warm-up's share of the learning rate; see :class:`Method`."""
        done = self.trainer.optimizer.num_update
        self.trainer.set_learning_rate(self._rate * self._warmup.factor(done, len(batch.index)))
        return super().train_step(batch, held_out)
