"""Named activations ("taps") of a backbone, and named outputs of any net.

A tap is named relative to the net, ``stage3_activation22``: Gluon's absolute names carry a prefix
that changes with every instance (``resnetv10_``, ``resnetv11_``), so they cannot be relied on.
"""

from __future__ import annotations

import mxnet as mx
from mxnet.gluon import nn

from gluon_attn.core.registry import unknown_name


class TappedStage(nn.HybridSequential):
    """A stage of residual units that also returns the outputs of chosen units.

    Unit ``k`` of stage ``s`` ends in the ReLU that Gluon calls ``stage{s}_activation{k}``.

    Inputs: ``x (B, C, H, W)``. Outputs: ``x`` after the last unit or, if ``taps`` is not empty, a
    list ``[x, tap, tap, …]`` in the order of ``taps``.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.taps = ()

    def hybrid_forward(self, F, x):
        """Run the units in order and collect the tapped outputs."""
        outputs = []
        for unit in self._children.values():
            x = unit(x)
            outputs.append(x)
        return [x] + [outputs[k] for k in self.taps] if self.taps else x


def parse_tap(name, units_per_stage):
    """Return ``(stage, unit)``, both from 0, of the tap ``name``.

    Args:
        name: ``stage{S}_activation{K}``, S from 1 and K from 0, as Gluon counts them.
        units_per_stage: How many residual units each stage has.

    Raises:
        ValueError: If the net has no such activation; the message lists the valid names.
    """
    valid = {
        f"stage{s + 1}_activation{k}": (s, k)
        for s, units in enumerate(units_per_stage)
        for k in range(units)
    }
    if name not in valid:
        raise ValueError(unknown_name("tap", name, valid))
    return valid[name]


def activation_shapes(net, input_size):
    """Return the shape ``(C, H, W)`` or ``(C,)`` of every output of ``net``, by name.

    Args:
        net: A block with ``output_names``; its parameters need not be initialised.
        input_size: ``(H, W)`` of the input image in pixels.
    """
    outputs = net(mx.sym.var("data"))
    group = mx.sym.Group(list(outputs)) if isinstance(outputs, (list, tuple)) else outputs
    _, shapes, _ = group.infer_shape(data=(1, 3) + tuple(input_size))
    return {name: tuple(shape[1:]) for name, shape in zip(net.output_names, shapes)}


def name_outputs(net, outputs):
    """Return the outputs of ``net(x)`` as a dict keyed by ``net.output_names``.

    A net with a single output returns the bare array, as Gluon's nets do.
    """
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    names = getattr(net, "output_names", ("logits",))
    if len(names) != len(outputs):
        kind = type(net).__name__
        raise ValueError(f"{kind} names {len(names)} outputs, returned {len(outputs)}")
    return dict(zip(names, outputs))
