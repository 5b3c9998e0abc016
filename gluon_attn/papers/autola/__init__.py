"""AutoLA: searching the operations of high-order group attention.

Auto Learning Attention, Ma, Zhang, Xia, Tao, NeurIPS 2020. The attention block itself is
:mod:`gluon_attn.papers.autola.hoga`; docs/autola.md has the equations and the fidelity ledger.
"""

from __future__ import annotations

from gluon_attn.papers.autola.derive import derive, entropy, random_genotype, shares, strengths
from gluon_attn.papers.autola.method import AutoLA
from gluon_attn.papers.autola.supernet import SearchHOGA, SuperNet

__all__ = [
    "AutoLA",
    "SearchHOGA",
    "SuperNet",
    "derive",
    "entropy",
    "random_genotype",
    "shares",
    "strengths",
]
