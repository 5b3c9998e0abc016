"""AutoLA: searching the operations of high-order group attention.

Auto Learning Attention, Ma, Zhang, Xia, Tao, NeurIPS 2020. In reading order: ``genotype``,
``operations``, ``hoga`` (the block), ``supernet`` and ``search``; docs/autola.md has the equations
and the fidelity ledger.
"""

from __future__ import annotations

from gluon_attn.papers.autola.hoga import HOGA
from gluon_attn.papers.autola.operations import operation
from gluon_attn.papers.autola.search import AutoLA, derive, random_genotype
from gluon_attn.papers.autola.supernet import SearchHOGA, SuperNet

__all__ = [
    "HOGA", "AutoLA", "SearchHOGA", "SuperNet", "derive", "operation", "random_genotype",
]  # fmt: skip
