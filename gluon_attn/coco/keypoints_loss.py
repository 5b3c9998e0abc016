"""Mean squared error of heat-maps, weighted by keypoint.

Reference: Xiao, Wu, Wei, "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018;
weights and the factor 1/2 as in the released code.
"""

from __future__ import annotations

from mxnet.gluon import HybridBlock


class HeatmapLoss(HybridBlock):
    r"""Half the mean squared error over keypoints and pixels, per person.

    .. math:: L = \frac{1}{2 K h w} \sum_{k,u} (w_k P_k(u) - w_k T_k(u))^2

    The mean of L over a batch is the loss of the released code.

    Inputs: predicted and target heat-maps ``(B, K, h, w)``, weights ``(B, K)`` in {0, 1}. Output:
    ``(B,)``.
    """

    def hybrid_forward(self, F, heatmaps, target, weight):
        """Return the loss of every person."""
        error = F.square(F.elemwise_sub(heatmaps, target))
        weight = F.reshape(weight, shape=(0, 0, 1, 1))
        return 0.5 * F.mean(F.broadcast_mul(error, F.square(weight)), axis=0, exclude=True)
