"""Tables of multi-label results: nothing lost, nothing invented, undefined shown as such."""

from __future__ import annotations

import csv
import io
import json
import math
import os

import numpy as np
import pytest

from gluon_attn.metrics import reports
from gluon_attn.metrics.multilabel import MEASURES, evaluate_multilabel

NAMES = ["Male", "Hat", "face|Mask", "jeans"]


def result(seed=0, names=NAMES, noise=0.25, **options):
    """A result whose third attribute has no positives and whose labels are partly unspecified."""
    rng = np.random.default_rng(100)
    labels = (rng.random((80, 4)) < (0.5, 0.3, 0, 0.2)).astype(int)
    mask = rng.random((80, 4)) < 0.9
    probs = np.random.default_rng(seed).normal(labels * 0.4 + 0.3, noise).clip(0, 1)
    return evaluate_multilabel(probs, labels, mask, names, **options)


def cells(line):
    return [cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")]


class TestJson:
    def test_it_is_strict_json_with_null(self):
        content = json.loads(reports.MULTILABEL.json(result()), parse_constant=pytest.fail)
        row = content["attributes"][2]
        assert row["name"] == "face|Mask" and row["ap"] is None and row["ma"] is None
        assert content["overall"]["mAP"] == result()["overall"]["mAP"]
        assert content["undefined"]["ap"] == ["face|Mask"] and content["notes"]

    def test_from_json_gives_the_result_back(self):
        found = reports.MULTILABEL.from_json(reports.MULTILABEL.json(result()))
        found.pop("notes")
        np.testing.assert_equal(found, result())

    @pytest.mark.parametrize("text", ["[]", "{}", '{"attributes": 3}', "{"])
    def test_something_else_is_a_value_error(self, text):
        with pytest.raises(ValueError):
            reports.MULTILABEL.from_json(text)


class TestCsv:
    def test_it_parses_back_to_the_same_numbers(self):
        rows = list(csv.DictReader(io.StringIO(reports.MULTILABEL.csv(result()))))
        attributes = [row for row in rows if row["kind"] == "attribute"]
        assert [row["name"] for row in attributes] == NAMES
        for found, expected in zip(attributes, result()["attributes"]):
            for key in (*reports.COUNTS, *MEASURES):
                value = float(found[key]) if found[key] else math.nan
                np.testing.assert_equal(value, float(expected[key]))
        assert attributes[2]["ap"] == ""

    def test_every_overall_number_is_in_it(self):
        overall = result()["overall"]
        text = reports.MULTILABEL.csv(result()).split("overall,", 1)[1]
        for key, value in overall.items():
            assert repr(value) in text, key


class TestTables:
    def test_markdown_has_one_line_per_attribute_in_order_with_one_decimal(self):
        lines = reports.MULTILABEL.text(result(), "markdown").split("\n")
        header, rows = cells(lines[0]), [cells(line) for line in lines[2:] if line.startswith("|")]
        assert [row[0] for row in rows[:4]] == [name.replace("|", "/") for name in NAMES]
        for row, expected in zip(rows, result()["attributes"]):
            assert row[header.index("pos")] == str(expected["positives"])
            for measure in MEASURES:
                value = expected[measure]
                shown = "-" if math.isnan(value) else f"{100 * value:.1f}"
                assert row[header.index(reports.HEADINGS[measure])] == shown
        assert {len(row) for row in rows} == {len(header)}  # the bar in a name splits no cell

    def test_overall_rows_hold_the_overall_numbers(self):
        lines = reports.MULTILABEL.text(result(), "markdown").split("\n")
        header = cells(lines[0])
        rows = {cells(line)[0].strip("*"): cells(line) for line in lines if line.startswith("| **")}
        mean = "mean over attributes"
        for row, column, key in (
            (mean, "AP", "mAP"), (mean, "mA", "mA"), ("pooled over labels", "F1", "OF1"),
            ("mean over instances", "recall", "instance_recall"),
        ):  # fmt: skip
            expected = f"{100 * result()['overall'][key]:.1f}"
            assert rows[row][header.index(column)] == expected

    @pytest.mark.parametrize("style", ["console", "markdown"])
    def test_protocol_and_undefined_are_stated(self, style):
        text = reports.MULTILABEL.text(result(threshold=0.45, empty="zero"), style)
        text = " ".join(text.split())
        unspecified = sum(row["unspecified"] for row in result()["attributes"])
        assert f"80 samples; {unspecified} of 320 labels are unspecified" in text
        assert "at least 0.45" in text and "counted as 0 in the instance means" in text
        assert "interpolated" in text and "left out of means: AP" in text
        assert "nan" not in text.lower()
        assert "a threshold per attribute" in reports.MULTILABEL.text(result(threshold=[0.5] * 4))

    def test_column_of_unspecified_only_where_there_are_some(self):
        full = evaluate_multilabel([[0.9], [0.2]], [[1], [0]], None, ["a"])
        assert "unspec " not in reports.MULTILABEL.text(full)
        assert "unspec" in reports.MULTILABEL.text(result())

    def test_names_that_look_like_numbers_or_have_line_breaks_stay_text(self):
        names = ["0010", "1e3", "a\nb", "x"]
        lines = reports.MULTILABEL.text(result(names=names), "markdown").split("\n")
        assert [cells(line)[0] for line in lines[2:6]] == ["0010", "1e3", "a b", "x"]


class TestCompare:
    def test_two_models_with_difference(self):
        a, b = result(0), result(1, noise=0.15)
        lines = reports.compare({"plain": a, "VAA": b}, "markdown").split("\n")
        assert cells(lines[0]) == ["AP %", "pos", "plain", "VAA", "difference"]
        x, y = a["attributes"][0]["ap"], b["attributes"][0]["ap"]
        expected = [f"{100 * x:.1f}", f"{100 * y:.1f}", f"{100 * (y - x):+.1f}"]
        assert cells(lines[2]) == ["Male", str(a["attributes"][0]["positives"]), *expected]
        assert cells(lines[4])[2:] == ["-", "-", "-"]
        overall = next(cells(line) for line in lines if line.startswith("| **mAP**"))
        assert overall[2] == f"{100 * a['overall']['mAP']:.1f}"

    def test_several_seeds_give_mean_and_spread(self):
        runs = [result(seed) for seed in range(3)]
        maps = 100 * np.array([run["overall"]["mAP"] for run in runs])
        text = reports.compare({"plain": runs, "VAA": runs[0], "x": runs[1]})
        assert f"{maps.mean():.1f} ± {maps.std(ddof=1):.1f}" in text
        assert "plain 3, VAA 1, x 1" in text and "difference" not in text

    def test_other_measures_and_errors(self):
        value = result()["attributes"][0]["ma"]
        assert f"{100 * value:.1f}" in reports.compare({"a": result()}, measure="ma")
        with pytest.raises(ValueError, match="'auc'.*ap_sklearn"):
            reports.compare({"a": result()}, measure="auc")
        with pytest.raises(ValueError, match="'html'.*markdown"):
            reports.compare({"a": result()}, style="html")
        with pytest.raises(ValueError, match="no results"):
            reports.compare({})

    def test_results_of_different_data_are_refused(self):
        other = evaluate_multilabel(np.zeros((9, 4)), np.ones((9, 4)), None, NAMES)
        with pytest.raises(ValueError, match="'a' and 'b'.*attribute 0.*Male"):
            reports.compare({"a": result(), "b": other})
        with pytest.raises(ValueError, match="4 and 3 attributes"):
            shorter = {**result(), "attributes": result()["attributes"][:3]}
            reports.compare({"a": result(), "b": shorter})

    def test_a_differing_protocol_is_told_apart(self):
        text = " ".join(reports.compare({"a": result(), "b": result(threshold=0.4)}).split())
        assert "a: An attribute is predicted where its probability is at least 0.5" in text
        assert "b: An attribute is predicted where its probability is at least 0.4" in text


class TestWriting:
    def test_four_files_and_nothing_else(self, tmp_path):
        paths = reports.MULTILABEL.write(result(), tmp_path / "new" / "folder", "test")
        expected = ["test.csv", "test.json", "test.md", "test.txt"]
        assert sorted(os.listdir(tmp_path / "new" / "folder")) == expected
        table = reports.MULTILABEL.text(result(), "markdown")
        assert paths["md"].read_text(encoding="utf-8") == table
        assert paths["csv"].read_bytes() == reports.MULTILABEL.csv(result()).encode()

    def test_a_failure_leaves_the_old_files(self, tmp_path, monkeypatch):
        reports.MULTILABEL.write(result(), tmp_path, "test")
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

        def fail(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="test.txt"):
            reports.MULTILABEL.write(result(1), tmp_path, "test")
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
