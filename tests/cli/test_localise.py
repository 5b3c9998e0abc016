"""Maps against masks: the pass over the data, what is compared with what, files, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import pytest
from clothing_helpers import write_parsing
from mxnet import autograd

from gluon_attn.cli import analysis, evaluate, localisation, maps
from gluon_attn.cli.maps import GUIDED, Explained
from gluon_attn.core.files import save_parameters
from gluon_attn.data import EvalTransform
from gluon_attn.data import clothing as ccp
from gluon_attn.data.base import AttributeDataset
from gluon_attn.data.views import ChosenAttributes
from gluon_attn.figures import canvas, curves
from gluon_attn.metrics import localisation as metrics
from gluon_attn.task import Trained
from model_zoo import get_model

NAMES = ("a", "b", "c")
PREPROCESS = {"resize": 48, "crop": 40, "size": 32, "mean": (120,) * 3, "std": (64,) * 3}


class Marks(AttributeDataset):
    """Images with a bright rectangle per attribute that they have; masks at half the size.

    Every third image has none, and attribute c is unspecified in image 1.
    """

    def __init__(self, count=8, shape=(60, 44)):
        rng = np.random.default_rng(3)
        raw = np.where(rng.random((count, 3)) < 0.6, 1, -1)
        raw[1] = [1, 1, 0]
        self.regions_of = np.zeros((count, 3, *(side // 2 for side in shape)), bool)
        for i, a in zip(*np.nonzero(raw == 1)):
            y, x = (rng.integers(4, side // 2 - 12) for side in shape)
            self.regions_of[i, a, y : y + 8, x : x + 6] = True
        super().__init__(NAMES, "test", raw, map(str, range(count)))
        self.with_regions = [i for i in range(count) if i % 3]

    def read(self, i):
        marked = self.regions_of[i].any(0).repeat(2, 0).repeat(2, 1)
        return np.where(marked[..., None], 250, 20).astype(np.uint8).repeat(3, 2)

    def regions(self, i):
        return self.regions_of[i]


def vaa(dataset, seed=0, **options):
    options = {"classes": len(dataset.names), "input_size": 32, "width": 8, **options}
    net = get_model("vaa_resnet18_w16_synthetic", **options)
    mx.random.seed(seed)
    net.initialize(mx.init.Xavier(magnitude=3))
    with autograd.train_mode():
        net(mx.nd.random.normal(0, 1, shape=(8, 3, 32, 32)))
    return Trained("VAA", net, tuple(dataset.names), PREPROCESS, {})


@pytest.fixture(scope="module")
def marks():
    return Marks()


@pytest.fixture(scope="module")
def trained(marks):
    return vaa(marks)


def settings(tmp_path, batch_size=4):
    return analysis.Settings(str(tmp_path), "test", mx.cpu(), batch_size, 0)


@pytest.mark.parametrize(
    "preprocess",
    [
        {"resize": 48, "crop": None, "size": 32},
        {"resize": 64, "crop": 48, "size": 48},
        {"resize": 40, "crop": 40, "size": 40, "keep_aspect": True},
        {"resize": 48, "crop": None, "size": 40, "keep_aspect": True},
    ],
)
def test_a_mask_goes_where_its_mark_goes(marks, trained, preprocess):
    own, centres = trained._replace(preprocess={**preprocess, "mean": (200,) * 3}), []
    transform = EvalTransform(**preprocess, mean=(0,) * 3, std=(1,) * 3)
    for i in range(len(marks)):
        for a, mask in localisation.seen_regions(own, marks, i, np.ones(3)):
            mark = 255 * marks.regions(i)[a].repeat(2, 0).repeat(2, 1).astype(np.uint8)
            bright = transform(np.stack([mark] * 3, 2))[0] > 127
            assert mask.sum() == pytest.approx(bright.sum(), rel=0.25, abs=6)
            centres.append([np.argwhere(m).mean(0) for m in (mask, bright) if m.sum() > 40])
    moved = np.array([pair for pair in centres if len(pair) == 2])
    assert len(moved) > 5 and moved[:, 1].std(0).min() > 2, "the mark moves"
    np.testing.assert_allclose(moved[:, 0], moved[:, 1], atol=0.5)


def test_every_image_with_masks_is_measured_once_and_with_its_own_map(marks, trained, tmp_path):
    found = localisation.localise({"VAA": trained}, marks, settings(tmp_path))
    expected = (marks.label * marks.mask)[marks.with_regions] == 1
    assert found.present.sum() > 5 and not (found.present & ~expected).any()
    assert not found.present[marks.with_regions.index(1), 2], "unspecified"
    explained, transform = Explained(trained.net, mx.cpu()), EvalTransform(**PREPROCESS)
    for n, a in np.argwhere(found.present):
        i = marks.with_regions[n]
        mask = cv2.resize(marks.regions(i)[a] * 255.0, (48, 48), interpolation=cv2.INTER_LINEAR)
        mask = cv2.resize(mask[4:44, 4:44], (32, 32), interpolation=cv2.INTER_AREA) >= 127.5
        look = explained.look(mx.nd.array(transform(marks.read(i))[None]))
        for kind in explained.kinds:
            (values,) = look.maps(kind, [a])
            title = localisation.title_of(kind)
            np.testing.assert_allclose(
                found.scores[title][n, a], metrics.measure(values, mask)[0], atol=0.05,
                err_msg=f"{title}, image {i}, attribute {a}",
            )  # fmt: skip
        for (
            kind
        ) in explained.own:  # the attributes after this one, one image the first, one the second
            (values,) = look.maps(kind, [(a + 1 + n % 2) % 3])
            title = localisation.title_of(kind) + localisation.ANOTHER
            wanted = metrics.measure(values, mask)[0]
            np.testing.assert_allclose(found.scores[title][n, a], wanted, atol=0.05)
    one = localisation.localise({"VAA": trained}, marks, settings(tmp_path, 1))
    for kind, values in found.scores.items():
        np.testing.assert_allclose(values, one.scores[kind], rtol=1e-3, atol=1e-4, err_msg=kind)


def test_maps_of_a_net(trained, monkeypatch):
    look = Explained(trained.net, mx.cpu()).look(mx.nd.random.normal(shape=(3, 3, 32, 32)))
    assert look.explained.own == tuple(trained.net.attention_outputs)
    own = look.explained.own[0]
    np.testing.assert_array_equal(look.maps(own, [2, 0, 1])[1], look.attention[own][1, 0])
    gradient = look.gradient([2, 0, 1])
    np.testing.assert_array_equal(look.maps(GUIDED, [2, 0, 1]), np.abs(gradient).max(1))
    monkeypatch.setattr(maps, "GUIDED_ROWS", 2)
    few = look.gradient([2, -1, 1])
    np.testing.assert_allclose(few[[0, 2]], gradient[[0, 2]], rtol=1e-4, atol=1e-5)
    assert not few[1].any()


def test_two_nets_and_one_attribute_less(marks, tmp_path):
    dataset = ChosenAttributes(marks, ["a", "c"])
    assert list(dataset.with_regions) == marks.with_regions
    np.testing.assert_array_equal(dataset.regions(2), marks.regions(2)[[0, 2]])
    plain = get_model("resnet18_w16_synthetic", classes=2, input_size=32, width=8)
    plain.initialize(mx.init.Xavier())
    plain(mx.nd.zeros((1, 3, 32, 32)))
    models = {"plain": Trained("x", plain, ("a", "c"), PREPROCESS, {}), "VAA": vaa(dataset)}
    done = analysis.analyse(models, dataset, ["localisation"], settings(tmp_path))["localisation"]
    kinds = list(done.values["maps"])
    assert sum(kind.endswith(localisation.ANOTHER) for kind in kinds) == 2
    own = [f"plain: {title}" for title in maps.TITLES.values()]
    assert kinds[:4] == [*own, "VAA: attention stage3 activation1"]
    assert kinds[-2:] == list(metrics.BASELINES)
    assert all(cv2.imread(path) is not None for path in done.files if path.endswith("png"))


def test_the_command_on_a_miniature(tmp_path, capsys):
    write_parsing(tmp_path / "ccp")
    (tmp_path / "names.txt").write_text("\n".join(ccp.ATTRIBUTES))
    model = "vaa_resnet18_w16_synthetic"
    net = get_model(model, classes=len(ccp.ATTRIBUTES))
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, *net.input_size)))
    save_parameters(net, str(tmp_path / "net.params"))
    evaluate.main([
        "--model", model, "--params", str(tmp_path / "net.params"), "--names",
        str(tmp_path / "names.txt"), "--data-dir", str(tmp_path / "ccp"), "--dataset",
        "clothing_co_parsing", "--split", "val", "-j", "0", "--out", str(tmp_path / "out"),
        "--localisation", "--mean", "127.5", "--std", "64", "--resize", "128", "--crop", "112",
    ])  # fmt: skip
    printed = capsys.readouterr().out
    assert "minus centre Gaussian" in printed and "Grad-CAM" in printed
    names = {path.name for path in (tmp_path / "out").iterdir()}
    stem = "val_localisation"
    assert names == {f"{stem}.{kind}" for kind in ("txt", "md", "csv", "json", "png")} | {
        f"{stem}_maps.png"
    }
    result = json.loads(Path(tmp_path / "out" / f"{stem}.json").read_text())
    assert result["images"] == 3 and sum(result["attributes"].values()) == 3
    for of in result["maps"].values():
        assert 0 <= of["measures"]["energy"][metrics.MEAN]["mean"] <= 1


@pytest.fixture
def figures(monkeypatch):
    """The figures of curves that the test would have saved."""
    found = []
    monkeypatch.setattr(curves, "save", lambda figure, path: found.append(figure) or path)
    return found


def test_the_curves_are_the_values(tmp_path, figures):
    values = {"Grad-CAM": [0.5, 0.25], "centre Gaussian": [0.2, 0.1], "uniform": [0.1, 0.1]}
    curves.iou_curves([0.25, 0.75], values, tmp_path / "a.png")
    lines = figures[0].axes[0].lines
    for line, expected in zip(lines, values.values()):
        assert line.get_xydata().tolist() == [[0.25, expected[0]], [0.75, expected[1]]]
    assert [line.get_color() == canvas.NEUTRAL for line in lines] == [False, True, True]
    assert lines[1].get_linestyle() != lines[2].get_linestyle()
    named = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert named == ["Grad-CAM: 37.5", "centre Gaussian: 15.0", "uniform: 10.0"]


def test_long_names_leave_the_curves_their_room(tmp_path, figures):
    kinds = [f"vaa_resnet18_w16_clothing: attention of another attribute {k}" for k in range(12)]
    curves.iou_curves([0.25, 0.75], dict.fromkeys(kinds, [0.5, 0.2]), tmp_path / "a.png")
    figures[0].draw_without_rendering()
    place = figures[0].axes[0].get_position()
    assert place.width > 0.8 and place.height > 0.4


def test_data_without_masks_are_refused(marks, trained, tmp_path):
    class Plain(Marks):
        regions = AttributeDataset.regions

    dataset = Plain()
    dataset.with_regions = []
    told = "split 'test' has no image with masks .* have some: clothing_co_parsing$"
    with pytest.raises(ValueError, match=told):
        analysis.analyse({"VAA": trained}, dataset, ["localisation"], settings(tmp_path))
    empty = Marks()
    empty.regions_of[:] = False
    with pytest.raises(ValueError, match="sees no masked attribute in split 'test'"):
        analysis.analyse({"VAA": trained}, empty, ["localisation"], settings(tmp_path))
    with pytest.raises(ValueError, match="0 has no masks of where"):
        dataset.regions(0)
