"""Analyses of trained nets: their numbers agree with the nets, figures show what they should."""

from __future__ import annotations

import json
import runpy
import sys
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
from gluon_attn.core.files import save_parameters
from gluon_attn.data import open_dataset
from gluon_attn.figures import canvas, curves, distribution, heatmaps
from gluon_attn.metrics.overlap import attention_iou
from gluon_attn.papers.icasc.attention import attention_separation, grad_cam, soft_mask
from gluon_attn.task import Trained
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


def readable(path):
    return cv2.imread(str(path)) is not None


def everything(dataset, net):
    """All images as the net takes them, all labels, and the net's logits."""
    seen = analysis_maps.open_samples(net, dataset, range(len(dataset)), mx.cpu())
    outputs = net.net(seen.image)
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
    run = analysis_maps.score_pass(net, seen.image[:3])
    np.testing.assert_allclose(run.logits.asnumpy(), logits[:3].asnumpy(), rtol=1e-4, atol=1e-5)
    found = analysis_maps.class_maps(run, [1, 4, 7], "grad_cam")
    for n, column in enumerate((1, 4, 7)):
        expected = finite_difference_map(net.net, seen.image[n : n + 1], column)
        np.testing.assert_allclose(found[n], expected, rtol=1e-3, atol=1e-5 * expected.max())


def test_overlap_is_that_of_the_two_maps(single, pair, settings):
    net = pair["plain"]
    seen, logits = everything(single, net)
    target = seen.label.argmax(axis=1)
    others = np.where(seen.label == 1, -np.inf, logits.asnumpy())
    view = analysis_features.stage_view(net.net)
    features = view.run({"data": seen.image})["stage3"]
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
    tail = analysis_maps.score_pass(net, seen.image[:4])
    found = view.run({"data": seen.image[:4]})
    np.testing.assert_allclose(
        found["stage3"].asnumpy(), tail.inner.asnumpy(), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(found["stage4"].asnumpy(), tail.last.asnumpy(), rtol=1e-4, atol=1e-4)


def test_selectivity_does_not_hang_on_the_batch_size(single, pair, settings):
    one = analysis_features.analyse_selectivity(pair, single, settings)
    other = analysis_features.analyse_selectivity(pair, single, settings._replace(batch_size=7))
    assert list(one[2]["SE"]) == ["stage1", "stage2", "stage3"]
    for stage in one[2]["SE"]:
        a, b = (found[2]["SE"][stage]["mean"] for found in (one, other))
        assert 0 < a < 1 and a == pytest.approx(b, rel=1e-4)


def test_tsne_separates_what_is_apart():
    rng = np.random.default_rng(0)
    targets = np.arange(60) % 3
    features = rng.normal(0, 0.1, (60, 70)) + 5 * np.eye(70)[targets]
    points = analysis_features.embed(features)
    assert points.shape == (60, 2)
    assert analysis_features._purity(points, targets) == 1
    np.testing.assert_array_equal(points, analysis_features.embed(features), "same seed")
    with pytest.raises(ValueError, match="t-SNE needs 4 or more"):
        analysis_features.embed(features[:3])


def test_samples_show_different_classes(single, several):
    chosen = analysis_maps.varied_samples(single, 8)
    assert len(set(chosen)) == 8
    assert len({int(np.asarray(single.label[i]).argmax()) for i in chosen}) == 8
    assert chosen == analysis_maps.varied_samples(single, 8)
    assert len(analysis_maps.varied_samples(several, 1000)) == len(several)


# -- figures ---------------------------------------------------------------------------------------


def test_every_kind_for_a_pair_of_nets(single, pair, settings, drawn):
    kinds = ["attention:grad_cam", "overlap:0.7", "selectivity", "tsne:2", "gradcam", "gates"]
    settings = settings._replace(samples=[3, 1])
    done = analysis.analyse(pair, single, kinds, settings)
    assert list(done) == ["attention", "overlap", "selectivity", "tsne", "gradcam", "gates"]
    files = [Path(path) for found in done.values() for path in found.files]
    assert all(path.name.startswith("test_") for path in files)
    for path in files:
        if path.suffix == ".png":
            assert readable(path)
        else:
            assert json.loads(path.read_text())
    assert sorted(p.name for p in Path(settings.out).iterdir()) == sorted(p.name for p in files)
    shown = [texts(figure) for figure in drawn]
    assert len(shown) == 6
    for words in shown:
        assert {"plain", "SE"} <= set(words) or "stage1 unit0 channel" in words
    assert done["overlap"].values["SE"]["grad_cam"]["last"]["threshold"] == 0.7
    assert list(done["gates"].values) == ["SE"], "the plain net has no gate"
    json.dumps({kind: found.values for kind, found in done.items()})


def frames(figure):
    """Titles of the pictures with a red frame."""
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
    assert all(readable(p) for found in done.values() for p in found.files if p.endswith(".png"))


def test_critique_curves_show_what_the_log_says(tmp_path, drawn, settings):
    modules = [f"stage{s}_unit{k}" for s in (1, 2) for k in range(1 + s)]
    records = [
        {"epoch": e, **{key: {m: (None if e == 1 and m == modules[0] else e + 0.1 * i)
                              for i, m in enumerate(modules)}
                        for key in analysis_features.CRITIC}}
        for e in range(3)
    ]  # fmt: skip
    run = tmp_path / "run"
    run.mkdir()
    lines = [json.dumps(record) for record in records] + ['{"epoch": 3, "crit']
    (run / "log.jsonl").write_text("\n".join(lines))
    (tmp_path / "out").mkdir()
    given = settings._replace(runs={"DREAL": str(run)})
    text, files, values = analysis_features.analyse_critic({}, None, given)
    assert "stage2_unit2" in text and readable(files[0])
    assert values["DREAL"]["reward"]["stage1_unit0"] == [0, None, 2]
    panels = [axes for axes in drawn[0].axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == [m.replace("_", " ") for m in modules]
    reward = panels[1].lines[0].get_ydata()
    np.testing.assert_allclose(reward, [0.1, 1.1, 2.1])

    (run / "log.jsonl").write_text('{"epoch": 0, "loss": 1}\n')
    with pytest.raises(ValueError, match="only runs of method=dreal do"):
        analysis_features.analyse_critic({}, None, given)
    with pytest.raises(ValueError, match="needs a training run"):
        analysis_features.analyse_critic({}, None, settings)
    with pytest.raises(FileNotFoundError, match="no training log"):
        analysis_features.read_critic(str(tmp_path))


def test_many_modules_take_several_lines(tmp_path, drawn):
    names = ["stage1_unit0"] + [f"stage3_unit{k}" for k in range(23)]
    assert list(map(len, canvas.stage_lines(names, curves.PER_ROW, even=True))) == [1, 8, 8, 7]
    gates = {f"stage3_unit{k}": (np.zeros(4), np.zeros(4), 0.0) for k in range(7)}
    distribution.channel_attention({"a": gates, "b": gates}, tmp_path / "b.png")
    assert len([axes for axes in drawn[0].axes if axes.get_visible()]) == 14


def test_gradients_as_pictures():
    gradient = np.zeros((3, 10, 10))
    assert (heatmaps.gradient_image(gradient) == 128).all()
    gradient[0, 2, 3], gradient[1, 4, 5] = 1, -1
    picture = heatmaps.gradient_image(gradient, 100)
    assert picture[2, 3].tolist() == [255, 128, 128] and picture[4, 5].tolist() == [128, 0, 128]


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, message",
    [
        ("atention", "unknown kind of analysis 'atention'; did you mean 'attention'"),
        ("attention:cam", "unknown map of 'attention' 'cam'"),
        ("tsne:x", "'x' is no int"),
        ("gates:3", "gates takes nothing behind a colon"),
    ],
)
def test_unknown_kinds(kind, message):
    with pytest.raises(ValueError, match=message):
        analysis.parse_kind(kind)


def test_what_is_not_there(single, several, pair, settings):
    plain = {"plain": pair["plain"]}
    with pytest.raises(ValueError, match="has 10 classes .* not the 3 of the data"):
        analysis.analyse(plain, several, ["overlap"], settings)
    with pytest.raises(ValueError, match="none of the nets has a channel gate"):
        analysis.analyse(plain, single, ["gates"], settings)
    with pytest.raises(ValueError, match="'stage9': cifar_resnet20_cifar10 has stage1, stage2"):
        analysis.analyse(plain, single, ["tsne:9"], settings)
    with pytest.raises(ValueError, match="0 epochs"):
        curves.critique_curves([], {}, {}, "a.png")
    with pytest.raises(ValueError, match="at most 20 can be told apart"):
        distribution.class_colours(21)
    with pytest.raises(ValueError, match="every net needs 2"):
        heatmaps.map_pairs({"a": []}, ["x", "y"], "a.png")
    with pytest.raises(ValueError, match=r"must be \(C,\) in \[0, 1\]"):
        distribution.selectivity_distributions({"a": {"b": [2.0]}}, "a.png")


# -- the tool --------------------------------------------------------------------------------------


def test_the_tool(several, repository, tmp_path, monkeypatch, capsys):
    net = get_model("se_resnet20_cifar10", classes=3)
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, 32, 32)))
    weights = str(tmp_path / "net.params")
    save_parameters(net, weights)
    argv = ["evaluate.py", "--model", "se_resnet20_cifar10", "--params", weights, "--data-dir",
            str(several.root), "--names", str(several.root / "names.txt"), "-j", "0",
            "--mean", "0.5", "--std", "0.25", "--resize", "32x32",
            "--out", str(tmp_path / "out")]  # fmt: skip
    tool = str(repository / "tools" / "evaluate.py")

    def run(*more):
        monkeypatch.setattr(sys, "argv", argv + list(more))
        with pytest.raises(SystemExit) as end:
            runpy.run_path(tool, run_name="__main__")
        return end.value.code

    pair = f"se_resnet20_cifar10={weights}"
    assert not run("--attention", "--analyse", "overlap", "selectivity", "--compare", pair)
    printed = capsys.readouterr().out
    assert "se_resnet20_cifar10 (2)" in printed and "L_AS" in printed
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"test_top_classes_channel_weighted.png", "test_overlap.json",
                       "test_selectivity.png", "test_selectivity.json"}  # fmt: skip
    assert run("--compare", pair) == 2
    assert "--compare needs --analyse KIND or --attention" in capsys.readouterr().err
