"""VGG: Gluon's numbers under Gluon's names, taps, cuts and any input size."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon.model_zoo.vision import vgg as gluon_vgg

from gluon_attn.nets.taps import TappedStage, activation_shapes
from gluon_attn.nets.vgg import VGG, VGG_DEPTHS, vgg
from model_zoo import get_model, list_models
from model_zoo.params_io import load_backbone

LAYERS, FILTERS = (1, 1, 2, 2, 2), (4, 6, 8, 8, 8)


def small(batch_norm=False, **options):
    mx.random.seed(3)
    net = VGG(LAYERS, FILTERS, 5, batch_norm, hidden=12, **options)
    net.initialize(mx.init.Xavier())
    return net


@pytest.fixture
def image():
    return mx.nd.array(np.random.default_rng(0).normal(size=(2, 3, 64, 64)))


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("depth", VGG_DEPTHS)
def test_parameters_are_named_and_shaped_as_gluons(depth, batch_norm):
    theirs = gluon_vgg.VGG(*gluon_vgg.vgg_spec[depth], classes=10, batch_norm=batch_norm)
    ours = vgg(depth, 10, batch_norm)
    for net in (theirs, ours):
        net.infer_shape(mx.nd.zeros((1, 3, 64, 64)))
    a, b = (net._collect_params_with_prefix() for net in (theirs, ours))
    assert list(a) == list(b)
    assert [p.shape for p in a.values()] == [p.shape for p in b.values()]

    def scoped(net):
        return [name[len(net.prefix) :] for name in net.collect_params()]

    assert scoped(theirs) == scoped(ours), "exported files have these names"


def test_equals_gluons_net_and_reads_its_files(tmp_path, image):
    theirs = gluon_vgg.VGG(LAYERS, FILTERS, classes=5, batch_norm=True)
    theirs.initialize(mx.init.Xavier())
    expected = theirs(image).asnumpy()
    theirs.save_parameters(str(tmp_path / "theirs.params"))
    mx.random.seed(1)
    ours = VGG(LAYERS, FILTERS, 5, True)
    ours.load_parameters(str(tmp_path / "theirs.params"))
    np.testing.assert_array_equal(ours(image).asnumpy(), expected)
    ours.save_parameters(str(tmp_path / "ours.params"))
    theirs.load_parameters(str(tmp_path / "ours.params"))
    np.testing.assert_array_equal(theirs(image).asnumpy(), expected)
    other = VGG(LAYERS, FILTERS, 9, True, pool=2)  # other classes: all but the last layer
    other.initialize()
    other(image)
    skipped = load_backbone(other, str(tmp_path / "theirs.params"))
    assert {name.split(".")[0] for name in skipped} == {"output"}


def test_taps_are_the_activations_in_front_of_the_pooling(image):
    names = ("stage5_activation1", "stage1_activation0", "stage4_activation1")
    net = small(taps=names)
    assert net.output_names == ("logits",) + names
    assert net.tap_names[-1] == "stage5_activation1" and len(net.tap_names) == sum(LAYERS)
    outputs = dict(zip(net.output_names, net(image)))
    assert outputs["stage1_activation0"].shape == (2, 4, 64, 64)
    assert outputs["stage4_activation1"].shape == (2, 8, 8, 8)
    assert outputs["stage5_activation1"].shape == (2, 8, 4, 4), "half the resolution of stage 4"
    rest = list(net.features)[-5:]
    x = outputs["stage5_activation1"]
    for layer in rest:
        x = layer(x)
    np.testing.assert_allclose(net.output(x).asnumpy(), outputs["logits"].asnumpy(), rtol=1e-5)
    assert isinstance(list(net.features)[-6], TappedStage)
    np.testing.assert_array_equal(small()(image).asnumpy(), outputs["logits"].asnumpy())
    with pytest.raises(ValueError, match="unknown tap 'stage5_activation2'"):
        small(taps=("stage5_activation2",))


def test_pooling_makes_the_parameters_fit_every_input_size():
    shapes = []
    for side in (64, 96, 33):
        net = small(pool=2)
        assert activation_shapes(net, (side, side)) == {"logits": (5,)}
        net(mx.nd.zeros((1, 3, side, side)))
        shapes.append([p.shape for p in net.collect_params().values()])
    assert shapes[0] == shapes[1] == shapes[2]
    net, image = small(pool=2), mx.nd.random.normal(shape=(1, 3, 96, 96))
    maps = small()  # 3 x 3 maps pooled by hand
    x = image
    for layer in list(maps.features)[:10]:
        x = layer(x)
    assert x.shape[2:] == (3, 3)
    pooled = net.features[10](x).asnumpy()
    array = x.asnumpy()
    np.testing.assert_allclose(pooled[..., 0, 0], array[..., :2, :2].mean((2, 3)), rtol=1e-5)
    np.testing.assert_allclose(pooled[..., 1, 1], array[..., 1:, 1:].mean((2, 3)), rtol=1e-5)


def test_zoo_and_arguments():
    names = [f"vgg{d}{b}" for d in VGG_DEPTHS for b in ("", "_bn")]
    assert set(names) <= set(list_models())
    net = get_model("vgg11_w8_digits", classes=4)
    assert net.classes == 4 and net.input_size == (64, 64)
    assert get_model("vgg11_w8_digits", taps=None).taps == (
        "stage4_activation1", "stage5_activation1",
    )  # fmt: skip
    assert get_model("vgg11_w8_digits", taps="stage5_activation0").taps == ("stage5_activation0",)
    for bad, message in (
        ({"depth": 12}, "VGG depth 12: valid are 11, 13, 16, 19"),
        ({"width": 0}, "VGG width 0"), ({"hidden": 1.5}, "VGG hidden 1.5"),
        ({"pool": -1}, "VGG pool -1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            vgg(**{"depth": 11, **bad})
