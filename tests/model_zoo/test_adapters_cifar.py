"""CIFAR ResNets of PyTorch programs: both shortcuts, attention blocks, heads, prefixes."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import pytest
from adapters_helpers import Stored, same, values, write_stream, write_zip
from reference.cifar_resnet import forward, random_state

from gluon_attn.core.files import sha256_of
from model_zoo import get_model
from model_zoo.adapters import guess_net, read_arrays
from model_zoo.adapters.convert import convert, load_foreign, save_foreign
from model_zoo.adapters.tables import EPSILON

SMALL = {"depth": 8, "width": 16}
# Folder with cifar10-lossless and weights; see docs/weights.md.
DATA = Path(
    os.environ.get("GLUON_ATTN_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
)
IMAGE = np.random.RandomState(1).randn(2, 3, 10, 10).astype("float32")


def write(path, state, prefix="module.", **more):
    write_zip(path, {"state_dict": {prefix + n: Stored(a) for n, a in state.items()}, **more})
    return path


def relative(found, wanted):
    return np.abs(found - wanted).max() / np.abs(wanted).max()


BLOCKS = {None: "cifar", "se": "se", "se_bias": "se", "srm_se": "se", "cbam": "cbam", "srm": "srm",
          "eca": "eca"}  # fmt: skip
CASES = [(option, block) for option in "AB" for block in BLOCKS]


@pytest.mark.parametrize("option, block", CASES)
def test_the_numbers_of_every_kind_of_net(tmp_path, option, block):
    names = ("shortcut", "linear") if option == "A" or block == "se" else ("downsample", "fc")
    state = random_state(np.random.RandomState(0), 1, 16, option, block, *names)
    path = write(tmp_path / "a.th", state, best_prec1=np.float64(91.5))
    guess = guess_net(read_arrays(path))
    assert guess.model == f"{BLOCKS[block]}_resnet20_cifar10" and guess.scheme == "torchvision"
    assert guess.options == {"depth": 8, "classes": 10}
    net = get_model(guess.model, **guess.options)
    loaded = load_foreign(net, path)
    assert loaded.missing == loaded.ignored == []
    wanted = forward(state, IMAGE)
    for hybrid in (False, True):
        net.hybridize(hybrid)
        assert relative(net(mx.nd.array(IMAGE)).asnumpy(), wanted) <= 1e-5


@pytest.mark.parametrize("depth", [20, 44, 110])
def test_every_published_depth_is_recognised_and_loads(tmp_path, depth):
    rng, name = np.random.RandomState(0), f"cifar_resnet{depth}_cifar10"
    state = random_state(rng, (depth - 2) // 6, 4, "A")
    guess = guess_net(read_arrays(write(tmp_path / "a.th", state)))
    assert guess.model == name and guess.options == {"width": 4, "classes": 10}
    net = get_model(name, width=4)
    load_foreign(net, tmp_path / "a.th")
    found = values(net)
    assert np.array_equal(found["output.weight"], state["linear.weight"])
    last = f"layer3.{(depth - 2) // 6 - 1}.conv2.weight"
    assert np.array_equal(found[f"features.5.{(depth - 2) // 6 - 1}.body.3.weight"], state[last])


def test_the_shortcut_without_parameters_is_one_with_a_kernel_of_zeros_and_ones(tmp_path):
    """Exactly: the batch-norm that is added changes no bit."""
    state = random_state(np.random.RandomState(0), 1, 8, "A")
    net = get_model("cifar_resnet20_cifar10", depth=8, width=8)
    load_foreign(net, write(tmp_path / "a.th", state))
    assert np.float32(np.float32(1 - EPSILON) + np.float32(EPSILON)) == 1
    for feature, channels in ((4, 8), (5, 16)):
        unit = net.features[feature][0]
        x = mx.nd.random.normal(0, 3, (2, channels, 8, 8))
        pad = channels // 2
        wanted = np.pad(x.asnumpy()[:, :, ::2, ::2], ((0, 0), (pad, pad), (0, 0), (0, 0)))
        assert np.array_equal(unit.downsample(x).asnumpy(), wanted)
        kernel = unit.downsample[0].weight.data().asnumpy()
        assert set(np.unique(kernel)) == {0, 1} and kernel.sum() == channels


def test_a_file_that_lacks_some_shortcuts_is_not_completed(tmp_path):
    state = random_state(np.random.RandomState(0), 1, 8, "B")
    lost = [name for name in state if name.startswith("layer3.0.shortcut")]
    write(tmp_path / "a.th", {n: a for n, a in state.items() if n not in lost})
    net = get_model("cifar_resnet20_cifar10", depth=8, width=8)
    with pytest.raises(ValueError, match=r"5 of \d+ missing in the file: features.5.0.downsample"):
        load_foreign(net, tmp_path / "a.th")


@pytest.mark.parametrize("prefix", ["", "module.", "model.net."])
@pytest.mark.parametrize("writer", [write_zip, write_stream])
def test_prefixes_and_formats(tmp_path, prefix, writer):
    state = random_state(np.random.RandomState(0), 1, 8, "A")
    writer(tmp_path / "a.th", {prefix + name: Stored(array) for name, array in state.items()})
    net = get_model("cifar_resnet20_cifar10", depth=8, width=8)
    assert load_foreign(net, tmp_path / "a.th").missing == []
    assert relative(net(mx.nd.array(IMAGE)).asnumpy(), forward(state, IMAGE)) <= 1e-5


@pytest.mark.parametrize("block", [None, "se_bias", "cbam", "srm", "eca"])
def test_there_and_back_loses_no_bit(tmp_path, block, caplog):
    caplog.set_level(logging.INFO)
    state = random_state(np.random.RandomState(0), 1, 16, "B", block, "downsample", "fc")
    state = {name.replace("rclb", "srm"): array for name, array in state.items()}
    done = convert(write(tmp_path / "a.pth", state, "", epoch=3), tmp_path / "b.params")
    assert caplog.text.count("not used, beside the weights: epoch 3") == 1  # the file is read once
    assert done.model == f"{BLOCKS[block]}_resnet20_cifar10" and done.read == "torchvision"
    assert guess_net(read_arrays(tmp_path / "b.params")).model == done.model
    net, other = (get_model(done.model, **SMALL) for _ in range(2))
    net.load_parameters(str(tmp_path / "b.params"))
    save_foreign(net, tmp_path / "c.pth")
    written = {name: array.asnumpy() for name, array in read_arrays(tmp_path / "c.pth").items()}
    assert same(written, state)
    load_foreign(other, tmp_path / "c.pth")
    assert same(net, other)


def test_nets_for_small_images_that_the_zoo_has_not_are_named(tmp_path):
    state = random_state(np.random.RandomState(0), 2, 8, "B")
    four = {**state, **{n.replace("layer3", "layer4"): a for n, a in state.items()}}
    net = get_model("cifar_resnet20_cifar10", depth=14, width=8)
    for made, text in (
        (four, "a ResNet for small images with four stages"),
        ({n: a for n, a in state.items() if "layer2.1" not in n}, "{1, 2} units in its stages"),
    ):
        with pytest.raises(ValueError, match=text):
            load_foreign(net, write(tmp_path / "a.th", made))


def test_an_imagenet_resnet_is_not_taken_for_one_of_small_images(tmp_path):
    net = get_model("resnet18_v1b", width=8, classes=10)
    net.initialize()
    save_foreign(net, tmp_path / "a.pth")
    small = get_model("cifar_resnet20_cifar10", depth=14, width=8)
    with pytest.raises(ValueError, match=r"looks like resnet18_v1b.*the net like cifar_resnet20"):
        load_foreign(small, tmp_path / "a.pth")


# ----------------------------------------------------------------------- published weights


PUBLISHED = {20: ("resnet20-12fca82f.th", 91.5, 91.78), 56: ("resnet56-4bfd9763.th", 92.6, 93.62)}


@pytest.mark.parity
@pytest.mark.parametrize("depth", sorted(PUBLISHED))
def test_published_weights_give_their_accuracy(tmp_path, depth, caplog):
    """On the first thousand test images; both files are by Idelbayev (pytorch_resnet_cifar10)."""
    name, wanted, recorded = PUBLISHED[depth]
    images = DATA / "cifar10-lossless" / "cifar10_batch_50.png"
    if not images.is_file() or not (DATA / "weights" / name).is_file():
        pytest.skip(f"needs {images} and {name}; set GLUON_ATTN_DATA")
    assert sha256_of(DATA / "weights" / name).startswith(name.split("-")[1][:8])
    rows = cv2.cvtColor(cv2.imread(str(images)), cv2.COLOR_BGR2RGB)
    pixels = rows.reshape(1000, 32, 32, 3) / 255 - (0.485, 0.456, 0.406)
    pixels = (pixels / (0.229, 0.224, 0.225)).transpose(0, 3, 1, 2).astype("float32")
    text = (DATA / "cifar10-lossless" / "cifar10_labels.js").read_text()
    labels = np.array(json.loads(re.search(r"\[.*\]", text, re.S)[0]))[50_000:]
    with caplog.at_level("INFO"):
        done = convert(str(DATA / "weights" / name), str(tmp_path / "a.params"))
    assert f"best_prec1 {recorded}" in caplog.text
    assert done.model == f"cifar_resnet{depth}_cifar10"
    net = get_model(done.model)
    net.load_parameters(str(tmp_path / "a.params"))
    net.hybridize()
    logits = np.concatenate([net(mx.nd.array(part)).asnumpy() for part in np.split(pixels, 10)])
    assert 100 * (logits.argmax(1) == labels).mean() == pytest.approx(wanted)
    state = {
        n.replace("module.", ""): a.asnumpy()
        for n, a in read_arrays(DATA / "weights" / name).items()
    }
    assert relative(logits[:2], forward(state, pixels[:2])) <= 1e-5
