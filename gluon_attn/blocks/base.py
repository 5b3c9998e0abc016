"""What an attention block is, and the registry that the attention slot of a net reads.

A block is a chain of *gates*. A gate looks at its input ``x`` and returns an attention map that
``x`` is multiplied with: ``(B, C, 1, 1)`` for a channel gate, ``(B, 1, H, W)`` for a spatial one.
In the words of reinforcement learning the gate's input is the state and the map is the action.

What the methods need of a block:

* DREAL rewards gates one by one, so it sees only those that :meth:`AttentionBlock.add_gate` added.
* Exact ICASC (``gradient=exact``) differentiates a directional derivative. Every operator of the
  block needs an entry in ``gluon_attn.papers.icasc.tangents.RULES``; without one it says so and
  ``gradient=constant`` remains.

A new block is one file in this folder, imported in ``__init__.py``, and a row in docs/blocks.md.

Legend: B batch, C channels, H W map size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mxnet.gluon import HybridBlock

from gluon_attn.blocks.gates import apply_map
from gluon_attn.core.registry import Registry

Tensor = Any  # NDArray or Symbol


class BlockRegistry(Registry):
    """Blocks by name; ``NAME:TEXT`` is a variant of a block that has variants, as HOGA has."""

    def get(self, name: str) -> Any:
        """Return the class called ``name``, such as ``se`` or ``hoga:found.json``."""
        kind, colon, text = str(name).partition(":")
        entry: Any = super().get(kind)
        if not colon:
            return entry
        if not hasattr(entry, "variant"):
            raise ValueError(f"{self.kind} '{name}': '{kind}' has no variants, write '{kind}'")
        return entry.variant(text)


BLOCKS = BlockRegistry("attention block")
for _name in ("hoga", "hog_se", "hog_cbam", "hoga_floor"):
    BLOCKS.register_later(_name, "gluon_attn.papers.autola.hoga")


class Slot(NamedTuple):
    """Where in a net a block sits; for blocks whose published form depends on it.

    ``net`` is the backbone's structure, such as ``resnet50`` or ``cifar_resnet20``; stages count
    from 1, units from 0, as in the names of taps.
    """

    net: str
    stage: int
    unit: int

    @property
    def name(self) -> str:
        """The name of the block in its net, such as ``stage3_unit22``."""
        return f"stage{self.stage}_unit{self.unit}"


class AttentionBlock(HybridBlock):
    """A chain of gates, ``x <- x * gate(x)`` for each in turn: ``(B, C, H, W)`` to the same shape.

    Subclasses add their gates in the constructor. One that is no such chain leaves ``gates`` empty
    and has a ``hybrid_forward`` of its own.

    Attributes:
        gates: Tuple of ``(kind, gate)``; kind is ``'channel'`` or ``'spatial'``.
        place: Where in a residual unit the block goes. ``'branch'``: behind the last batch-norm of
            the residual branch. ``'inner'``: in a bottleneck behind the batch-norm of the 3x3
            convolution, before its ReLU; in a unit of two convolutions as ``'branch'``.
    """

    place = "branch"

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels={channels!r}: valid are whole numbers from 1")
        self.channels = channels
        self.gates: tuple[tuple[str, HybridBlock], ...] = ()

    @classmethod
    def in_slot(cls, channels: int, slot: Slot) -> AttentionBlock:
        """Return the block for a place in a net; the same everywhere unless overridden."""
        return cls(channels)

    def add_gate(self, kind: str, gate: HybridBlock, name: str = "") -> None:
        """Append a gate of a kind that ``apply_map`` knows; it is also ``self.<name or kind>``."""
        self.gates += ((kind, gate),)
        setattr(self, name or kind, gate)

    def hybrid_forward(self, F: Any, x: Tensor) -> Tensor:
        for kind, gate in self.gates:
            x = apply_map(F, kind, x, gate(x))
        return x


def build_block(name: str, channels: int, slot: Slot) -> Any:
    """Return the block ``name``, as :meth:`BlockRegistry.get` knows it, for a place in a net."""
    entry = BLOCKS.get(name)
    in_slot = getattr(entry, "in_slot", None)
    return in_slot(channels, slot) if in_slot else entry(channels)
