"""The probe: features of a frozen net, classifiers of one strength, chosen by validation."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from clothing_helpers import write_parsing

from gluon_attn.core.recipe import Recipe
from gluon_attn.data import open_dataset
from model_zoo import get_model
from tools.experiments import probe as probing
from tools.experiments.controlled import BASELINE, run_preset
from tools.experiments.photographs import PHOTOGRAPHS
from tools.experiments.probe import Split, features_of, fit, probe

RECIPE = Recipe("baseline", "m", dataset="clothing_co_parsing", mean=(10, 20, 30), std=(64,) * 3)


@pytest.fixture
def data(tmp_path):
    write_parsing(tmp_path / "data")
    return str(tmp_path / "data")


@pytest.fixture
def net(monkeypatch):
    monkeypatch.setattr(probing, "WIDTH", 24)
    monkeypatch.setattr(probing, "HEIGHT", 32)
    net = get_model("cifar_resnet20_cifar10", depth=8, width=8)
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, 32, 32)))
    return net


def test_features_are_mean_and_maximum_of_the_last_map_of_the_whole_image(data, net):
    test = open_dataset(data, "test")
    found = features_of(net, test, RECIPE.mean, RECIPE.std)
    assert found.features.shape == (len(test), 2 * 32)
    image = test.read(3)[0, 0].astype(np.float32)  # photographs of one colour
    pixels = np.tile((image - RECIPE.mean) / 64, (32, 24, 1)).transpose(2, 0, 1)
    maps = net.features[:-1](mx.nd.array(pixels[None])).asnumpy()[0]
    expected = np.concatenate([maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))])
    np.testing.assert_allclose(found.features[3], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.label, test.label)


def test_a_classifier_per_attribute_on_known_labels():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 3))
    label = np.stack([features[:, 0] > 0, np.ones(80), np.zeros(80)], axis=1).astype(np.float32)
    mask = np.ones_like(label)
    label[:20, 0], mask[:20, 0] = 1 - label[:20, 0], 0  # what is wrong is not known
    right, yes, no = fit(Split(features, label, mask), 100.0)
    assert (yes, no) == (1.0, 0.0)
    assert (right.predict(features) == (features[:, 0] > 0)).mean() > 0.95


def test_strength_is_chosen_by_validation_and_a_finished_probe_is_kept(
    data, net, tmp_path, monkeypatch
):
    path = tmp_path / "out" / "probe.json"
    result = probe(RECIPE, data, str(path), net)
    known = {float(c): v for c, v in result["validation"].items()}
    assert list(known) == list(probing.STRENGTHS)
    assert known[result["strength"]] == max(known.values())
    assert 0 < result["score"]["mAP"] < 1 and 0 < result["score"]["mA"] < 1
    monkeypatch.setattr(probing, "features_of", None)
    assert probe(RECIPE, data, str(path)) == result
    other = Recipe.from_dict(dict(RECIPE.to_dict(), data_options={"seed": 1}))
    (tmp_path / "data" / "split.csv").unlink()
    with pytest.raises(TypeError):  # other data: it begins again
        probe(other, data, str(path), net)


def test_it_stands_below_the_tables(data, tmp_path, monkeypatch):
    preset = PHOTOGRAPHS["vaa-clothing"]
    assert preset.probe
    arms, rows = {BASELINE: preset.arms[BASELINE]}, {"score": {"mAP %": 1.0}}
    monkeypatch.setattr("tools.experiments.controlled._measured", lambda *_: rows)
    found = {"score": {"mAP": 0.391, "mA": 0.6}, "strength": 1e-3}
    monkeypatch.setattr("tools.experiments.controlled.probe", lambda *_: found)
    one, recipe = preset._replace(arms=arms, rates=(), measures=(), rate_of={}), RECIPE
    text, _ = run_preset(one, lambda _: recipe, [0], str(tmp_path / "o"), data_dir=data, say=len)
    assert text.rstrip().endswith("C = 0.001 by validation): test mAP 39.1 %, mA 60.0 %.")
    assert (tmp_path / "o" / "results.md").read_text() == text
