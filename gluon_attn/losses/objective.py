"""Which classification loss belongs to a data set."""

from __future__ import annotations

from gluon_attn.losses.classification import MaskedBCELoss
from gluon_attn.losses.softmax import SoftmaxCELoss


def objective(schema=None):
    """Return the classification loss for labels of a schema, hybridized.

    One multi-class attribute and nothing else (single-label classification) gets the softmax
    cross-entropy; everything else the masked binary cross-entropy averaged over the columns, which
    is the "multi-label soft margin" loss of other frameworks.

    Args:
        schema: :class:`gluon_attn.core.schema.Schema`; None stands for binary attributes.

    Returns:
        A HybridBlock ``(logits, label, mask) -> (B,)``, all inputs ``(B, A)``.
    """
    single = schema is not None and schema.is_single_label
    loss = SoftmaxCELoss() if single else MaskedBCELoss()
    loss.hybridize()
    return loss
