"""int8: ranges against NumPy, arithmetic against a reference, the search, and every zoo family."""

from __future__ import annotations

import os
import shutil

import mxnet as mx
import numpy as np
import pytest
from export_helpers import PREPROCESS
from int8_helpers import built, conv_net, noise, operators, quantizer, static
from mxnet import autograd, gluon
from mxnet.gluon import nn
from training_helpers import NAMES, make_image

from gluon_attn.export import ExportError, export_model, int8, load_exported, parity, precision
from gluon_attn.export import graph as graphs
from gluon_attn.export.int8 import Int8Variant, Quantizer
from gluon_attn.export.writer import add_variants
from gluon_attn.metrics.multilabel import evaluate_multilabel
from model_zoo import get_model

SIZE = 32


def small_files(directory):
    return {name: (directory / name).read_bytes() for name in sorted(os.listdir(directory))}


# --- a trained net -------------------------------------------------------------------------------


def draw(count, seed):
    """Return images of squares, discs and stripes ``(N, 3, 32, 32)`` and their labels."""
    rng = np.random.default_rng(seed)
    label = (rng.random((count, 3)) < 0.5).astype(int)
    images = np.stack([make_image(rng, values)[4:36, 4:36] for values in label])
    images = (images.transpose(0, 3, 1, 2).astype(np.float32) - 90) / 50
    return images, label.astype(np.float32)


def score(run, seed=1):
    """mAP in points on images that neither training nor calibration saw."""
    images, label = draw(256, seed)
    logits = np.concatenate([run(images[k : k + 64]) for k in range(0, 256, 64)])
    return 100 * evaluate_multilabel(1 / (1 + np.exp(-logits)), label)["overall"]["mAP"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An export of a small VAA net, trained for seconds; its mAP is not 100."""
    mx.random.seed(0)
    np.random.seed(0)
    net = get_model("vaa_resnet18_w16_synthetic", classes=3, width=8, input_size=SIZE)
    net.initialize(mx.init.Xavier(magnitude=2))
    static(net)
    images, label = (mx.nd.array(array) for array in draw(256, 0))
    trainer = gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 3e-3}, kvstore=None)
    loss = gluon.loss.SigmoidBCELoss()
    for step in range(16):
        rows = slice(32 * (step % 8), 32 * (step % 8) + 32)
        with autograd.record():
            value = loss(net(images[rows])[0], label[rows])
        value.backward()
        trainer.step(32, ignore_stale_grad=True)
    directory = tmp_path_factory.mktemp("int8") / "x"
    return export_model(
        net, directory, "tiny", NAMES, SIZE, PREPROCESS, with_maps=True, check=False
    )


@pytest.fixture(scope="module")
def quantized(trained, tmp_path_factory):
    """The trained export with an int8 form, made as a user makes it."""
    directory = tmp_path_factory.mktemp("int8") / "y"
    shutil.copytree(str(trained), str(directory))
    variant = Int8Variant(
        draw(48, 2)[0], score, modes=("naive", "percentile"), fingerprint={"split": "train"}
    )
    return add_variants(directory, [variant])


def runner(directory, **options):
    block = static(load_exported(directory, **options)[0])
    return lambda batch: graphs.logits_of(block, batch)


def test_trained_net_loses_at_most_half_a_point(quantized):
    entry = load_exported(quantized, precision="int8")[1]["int8"]
    before, after = (score(runner(quantized, precision=p)) for p in ("fp32", "int8"))
    assert 60 < before < 99.9  # else a drop would mean nothing
    assert entry["float32_score"] == pytest.approx(before, abs=1e-9)
    assert entry["score"] == pytest.approx(after, abs=1e-9)
    assert entry["drop"] == pytest.approx(before - after, abs=1e-9)
    assert entry["drop"] <= entry["max_drop"] == 0.5


def test_sidecar_tells_how_it_was_made(quantized):
    sidecar = load_exported(quantized, precision="int8")[1]
    entry = sidecar["int8"]
    assert entry["granularity"] == "channel-wise" and entry["layers"] == 35
    assert [record["mode"] for record in entry["tried"]] == ["naive", "percentile"]
    assert entry["score"] == max(record["score"] for record in entry["tried"])
    images = draw(48, 2)[0]
    digest = int8.sha256_of_bytes(images.tobytes())
    source = {"split": "train"}
    assert entry["calibration"] == {"images": 48, "sha256": digest, "source": source}
    assert entry["parity"]["max_abs_diff"] <= entry["parity"]["tolerance"]
    assert entry["versions"]["numpy"] == np.__version__
    files = {sidecar["files"][key]["file"] for key in ("int8_symbol", "int8_params")}
    assert files == {"tiny-int8-symbol.json", "tiny-int8-0000.params"}


def test_outputs_keep_order_and_names(quantized):
    block, sidecar = load_exported(quantized, precision="int8")
    symbol = mx.sym.load(str(quantized / "tiny-int8-symbol.json"))
    names = [f"{output['name']}_output" for output in sidecar["outputs"]]
    assert symbol.list_outputs() == names and len(names) == 3
    images = mx.nd.array(draw(8, 4)[0])
    expected, found = (list(b(images)) for b in (load_exported(quantized)[0], block))
    logits = [outputs[0].asnumpy().ravel() for outputs in (expected, found)]
    assert np.corrcoef(*logits)[0, 1] > 0.98
    for one, other in zip(expected[1:], found[1:]):  # maps sum to 1
        assert one.shape == other.shape and np.abs(one.asnumpy() - other.asnumpy()).mean() < 0.05


# --- what can be asked for -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"precision": "bf16"}, ExportError, "no bf16 graph; add it with tools/export.py --export"),
        ({"precision": "int4"}, ValueError, "precision 'int4': valid are fp32, int8, bf16"),
        ({"precision": "int8", "ctx": mx.gpu(0)}, ValueError, "int8 runs on the CPU only, not on"),
        ({"fused": True, "ctx": mx.gpu(0)}, ValueError, "fused graph runs on the CPU only"),
        ({"precision": "int8", "fused": True}, ValueError, "the int8 graph is always fused"),
    ],
)
def test_forms_that_cannot_be_had(quantized, options, error, message):
    with pytest.raises(error, match=message):
        load_exported(quantized, **options)


# --- the search ----------------------------------------------------------------------------------


class Product(gluon.HybridBlock):
    """The elementwise product that MXNet quantizes and cannot run."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a, self.b = (nn.Conv2D(8, 1, in_channels=3) for _ in range(2))
        self.c, self.head = nn.Conv2D(8, 1, in_channels=8), nn.Dense(3)

    def hybrid_forward(self, F, x):
        return self.head(F.flatten(self.c(F.relu(self.a(x)) * self.b(x))))


def test_graph_that_mxnet_cannot_run_is_refused_and_nothing_changes(tmp_path):
    images = noise(4)
    directory = export_model(
        built(Product(), images), tmp_path / "x", "tiny", NAMES, 8, PREPROCESS, check=False
    )
    before = small_files(directory)
    variant = Int8Variant(images, lambda run: run(images).mean(), modes=("naive",))
    with pytest.raises(ExportError, match="int8 naive: the graph does not run"):
        add_variants(directory, [variant])
    assert small_files(directory) == before and os.listdir(tmp_path) == ["x"]


class Script:
    """A score function that says what it is told to, in order."""

    def __init__(self, *values):
        self.left = list(values)

    def __call__(self, run):
        run(noise(2))
        return self.left.pop(0)


@pytest.fixture
def export(tmp_path, monkeypatch):
    """An export of a stack of nine layers; the comparison elsewhere is left out, it takes time."""
    net = nn.HybridSequential()
    for width in (4, 8, 4, 8, 4, 8, 4, 8):
        net.add(nn.Conv2D(width, 3, padding=1, activation="relu"))
    net.add(nn.GlobalAvgPool2D(), nn.Dense(3))
    built(net, noise(4))
    monkeypatch.setattr(
        "gluon_attn.export.parity.check_parity", lambda *a, **k: {"max_abs_diff": 0.0}
    )
    return export_model(net, tmp_path / "x", "tiny", NAMES, 8, PREPROCESS, check=False)


def search(export, *scores, **options):
    script = Script(*scores)
    options.setdefault("modes", ("naive",))
    add_variants(export, [Int8Variant(noise(16), script, **options)])
    assert not script.left
    return load_exported(export, precision="int8")[1]["int8"]


def test_mode_is_the_best_measured(export):
    entry = search(export, 80, 79.8, 80.1, modes=("percentile", "naive"))
    assert entry["mode"] == "naive" and entry["drop"] == pytest.approx(-0.1)
    assert "percentile" not in entry and entry["excluded"] == []


def test_as_few_layers_as_will_do_are_excluded(export):
    # all int8: 70; the worst 1: 75, 2: 76, 4: 79.9, which is enough; 3: 79.6, enough as well
    entry = search(export, 80, 70, 75, 76, 79.9, 79.6)
    symbol, arrays = graphs.read_graph(export, load_exported(export)[1])
    made = Quantizer(symbol, arrays, noise(16))
    worst = [layer for layer, _ in made.sensitivity("naive")]
    assert entry["excluded"] == worst[:3] and entry["score"] == 79.6
    assert [t["excluded"] for t in entry["tried"]] == [0, 1, 2, 4, 3]
    nodes = {n["name"] for n in operators(mx.sym.load(str(export / "tiny-int8-symbol.json")))}
    for layer, node in made.layers.items():
        assert (f"quantized_{node}" in nodes) == (layer not in worst[:3])


def test_fewer_layers_that_are_not_enough_are_not_taken(export):
    entry = search(export, 70, 75, 76, 79.9, 79.4, baseline=80)  # which is not measured again
    assert len(entry["excluded"]) == 4 and entry["score"] == 79.9
    assert entry["float32_score"] == 80


def test_budget_that_cannot_be_met_tells_the_drop_and_changes_nothing(export):
    before = small_files(export)
    script = Script(80, 70, 71, 73, 72)
    variant = Int8Variant(noise(16), script, modes=("naive",), max_excluded=1 / 3)
    with pytest.raises(ExportError) as caught:
        add_variants(export, [variant])
    assert "int8 loses 7.00 points at best (80.00 in float32, 73.00" in str(caught.value)
    assert "2 of 9 layers in float32); allowed are 0.5" in str(caught.value)
    assert small_files(export) == before and os.listdir(export.parent) == ["x"]


def test_other_numbers_elsewhere_are_refused(tmp_path, monkeypatch):
    images = noise(2)
    symbol, arrays = quantizer(built(conv_net(), images), images).build("naive")
    contents = {"name": "x", "input": {"shape": ["batch", 3, 8, 8]}}
    contents["outputs"] = [{"name": "logits", "shape": ["batch", 4]}]
    batch = noise(3)
    outputs_of = parity.outputs_of
    monkeypatch.setattr(
        parity, "outputs_of", lambda *a: {k: [v[0] + 0.5] for k, v in outputs_of(*a).items()}
    )
    with pytest.raises(ExportError, match=r"give other numbers in plain MXNet, by 0\.[2-9]"):
        precision.write_checked(tmp_path, contents, "int8", (symbol, arrays), batch=batch)


def test_arguments_are_checked(export):
    images = noise(2)
    for options, text in (
        ({"modes": ("kl",)}, "valid are naive, entropy, percentile"),
        ({"modes": ()}, "one or more"),
        ({"max_drop": -1}, "max_drop=-1"),
        ({"max_excluded": 2}, "max_excluded=2"),
    ):
        with pytest.raises(ValueError, match=text):
            Int8Variant(images, Script(), **options)
    for bad in (images[:0], images[:, :, :4], images.astype(np.float64)):
        with pytest.raises(ValueError, match=r"give float32 \(N, 3, 8, 8\)"):
            add_variants(export, [Int8Variant(bad, Script())])
    with pytest.raises(ValueError, match="not finite"):
        add_variants(export, [Int8Variant(images * np.float32(np.nan), Script())])
    with pytest.raises(ExportError, match="float32: the score is nan"):
        add_variants(export, [Int8Variant(images, lambda run: float("nan"))])
