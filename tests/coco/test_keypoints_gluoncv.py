"""Net, affine maps, heat-maps and decoding against GluonCV's port of the released code."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from gluoncv_helpers import gluoncv_or_skip

import gluon_attn  # noqa: F401  (mends the environment before GluonCV loads)
from gluon_attn.coco.keypoints import decode, flip_back, heatmap_targets
from gluon_attn.coco.keypoints_batches import affine, region_of
from gluon_attn.coco.names import FLIP_PAIRS
from model_zoo import get_model

pytestmark = pytest.mark.parity
gluoncv_or_skip()


def test_net():
    from gluoncv.model_zoo.simple_pose.simple_pose_resnet import SimplePoseResNet

    theirs = SimplePoseResNet("resnet18_v1b", num_deconv_filters=(64, 64, 64))
    theirs.initialize(mx.init.MSRAPrelu("in", 0))
    image = mx.nd.random.normal(shape=(2, 3, 128, 96))
    expected = theirs(image)
    net = get_model("simple_pose_resnet18_w16_tiny", width=64, filters=64)
    net.initialize(mx.init.Zero())
    ours, others = (list(n.collect_params().values()) for n in (net, theirs))
    assert len(ours) == len(others)
    for parameter, other in zip(ours, others):
        parameter.set_data(other.data())
    scale = expected.abs().max().asscalar()
    np.testing.assert_allclose(net(image).asnumpy() / scale, expected.asnumpy() / scale, atol=1e-5)


@pytest.mark.parametrize("angle", [0, 25, -60])
def test_affine(angle):
    from gluoncv.data.transforms.pose import get_affine_transform
    from gluoncv.data.transforms.presets.simple_pose import _box_to_center_scale

    for x, y, w, h in ((10, 20, 120, 40), (30, 5, 40, 200)):
        center, scale = _box_to_center_scale(x, y, w, h, 192 / 256)
        expected = get_affine_transform(center, scale, angle, [192, 256])
        region = region_of((x, y, x + w, y + h), (256, 192))._replace(angle=angle)
        np.testing.assert_allclose(affine(region, (256, 192)), expected, rtol=1e-4, atol=1e-3)


def test_targets():
    from gluoncv.model_zoo.simple_pose.pose_target import SimplePoseGaussianTargetGenerator

    generate = SimplePoseGaussianTargetGenerator(17, (192, 256), (48, 64), 2)
    rng = np.random.default_rng(0)
    joints = np.zeros((17, 3, 2), np.float32)
    joints[:, :2, 0] = rng.uniform(-40, 300, (17, 2))
    joints[:, :2, 1] = (rng.random(17) < 0.8)[:, None]
    expected, weights = generate(joints)
    found = heatmap_targets(joints[:, :2, 0] / 4, joints[:, 0, 1], (64, 48), 2.0)
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    np.testing.assert_array_equal(found[1], weights[:, 0, 0])


def test_decoding_and_flipping():
    from gluoncv.data.transforms.pose import flip_heatmap, get_final_preds

    maps = np.random.default_rng(0).random((2, 17, 64, 48)).astype(np.float32)
    maps[0, 0] = 0
    center, scale = np.array([[96, 128]] * 2, np.float32), np.array([[192, 256]] * 2, np.float32)
    expected, heights = get_final_preds(mx.nd.array(maps), center, scale)  # 4 input pixels each
    places, found = decode(maps, "quarter")
    np.testing.assert_allclose(places * 4, expected.asnumpy(), atol=1e-3)
    np.testing.assert_allclose(found, heights.asnumpy()[..., 0])
    theirs = flip_heatmap(maps.copy(), FLIP_PAIRS, shift=False)
    np.testing.assert_array_equal(flip_back(maps, FLIP_PAIRS, "none"), theirs)
    theirs = flip_heatmap(maps.copy(), FLIP_PAIRS, shift=False)
    ours = flip_back(maps, FLIP_PAIRS, "pixel")
    np.testing.assert_array_equal(ours[..., 1:], theirs[..., :-1])
