"""AutoLA's search: weights and architecture parameters learn in turn; then a genotype is read off.

Auto Learning Attention, Ma, Zhang, Xia, Tao, NeurIPS 2020 ("paper"), with the authors' code
("code"); the step of alpha is that of DARTS: Differentiable Architecture Search, Liu, Simonyan,
Yang, ICLR 2019.

Every step takes a batch of the weights' half of the training set and one of the architecture's
half. First alpha makes a step on the latter, then the weights make one on the former, their
gradient clipped.

Legend: w weights, alpha architecture parameters, L_t and L_v mean loss on a training and on a
validation batch, xi the learning rate of w.

    first order    d alpha = grad_alpha L_v(w, alpha)
    second order   w'  = w - xi grad_w L_t(w, alpha), with momentum and weight decay
                   d alpha = grad_alpha L_v(w', alpha) - xi (g+ - g-) / (2 eps)
                   g+- = grad_alpha L_t(w +- eps v, alpha),  v = grad_w' L_v,  eps = 0.01 / |v|

Nothing is read from the device. Deviation: after a second-order step batch-norm statistics are
those from before; in the code its forward passes move them. A first-order step moves them, as in
the code.
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from gluon_attn.core.batch import Batch
from gluon_attn.losses.classification import objective
from gluon_attn.method import METHODS, Array, Method, Outputs, split_batch
from gluon_attn.papers.autola.genotype import EDGES, OPERATIONS, Genotype, of_operations
from gluon_attn.papers.autola.supernet import GRAPH, SuperNet
from gluon_attn.workers import current

STEP = 0.01  # eps times |v|; DARTS
ARCHITECTURE = "architecture"  # name under which the trainer of alpha is saved
NONE = OPERATIONS.index("none")


# -- from alpha to a genotype ------------------------------------------------------------------
def shares(alpha: Any) -> Array:
    """Return softmax(alpha) of each edge, ``(10, 9)`` float64: ``EDGES`` x ``OPERATIONS``."""
    alpha = np.asarray(alpha, np.float64)
    if alpha.shape != (len(EDGES), len(OPERATIONS)) or not np.isfinite(alpha).all():
        raise ValueError(
            f"alpha of shape {alpha.shape}: needs {len(EDGES)} edges x {len(OPERATIONS)} "
            "operations, all finite"
        )
    weights = np.exp(alpha - alpha.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def strengths(alpha: Any) -> Array:
    """Return the largest share of each edge without ``none``, ``(10,)``; code: edge strength."""
    return np.delete(shares(alpha), NONE, axis=1).max(axis=1)


def entropy(alpha: Any) -> Array:
    """Return the entropy of the shares of each edge in nats, ``(10,)``: from ln 9 to 0."""
    weights = shares(alpha)
    return -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1)


def derive(alpha: Any) -> Genotype:
    """Return the genotype of architecture parameters.

    Every edge is kept, with its strongest operation other than ``none`` (code); of equal ones the
    first.
    """
    weights = shares(alpha)
    weights[:, NONE] = -1
    return of_operations(OPERATIONS[k] for k in weights.argmax(axis=1))


def random_genotype(seed: int | Sequence[int]) -> Genotype:
    """Return a genotype whose ten operations are uniformly random, ``none`` left out."""
    rng = np.random.default_rng(seed)
    valid = [name for name in OPERATIONS if name != "none"]
    return of_operations(valid[k] for k in rng.integers(len(valid), size=len(EDGES)))


# -- the step of alpha -------------------------------------------------------------------------
def shared_view(
    net: gluon.HybridBlock, trained: Iterable[str]
) -> tuple[gluon.SymbolBlock, dict[str, gluon.Parameter]]:
    """Return a block that computes ``net`` on the same arrays, with gradients of its own.

    ``net`` is initialised, has one input and is on one device. Only the parameters named in
    ``trained`` get gradients through the view; they are returned beside it, by name.
    """
    image, names = mx.sym.var("data", dtype="float32"), list(trained)
    symbol, shadows = net(image), gluon.ParameterDict()
    for name, parameter in net.collect_params().items():
        array = parameter.list_data()[0]
        shadow = gluon.Parameter(
            name, "write" if name in names else "null", shape=parameter.shape,
            dtype=parameter.dtype, differentiable=parameter._differentiable,
        )  # fmt: skip
        shadow.initialize(mx.init.Zero(), ctx=[array.context])
        shadow._data = [array.detach()]  # the same memory
        if name in names:
            shadow._init_grad()
        shadows._params[name] = shadow
    view = gluon.SymbolBlock(symbol, [image], params=shadows)
    view.hybridize(**GRAPH)
    return view, {name: shadows._params[name] for name in names}


def global_norm(arrays: Iterable[mx.nd.NDArray]) -> mx.nd.NDArray:
    """Return the Euclidean norm of many arrays, ``(1,)``, without reading it."""
    every = list(arrays)  # one operator for all: three for each take 36 ms instead of 0.6
    return mx.nd.sqrt(mx.nd.multi_sum_sq(*every, num_arrays=len(every)).sum().reshape((1,)))


def clip_gradients(arrays: Sequence[mx.nd.NDArray], largest: float) -> mx.nd.NDArray:
    """Scale arrays in place so that their common norm is at most ``largest`` (0: leave them).

    Returns the norm before, ``(1,)``.
    """
    norm = global_norm(arrays)
    if largest:
        factor = mx.nd.minimum(largest / (norm + 1e-6 * largest), 1.0)
        for array in arrays:
            mx.nd.broadcast_mul(array, factor.reshape((1,) * array.ndim), out=array)
    return norm


class Architect:
    """Updates alpha with MXNet's Adam; see the module's head."""

    def __init__(
        self, net: SuperNet, loss: gluon.HybridBlock, settings: Mapping[str, float],
        second_order: bool = False,
    ) -> None:  # fmt: skip
        self.net, self.loss, self.second_order = net, loss, second_order
        self.workers = current()
        self.name = net.alpha.name
        self.view, parameters = shared_view(net, [self.name])
        self.alpha = parameters[self.name]
        self.trainer = gluon.Trainer(parameters, "adam", dict(settings), kvstore=None)
        if second_order:
            names = weight_names(net)
            self._both, self._weights = shared_view(net, [*names, self.name])
            self._both_alpha = self._weights.pop(self.name)

    def step(
        self, held_out: Batch, batch: Batch, lr: float = 0.0, *, momentum: float = 0.0,
        wd: float = 0.0, velocity: Mapping[str, mx.nd.NDArray] | None = None,
    ) -> mx.nd.NDArray:  # fmt: skip
        """Make one step of alpha; return the validation losses, ``(B,)``.

        All but ``held_out`` is for the second order: a training batch, and how the weights learn.
        ``velocity`` holds MXNet's momentum arrays of the weights by name; missing ones count as 0.
        """
        if self.second_order:
            losses = self._unrolled(
                held_out, batch, lr=lr, momentum=momentum, wd=wd, velocity=velocity or {}
            )
        else:
            losses = self._backward(self.view, held_out)
        self.trainer.step(self.workers.rows(held_out))  # gradients are sums over the batch
        return losses

    def _backward(self, view: gluon.SymbolBlock, batch: Batch) -> mx.nd.NDArray:
        """Return the losses of a batch; gradients of their sum, over all workers' shares, are in
        the view's parameters.
        """
        with autograd.record():
            losses = self.loss(view(batch.image), batch.label, batch.mask)
        losses.backward()
        for name, parameter in view.collect_params().items():
            if parameter.grad_req != "null":
                self.workers.add_up(f"architect {name}", parameter.list_grad())
        return losses

    def _unrolled(
        self, held_out: Batch, batch: Batch, *, lr: float, momentum: float, wd: float,
        velocity: Mapping[str, mx.nd.NDArray],
    ) -> mx.nd.NDArray:  # fmt: skip
        before = {n: p.list_data()[0].copy() for n, p in self.net.collect_params().items()}
        weights = {n: p.list_data()[0] for n, p in self._weights.items()}
        gradients = {n: p.list_grad()[0] for n, p in self._weights.items()}
        self._backward(self._both, batch)
        for name, array in weights.items():
            change = lr * (gradients[name] / self.workers.rows(batch) + wd * array)
            if name in velocity:
                change = change - momentum * velocity[name]
            array -= change
        losses = self._backward(self._both, held_out)
        direction = {n: g / self.workers.rows(held_out) for n, g in gradients.items()}
        direct = self._both_alpha.list_grad()[0].copy()
        size = STEP / (global_norm(direction.values()) + 1e-12)
        sides = []
        for sign in (1, -1):
            for name, array in weights.items():
                step = (sign * size).reshape((1,) * array.ndim)
                array[:] = before[name] + mx.nd.broadcast_mul(direction[name], step)
            self._backward(self.view, batch)
            sides.append(self.alpha.list_grad()[0] / self.workers.rows(batch))
        for name, parameter in self.net.collect_params().items():
            if name != self.name:
                parameter.list_data()[0][:] = before[name]
        slope = mx.nd.broadcast_div(sides[0] - sides[1], (2 * size).reshape((1, 1)))
        # The trainer divides by the batch: all gradients here are sums over it.
        self.alpha.list_grad()[0][:] = direct - lr * self.workers.rows(held_out) * slope
        return losses


def weight_names(net: SuperNet) -> list[str]:
    """Return the names of the weights that learn: no alpha, no running statistics.

    Batch norms without scale and shift have parameters that are none.
    """
    parameters = [p for p in net.collect_params().values() if p is not net.alpha]
    return [p.name for p in parameters if p._differentiable and p.grad_req != "null"]


# -- the method --------------------------------------------------------------------------------
@METHODS.register("autola")
class AutoLA(Method):
    """The search, of a :class:`SuperNet` on one device; see ``tools/search.py``."""

    OPTIONS = {
        "second_order": False,
        "alpha_lr": 3e-3,  # this and the next three: Adam's
        "alpha_beta1": 0.5,
        "alpha_beta2": 0.999,
        "alpha_wd": 1e-3,
        "clip": 5.0,  # largest norm of the gradient of the mean loss; 0: none
    }
    FLOAT32_ONLY = "because it compares gradients of nearly equal weights"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
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
        self.architect: Architect | None = None

    def begin_phase(self, phase: str) -> None:
        """Create the trainers of weights and alpha; the net itself makes no gradient of alpha."""
        parameters = self.net.collect_params()
        chosen = type(parameters)()
        for name in weight_names(self.net):
            chosen._params[name] = parameters[name]
        self.train_parameters("joint", chosen)
        if self.architect is None:
            settings = {name: self.options[f"alpha_{name}"] for name in ("beta1", "beta2", "wd")}
            settings["learning_rate"] = self.options["alpha_lr"]
            self.architect = Architect(self.net, self._loss, settings, self.options["second_order"])
            self.trainers[ARCHITECTURE] = self.architect.trainer

    def train_step(self, batch: Batch, held_out: Batch | None = None) -> Outputs:
        """Make one step of alpha on ``held_out``, then one of the weights on ``batch``.

        Returns, summed over the batch, ``ce`` of the training batch, ``ce_architecture`` of the
        other, and ``loss``, the former.
        """
        if held_out is None or self.architect is None:
            raise ValueError("a search needs two halves of the training set: use tools/search.py")
        (part,), (other,) = split_batch(batch, self.ctx), split_batch(held_out, self.ctx)
        judged = self.architect.step(other, part, **self._unrolling())
        with autograd.record():
            losses = self._loss(self.net(part.image), part.label, part.mask)
        losses.backward()
        size = self.rows(batch)
        self.trainer.allreduce_grads()
        parameters = [p for p in self.trainer._params if p.grad_req != "null"]
        clip_gradients([p.list_grad()[0] for p in parameters], size * self.options["clip"])
        self.trainer.update(size)
        total = losses.sum()
        return {"ce": total, "ce_architecture": judged.sum(), "loss": total}

    def _unrolling(self) -> dict[str, Any]:
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

    def report(self) -> dict[str, Any]:
        """Return genotype, shares, and strength and entropy of every edge."""
        alpha = self.net.alpha.list_data()[0].asnumpy()
        names = [f"{source}-{node}" for node, source in EDGES]
        return {
            "genotype": str(derive(alpha)),
            "edge_strength": dict(zip(names, strengths(alpha).tolist())),
            "edge_entropy": dict(zip(names, entropy(alpha).tolist())),
            "shares": shares(alpha).round(6).tolist(),
        }
