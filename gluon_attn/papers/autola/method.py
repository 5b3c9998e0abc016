"""AutoLA's search as a method: weights and architecture parameters learn in turn.

Auto Learning Attention, Ma, Zhang, Xia, Tao, NeurIPS 2020 ("paper"), with the authors' code
("code").

Every step takes a batch of the weights' half of the training set and one of the architecture's
half. First alpha makes a step on the latter (:mod:`gluon_attn.papers.autola.architect`), then the
weights make one on the former, their gradient clipped.
"""

from __future__ import annotations

import mxnet as mx
from mxnet import autograd

from gluon_attn.losses.objective import objective
from gluon_attn.method import METHODS, Method, split_batch
from gluon_attn.papers.autola.architect import Architect, clip_gradients
from gluon_attn.papers.autola.derive import derive, entropy, shares, strengths
from gluon_attn.papers.autola.genotype import EDGES
from gluon_attn.papers.autola.supernet import SuperNet

ARCHITECTURE = "architecture"  # name under which the trainer of alpha is saved


@METHODS.register("autola")
class AutoLA(Method):
    """The search; see :class:`gluon_attn.method.Method` and ``tools/search.py``.

    Options: ``second_order``; ``alpha_lr``, ``alpha_beta1``, ``alpha_beta2``, ``alpha_wd`` of Adam;
    ``clip``, the largest norm of the gradient of the mean loss (0: none).

    Raises:
        ValueError: The net is no super-network, several devices, or settings that a search has no
            use for.
    """

    OPTIONS = {
        "second_order": False,
        "alpha_lr": 3e-3,
        "alpha_beta1": 0.5,
        "alpha_beta2": 0.999,
        "alpha_wd": 1e-3,
        "clip": 5.0,
    }
    FLOAT32_ONLY = "because it compares gradients of nearly equal weights"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not isinstance(self.net, SuperNet):
            raise ValueError(
                f"{type(self.net).__name__}: a search needs a super-network, such as "
                "model=autola_search_resnet20"
            )
        if len(self.ctx) > 1:
            raise ValueError("a search runs on one device")
        if self.optimization.accumulate > 1:
            raise ValueError("a search knows no accumulate")
        self._loss = objective(self.task.schema)
        self.architect = None

    def begin_phase(self, phase):
        """Create the trainers of weights and alpha; the net itself makes no gradient of alpha."""
        weights = self.net.collect_params()
        alpha = self.net.alpha.name
        chosen = type(weights)()
        for name, parameter in weights.items():
            # Batch norms without scale and shift have parameters that are none.
            if name != alpha and parameter._differentiable and parameter.grad_req != "null":
                chosen._params[name] = parameter
        self.train_parameters("joint", chosen)
        if self.architect is None:
            options = self.options
            settings = {
                "learning_rate": options["alpha_lr"], "beta1": options["alpha_beta1"],
                "beta2": options["alpha_beta2"], "wd": options["alpha_wd"],
            }  # fmt: skip
            self.architect = Architect(self.net, self._loss, settings, options["second_order"])
            self.trainers[ARCHITECTURE] = self.architect.trainer

    def train_step(self, batch, held_out=None):
        """Make one step of alpha on ``held_out``, then one of the weights on ``batch``.

        Returns:
            ``{name: NDArray (1,)}``: summed over the batch, ``ce`` of the training batch,
            ``ce_architecture`` of the other, and ``loss``, the former.

        Raises:
            ValueError: There is no ``held_out``.
        """
        if held_out is None:
            raise ValueError("a search needs two halves of the training set: use tools/search.py")
        (part,), (other,) = split_batch(batch, self.ctx), split_batch(held_out, self.ctx)
        judged = self.architect.step(other, part, **self._unrolling())
        with autograd.record():
            losses = self._loss(self.net(part.image), part.label, part.mask)
        losses.backward()
        size = len(batch.index)
        parameters = [p for p in self.trainer._params if p.grad_req != "null"]
        clip_gradients([p.list_grad()[0] for p in parameters], size * self.options["clip"])
        self.trainer.step(size)
        total = losses.sum()
        return {"ce": total, "ce_architecture": judged.sum(), "loss": total}

    def _unrolling(self):
        """Return what a second-order step needs to know of the weights' optimiser."""
        if not self.options["second_order"]:
            return {}
        params, updater = self.optimization.params, self.trainer._updaters[0]
        velocity = {
            self.trainer._params[k].name: state
            for k, state in updater.states.items()
            if isinstance(state, mx.nd.NDArray)
        }
        return {
            "lr": self.trainer.learning_rate, "momentum": params.get("momentum", 0.0),
            "wd": params.get("wd", 0.0), "velocity": velocity,
        }  # fmt: skip

    def report(self):
        """Return the state of the architecture: shares, strength and entropy of every edge."""
        alpha = self.net.alpha.list_data()[0].asnumpy()
        names = [f"{source}-{node}" for node, source in EDGES]
        return {
            "genotype": str(derive(alpha)),
            "edge_strength": dict(zip(names, strengths(alpha).tolist())),
            "edge_entropy": dict(zip(names, entropy(alpha).tolist())),
            "shares": shares(alpha).round(6).tolist(),
        }
