"""The contract of every model in the zoo, its export, and what get_model says when it cannot."""

from __future__ import annotations

import json
import re

import mxnet as mx
import numpy as np
import pytest
from process_helpers import run_python

from gluon_attn.blocks import BLOCKS
from gluon_attn.core.files import save_parameters, sha256_of
from gluon_attn.nets import name_outputs
from gluon_attn.nets.attention import attention_blocks
from model_zoo import MODELS, WIDER_ATTRIBUTES, get_model, list_models
from model_zoo.store import INDEX, MIRROR_VARIABLE

SIZE = 64
# One small net of every structure: units of two or three convolutions, v1 and v1b, plain and VAA,
# the supplement's heads and the released ones, each attention block, three stages, wide units.
SMALL = {
    "cbam_resnet18_w16_digits": {"width": 8},
    "cifar_resnet20_cifar10": {"width": 8},
    "eca_resnet18_w16_digits": {"width": 8},
    "efficientnet_lite0": {"classes": 5},
    "hoga_resnet18_w16_digits": {"width": 8, "attention": {"stage4": "hoga"}},  # all take long
    "reid_resnet18_w16_synthetic": {"width": 8},
    "resnet18_w16_synthetic": {"width": 8},
    "resnet50_v1": {"width": 8, "classes": 5},
    "resnet50_v1b": {"width": 8, "classes": 5},
    "se_resnet18_w16_digits": {"width": 8},
    "srm_resnet18_w16_digits": {"width": 8},
    "srm_resnet50": {"width": 8, "classes": 5},
    "vaa_efficientnet_lite0": {"classes": 3},
    "vaa_resnet18_w16_synthetic": {"width": 8},
    "vaa_resnet50_wider": {"width": 8, "classes": 5},
    "vaa_resnet50_v1b_wider": {"width": 8, "classes": 5},
    "vaa_resnet101_released_wider": {"width": 8, "classes": 5},
    "vgg11_bn": {"width": 8, "hidden": 32, "classes": 5},
    "vgg11_w8_digits": {},
    "wide_resnet50_2": {"width": 8, "classes": 5},
}
# Detectors and keypoint nets give no logits, and need GluonCV: they have tests of their own.
CLASSIFIERS = [n for n in list_models() if not n.startswith(("ssd", "faster_rcnn", "simple_pose"))]
# Searched, then thrown away: no graph of it is ever exported.
NOT_EXPORTED = {"autola_search_resnet20"}
# Batch norms that no graph optimisation can fold: SRM's looks at channel statistics.
NOT_BEHIND_A_CONVOLUTION = {"srm": {"BatchNorm"}}


def small(name, **options):
    """Build one of SMALL with random weights and with statistics as after training."""
    net = get_model(name, input_size=SIZE, **dict(SMALL[name], **options))
    net.initialize(mx.init.Xavier(magnitude=2))
    rng = np.random.default_rng(0)
    for parameter in net.collect_params().values():
        if parameter.name.endswith("running_var"):
            parameter.set_data(mx.nd.array(rng.uniform(0.5, 1.5, parameter.shape)))
        elif parameter.name.endswith(("running_mean", "beta", "bias")):
            parameter.set_data(mx.nd.array(rng.normal(0, 0.3, parameter.shape)))
        elif not parameter.data().asnumpy().any():  # starts at 0: nothing would depend on it
            parameter.set_data(mx.nd.array(rng.normal(0, 0.5, parameter.shape)))
    return net


def make_images(count, seed=1):
    return mx.nd.array(np.random.default_rng(seed).normal(size=(count, 3, SIZE, SIZE)))


def run(net, images):
    return {name: out.asnumpy() for name, out in name_outputs(net, net(images)).items()}


def traced(net):
    """Return the net's outputs as a list of symbols."""
    outputs = net(mx.sym.var("data"))
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


# ------------------------------------------------------------------------------ every model


def deep_ones_marked_nightly():
    """Names of the zoo; building the deepest nets with many parts takes seconds each."""
    slow = re.compile(
        r"(hoga|se|cbam|srm|eca|vaa)_resnet(101|110|152)_?(?!w|r)"
        r"|hoga_(wide_)?resnet(32|34|50|56|101)|autola_search"
    )
    mark = pytest.mark.nightly
    return [pytest.param(n, marks=mark) if slow.match(n) else n for n in CLASSIFIERS]


@pytest.mark.parametrize("name", deep_ones_marked_nightly())
def test_contract(name):
    net = get_model(name)
    assert net.classes == expected_classes(name)
    assert isinstance(net, mx.gluon.HybridBlock)
    assert net.output_names[0] == "logits"
    assert len(set(net.output_names)) == len(net.output_names)
    assert set(net.attention_outputs) <= set(net.output_names)
    assert ("vaa" in name) == bool(net.attention_outputs)
    outputs = traced(net)
    assert len(outputs) == len(net.output_names)
    group = mx.sym.Group(outputs)
    assert group.list_inputs().count("data") == 1
    height, width = net.input_size
    for batch in (1, 3):  # a batch size that a graph remembered would show here
        _, shapes, _ = group.infer_shape(data=(batch, 3, height, width))
        shapes = dict(zip(net.output_names, shapes))
        assert shapes["logits"] == (batch, net.classes)
        for map_name in net.attention_outputs:
            assert shapes[map_name][:2] == (batch, net.classes) and len(shapes[map_name]) == 4
    known = [parameter.shape for parameter in net.collect_params().values()]
    assert all(shape and all(side > 0 for side in shape) for shape in known)


def expected_classes(name):
    """Return the number of classes that a name promises."""
    datasets = {
        "_cifar100": 100, "_cifar10": 10, "_digits": 10, "_wider": len(WIDER_ATTRIBUTES),
        "_synthetic": len(WIDER_ATTRIBUTES), "_market": 751, "_duke": 702,
        "_garments": 14, "_clothing": 22,
    }  # fmt: skip
    if name.startswith("reid") and name.endswith("_synthetic"):
        return 40
    if name in ("basic_efficientnet_lite0_garments", "awmt_efficientnet_lite0_garments"):
        return 15  # the class and the kids' flag
    if name in NOT_EXPORTED:
        return 10
    for suffix, classes in datasets.items():
        if name.endswith(suffix):
            return classes
    return len(WIDER_ATTRIBUTES) if name.startswith(("vaa", "awmt")) else 1000


# Every family once, at its smallest depth: the numbers in a name are depth and width.
FAMILIES = {
    re.sub(r"\d+", "", n): n for n in sorted(CLASSIFIERS, key=lambda n: (len(n), n), reverse=True)
}


@pytest.mark.parametrize("name", sorted(FAMILIES.values()))
def test_as_many_classes_as_asked_for(name):
    net = get_model(name, classes=7)
    assert net.classes == 7
    _, shapes, _ = mx.sym.Group(traced(net)).infer_shape(data=(2, 3) + tuple(net.input_size))
    assert shapes[0] == (2, 7)


def test_names_are_sorted_unique_and_accepted_in_any_case():
    names = list_models()
    assert names == sorted(set(names)) and "vaa_resnet101_wider" in names
    one, other = get_model("VAA_ResNet18_Wider"), get_model("vaa_resnet18_wider")
    assert one.output_names == other.output_names


def test_models_under_two_names_are_the_same():
    def shapes(name):
        params = get_model(name)._collect_params_with_prefix()
        return {key: parameter.shape for key, parameter in params.items()}

    assert shapes("vaa_resnet101") == shapes("vaa_resnet101_wider")
    assert shapes("resnet18_v1") != shapes("resnet18_wider")  # the number of classes
    assert shapes("vaa_resnet50") != shapes("vaa_resnet50_v1b")  # the biases


@pytest.mark.parametrize(
    "name", ["resnet18_wider", "vaa_resnet18_v1b_wider", "vaa_resnet18_w16_synthetic",
             "wide_resnet18_2", "cifar_resnet20_cifar10"],
)  # fmt: skip
@pytest.mark.parametrize("block", ["se", "cbam", "srm", "eca"])
def test_every_head_takes_attention_blocks(name, block):
    plain = get_model(name, width=8)._collect_params_with_prefix()
    net = get_model(name, width=8, attention=block)
    assert set(plain) < set(net._collect_params_with_prefix())
    blocks = attention_blocks(net)
    assert len(blocks) == (9 if "cifar" in name else 8)
    assert {type(found) for _, found in blocks} == {BLOCKS.get(block)}


# ------------------------------------------------------------------------------ small ones, run


@pytest.mark.parametrize("name", sorted(SMALL))
def test_static_graph_equals_imperative_and_takes_any_batch(name):
    net = small(name)
    images = make_images(3)
    expected = run(net, images)
    assert expected["logits"].shape == (3, net.classes)
    assert np.ptp(expected["logits"]) > 1e-2  # nothing saturated or dead
    net.hybridize(static_alloc=True, static_shape=True)
    for rows in (slice(0, 3), slice(0, 1), slice(1, 3), slice(0, 3)):
        found = run(net, images[rows])
        assert found.keys() == expected.keys()
        for output, values in found.items():
            np.testing.assert_allclose(values, expected[output][rows], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(n for n in SMALL if n.startswith("vaa")))
def test_attention_maps_are_distributions_and_logits_the_mean(name):
    found = run(small(name), make_images(2))
    maps = [v for n, v in found.items() if n.startswith("attention_")]
    assert len(maps) == (3 if "released" in name else 2)
    for values in maps:
        assert values.min() >= 0
        np.testing.assert_allclose(values.sum(axis=(2, 3)), 1, atol=1e-5)
    parts = [v for n, v in found.items() if n.startswith("logits_")]
    np.testing.assert_allclose(found["logits"], np.mean(parts, axis=0), rtol=1e-4, atol=1e-5)


def test_arguments_reach_the_net():
    net = get_model(
        "vaa_resnet18", classes=3, width=8, input_size=96, taps=("stage2_activation0",),
        variant="released", version="v1b",
    )  # fmt: skip
    assert net.input_size == (96, 96) and net.variant == "released"
    assert net.attention_outputs == ("attention_stage2_activation0",)
    _, shapes, _ = mx.sym.Group(traced(net)).infer_shape(data=(1, 3, 96, 96))
    assert dict(zip(net.output_names, shapes))["attention_stage2_activation0"] == (1, 3, 12, 12)


# ------------------------------------------------------------------------------ get_model's errors


def test_unknown_name_suggests_the_nearest_and_does_not_list_all():
    with pytest.raises(ValueError, match="did you mean .*'vaa_resnet101_wider'") as caught:
        get_model("vaa_resnet101_widder")
    assert len(str(caught.value)) < 300
    with pytest.raises(ValueError, match="did you mean 'cifar_resnet44_cifar10'"):
        get_model("resnet44_cifar")
    assert MODELS.own_name("resnet44_cifar10") == "cifar_resnet44_cifar10"
    with pytest.raises(ValueError, match=r"unknown model 'xyz'; `gluon-attn models` lists all"):
        get_model("xyz")


def test_every_block_is_in_the_table_at_every_cifar_depth():
    names = set(list_models())
    for block in (name for name in BLOCKS.names() if "_" not in name):
        assert {f"{block}_resnet{depth}_cifar10" for depth in (20, 32, 44, 56, 110)} <= names
        assert {f"{block}_resnet50", f"{block}_resnet18_w16_digits"} <= names


def test_models_with_weights_are_listed():
    found = list_models(pretrained=True)
    assert {"resnet20_w8_cifar10", "resnet18_v1"} <= set(found) < set(list_models())


def test_the_zoo_names_models_of_layers_above_without_importing_them(tmp_path):
    script = """
import sys
from model_zoo import list_models
assert "ssd300_resnet50_coco" in list_models()
above = [m for m in sys.modules if m.startswith(("gluon_attn.coco", "gluon_attn.train"))]
assert not above, above
from model_zoo import load_predictor
above = [m for m in sys.modules if m.startswith(("gluon_attn.train", "gluon_attn.cli"))]
assert not above, above
"""
    code, _, err = run_python(script, tmp_path)
    assert code == 0, err


def test_unknown_argument_lists_the_valid_ones():
    for size in ((32, 32), "32", 0, -3, 2.5, True):
        with pytest.raises(ValueError, match="input_size=.*: one number of pixels"):
            get_model("efficientnet_lite0", input_size=size)
    with pytest.raises(ValueError, match="argument of vaa_resnet18 'input_sise'.*'input_size'"):
        get_model("vaa_resnet18", input_sise=64)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"taps": ("stage9_activation0",)}, "unknown tap 'stage9_activation0'.*stage4_activation1"),
        ({"taps": ("stage4_activation2",)}, "unknown tap 'stage4_activation2'"),  # of ResNet-101
        ({"taps": ()}, "at least one tap"),
        ({"variant": "publish"}, "variant 'publish'.*supplement, released"),
        ({"version": "v3"}, "version 'v3'.*v1, v1b"),
        ({"depth": 20}, "depth 20.*18, 34"),
        ({"attention": "sse"}, "sse"),
        ({"attention": {"stage7": "se"}}, "stage7.*stage1"),
    ],
)
def test_impossible_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        get_model("vaa_resnet18", **options)


# ------------------------------------------------------------------------------ pretrained


@pytest.fixture(autouse=True)
def no_weights_of_this_machine(tmp_path, monkeypatch):
    """Nothing in the home folder and no mirror, so that no test depends on the machine."""
    for variable in ("HOME", "MXNET_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)


def publish(mirror, name, classes, recipe=None, **options):
    """Put random weights of a model on a directory mirror; return the net."""
    net = get_model(name, classes=len(classes), **options)
    net.initialize(mx.init.Xavier())
    folder = mirror / "gluon_attn" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "new.params"
    save_parameters(net, str(path))
    digest = sha256_of(str(path))
    file = f"{name}-{digest[:8]}.params"
    path.rename(folder / file)
    record = {"file": file, "sha256": digest, "size": (folder / file).stat().st_size}
    record.update(classes=list(classes), recipe=recipe, score=None)
    table = {"version": 1, "weights": {name: record}}
    (mirror / INDEX).write_text(json.dumps(table))
    return net


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A lab's mirror, whose weights `publish` puts there."""
    monkeypatch.setenv(MIRROR_VARIABLE, str(tmp_path / "mirror"))
    return tmp_path / "mirror"


UNPUBLISHED = "srm_resnet18_w16_digits"  # a small net whose weights do not come along


def test_without_weights_it_says_what_to_do(tmp_path):
    with pytest.raises(ValueError) as caught:
        get_model(UNPUBLISHED, pretrained=True)
    for hint in (f"no weights are known for '{UNPUBLISHED}'. Did you mean", "--base-params",
                 MIRROR_VARIABLE, "tools/train.py --recipe"):  # fmt: skip
        assert hint in str(caught.value)
    with pytest.raises(FileNotFoundError) as caught:  # known, but not at hand
        get_model("resnet18_v1", pretrained=True, root=str(tmp_path / "weights"))
    for hint in ("resnet18_v1-", "sha1", str(tmp_path / "weights"), MIRROR_VARIABLE):
        assert hint in str(caught.value)


def test_pretrained_from_a_labs_mirror_then_from_root_alone(tmp_path, mirror, monkeypatch):
    image, root = mx.nd.ones((1, 3, 64, 64)), str(tmp_path / "weights")
    expected = publish(mirror, UNPUBLISHED, WIDER_ATTRIBUTES)(image).asnumpy()
    for _ in range(2):  # at last the mirror is gone: what was fetched stays usable
        net = get_model(UNPUBLISHED, pretrained=True, root=root)
        np.testing.assert_array_equal(net(image).asnumpy(), expected)
        monkeypatch.delenv(MIRROR_VARIABLE, raising=False)


def test_pretrained_has_the_classes_of_its_weights_and_no_other_options(mirror):
    publish(mirror, UNPUBLISHED, ("hat", "bag", "skirt"))
    assert get_model(UNPUBLISHED, pretrained=True).classes == 3
    assert get_model(UNPUBLISHED, pretrained=True, classes=3).classes == 3
    with pytest.raises(ValueError, match=r"\(3, .*\(7, |\b3 classes.*\b7\b|\b7 classes.*\b3\b"):
        get_model(UNPUBLISHED, pretrained=True, classes=7)
    with pytest.raises(ValueError, match="nothing was loaded"):
        get_model(UNPUBLISHED, pretrained=True, width=8)


def test_packaged_weights_load_whatever_the_mirror_is(tmp_path, monkeypatch):
    net = get_model("resnet20_w8_cifar10", pretrained=True)
    monkeypatch.setenv(MIRROR_VARIABLE, str(tmp_path / "gone"))
    found = get_model("ResNet20_w8_CIFAR10", pretrained=True)
    image = mx.nd.ones((1, 3, 32, 32))
    np.testing.assert_array_equal(found(image).asnumpy(), net(image).asnumpy())


def test_a_mirrors_recipe_for_another_model_is_refused_by_file_and_entry(mirror):
    recipe = {"method": "baseline", "model": UNPUBLISHED, "input_size": 64}
    recipe["model_options"] = {"wdth": 8}
    publish(mirror, UNPUBLISHED, ("hat", "bag"), recipe)
    with pytest.raises(ValueError, match=rf"weights.json: entry '{UNPUBLISHED}': .*'wdth'; did"):
        get_model(UNPUBLISHED, pretrained=True)


def test_pretrained_goes_to_the_devices_asked_for(mirror):
    publish(mirror, UNPUBLISHED, WIDER_ATTRIBUTES)
    net = get_model(UNPUBLISHED, pretrained=True, ctx=[mx.cpu(0), mx.cpu(1)])
    for parameter in net.collect_params().values():
        assert parameter.list_ctx() == [mx.cpu(0), mx.cpu(1)]
