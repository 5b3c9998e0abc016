"""Analyses of trained nets: their numbers agree with the nets, figures show what they should."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import matplotlib
import mxnet as mx
import numpy as np
import pytest
from formats.tiny import write_tiny
from mxnet import autograd
from training_helpers import write_data

from gluon_attn.cli import analysis, analysis_features, analysis_maps
from gluon_attn.cli.maps import Explained
from gluon_attn.core.files import save_parameters
from gluon_attn.data import open_dataset
from gluon_attn.figures import canvas, curves, distribution, heatmaps
from gluon_attn.metrics.overlap import attention_iou
from gluon_attn.papers.icasc.attention import attention_separation, grad_cam, soft_mask
from gluon_attn.task import Trained
from gluon_attn.train import trained as load
from gluon_attn.train import use_static_graph
from model_zoo import get_model

FIGURES = (curves, distribution, heatmaps)
PREPROCESS = {"resize": 32, "crop": 32, "size": 32, "mean": (120,) * 3, "std": (64,) * 3}


def trained(name, dataset, seed=0, **options):
    """A net with random weights and running statistics that are not those of a new one."""
    options = {"classes": len(dataset.names), "input_size": 32, "width": 8, **options}
    net = get_model(name, **options)
    mx.random.seed(seed)
    net.initialize(mx.init.Xavier(magnitude=3))
    with autograd.train_mode():
        for _ in range(2):
            net(mx.nd.random.normal(0, 1, shape=(8, 3, 32, 32)))
    use_static_graph(net)
    return Trained(name, net, tuple(dataset.names), PREPROCESS, {})


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    root = tmp_path_factory.mktemp("cifar")
    write_tiny("cifar10", root, {"train": 40, "val": 8, "test": 30})
    return open_dataset(str(root), "test")


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    return open_dataset(str(write_data(tmp_path_factory.mktemp("list") / "shapes")), "test")


@pytest.fixture(scope="module")
def pair(single):
    return {
        "plain": trained("cifar_resnet20_cifar10", single),
        "SE": trained("se_resnet20_cifar10", single, 1),
    }


@pytest.fixture
def settings(tmp_path):
    return analysis.Settings(str(tmp_path / "out"), "test", mx.cpu(), 8, 0)


@pytest.fixture
def drawn(monkeypatch):
    """The figures saved while the test runs."""
    figures = []
    for module in FIGURES:
        save = module.save
        monkeypatch.setattr(module, "save", lambda f, p, s=save: figures.append(f) or s(f, p))
    return figures


def texts(figure):
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def everything(dataset, net):
    """All images as the net takes them, all labels, and the net's logits."""
    seen = analysis_maps.open_samples(net, dataset, range(len(dataset)), mx.cpu())
    outputs = net.net(seen.look.image)
    logits = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
    return seen, logits


# -- numbers ---------------------------------------------------------------------------------------
def finite_difference_map(net, image, column):
    """Grad-CAM at the last map by nudging it, channel by channel; inference, head in NumPy."""
    view = analysis_features.stage_view(net)
    features = view.run({"data": image})["stage3"].asnumpy().astype(np.float64)
    weight = net.output.weight.data().asnumpy()[column].astype(np.float64)
    alpha = weight / features[0, 0].size  # d(mean over positions) / d(position)
    return np.maximum((alpha[:, None, None] * features[0]).sum(axis=0), 0)


def test_maps_are_those_of_the_net_in_inference(single, pair):
    net = pair["SE"]
    seen, logits = everything(single, net)
    look = Explained(net.net, mx.cpu()).look(seen.look.image[:3])
    np.testing.assert_allclose(
        look.run.logits.asnumpy(), logits[:3].asnumpy(), rtol=1e-4, atol=1e-5
    )
    found = look.maps("grad_cam", [1, 4, 7])
    for n, column in enumerate((1, 4, 7)):
        expected = finite_difference_map(net.net, seen.look.image[n : n + 1], column)
        np.testing.assert_allclose(found[n], expected, rtol=1e-3, atol=1e-5 * expected.max())


def test_overlap_is_that_of_the_two_maps(single, pair, settings):
    net = pair["plain"]
    seen, logits = everything(single, net)
    target = seen.label.argmax(axis=1)
    others = np.where(seen.label == 1, -np.inf, logits.asnumpy())
    view = analysis_features.stage_view(net.net)
    features = view.run({"data": seen.look.image})["stage3"]
    weight = net.net.output.weight.data()
    pairs = []
    for columns in (target, others.argmax(axis=1)):
        gradient = weight.take(mx.nd.array(columns)).expand_dims(2).expand_dims(3)
        pairs.append(grad_cam(features, (gradient / 64).broadcast_to(features.shape)))
    values = attention_separation(*pairs, soft_mask(pairs[0])).asnumpy()
    iou = attention_iou(pairs[0].asnumpy(), pairs[1].asnumpy())
    found = analysis_maps.attention_overlap(net, single, settings)["grad_cam"]["last"]
    assert found["images"] == len(single)
    assert found["separation"]["mean"] == pytest.approx(values.mean(), rel=1e-3)
    assert found["iou"]["mean"] == pytest.approx(iou.mean(), rel=2e-2), (
        "a place may sit on the edge"
    )
    right = logits.asnumpy().argmax(axis=1) == target
    if right.any() and not right.all():
        expected = values[right].mean()
        assert found["separation"]["right"] == pytest.approx(expected, rel=1e-3)


def test_overlap_of_several_classes(several, settings):
    net = trained("vaa_resnet18_w16_synthetic", several)
    label = np.asarray(several.label) * np.asarray(several.mask)
    no = (1 - np.asarray(several.label)) * np.asarray(several.mask)
    known = label.any(axis=1) & no.any(axis=1)
    found = analysis_maps.attention_overlap(net, several, settings)
    for layers in found.values():
        assert {v["images"] for v in layers.values()} == {int(known.sum())}
        assert 0 <= layers["last"]["separation"]["mean"] <= 1


def test_a_stage_view_is_the_net(several):
    net = trained("vaa_resnet18_w16_synthetic", several)
    seen, _ = everything(several, net)
    view = analysis_features.stage_view(net.net)
    assert view.gives == ("stage1", "stage2", "stage3", "stage4")
    tail = Explained(net.net, mx.cpu()).look(seen.look.image[:4]).run
    found = view.run({"data": seen.look.image[:4]})
    np.testing.assert_allclose(
        found["stage3"].asnumpy(), tail.inner.asnumpy(), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(found["stage4"].asnumpy(), tail.last.asnumpy(), rtol=1e-4, atol=1e-4)


def test_selectivity_does_not_hang_on_the_batch_size(single, pair, settings):
    one = analysis_features.analyse_selectivity(pair, single, settings)
    other = analysis_features.analyse_selectivity(pair, single, settings._replace(batch_size=7))
    assert list(one.values["SE"]) == ["stage1", "stage2", "stage3"]
    for stage in one.values["SE"]:
        a, b = (found.values["SE"][stage]["mean"] for found in (one, other))
        assert 0 < a < 1 and a == pytest.approx(b, rel=1e-4)


def test_tsne_separates_what_is_apart():
    rng = np.random.default_rng(0)
    targets = np.arange(60) % 3
    features = rng.normal(0, 0.1, (60, 70)) + 5 * np.eye(70)[targets]
    points = analysis_features.embed(features)
    assert points.shape == (60, 2)
    assert analysis_features._purity(points, targets) == 1
    np.testing.assert_array_equal(points, analysis_features.embed(features), "same seed")


def test_samples_show_different_classes(single, several):
    chosen = analysis_maps.varied_samples(single, 8)
    assert len(set(chosen)) == 8
    assert len({int(np.asarray(single.label[i]).argmax()) for i in chosen}) == 8
    assert chosen == analysis_maps.varied_samples(single, 8)
    assert len(analysis_maps.varied_samples(several, 1000)) == len(several)


# -- figures ---------------------------------------------------------------------------------------
def test_every_kind_for_a_pair_of_nets(single, pair, settings, drawn):
    kinds = ["attention:grad_cam", "overlap:0.7", "selectivity", "tsne:2", "gradcam", "gates"]
    done = analysis.analyse(pair, single, kinds, settings._replace(samples=[3, 1]))
    assert list(done) == ["attention", "overlap", "selectivity", "tsne", "gradcam", "gates"]
    files = [Path(path) for found in done.values() for path in found.files]
    assert all(path.name.startswith("test_") for path in files)
    for path in files:
        read = path.suffix == ".png" and cv2.imread(str(path)) is not None
        assert read or json.loads(path.read_text())
    assert sorted(p.name for p in Path(settings.out).iterdir()) == sorted(p.name for p in files)
    shown = [texts(figure) for figure in drawn]
    assert len(shown) == 6
    for words in shown:
        assert {"plain", "SE"} <= set(words) or "stage1 unit0 channel" in words
    assert done["overlap"].values["SE"]["grad_cam"]["last"]["threshold"] == 0.7
    assert list(done["gates"].values) == ["SE"], "the plain net has no gate"
    json.dumps({kind: found.values for kind, found in done.items()})


def frames(figure):
    """Titles of the images with a red frame."""
    red = matplotlib.colors.to_rgba(heatmaps.FRAME)
    edges = [(axes, axes.spines["left"]) for axes in figure.axes]
    framed = [axes for axes, edge in edges if edge.get_visible() and edge.get_edgecolor() == red]
    return [axes.get_title().split("\n")[0] for axes in framed]


def test_the_true_class_is_framed_and_only_that(single, pair, settings, drawn):
    positions = analysis_maps.varied_samples(single, 3)
    names = [analysis_features.shown_name(single, int(np.argmax(single.label[i])))
             for i in positions]  # fmt: skip
    found = analysis.analyse(pair, single, ["attention"], settings._replace(samples=positions))
    ranked = found["attention"].values
    expected = [t for n, t in enumerate(names) for net in pair if t in ranked[net][n]]
    assert sorted(frames(drawn[0])) == sorted(expected)
    under = [axes.get_xlabel() for axes in drawn[0].axes if axes.get_xlabel()]
    assert under == names
    lines = [axes.get_ylabel() for axes in drawn[0].axes if axes.get_ylabel() in pair]
    assert lines == ["plain", "SE"] * 3, "the baseline stands above"


def test_several_classes_and_fewer_than_five(several, settings, drawn):
    models = {"VAA": trained("vaa_resnet18_w16_synthetic", several)}
    settings = settings._replace(samples=[0, 1])
    done = analysis.analyse(models, several, ["attention", "gradcam", "tsne"], settings)
    assert len(done["attention"].values["VAA"][0]) == 3
    images = [p for found in done.values() for p in found.files if p.endswith(".png")]
    assert images and all(cv2.imread(path) is not None for path in images)


def test_critique_curves_show_what_the_log_says(tmp_path, drawn, settings):
    modules = [f"stage{s}_unit{k}" for s in (1, 2) for k in range(1 + s)]
    records = [
        {"epoch": e, **{key: {m: (None if e == 1 and m == modules[0] else e + 0.1 * i)
                              for i, m in enumerate(modules)}
                        for key in analysis_features.CRITIC}}
        for e in range(3)
    ]  # fmt: skip
    log, given = tmp_path / "log.jsonl", settings._replace(runs={"DREAL": str(tmp_path)})
    log.write_text("\n".join([json.dumps(r) for r in records] + ['{"epoch": 3, "crit']))
    (tmp_path / "out").mkdir()
    text, values, files = analysis_features.analyse_critic({}, None, given)
    assert "stage2_unit2" in text and cv2.imread(files[0]) is not None
    assert values["DREAL"]["reward"]["stage1_unit0"] == [0, None, 2]
    panels = [axes for axes in drawn[0].axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == [m.replace("_", " ") for m in modules]
    np.testing.assert_allclose(panels[1].lines[0].get_ydata(), [0.1, 1.1, 2.1])
    log.write_text('{"epoch": 0, "loss": 1}\n')
    for asked, message in (
        (given, "only runs of method=dreal do"), (settings, "needs a training run"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            analysis_features.analyse_critic({}, None, asked)
    with pytest.raises(FileNotFoundError, match="no training log"):
        analysis_features.read_critic(str(tmp_path / "out"))


def test_many_modules_take_several_lines(tmp_path, drawn):
    names = ["stage1_unit0"] + [f"stage3_unit{k}" for k in range(23)]
    assert list(map(len, canvas.stage_lines(names, curves.PER_ROW, even=True))) == [1, 8, 8, 7]
    gates = {f"stage3_unit{k}": (np.zeros(4), np.zeros(4), 0.0) for k in range(7)}
    distribution.channel_attention({"a": gates, "b": gates}, tmp_path / "b.png")
    assert len([axes for axes in drawn[0].axes if axes.get_visible()]) == 14
    gradient = np.zeros((3, 10, 10))
    assert (heatmaps.gradient_image(gradient) == 128).all()
    gradient[0, 2, 3], gradient[1, 4, 5] = 1, -1
    image = heatmaps.gradient_image(gradient, 100)
    assert image[2, 3].tolist() == [255, 128, 128] and image[4, 5].tolist() == [128, 0, 128]


# -- what is refused -------------------------------------------------------------------------------
# -- the tool --------------------------------------------------------------------------------------


def test_the_tool(several, call, tmp_path):
    net = get_model("se_resnet20_cifar10", classes=3)
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, 32, 32)))
    weights, out = str(tmp_path / "net.params"), tmp_path / "out"
    save_parameters(net, weights)
    given = ("evaluate.py", "--model", "se_resnet20_cifar10", "--params", weights, "--data-dir",
             several.root, "--names", f"{several.root}/names.txt", "-j", 0, "--out", out,
             "--mean", 0.5, "--std", 0.25, "--resize", "32x32",
             "--compare", f"se_resnet20_cifar10={weights}")  # fmt: skip
    code, printed, _ = call(*given, "--attention", "--analyse", "overlap", "selectivity")
    assert code == 0 and "se_resnet20_cifar10 (2)" in printed and "L_AS" in printed
    assert {path.name for path in out.iterdir()} == {
        "test_top_classes_channel_weighted.png", "test_overlap.json", "test_selectivity.png",
        "test_selectivity.json",
    }  # fmt: skip
    code, _, err = call(*given)
    assert code == 2 and "--compare needs --analyse KIND, --attention or --localisation" in err


def test_a_net_with_published_weights_is_compared_by_its_name():
    ctx = [mx.cpu()]
    main = load.from_zoo("hoga_resnet20_w8_cifar10", None, ctx, pretrained=True)
    models, runs = analysis.load_models(main, None, ["resnet20_w8_cifar10"], ctx)
    assert list(models) == ["resnet20_w8_cifar10", "hoga_resnet20_w8_cifar10"] and not runs
    assert models["resnet20_w8_cifar10"].extra["params"] == "pretrained"
    with pytest.raises(FileNotFoundError, match="resnet20_w9 is no folder"):
        analysis.load_models(main, None, ["resnet20_w9"], ctx)


@pytest.mark.parametrize("call, message", [
    (lambda: analysis.parse_kind("atention"),
     "unknown kind of analysis 'atention'; did you mean 'attention'"),
    (lambda: analysis.parse_kind("attention:cam"), "unknown map of 'attention' 'cam'"),
    (lambda: analysis.parse_kind("tsne:x"), "'x' is no int"),
    (lambda: analysis.parse_kind("gates:3"), "gates takes nothing behind a colon"),
    (lambda: analysis_features.embed(np.zeros((3, 70))), "t-SNE needs 4 or more"),
    (lambda: curves.critique_curves([], {}, {}, "a.png"), "0 epochs"),
    (lambda: distribution.class_colours(21), "at most 20 can be told apart"),
    (lambda: heatmaps.map_pairs({"a": []}, ["x", "y"], "a.png"), "every net needs 2"),
    (lambda: distribution.selectivity_distributions({"a": {"b": [2.0]}}, "a.png"),
     r"must be \(C,\) in \[0, 1\]"),
])  # fmt: skip
def test_what_cannot_be_shown_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_nets_and_data_do_not_have(single, several, pair, settings):
    plain = {"plain": pair["plain"]}
    for data, kind, message in (
        (several, "overlap", "has 10 classes .* not the 3 of the data"),
        (single, "gates", "none of the nets has a channel gate"),
        (single, "tsne:9", "'stage9': cifar_resnet20_cifar10 has stage1, stage2"),
    ):
        with pytest.raises(ValueError, match=message):
            analysis.analyse(plain, data, [kind], settings)
