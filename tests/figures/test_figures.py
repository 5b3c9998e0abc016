"""Figures: numbers in them are right, files are whole, nothing outside them changes."""

from __future__ import annotations

import json
import logging
import os
import unicodedata

import cv2
import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager
from process_helpers import run_python

from gluon_attn.figures import bars, canvas, curves, detections, distribution, genotype, heatmaps
from gluon_attn.metrics.multilabel import average_precision, evaluate_multilabel

NAMES = ["Male", "Hat", "mask", "jeans"]


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 4)) < (0.5, 0.3, 0, 0.2)).astype(int)  # the third has no positive
    mask = (rng.random((60, 4)) < 0.9).astype(int)
    probs = rng.normal(labels * 0.4 + 0.3, 0.2).clip(0, 1).round(1)
    return probs, labels, mask


@pytest.fixture
def drawn(monkeypatch):
    """The figures saved while the test runs."""
    figures = []
    save = canvas.save

    def keep(figure, path):
        figures.append(figure)
        return save(figure, path)

    for module in (bars, curves, heatmaps):
        monkeypatch.setattr(module, "save", keep)
    return figures


def texts(figure):
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def size(path):
    """Return width and height of an image, which must decode."""
    height, width, _ = cv2.imread(str(path)).shape
    return width, height


def test_differences_are_coloured_by_what_their_interval_says(drawn, tmp_path):
    found = {"up": ([1.0, 1.2], (0.9, 1.4)), "down": ([-1.0, -1.2], (-1.4, -0.9)),
             "unsure": ([-1.0, 1.2], (-2.0, 2.4))}  # fmt: skip
    assert size(bars.differences(found, "points", tmp_path / "d.png"))[0] > 300
    (axes,) = drawn[0].axes
    lines = {line.get_ydata()[0]: line for line in axes.lines if line.get_linewidth() == 1.6}
    assert [t.get_text() for t in axes.get_yticklabels()] == list(found)
    assert [tuple(lines[row].get_xdata()) for row in range(3)] == [e for _, e in found.values()]
    inks = [lines[row].get_color() for row in range(3)]
    assert inks == [canvas.colour(0), canvas.colour(3), "#777777"]
    with pytest.raises(ValueError, match="no differences"):
        bars.differences({}, "points", tmp_path / "bad.png")


class TestPrecisionRecall:
    def test_ap_in_the_figure_is_the_metrics_ap(self, case, drawn, tmp_path):
        probs, labels, mask = case
        models = {"plain": probs, "VAA": (probs + labels) / 2}
        path = curves.pr_curves(models, labels, mask, NAMES, path=tmp_path / "pr.png")
        assert min(size(path)) > 300
        shown = texts(drawn[0])
        for a in (0, 1, 3):
            for model in models.values():
                ap = average_precision(model[:, a], labels[:, a], mask[:, a])
                assert f"{100 * ap:.1f}" in shown
        assert "no positive" in shown and set(NAMES) | {"plain", "VAA"} <= set(shown)

    def test_area_under_the_strong_line_is_the_ap(self, case, drawn, tmp_path):
        probs, labels, mask = case
        curves.pr_curves(probs, labels, mask, NAMES, path=tmp_path / "pr.png")
        line = max(drawn[0].axes[1].lines, key=lambda line: line.get_linewidth())
        recall, precision = line.get_data()
        area = -np.diff(recall) @ precision[:-1]
        expected = average_precision(probs[:, 1], labels[:, 1], mask[:, 1])
        assert area == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("count", [1, 14])
    def test_any_number_of_attributes(self, count, tmp_path):
        rng = np.random.default_rng(0)
        names = [f"attribute{a}" for a in range(count)]
        probs = rng.random((10, count))
        path = curves.pr_curves(probs, probs > 0.6, None, names, path=tmp_path / "pr.png")
        assert min(size(path)) > 250

    def test_errors(self, case, tmp_path):
        probs, labels, mask = case
        path = tmp_path / "pr.png"
        with pytest.raises(ValueError, match="'VAA'.*(60, 4)"):
            curves.pr_curves({"VAA": probs[:5]}, labels, mask, NAMES, path=path)
        with pytest.raises(ValueError, match="3.*names"):
            curves.pr_curves(probs, labels, mask, NAMES[:3], path=path)
        with pytest.raises(ValueError, match="no model"):
            curves.pr_curves({}, labels, mask, NAMES, path=path)
        probs[int(np.argmax(mask[:, 1])), 1] = np.nan
        with pytest.raises(ValueError, match="Hat is not finite"):
            curves.pr_curves(probs, labels, mask, NAMES, path=path)
        assert not list(tmp_path.iterdir())


class TestTrainingCurves:
    RECORDS = [
        {"epoch": e, "phase": "attention" if e < 2 else "joint", "loss": 2.0 - 0.1 * e,
         "loss_stage3": None if e < 2 else 0.5, "val_mAP": 0.5 + 0.05 * e,
         "lr": 1e-3 if e < 3 else 1e-4}
        for e in range(6)
    ]  # fmt: skip

    def write(self, path, lines):
        path.write_text("".join(lines), encoding="utf-8")
        return path

    def test_what_is_drawn(self, drawn, tmp_path):
        lines = [json.dumps(record) + "\n" for record in self.RECORDS]
        log = self.write(tmp_path / "log.jsonl", lines)
        path = curves.training_curves(log, tmp_path / "out" / "curves.png")
        assert size(path)[0] > 2 * size(path)[1]
        loss, validation, rate = drawn[0].axes
        total, stage3 = loss.lines
        np.testing.assert_allclose(total.get_ydata(), [r["loss"] for r in self.RECORDS])
        assert np.isnan(stage3.get_ydata()[:2]).all() and stage3.get_label() == "stage3"
        np.testing.assert_allclose(validation.lines[-1].get_ydata(), 50 + 5 * np.arange(6))
        assert rate.get_yscale() == "log"
        assert "mAP, best 75.0" in texts(drawn[0]) and " joint" in texts(drawn[0])

    def test_repeated_epoch_counts_once_with_its_last_record(self, drawn, tmp_path):
        again = [*self.RECORDS, {"epoch": 2, "loss": 9.0}, {"note": "no epoch"}]
        curves.training_curves(again, tmp_path / "a.png")
        np.testing.assert_allclose(drawn[0].axes[0].lines[0].get_ydata()[2], 9)
        assert len(drawn[0].axes[0].lines[0].get_ydata()) == 6

    def test_several_runs_and_single_epochs(self, drawn, tmp_path):
        runs = {"plain": self.RECORDS[:1], "VAA": self.RECORDS}
        assert curves.training_curves(runs, tmp_path / "a.png").exists()
        assert {"plain", "VAA", "plain loss", "VAA stage3"} <= set(texts(drawn[0]))

    def test_bad_line_is_named_but_a_cut_off_last_one_is_skipped(self, tmp_path, caplog):
        good = json.dumps(self.RECORDS[0]) + "\n"
        log = self.write(tmp_path / "cut.jsonl", [good, good[:20]])
        with caplog.at_level(logging.WARNING):
            curves.training_curves(log, tmp_path / "a.png")
        assert "line 2" in caplog.text
        for lines in ([good, "{oops\n", good], [good, "[1]\n"]):
            log = self.write(tmp_path / "bad.jsonl", lines)
            with pytest.raises(ValueError, match="bad.jsonl, line 2"):
                curves.training_curves(log, tmp_path / "b.png")

    def test_nothing_to_draw(self, tmp_path):
        for records in ([], [{"loss": 1.0}], [{"epoch": 1, "seconds": 3}]):
            with pytest.raises(ValueError, match="nothing to draw"):
                curves.training_curves(records, tmp_path / "a.png")
        with pytest.raises(FileNotFoundError):
            curves.training_curves(tmp_path / "none.jsonl", tmp_path / "a.png")


class TestBars:
    def test_heights_are_the_results(self, case, drawn, tmp_path):
        result = evaluate_multilabel(*case, NAMES)
        path = bars.attribute_bars({"plain": result, "VAA": [result] * 2}, tmp_path / "bars.png")
        assert size(path)[0] > size(path)[1]
        heights = [patch.get_height() for patch in drawn[0].axes[0].patches][:5]
        expected = [row["ap"] for row in result["attributes"]] + [result["overall"]["mAP"]]
        np.testing.assert_allclose(heights, 100 * np.nan_to_num(expected))
        assert "-" in texts(drawn[0]) and "mask\n0 %" in texts(drawn[0])

    def test_errors(self, case, tmp_path):
        result = evaluate_multilabel(*case, NAMES)
        with pytest.raises(ValueError, match="'auc'.*ap_sklearn"):
            bars.attribute_bars({"a": result}, tmp_path / "bars.png", "auc")
        with pytest.raises(ValueError, match="'b' differ"):
            other = evaluate_multilabel(*case, NAMES[::-1])
            bars.attribute_bars({"a": result, "b": other}, tmp_path / "bars.png")
        with pytest.raises(ValueError, match="no result"):
            bars.attribute_bars({}, tmp_path / "bars.png")


class TestOverlay:
    IMAGE = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)

    @pytest.mark.parametrize("value", [0.0, 1 / 49, -3.0, 1e30])
    def test_a_constant_map_leaves_the_image_alone(self, value):
        for dtype in (np.float32, np.float64):
            found = heatmaps.heatmap_overlay(self.IMAGE, np.full((7, 7), value, dtype))
            np.testing.assert_array_equal(found, self.IMAGE)
            assert found is not self.IMAGE

    def test_it_changes_most_where_attention_is_high(self):
        attention = np.zeros((4, 3), np.float32)
        attention[0, 0] = 0.2
        found = heatmaps.heatmap_overlay(self.IMAGE, attention)
        assert found.dtype == np.uint8 and found.shape == self.IMAGE.shape
        change = np.abs(found.astype(int) - self.IMAGE).sum(axis=2)
        assert change[:5, :5].mean() > 50 and change[25:].max() == 0  # two cells away: cubic

    def test_scale_and_offset_of_the_map_do_not_matter_unless_limits_are_given(self):
        attention = np.random.default_rng(1).random((7, 7))
        found = heatmaps.heatmap_overlay(self.IMAGE, attention)
        scaled = heatmaps.heatmap_overlay(self.IMAGE, 1e-6 * attention + 1e-6)
        assert np.abs(found.astype(int) - scaled).max() <= 1
        weak = heatmaps.heatmap_overlay(self.IMAGE, attention, limits=(0, 10))
        weak, strong = (np.abs(x.astype(int) - self.IMAGE).mean() for x in (weak, found))
        assert weak < strong / 2

    def test_few_strong_pixels_do_not_hide_the_rest_of_a_map_of_pixels(self):
        image = np.full((40, 40, 3), 128, np.uint8)
        pixels = np.zeros((40, 40))
        pixels[10:20, 10:20] = 0.1
        weak = np.abs(heatmaps.overlay(image, pixels).astype(int) - 128).sum()
        pixels[0, 0] = 10  # 100 times as strong
        assert np.abs(heatmaps.overlay(image, pixels).astype(int) - 128).sum() >= weak
        alone = np.zeros((40, 40))
        alone[5, 5] = 1  # less than that share of the pixels
        assert (heatmaps.overlay(image, alone) != image).any()
        coarse = np.zeros((7, 7))
        coarse[2, 2], coarse[5, 5] = 1, 0.1  # a coarse map keeps its own scale
        change = np.abs(heatmaps.overlay(image, coarse).astype(int) - 128).sum(axis=2)
        assert change[31, 31] < change[14, 14] / 3

    def test_strength_zero_is_the_image(self):
        attention = np.random.default_rng(1).random((14, 14))
        found = heatmaps.heatmap_overlay(self.IMAGE, attention, strength=0)
        np.testing.assert_array_equal(found, self.IMAGE)

    def test_errors(self):
        with pytest.raises(TypeError, match="uint8"):
            heatmaps.heatmap_overlay(self.IMAGE / 255, np.ones((7, 7)))
        with pytest.raises(ValueError, match="H, W, 3"):
            heatmaps.heatmap_overlay(self.IMAGE[..., 0], np.ones((7, 7)))
        with pytest.raises(ValueError, match="(1, 7, 7)"):
            heatmaps.heatmap_overlay(self.IMAGE, np.ones((1, 7, 7)))
        with pytest.raises(ValueError, match="finite"):
            heatmaps.heatmap_overlay(self.IMAGE, np.full((7, 7), np.nan))


class TestGrid:
    @pytest.fixture
    def scene(self):
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 256, (h, 48, 3), dtype=np.uint8) for h in (48, 96)]
        maps = {"stage3": rng.random((2, 4, 6, 6)), "stage4": np.full((2, 4, 3, 3), 1 / 9)}
        probs = np.array([[0.9, 0.2, 0.6, 0.1], [0.4, 0.8, 0.3, 0.2]])
        labels = np.array([[1, 1, 0, 0], [1, 0, 0, 1]])
        mask = np.array([[1, 1, 1, 1], [1, 0, 1, 1]])
        return images, maps, probs, labels, mask

    def test_titles_tell_probability_truth_and_verdict(self, scene, drawn, tmp_path):
        images, maps, probs, labels, mask = scene
        path = heatmaps.heatmap_grid(
            images, maps, NAMES, probs, labels=labels, path=tmp_path / "grid.png",
            attributes=["Male", 1], mask=mask,
        )  # fmt: skip
        assert min(size(path)) > 300
        title = {
            axes.get_title().replace("\n", " "): axes.title.get_color()
            for axes in drawn[0].axes
            if axes.get_title()
        }
        assert title == {
            "input": "black",
            "Male 0.90 ✓": canvas.RIGHT,
            "Hat 0.20 ✓": canvas.WRONG,
            "Male 0.40 ✓": canvas.WRONG,
            "Hat 0.80 ?": canvas.NEUTRAL,
        }
        assert len(drawn[0].axes) == 4 * 3  # two images, two taps; input and two attributes
        assert {"stage3", "stage4"} <= set(texts(drawn[0]))

    def test_without_truth_nothing_is_judged(self, scene, drawn, tmp_path):
        images, maps, probs, _, _ = scene
        heatmaps.heatmap_grid(
            images, maps["stage3"], NAMES, probs, labels=None, path=tmp_path / "g.png"
        )
        assert not {"✓", "✗", "?"} & set("".join(texts(drawn[0])))
        assert len(drawn[0].axes) == 2 * (1 + 4)

    def test_at_most_six_attributes_by_default_those_that_are_true(self, drawn, tmp_path):
        labels = np.array([[0, 1] * 10])
        names = [f"a{i}" for i in range(20)]
        image = np.zeros((8, 8, 3), np.uint8)
        maps = np.random.default_rng(0).random((1, 20, 2, 2))
        heatmaps.heatmap_grid(
            [image], maps, names, labels * 0.5, labels=labels, path=tmp_path / "g.png"
        )
        shown = [axes.get_title().split()[0] for axes in drawn[0].axes]
        assert shown == ["input", "a1", "a3", "a5", "a7", "a9", "a11"]

    def test_long_names_fit_their_cells(self, scene, drawn, tmp_path):
        images, maps, probs, labels, _ = scene
        names = ["upperBodyShortSleeve", "accessorySunglasses", "x", "lowerBodyShortSkirt"]
        heatmaps.heatmap_grid(images, maps, names, probs, labels=labels, path=tmp_path / "g.png")
        for axes in drawn[0].axes:
            title, cell = axes.title.get_window_extent(), axes.get_window_extent()
            column = drawn[0].get_figwidth() * drawn[0].dpi / 5
            assert title.width <= max(column, cell.width)

    def test_errors_leave_no_file(self, scene, tmp_path):
        images, maps, probs, labels, mask = scene
        path = tmp_path / "grid.png"
        with pytest.raises(ValueError, match="'ponytail'.*Male"):
            heatmaps.heatmap_grid(images, maps, NAMES, probs, labels=labels, path=path,
                                  attributes=["ponytail"])  # fmt: skip
        with pytest.raises(ValueError, match="'stage4'.*must be"):
            short = {**maps, "stage4": maps["stage4"][:, :3]}
            heatmaps.heatmap_grid(images, short, NAMES, probs, labels=labels, path=path)
        with pytest.raises(ValueError, match="no image"):
            heatmaps.heatmap_grid([], maps, NAMES, probs[:0], labels=None, path=path)
        with pytest.raises(ValueError, match="labels"):
            heatmaps.heatmap_grid(images, maps, NAMES, probs, labels=labels[:1], path=path)
        assert not list(tmp_path.iterdir())


class TestScene:
    IMAGE = np.full((120, 200, 3), 127, np.uint8)

    def test_texts_stay_in_the_image_and_apart(self, drawn, tmp_path):
        boxes = [[10, 5, 40, 100], [60, 5, 40, 100], [150, -5, 90, 140]]
        lines = [["Male", "Hat"], "jeans", ["longHair", "skirt", "logo"]]
        path = heatmaps.scene_overview(self.IMAGE, boxes, lines, tmp_path / "scene.png")
        assert size(path) == (1500, 900)
        frames = [text.get_bbox_patch().get_window_extent() for text in drawn[0].axes[0].texts]
        assert [text.get_text() for text in drawn[0].axes[0].texts] == [
            "Male\nHat",
            "jeans",
            "longHair\nskirt\nlogo",
        ]
        for i, frame in enumerate(frames):
            assert frame.x0 >= -1 and frame.y0 >= -1 and frame.x1 <= 1501 and frame.y1 <= 901
            assert not any(frame.overlaps(other) for other in frames[:i])

    def test_no_people_and_wrong_counts(self, tmp_path):
        assert heatmaps.scene_overview(self.IMAGE, [], [], tmp_path / "empty.png").exists()
        with pytest.raises(ValueError, match="1 texts for 2 boxes"):
            heatmaps.scene_overview(self.IMAGE, np.ones((2, 4)), ["a"], tmp_path / "a.png")


class TestFiles:
    def draw(self, path, epochs=3):
        records = [{"epoch": e, "loss": 1.0 / (e + 1)} for e in range(epochs)]
        return curves.training_curves(records, path)

    @pytest.mark.parametrize("suffix", ["png", "jpg", "pdf", "svg"])
    def test_suffix_decides_and_no_temporary_file_stays(self, suffix, tmp_path):
        path = self.draw(tmp_path / f"a.{suffix}")
        head = path.read_bytes()[:8]
        start = {"png": b"\x89PNG", "jpg": b"\xff\xd8", "pdf": b"%PDF", "svg": b"<?xml"}[suffix]
        assert head.startswith(start) and os.listdir(tmp_path) == [path.name]

    def test_unknown_suffix(self, tmp_path):
        with pytest.raises(ValueError, match="a.bmpx.*png"):
            self.draw(tmp_path / "a.bmpx")

    def test_a_failure_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = self.draw(tmp_path / "a.png")
        before = path.read_bytes()

        def fail(figure, stream, **_):
            with open(stream, "wb") as file:
                file.write(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fail)
        with pytest.raises(OSError):
            self.draw(path, epochs=5)
        assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.png"]

    def test_same_input_same_bytes(self, tmp_path):
        a, b = (self.draw(tmp_path / name) for name in ("a.png", "b.png"))
        assert a.read_bytes() == b.read_bytes()

    def test_no_pyplot_no_display_no_changed_settings(self, tmp_path):
        script = """
import sys, numpy as np, matplotlib
before = matplotlib.rcParams.copy()  # dict() would ask for the backend, which loads pyplot
from gluon_attn.figures import bars, curves, heatmaps
curves.pr_curves(np.eye(2), np.eye(2), None, ["a", "b"], path=sys.argv[1] + "/a.png")
image = np.zeros((8, 8, 3), np.uint8)
heatmaps.heatmap_grid([image], np.eye(4).reshape(1, 4, 2, 2), list("abcd"), [[0.5] * 4],
                      labels=None,
                      path=sys.argv[1] + "/b.png")
assert matplotlib.rcParams.copy() == before, "settings changed"
assert "matplotlib.pyplot" not in sys.modules, "pyplot was imported"
assert "gluon_attn.metrics" not in sys.modules, "figures import metrics"
"""
        environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND")}
        code, _, err = run_python(script, tmp_path, env=environment)
        assert code == 0, err
        assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png"]


# -- texts as they are written ------------------------------------------------------------

WILD = ["$$", "$5 to $10", "_under_", "a^b %", "{x}\\$y"]
IMAGE = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
RANDOM = np.random.default_rng(1).random


def draw_all(names, folder):
    """Draw a figure of every kind with these names; yield the path of each."""
    count = len(names)
    labels, probs = RANDOM((9, count)) < 0.5, RANDOM((9, count))
    maps, result = RANDOM((1, count, 3, 3)), evaluate_multilabel(probs, labels, None, names)
    pair = names[1:3]
    records = [{"epoch": e, "loss": 1.0, "val_mAP": 0.5, "lr": 0.1**e} for e in range(3)]
    yield curves.pr_curves({n: probs for n in names}, labels, None, names, path=folder / "pr.png")
    yield curves.training_curves({n: records for n in names}, folder / "training.png")
    yield bars.attribute_bars({n: result for n in names}, folder / "bars.png")
    yield heatmaps.heatmap_grid([IMAGE], {n: maps for n in pair}, names, probs[:1],
                                labels=labels[:1], path=folder / "grid.png")  # fmt: skip
    yield heatmaps.scene_overview(IMAGE, [[2, 2, 9, 9]] * 2, [names, names[0]], folder / "s.png")
    yield curves.weight_curves(names, [1, 2], maps[0, :, :2, 0].T, maps[0, :, :2, 1].T,
                               path=folder / "weights.png")  # fmt: skip
    yield distribution.embeddings({n: RANDOM((6, 2)) for n in pair}, [0, 1, 2, 3, 4, 0], names,
                               folder / "embedding.png")  # fmt: skip
    yield distribution.selectivity_distributions({n: {m: RANDOM(4) for m in pair} for n in names},
                                                 folder / "selectivity.png")  # fmt: skip
    found = [(name, 0.5, maps[0, k], k == 0) for k, name in enumerate(names)]
    yield heatmaps.top_class_grid({n: [(IMAGE, found)] for n in pair}, [names[1]],
                                        folder / "top.png")  # fmt: skip
    yield heatmaps.map_pairs({n: [(IMAGE, maps[0, 0])] for n in pair}, [names[1]],
                                   folder / "pairs.png")  # fmt: skip
    yield heatmaps.side_by_side([IMAGE], [names[1]], {n: {n: [IMAGE]} for n in pair},
                                      folder / "side.png")  # fmt: skip
    yield bars.arms_by_seed({n: [1.0, 2.0] for n in names}, names[1], folder / "arms.png")
    yield curves.bands({n: RANDOM((2, 3)) for n in names}, names[1], folder / "bands.png")
    rows, path = {n: RANDOM((2, 3)) for n in names}, folder / "places.png"
    yield curves.bands(rows, names[1], path, [0, 10, 40], names[0])
    row = {"precision": "fp32", "batch": 1, "images_per_s": 2.0, "spread": (1, 3),
           "ratio_to_mxnet": 1.0}  # fmt: skip
    yield bars.speed_bars([dict(row, engine=n) for n in names], folder / "speed.png", names[1])
    yield genotype.draw_genotype([("none", 0)] * 10, folder / "genotype.png", names[1])


@pytest.mark.filterwarnings("error")
def test_names_are_drawn_as_they_are_written(tmp_path, monkeypatch):
    figures, draw = [], canvas.LiteralFigure.draw

    def keep(figure, renderer):
        figures.append(figure)
        return draw(figure, renderer)

    monkeypatch.setattr(canvas.LiteralFigure, "draw", keep)
    monkeypatch.setattr(canvas, "DPI", 40)
    for path in draw_all(WILD, tmp_path):
        assert min(size(path)) > 20, path
        shown = {text.get_text() for text in figures[-1].findobj(matplotlib.text.Text)}
        asked = {WILD[1]} if path.stem == "genotype" else {WILD[1], WILD[2]}
        for name in asked:
            assert any(name in " ".join(text.split()) for text in shown), (path, name, shown)
        assert not any(t.get_parse_math() for t in figures[-1].findobj(matplotlib.text.Text)), path


@pytest.fixture
def characters():
    """A character that no font has, and one that another font than matplotlib's default has."""
    file = font_manager.findfont("DejaVu Sans")
    own = set(font_manager.get_font(file).get_charmap())
    other = set(font_manager.get_font(font_manager.findfont("STIXGeneral")).get_charmap()) - own
    letters = (chr(c) for c in sorted(other) if unicodedata.category(chr(c)) in ("So", "Lo", "Lu"))
    return "\U0010fffd", next(letters)


@pytest.mark.filterwarnings("error")
def test_another_font_helps_out_and_what_none_has_is_told_once(
    tmp_path, monkeypatch, caplog, characters
):
    monkeypatch.setattr(canvas, "_warned", [])
    absent, elsewhere = characters
    families, lost = canvas.families_for(frozenset(f"a {elsewhere}"), ("sans-serif",))
    assert len(families) == 2 and not lost
    assert canvas.families_for(frozenset("aé"), ("sans-serif",)) == (("sans-serif",), frozenset())
    assert "DejaVu" not in canvas.file_for(elsewhere)
    assert canvas.file_for("hat").endswith("DejaVuSans.ttf")
    names = [f"hat {elsewhere}", f"bag {elsewhere}"]
    records = [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 0.5}]
    curves.training_curves({name: records for name in names}, tmp_path / "a.png")
    assert not caplog.records
    names.append(f"coat {absent}")
    curves.training_curves({name: records for name in names}, tmp_path / "a.png")
    heatmaps.scene_overview(IMAGE, [[2, 2, 9, 9]], [[names[-1]]], tmp_path / "b.png")
    detections.draw_boxes(IMAGE, [[2, 2, 9, 9]], [0], [0.5], class_names=[names[-1]])
    (record,) = caplog.records
    text = record.getMessage()
    assert f"No installed font has the characters {absent}: " in text and "font.family" in text


def test_class_names_are_written_into_images_in_any_script(characters):
    image = np.zeros((120, 300, 3), np.uint8)
    plates = []
    for name in (characters[1], "x", "a name much longer than this image is wide, by far"):
        drawn = detections.draw_boxes(image, [[20, 60, 80, 100]], [0], class_names=[name])
        plates.append(drawn[40:60, 20:100])
        assert (drawn.min(2) > 120).sum() > 5, "white strokes"
    assert not np.array_equal(plates[0], plates[1])
    detections.draw_boxes(
        image[:8, :6], [[0, 0, 5, 5]], [0], [0.5], class_names=["hat"]
    )  # plate is larger
