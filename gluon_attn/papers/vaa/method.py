"""VAA: visual attention aggregation for imbalanced attributes.

Deep Imbalanced Attribute Classification using Visual Attention Aggregation, Sarafianos, Xu,
Kakadiaris, ECCV 2018, with its supplementary material ("supplement").

The primary net (ResNet-101) makes one logit vector. On two of its activations sit attention
modules, each with a logit vector of its own. The prediction is the sigmoid of the mean logit.

Legend: B batch, A attributes, C channels of a tap, h w its map size, C_k a 1x1 convolution with k
filters + batch-norm + ReLU.

Deviations, all listed in docs/vaa.md: the mean runs over 3 logit vectors because there are two
modules (the released code has three modules and divides by 4); in phase 1 the frozen primary net
also keeps its batch-norm statistics.
"""

from __future__ import annotations

from mxnet import autograd
from mxnet.gluon import HybridBlock, nn

from gluon_attn.losses.classification import MaskedBCELoss, WeightedFocalLoss
from gluon_attn.method import METHODS, Method
from gluon_attn.nets import activation_shapes
from gluon_attn.nets.init import xavier
from gluon_attn.papers.vaa.history import PredictionHistory

# filters and kernels of the attention branch, then filters of the classifier's three convolutions
VARIANTS = {
    "supplement": {"mask": ((256, 1), (256, 1)), "classifier": (256, 512, 512)},
    "released": {"mask": ((512, 1), (512, 3)), "classifier": (256, 512, 1024)},
}


def conv_bn_relu(filters, kernel, in_channels, padding=0):
    """Return C_k as a list of layers, for any kernel."""
    return [
        nn.Conv2D(filters, kernel, padding=padding, in_channels=in_channels,
                  weight_initializer=xavier()),
        nn.BatchNorm(in_channels=filters),
        nn.Activation("relu"),
    ]  # fmt: skip


class AttentionModule(HybridBlock):
    """Attention, confidence and classifier on one activation of the primary net.

    Supplement: attention C_256 - C_256 - conv(A), normalised over the h x w positions of each
    attribute; confidence conv(A) + sigmoid on the same input; their product goes through
    C_256 - C_512 - C_512 - D_A, where the last convolution covers the whole map.

    Inputs: ``(B, C, h, w)``. Outputs: logits ``(B, A)``; attention ``(B, A, h, w)``, >= 0 and
    summing to 1 over each map; confidence ``(B, A, h, w)`` in (0, 1).

    Args:
        classes: A.
        in_channels: C.
        map_size: ``(h, w)``.
        variant: A key of ``VARIANTS``.
        scale: Factor on all filter counts but A; 1 in the paper, less for small nets.
    """

    def __init__(self, classes, in_channels, map_size, variant="supplement", scale=1, **kwargs):
        super().__init__(**kwargs)
        if variant not in VARIANTS:
            raise ValueError(f"VAA variant {variant!r}: valid are {', '.join(VARIANTS)}")
        self._map_size = tuple(map_size)
        first, second, third = (round(f * scale) for f in VARIANTS[variant]["classifier"])
        with self.name_scope():
            self.mask = nn.HybridSequential(prefix="mask_")
            with self.mask.name_scope():
                channels = in_channels
                for filters, kernel in VARIANTS[variant]["mask"]:
                    filters = round(filters * scale)
                    self.mask.add(*conv_bn_relu(filters, kernel, channels, padding=kernel // 2))
                    channels = filters
                self.mask.add(_head(classes, channels))
            self.confidence = _head(classes, in_channels, prefix="confidence_")
            self.classifier = nn.HybridSequential(prefix="classifier_")
            with self.classifier.name_scope():
                self.classifier.add(*conv_bn_relu(first, 1, classes))
                self.classifier.add(*conv_bn_relu(second, 1, first))
                self.classifier.add(*conv_bn_relu(third, self._map_size, second))
                # An explicit Flatten: a Dense right behind a fused convolution fails in oneDNN.
                self.classifier.add(nn.Flatten())
                self.classifier.add(nn.Dense(classes, in_units=third, weight_initializer=xavier()))

    def hybrid_forward(self, F, x):
        """Return logits, attention and confidence."""
        scores = F.reshape(self.mask(x), shape=(0, 0, -1))
        attention = F.reshape(F.softmax(scores, axis=-1), shape=(0, 0) + self._map_size)
        confidence = F.sigmoid(self.confidence(x))
        # broadcast_mul, not *: an elementwise product does not quantize.
        return self.classifier(F.broadcast_mul(attention, confidence)), attention, confidence


def _head(classes, in_channels, **kwargs):
    return nn.Conv2D(
        classes, 1, in_channels=in_channels, weight_initializer=xavier(), **kwargs
    )  # fmt: skip


class AttentionHeads(HybridBlock):
    """One attention module per tap, and the aggregation of all logits.

    Inputs: logits of the primary net ``(B, A)``, then one activation per tap.
    Outputs: mean logits, primary logits, logits of each module, attention of each module,
    confidence of each module.
    """

    def __init__(self, modules, **kwargs):
        super().__init__(**kwargs)
        self.attention = nn.HybridSequential(prefix="")
        self.attention.add(*modules)

    def hybrid_forward(self, F, logits, *activations):
        """Return the outputs named by :class:`VAA`."""
        results = [m(x) for m, x in zip(self.attention._children.values(), activations)]
        module_logits, attention, confidence = zip(*results)
        every = (logits,) + module_logits
        return (F.add_n(*every) / len(every),) + every + attention + confidence


class VAA(HybridBlock):
    """Primary net with attention modules on its taps.

    Inputs: image ``(B, 3, H, W)`` float32; H and W are fixed by ``input_size`` because the
    classifiers' last convolution covers the whole map. Outputs, named by ``output_names``:
    ``logits`` (the mean of all logits), ``logits_backbone``, ``logits_<tap>``…,
    ``attention_<tap>``…, ``confidence_<tap>``….

    Args:
        backbone: Net that returns ``[logits, tap, …]`` and lists the tap names in ``taps``.
        input_size: ``(H, W)`` in pixels.
        variant: ``'supplement'`` (the paper) or ``'released'`` (the authors' repository).
        scale: Factor on the filter counts of the attention modules; 1 in the paper.

    Raises:
        ValueError: No taps, or an unknown variant.
    """

    def __init__(self, backbone, input_size=(224, 224), variant="supplement", scale=1, **kwargs):
        super().__init__(**kwargs)
        if not backbone.taps:
            raise ValueError("VAA needs a backbone with at least one tap")
        self.input_size, self.variant, self.taps = tuple(input_size), variant, backbone.taps
        self.classes = backbone.classes
        shapes = activation_shapes(backbone, self.input_size)
        with self.name_scope():
            self.backbone = backbone
            self.backbone.output.weight.init = xavier()
            modules = [
                AttentionModule(
                    self.classes, shapes[tap][0], shapes[tap][1:], variant, scale, prefix=f"{tap}_"
                )
                for tap in self.taps
            ]
            self.heads = AttentionHeads(modules, prefix="heads_")
        self.attention_outputs = tuple(f"attention_{tap}" for tap in self.taps)
        self.output_names = (
            ("logits", "logits_backbone")
            + tuple(f"logits_{tap}" for tap in self.taps)
            + self.attention_outputs
            + tuple(f"confidence_{tap}" for tap in self.taps)
        )

    def hybrid_forward(self, F, x):
        """Return the tuple of outputs."""
        return self.heads(*self.backbone(x))


@METHODS.register("vaa")
class VAATraining(Method):
    """L = L_w(primary logits) + sum over modules of L_a(module logits).

    L_w is the weighted focal loss, L_a the cross-entropy weighted by 1 + std_s(H). Phase
    ``attention`` trains the modules alone on a frozen primary net, with L_a; phase ``joint`` trains
    everything (supplement, "Training Details"). Both start from a trained primary net. Where there
    is none, phase ``primary`` makes one first, with plain cross-entropy, as the author advises
    ("first reach 83 % with ResNet-101 alone", issue 3 of his repository).
    """

    OPTIONS = {
        "phase0_epochs": 0,  # phase primary; 0: the primary net is given (--base-params)
        "phase1_epochs": 5,  # "a few epochs" (supplement); 5 is an assumption
        "gamma": 2.0,  # authors' code
        "weighting": "prior",
        "history_length": 5,  # authors' code
        "history_start": 2,  # first epoch whose predictions are stored; authors' code
        "history_weights": 5,  # first epoch that is weighted by 1 + std; authors' code
    }

    def __init__(self, net, *args, **kwargs):
        if not isinstance(net, VAA):
            raise ValueError(
                f"method vaa trains VAA nets, not {type(net).__name__}; choose a model such as "
                "vaa_resnet101_wider, or method=baseline"
            )
        super().__init__(net, *args, **kwargs)
        self._focal = WeightedFocalLoss(
            self.task.prior, self.options["gamma"], self.options["weighting"]
        )
        self._focal.collect_params().reset_ctx(self.ctx)
        self._bce = MaskedBCELoss()
        for loss in (self._focal, self._bce):
            loss.hybridize()
        self.history = PredictionHistory(
            self.task.num_samples, len(self.task.names), self.options["history_length"], self.ctx[0]
        )

    def phase_of(self, epoch):
        """Return ``'primary'`` for ``phase0_epochs``, then ``'attention'``, then ``'joint'``."""
        if epoch < self.options["phase0_epochs"]:
            return "primary"
        before_joint = self.options["phase0_epochs"] + self.options["phase1_epochs"]
        return "attention" if epoch < before_joint else "joint"

    def begin_phase(self, phase):
        """Train the primary net, the attention modules, or everything."""
        parts = {"primary": self.net.backbone, "attention": self.net.heads, "joint": self.net}
        self.train_parameters(phase, parts[phase].collect_params())

    def forward(self, image):
        """Return the named outputs; a frozen primary net runs as in inference."""
        if self.phase == "joint":
            return super().forward(image)
        if self.phase == "primary":
            logits = self.net.backbone(image)[0]
            return {"logits": logits, "logits_backbone": logits}
        with autograd.pause(train_mode=False):
            frozen = self.net.backbone(image)
        return dict(zip(self.net.output_names, self.net.heads(*frozen)))

    def losses(self, outputs, batch):
        """Return the loss of every logit vector that is being trained, each ``(B,)``."""
        if self.phase == "primary":
            plain = self._bce(
                outputs["logits_backbone"], batch.label, batch.mask, batch.label.ones_like()
            )
            return {"bce_backbone": plain}
        losses = {}
        if self.phase == "joint":
            losses["focal_backbone"] = self._focal(
                outputs["logits_backbone"], batch.label, batch.mask
            )
        weight = self._sample_weight(batch)
        for tap in self.net.taps:
            losses[f"bce_{tap}"] = self._bce(
                outputs[f"logits_{tap}"], batch.label, batch.mask, weight
            )
        return losses

    def _sample_weight(self, batch):
        if self._history_epoch() < self.options["history_weights"]:
            return batch.label.ones_like()
        with autograd.pause():
            return 1 + self.history.std(batch.index).as_in_context(batch.label.context)

    def _history_epoch(self):
        """Return the epoch as the history counts it: from the start of VAA's own training."""
        return self.epoch - self.options["phase0_epochs"]

    def after_step(self, outputs, batch):
        """Store the aggregated probabilities under their sample ids."""
        if self._history_epoch() >= self.options["history_start"]:
            self.history.update(batch.index, outputs["logits"].sigmoid())

    def state(self):
        """Return the prediction history."""
        return {f"history_{name}": array for name, array in self.history.state().items()}

    def load_state(self, state):
        """Take the prediction history over."""
        self.history.load_state({name: state[f"history_{name}"] for name in ("rows", "count")})
