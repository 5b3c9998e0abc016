"""Whatever is registered keeps its contract; a newcomer without an example here fails."""

from __future__ import annotations

import importlib
import pkgutil

import mxnet as mx
import numpy as np
import pytest
from kinds_helpers import KINDS, Trees

import gluon_attn.losses
import gluon_attn.metrics
import gluon_attn.papers
from contracts import suites
from gluon_attn.blocks import BLOCKS
from gluon_attn.core import recipe as recipes
from gluon_attn.core.schema import Attribute, Schema
from gluon_attn.data import DATASETS
from gluon_attn.export import export_model
from gluon_attn.export.backends import BACKENDS
from gluon_attn.method import METHODS
from model_zoo import get_model

SINGLE = Schema([Attribute("class", "multiclass", tuple("abcde"))])
COLUMNS = Schema.binary(tuple("abcde"))


def modules_of(package):
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(found.name)


@pytest.mark.parametrize("name", BLOCKS.names())
def test_blocks(name):
    for channels in (16, 48):
        suites.check_block(BLOCKS.get(name), channels)


# ---------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", recipes.names())
def test_recipes(name):
    suites.check_recipe(name)


# ----------------------------------------------------------------------------------- losses

PRIOR = np.linspace(0.1, 0.6, 5)


def masked(seed=0):
    mask = (np.random.default_rng(seed).random((6, 5)) < 0.7).astype(np.float32)
    return mx.nd.array(mask)


def binary():
    label = (np.random.default_rng(2).random((6, 5)) < 0.5).astype(np.float32)
    return suites.noise(6, 5), mx.nd.array(label), masked()


def one_hot():
    label = np.eye(5, dtype=np.float32)[[0, 1, 2, 3, 4, 0]]
    return suites.noise(6, 5), mx.nd.array(label), mx.nd.ones((6, 5))


def identities():
    label = np.eye(5, dtype=np.float32)[[0, 0, 1, 1, 2, 2]]
    return suites.noise(6, 5), mx.nd.array(label), mx.nd.ones((6, 5))


LOSSES = {  # how each is built, what it is given, whether it looks at single samples
    "MaskedBCELoss": ({}, binary, True),
    "WeightedFocalLoss": ({"prior": PRIOR}, binary, True),
    "SoftmaxCELoss": ({}, one_hot, True),
    "BatchHardTripletLoss": ({}, identities, False),
    "SoftTripletLoss": ({}, identities, False),
    "WeightedSquaredLoss": ({}, lambda: (*binary(), mx.nd.array(PRIOR)), True),
}
# Their input is no logits and label: the critic's, tested in papers/dreal
CRITICS = {"RegressionLoss", "QualityLoss"}


def losses():
    found = {}
    for package in (gluon_attn.losses, gluon_attn.papers):
        for module in modules_of(package):
            for name, thing in vars(module).items():
                if isinstance(thing, type) and name.endswith("Loss"):
                    found[name] = thing
    return found


@pytest.mark.parametrize("name", sorted(set(losses()) - CRITICS))
def test_losses(name):
    settings, inputs, per_sample = LOSSES[name]
    suites.check_loss(losses()[name](**settings), *inputs(), per_sample=per_sample)


# ---------------------------------------------------------------------------------- methods


def net_of(name, **options):
    def make():
        net = get_model(name, input_size=32, classes=5, **options)
        suites.awaken(net)
        net.initialize(mx.init.Xavier(magnitude=2), force_reinit=True)
        return net

    return make


def searched():
    net = get_model("autola_search_resnet20", input_size=32, classes=5, width=8, depth=8)
    net.initialize(mx.init.Xavier(magnitude=2))
    return net


SMALL = {"width": 8}
PEOPLE = {"schema": SINGLE, "options": {"images_per_identity": 2}}
SEEN = {"window": 2, "val_batch_size": 6}
METHOD_EXAMPLES = {
    "baseline": (net_of("resnet18_w16_synthetic", **SMALL), {}),
    "vaa": (net_of("vaa_resnet18_w16_synthetic", **SMALL),
            {"epoch": 2, "options": {"phase1_epochs": 1, "history_start": 0}}),
    "awmt": (net_of("resnet18_w16_synthetic", dropout=0.0, **SMALL), {"options": SEEN}),
    "vaa_awmt": (net_of("vaa_resnet18_w16_synthetic", **SMALL),
                 {"epoch": 2, "options": {"phase1_epochs": 1, "history_start": 0, **SEEN}}),
    "icasc": (net_of("resnet18_w16_synthetic", **SMALL), {"schema": SINGLE}),
    "dreal": (net_of("se_resnet18_w16_synthetic", **SMALL), {"schema": SINGLE}),
    "reid": (net_of("reid_resnet18_w16_synthetic", **SMALL), PEOPLE),
    "dreal_reid": (net_of("reid_resnet18_w16_synthetic", attention="se", **SMALL), PEOPLE),
    "autola": (searched, {"schema": SINGLE, "halves": True}),
}  # fmt: skip
COCO = {"ssd", "faster_rcnn", "simple_pose"}  # their batches are boxes: tests/coco


@pytest.mark.parametrize("name", sorted(set(METHODS.names()) - COCO))
def test_methods(name):
    make_net, settings = METHOD_EXAMPLES[name]
    settings = {"schema": COLUMNS, **settings}
    single = settings["schema"] is SINGLE
    batches = [suites.batch(seed=seed, single=single) for seed in (1, 2)]
    suites.check_method(METHODS.get(name), make_net, batches=batches, **settings)


# -------------------------------------------------------------------------------- data sets


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("coco")])
def test_datasets(kind, trees: Trees, tmp_path):
    root = trees.copy(kind, tmp_path / kind)
    reader = DATASETS.get(kind)
    splits = reader.expected_splits(root)
    assert splits and reader.looks_for
    for split in splits:
        suites.check_dataset(reader, root, split)
    prints = {reader(root, split).fingerprint() for split in splits}
    assert len(prints) == len(splits), "two splits have the same fingerprint"


# ---------------------------------------------------------------------------------- metrics


METRIC_EXAMPLES = {
    "mean_accuracy": {}, "mean_accuracy_per_attribute": {}, "instance_metrics": {},
    "evaluate_multilabel": {"share": False}, "per_attribute": {"share": False},
    "evaluate_attributes": {"share": False}, "average_precision": {},
    "true_rank": {"classes": True, "per_sample": True, "share": False},
    "true_class_margin": {"classes": True, "share": False},
    "top_accuracies": {"classes": True, "share": False},
    "confusion_matrix": {"classes": True, "share": False},
    "evaluate_classification": {"classes": True, "share": False},
}  # fmt: skip


def metrics():
    """Public functions over probabilities (or scores), labels and mask of a whole split."""
    for module in modules_of(gluon_attn.metrics):
        for name, thing in vars(module).items():
            if getattr(thing, "__module__", "") != module.__name__ or name.startswith("_"):
                continue
            if callable(thing) and not isinstance(thing, type) and name != "checked":
                given = suites.arguments(thing)[:3]
                if given and given[0] in ("probs", "scores") and given[2:] == ["mask"]:
                    yield name, thing


@pytest.mark.parametrize("name, metric", metrics())
def test_metrics(name, metric):
    more = {"schema": COLUMNS} if "schema" in suites.arguments(metric) else {}

    def call(probs, label, mask):
        if name == "average_precision":
            return metric(probs.ravel(), label.ravel(), mask.ravel())
        return metric(probs, label, mask, **more)

    suites.check_metric(call, **METRIC_EXAMPLES[name])


def test_there_are_metrics():
    assert {name for name, _ in metrics()} == set(METRIC_EXAMPLES)


# ----------------------------------------------------------------------- models and backends


@pytest.mark.parametrize(
    "name",
    ["resnet18_w16_synthetic", "vaa_resnet18_w16_synthetic", "vgg11_w8_digits",
     "cifar_resnet20_cifar10", "efficientnet_lite0", "reid_resnet18_w16_synthetic"],
)  # fmt: skip
def test_models(name):
    net = get_model(name, input_size=32)
    suites.awaken(net)
    suites.check_model(net, 32)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    net = get_model("vaa_resnet18_w16_synthetic", input_size=32, classes=3, width=8)
    suites.awaken(net)
    folder = tmp_path_factory.mktemp("export") / "vaa"
    settings = {"resize": 32, "crop": 32, "mean": (127,) * 3, "std": (64,) * 3}
    export_model(net, str(folder), "vaa", ["a", "b", "c"], (32, 32), settings)

    def outputs(images):
        found = net(mx.nd.array(images))
        return [found[0].asnumpy()]

    return str(folder), outputs


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_backends(name, export):
    folder, outputs = export
    try:
        backend = BACKENDS[name].make(folder)
    except (ImportError, FileNotFoundError, ValueError) as error:
        pytest.skip(f"{name}: {error}")
    suites.check_backend(backend, (3, 32, 32), outputs)
