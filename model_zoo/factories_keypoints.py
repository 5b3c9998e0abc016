"""Keypoint nets: Simple Baselines on our ResNets, plain and with an attention block in every unit.

=================================  ============================================================
``simple_pose_resnet50_coco``      ResNet-50, v1b, 17 heat-maps, input 256 x 192
``simple_pose_se_resnet50_coco``   the same with SE; also ``_cbam_`` and ``_hoga_``
``simple_pose_resnet18_w16_tiny``  a quarter-width ResNet-18 at 128 x 96, for trying things out
=================================  ============================================================

They return heat-maps, no logits. Other blocks: ``get_model("simple_pose_resnet50_coco",
attention="srm")``.
"""

from __future__ import annotations

from gluon_attn.coco.keypoints import FILTERS, SimplePose
from gluon_attn.nets import resnet
from model_zoo.factories import infer_shapes
from model_zoo.names import register


def simple_pose(
    depth=50, version="v1b", classes=17, input_size=256, width=64, attention=None, filters=None
):  # fmt: skip
    """Build Simple Baselines on a ResNet.

    ``classes`` is the number of keypoints. ``input_size`` is the height of the input in pixels, a
    multiple of 128; its width is three quarters of it. ``filters`` is the number of channels of
    the transposed convolutions: 256, times ``width / 64``. ``attention`` is a block, or a dict
    ``{'stage4': block}``.
    """
    if not isinstance(input_size, int) or input_size < 128 or input_size % 128:
        raise ValueError(
            f"input_size={input_size!r}: the height must be a multiple of 128 (256 and 384 in the "
            "paper), the width is three quarters of it"
        )
    filters = FILTERS * width // 64 if filters is None else filters
    net = SimplePose(resnet(depth, version, 1, width, attention=attention), classes, filters)
    net.input_size = (input_size, input_size * 3 // 4)
    return infer_shapes(net)


def _register_all():
    register("simple_pose_resnet50_coco", simple_pose)
    for block in ("se", "cbam", "hoga"):
        register(f"simple_pose_{block}_resnet50_coco", simple_pose, attention=block)
    register("simple_pose_resnet18_w16_tiny", simple_pose, depth=18, width=16, input_size=128)


_register_all()
