"""Rewards of attention modules: equations 1 and 4 of docs/dreal.md.

Deep Reinforced Attention Learning for Quality-Aware Visual Recognition, Li and Chen, ECCV 2020
(DREAL). The paper's formulas are not in the text we have, so every formula of this file is an
assumption (docs/dreal.md).

Legend: B batch, A logits, K classes, z logits, y label, m mask, R reward, p probability of the
truth, p' the same without the module's attention, gamma penalty.
"""

from __future__ import annotations

from typing import Any, Callable

from mxnet.gluon import HybridBlock

from gluon_attn.core.schema import Schema

Tensor = Any  # NDArray or Symbol

TINY = 1e-30  # smallest probability to divide by; a prediction that is right has more
# What a module gains, from p and p'.
FORMS: dict[str, Callable[..., Tensor]] = {
    "ratio": lambda F, p, replaced: 1 - replaced / F.maximum(p, TINY),
    "sign": lambda F, p, replaced: F.sign(p - replaced),
}


class Reward(HybridBlock):
    """Reward of a module from what the net says with it and without it.

    Inputs: logits and counterfactual logits, label in {0, 1} and mask, each ``(B, A)``. Outputs:
    reward ``(B,)``, at most 1, and known ``(B,)``: 0 where no label is known, and so is the reward.
    ``penalty`` is gamma, >= 0; ``form='sign'`` takes the sign of p - p' in place of 1 - p' / p.
    """

    def __init__(self, penalty: float = 1.0, form: str = "ratio", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if form not in FORMS:
            raise ValueError(f"reward={form!r}: valid are {', '.join(FORMS)}")
        if penalty < 0:
            raise ValueError(
                f"penalty={penalty}: must be >= 0; a wrong prediction has reward -penalty"
            )
        self._penalty, self._gain = float(penalty), FORMS[form]

    def _reward(self, F: Any, right: Tensor, p: Tensor, replaced: Tensor) -> Tensor:
        return F.where(right, self._gain(F, p, replaced), F.zeros_like(p) - self._penalty)


class SingleLabelReward(Reward):
    r"""Reward by the probability of the true class (equation 1).

    .. math:: R = 1 - p' / p \text{ where } \arg\max z = y, \quad -\gamma \text{ elsewhere}

    Of several positive labels any is right; p is their sum.
    """

    def hybrid_forward(
        self, F: Any, logits: Tensor, without: Tensor, label: Tensor, mask: Tensor
    ) -> list[Tensor]:
        truth = F.broadcast_mul(label, mask)
        p, replaced = (F.sum(F.softmax(z, axis=1) * truth, axis=1) for z in (logits, without))
        best = F.max(logits, axis=1)
        best_true = F.max(F.where(truth > 0, logits, F.zeros_like(logits) - 1e30), axis=1)
        known = F.max(truth, axis=1)
        reward = self._reward(F, best_true >= best, p, replaced)
        return [F.BlockGrad(reward * known), F.BlockGrad(known)]


class MultiLabelReward(Reward):
    r"""Reward by the probabilities of all true labels (equation 4); an extension of the paper.

    .. math:: R = \frac{\sum_a m_a r_a}{\sum_a m_a}, \quad
              r_a = 1 - p'_a / p_a \text{ where } [z_a > 0] = y_a, \quad -\gamma \text{ elsewhere}

    with :math:`p_a = \operatorname{sigmoid}((2 y_a - 1) z_a)`.
    """

    def hybrid_forward(
        self, F: Any, logits: Tensor, without: Tensor, label: Tensor, mask: Tensor
    ) -> list[Tensor]:
        side = 2 * label - 1
        p, replaced = (F.sigmoid(side * z) for z in (logits, without))
        reward = self._reward(F, F.broadcast_equal(logits > 0, label), p, replaced)
        mean = F.sum(reward * mask, axis=1) / F.maximum(F.sum(mask, axis=1), 1)
        return [F.BlockGrad(mean), F.BlockGrad(F.max(mask, axis=1))]


def chance_reward(schema: Schema | None = None, penalty: float = 1.0) -> float:
    """Return the mean reward of a net that guesses: -gamma times the share of wrong answers.

    That is 1 - 1/K for one multi-class attribute, else one half.
    """
    if schema is None or not schema.is_single_label:
        return -penalty / 2
    return -penalty * (1 - 1 / len(schema.columns))


def replacement_reward(
    schema: Schema | None = None, penalty: float = 1.0, form: str = "ratio"
) -> Reward:
    """Return the reward for labels of a schema, hybridized.

    One multi-class attribute and nothing else gets :class:`SingleLabelReward`, everything else
    :class:`MultiLabelReward` over all columns; None stands for binary attributes.
    """
    single = schema is not None and schema.is_single_label
    reward = (SingleLabelReward if single else MultiLabelReward)(penalty, form)
    reward.hybridize()
    return reward
