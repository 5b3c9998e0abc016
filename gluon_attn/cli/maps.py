"""Where a net looks for a class: its own attention, Grad-CAM, A_ch, guided back-propagation.

All maps are those of the net in inference.
"""

from __future__ import annotations

import functools
from typing import Any

import mxnet as mx
import numpy as np

from gluon_attn.nets import name_outputs
from gluon_attn.nets.guided_backprop import GuidedBackprop
from gluon_attn.papers.icasc.attention import MAPS
from gluon_attn.papers.icasc.cut import Tail
from gluon_attn.papers.icasc.gradients import ScorePass

GUIDED = "guided_backprop"
GUIDED_ROWS = 4  # images at a time: every activation and its gradient are in memory together
TITLES = {
    "grad_cam": "Grad-CAM", "channel_weighted": "Channel-weighted attention",
    GUIDED: "Guided back-propagation",
}  # fmt: skip


class Explained:
    """A net prepared for looking at its maps, and left as it is.

    ``kinds`` are its own attention maps, one per column of the logits, then those of any net.
    """

    def __init__(self, net: Any, ctx: Any) -> None:
        self.net, self.ctx, self.own = net, ctx, tuple(getattr(net, "attention_outputs", ()))
        self.kinds = (*self.own, *TITLES)

    @functools.cached_property
    def guided(self) -> GuidedBackprop:
        """The net's guided back-propagation."""
        return GuidedBackprop(self.net)

    @functools.cached_property
    def tail(self) -> Tail:
        """The net cut at its last two feature layers."""
        return Tail(self.net, [self.ctx], frozen=True)

    def look(self, image: Any) -> Look:
        """Return what can be seen on a batch ``(B, 3, H, W)``."""
        return Look(self, image.as_in_context(self.ctx))


class Look:
    """One batch in a net; what is asked for is computed once.

    ``columns`` are the classes that maps are of, ``(B,)`` integers; -1: none, that map is void.
    """

    def __init__(self, explained: Explained, image: Any) -> None:
        self.explained, self.image = explained, image

    @functools.cached_property
    def run(self) -> ScorePass:
        """A forward pass whose class scores can be differentiated."""
        return ScorePass(self.explained.tail, self.image)

    @functools.cached_property
    def attention(self) -> dict[str, np.ndarray]:
        """The net's own attention maps by name, ``(B, A, h, w)``."""
        outputs = name_outputs(self.explained.net, self.explained.net(self.image))
        return {name: outputs[name].asnumpy() for name in self.explained.own}

    def gradient(self, columns: Any) -> np.ndarray:
        """Return the guided gradient of one class per image at the pixels, ``(B, 3, H, W)``."""
        columns, found = np.asarray(columns), np.zeros(self.image.shape, np.float32)
        vector, wanted = self._one_hot(columns), np.flatnonzero(columns >= 0)
        for start in range(0, len(wanted), GUIDED_ROWS):
            rows = np.resize(wanted[start : start + GUIDED_ROWS], min(GUIDED_ROWS, len(columns)))
            taken = (array.take(mx.nd.array(rows, ctx=array.context))
                     for array in (self.image, vector))  # fmt: skip
            found[rows] = self.explained.guided(*taken).asnumpy()
        return found

    def maps(self, kind: str, columns: Any) -> np.ndarray:
        """Return the maps of one class per image, ``(B, h, w)``.

        Of a gradient at the pixels, the largest absolute value over the colours counts (Simonyan,
        Vedaldi, Zisserman, "Deep Inside Convolutional Networks", ICLR 2014 workshop, section 3.1).
        """
        if kind in MAPS:
            gradients = self.run.gradients(self._one_hot(columns), inner=False)
            return MAPS[kind](self.run.last.detach(), gradients["last"]).asnumpy()
        if kind == GUIDED:
            return np.abs(self.gradient(columns)).max(axis=1)
        own = self.attention[kind]
        return own[np.arange(len(own)), columns]

    def _one_hot(self, columns: Any) -> Any:
        logits = self.run.logits
        return mx.nd.one_hot(mx.nd.array(columns, ctx=logits.context), logits.shape[1])
