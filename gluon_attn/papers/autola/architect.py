"""The step of the architecture parameters: first order, or through one step of the weights.

Auto Learning Attention, Ma, Zhang, Xia, Tao, NeurIPS 2020 ("paper"), with the authors' code
("code"); the method is that of DARTS: Differentiable Architecture Search, Liu, Simonyan, Yang, ICLR
2019.

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

import mxnet as mx
from mxnet import autograd, gluon

STEP = 0.01  # eps times |v|; DARTS


def shared_view(net, trained):
    """Return a block that computes ``net`` on the same arrays, with gradients of its own.

    Args:
        net: Initialised HybridBlock of one input, on one device.
        trained: Names of the parameters that get gradients through the view.

    Returns:
        ``(block, parameters)``: the block, and those of its Parameters that are trained, by name.
        Only what these gradients need is computed in a backward pass.
    """
    image = mx.sym.var("data", dtype="float32")
    symbol, shadows = net(image), gluon.ParameterDict()
    for name, parameter in net.collect_params().items():
        array = parameter.list_data()[0]
        shadow = gluon.Parameter(
            name, "write" if name in trained else "null", shape=parameter.shape,
            dtype=parameter.dtype, differentiable=parameter._differentiable,
        )  # fmt: skip
        shadow.initialize(mx.init.Zero(), ctx=[array.context])
        shadow._data = [array.detach()]  # the same memory
        if name in trained:
            shadow._init_grad()
        shadows._params[name] = shadow
    view = gluon.SymbolBlock(symbol, [image], params=shadows)
    view.hybridize(static_alloc=True, static_shape=True)
    return view, {name: shadows._params[name] for name in trained}


def global_norm(arrays):
    """Return the Euclidean norm of many arrays as an NDArray ``(1,)``, without reading it."""
    total = mx.nd.add_n(*(mx.nd.sum(mx.nd.square(a)).reshape((1,)) for a in arrays))
    return mx.nd.sqrt(total)


def clip_gradients(arrays, largest):
    """Scale arrays in place so that their common norm is at most ``largest``.

    Args:
        arrays: NDArrays on one device.
        largest: Number; 0 leaves everything as it is.

    Returns:
        The norm before, ``(1,)`` NDArray.
    """
    norm = global_norm(arrays)
    if largest:
        factor = mx.nd.minimum(largest / (norm + 1e-6 * largest), 1.0)
        for array in arrays:
            mx.nd.broadcast_mul(array, factor.reshape((1,) * array.ndim), out=array)
    return norm


class Architect:
    """Updates alpha; see the module's head.

    Args:
        net: :class:`gluon_attn.papers.autola.supernet.SuperNet`, initialised.
        loss: ``(logits, label, mask) -> (B,)``.
        settings: Arguments of MXNet's Adam.
        second_order: Whether the step goes through a step of the weights.

    Attributes:
        trainer: The trainer of alpha.
    """

    def __init__(self, net, loss, settings, second_order=False):
        self.net, self.loss, self.second_order = net, loss, second_order
        self.name = net.alpha.name
        self.view, parameters = shared_view(net, [self.name])
        self.alpha = parameters[self.name]
        self.trainer = gluon.Trainer(parameters, "adam", settings, kvstore=None)
        self._both, self._weights = None, None
        if second_order:
            names = [
                n for n, p in net.collect_params().items()
                if p._differentiable and p.grad_req != "null" and n != self.name
            ]  # fmt: skip
            self._both, self._weights = shared_view(net, [*names, self.name])
            self._both_alpha = self._weights.pop(self.name)

    def step(self, held_out, batch, lr=0.0, momentum=0.0, wd=0.0, velocity=None):
        """Make one step of alpha; return the validation losses, ``(B,)`` NDArray.

        Args:
            held_out: Validation Batch on the device.
            batch: Training Batch, for the second order.
            lr, momentum, wd: Of the weights, for the second order.
            velocity: ``{name: NDArray}``: MXNet's momentum arrays of the weights; missing ones
                count as 0.
        """
        if self.second_order:
            losses = self._unrolled(held_out, batch, lr, momentum, wd, velocity or {})
        else:
            losses = self._backward(self.view, held_out)
        self.trainer.step(len(held_out.index))  # gradients are sums over the batch
        return losses

    def _backward(self, view, batch):
        """Return the losses of a batch; gradients of their sum are in the view's parameters."""
        with autograd.record():
            losses = self.loss(view(batch.image), batch.label, batch.mask)
        losses.backward()
        return losses

    def _unrolled(self, held_out, batch, lr, momentum, wd, velocity):
        before = {n: p.list_data()[0].copy() for n, p in self.net.collect_params().items()}
        weights = {n: p.list_data()[0] for n, p in self._weights.items()}
        gradients = {n: p.list_grad()[0] for n, p in self._weights.items()}
        self._backward(self._both, batch)
        for name, array in weights.items():
            change = lr * (gradients[name] / len(batch.index) + wd * array)
            if name in velocity:
                change = change - momentum * velocity[name]
            array -= change
        losses = self._backward(self._both, held_out)
        direction = {n: g / len(held_out.index) for n, g in gradients.items()}
        direct = self._both_alpha.list_grad()[0].copy()
        size = STEP / (global_norm(list(direction.values())) + 1e-12)
        sides = []
        for sign in (1, -1):
            for name, array in weights.items():
                step = (sign * size).reshape((1,) * array.ndim)
                array[:] = before[name] + mx.nd.broadcast_mul(direction[name], step)
            self._backward(self.view, batch)
            sides.append(self.alpha.list_grad()[0] / len(batch.index))
        for name, parameter in self.net.collect_params().items():
            if name != self.name:
                parameter.list_data()[0][:] = before[name]
        slope = mx.nd.broadcast_div(sides[0] - sides[1], (2 * size).reshape((1, 1)))
        # The trainer divides by the batch: all gradients here are sums over it.
        self.alpha.list_grad()[0][:] = direct - lr * len(held_out.index) * slope
        return losses
