"""Rewards of attention modules, and the two losses that follow from them.

Deep Reinforced Attention Learning for Quality-Aware Visual Recognition, Li and Chen, ECCV 2020
(DREAL). The paper names the losses L_r and L_q; its formulas are not in the text we have, so every
formula of this file is an assumption (docs/dreal.md).

Legend: B batch, A logits, K classes, L modules, z logits, y label, m mask, R reward, Q critique,
p probability of the truth, p' the same without the module's attention, gamma penalty.
"""

from __future__ import annotations

from mxnet.gluon import HybridBlock

FORMS = ("ratio", "sign")
TINY = 1e-30  # smallest probability to divide by; a prediction that is right has more


class SingleLabelReward(HybridBlock):
    r"""Reward of a module by the probability of the true class.

    .. math:: R = 1 - p' / p \text{ where } \arg\max z = y, \quad -\gamma \text{ elsewhere}

    Inputs: logits and counterfactual logits ``(B, K)``, label in {0, 1} and mask ``(B, K)``.
    Outputs: reward ``(B,)``, at most 1, and known ``(B,)``: 0 where the true class is masked or
    missing, and so is the reward. Of several positive labels any is right; p is their sum.

    Args:
        penalty: gamma, >= 0.
        form: ``'ratio'``, or ``'sign'``: the sign of p - p' in place of 1 - p' / p.

    Raises:
        ValueError: Unknown form or a negative penalty.
    """

    def __init__(self, penalty=1.0, form="ratio", **kwargs):
        super().__init__(**kwargs)
        self._penalty, self._gain = check(penalty, form), GAINS[form]

    def hybrid_forward(self, F, logits, without, label, mask):
        """Return reward and known, each ``(B,)``."""
        truth = F.broadcast_mul(label, mask)
        p, replaced = (F.sum(F.softmax(z, axis=1) * truth, axis=1) for z in (logits, without))
        best = F.max(logits, axis=1)
        best_true = F.max(F.where(truth > 0, logits, F.zeros_like(logits) - 1e30), axis=1)
        right, known = best_true >= best, F.max(truth, axis=1)
        reward = F.where(right, self._gain(F, p, replaced), F.zeros_like(p) - self._penalty)
        return [F.BlockGrad(reward * known), F.BlockGrad(known)]


class MultiLabelReward(HybridBlock):
    r"""Reward of a module by the probabilities of all true labels; an extension of the paper.

    .. math:: R = \frac{\sum_a m_a r_a}{\sum_a m_a}, \quad
              r_a = 1 - p'_a / p_a \text{ where } [z_a > 0] = y_a, \quad -\gamma \text{ elsewhere}

    with :math:`p_a = \operatorname{sigmoid}((2 y_a - 1) z_a)`.

    Inputs: logits and counterfactual logits ``(B, A)``, label in {0, 1} and mask ``(B, A)``.
    Outputs: reward ``(B,)``, at most 1, and known ``(B,)``: 0 where no label is known, and so is
    the reward.

    Args:
        penalty: gamma, >= 0.
        form: As for :class:`SingleLabelReward`.

    Raises:
        ValueError: Unknown form or a negative penalty.
    """

    def __init__(self, penalty=1.0, form="ratio", **kwargs):
        super().__init__(**kwargs)
        self._penalty, self._gain = check(penalty, form), GAINS[form]

    def hybrid_forward(self, F, logits, without, label, mask):
        """Return reward and known, each ``(B,)``."""
        side = 2 * label - 1
        p, replaced = (F.sigmoid(side * z) for z in (logits, without))
        right = F.broadcast_equal(logits > 0, label)
        reward = F.where(right, self._gain(F, p, replaced), F.zeros_like(p) - self._penalty)
        mean = F.sum(reward * mask, axis=1) / F.maximum(F.sum(mask, axis=1), 1)
        return [F.BlockGrad(mean), F.BlockGrad(F.max(mask, axis=1))]


class RegressionLoss(HybridBlock):
    r"""L_r, the critic's loss: the mean over modules of :math:`(Q_l - R_l)^2`.

    Over a random choice of modules, all with the same chance, it is an unbiased estimate of that
    over all modules.

    Inputs: critique and reward ``(B, L)``, known ``(B,)``, 0 for samples without a label.
    Output: ``(B,)``.
    """

    def hybrid_forward(self, F, critique, reward, known):
        """Return the loss, ``(B,)``."""
        return F.mean(F.square(critique - F.BlockGrad(reward)), axis=1) * known


class QualityLoss(HybridBlock):
    r"""L_q, the attention modules' loss: minus the mean critique over modules.

    Input: critique ``(B, L)``. Output: ``(B,)``.
    """

    def hybrid_forward(self, F, critique):
        """Return the loss, ``(B,)``."""
        return -F.mean(critique, axis=1)


def replacement_reward(schema=None, penalty=1.0, form="ratio"):
    """Return the reward for labels of a schema, hybridized.

    Args:
        schema: :class:`gluon_attn.core.schema.Schema`; None stands for binary attributes. One
            multi-class attribute and nothing else gets :class:`SingleLabelReward`, everything else
            :class:`MultiLabelReward` over all columns.
        penalty: gamma.
        form: ``'ratio'`` or ``'sign'``.

    Raises:
        ValueError: Unknown form or a negative penalty.
    """
    single = schema is not None and schema.is_single_label
    reward = (SingleLabelReward if single else MultiLabelReward)(penalty, form)
    reward.hybridize()
    return reward


def check(penalty, form):
    """Return ``penalty`` as a float.

    Raises:
        ValueError: It is negative, or ``form`` is unknown.
    """
    if form not in FORMS:
        raise ValueError(f"reward={form!r}: valid are {', '.join(FORMS)}")
    if penalty < 0:
        raise ValueError(f"penalty={penalty}: must be >= 0; a wrong prediction has reward -penalty")
    return float(penalty)


def _ratio(F, p, replaced):
    return 1 - replaced / F.maximum(p, TINY)


def _sign(F, p, replaced):
    return F.sign(p - replaced)


GAINS = {"ratio": _ratio, "sign": _sign}
