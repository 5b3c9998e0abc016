"""The table of controlled experiments: intervals, blocks of a page, summary, figures."""

from __future__ import annotations

import functools
import json

import cv2
import numpy as np
import pytest
from process_helpers import at_once
from scipy import stats

from gluon_attn.core.files import write_json
from gluon_attn.data import open_dataset
from gluon_attn.data.synthetic.digits import write_digits_single
from gluon_attn.figures.bars import arms_by_seed
from gluon_attn.figures.curves import bands_by_epoch
from gluon_attn.metrics.tables import difference_text, mean_interval, paired_differences
from gluon_attn.train.build import load_recipe
from gluon_attn.train.run import train_once
from tools.experiments.experiments import EXPERIMENTS
from tools.experiments.reproduce import (
    Experiment,
    Outcome,
    Published,
    Request,
    reproduce,
    summary,
)
from tools.experiments.results_page import add_scores, read_scores, replace_block


def request(tmp_path, **changes):
    fields = dict(out=str(tmp_path), seeds=(0, 1), workers=1, quick=False, say=len)
    return Request(**dict(fields, **changes))


def experiment(scores, calls=None):
    def run(asked):
        (calls if calls is not None else []).append(asked)
        path = f"{asked.out}.png"
        arms_by_seed(scores, "top-1 %", path)
        return Outcome(scores, "| a |\n", {"seeds": path})

    return Experiment(
        "P", "ours", "top-1 %", ("base", "new"), Published("theirs", "9.1", "9.9"), run
    )


def test_the_interval_is_students():
    values = [1.0, 2.5, 2.0, 4.0, 0.5]
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(mean_interval(values), expected, rtol=1e-12)
    assert mean_interval([3.0]) is None
    assert mean_interval([2.0, 2.0]) == (2.0, 2.0)


def test_differences_are_taken_seed_by_seed():
    assert difference_text(paired_differences([2.0, 3.0], [1.0, 2.0])) == "+1.0 [+1.0, +1.0]"
    assert difference_text(paired_differences([2.0], [3.5])) == "-1.5"
    assert difference_text([1.0, 3.0], 2, spread=True).startswith("+2.00 ± 1.41 [")
    with pytest.raises(ValueError, match="2 and 1 numbers"):
        paired_differences([2.0, 3.0], [1.0])


def test_a_block_is_replaced_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# T\n\n<!-- begin a -->\nold\n<!-- end a -->\nverdict\n", encoding="utf-8")
    replace_block(str(page), "a", r"new \1 \g<0>")
    text = page.read_text(encoding="utf-8")
    assert text == "# T\n\n<!-- begin a -->\nnew \\1 \\g<0>\n<!-- end a -->\nverdict\n"
    replace_block(str(page), "b", "first")
    replace_block(str(page), "b", "second")
    text = page.read_text(encoding="utf-8")
    assert text.count("second") == 1 and "first" not in text and "## b" in text


def test_ours_and_the_papers_numbers_have_columns_of_their_own():
    table = {"x": experiment({"base": [80.0, 82.0], "new": [81.0, 84.0]})}
    row = summary(table, {"x": {"scores": {"base": [80.0, 82.0], "new": [81.0, 84.0]}}})
    head, _, cells = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in row.strip().splitlines()
    )
    found = dict(zip(head, cells))
    assert found["ours: baseline"] == "81.0 ± 1.4" and found["paper: method"] == "9.9"
    assert found["**our** data and net"] == "ours" and found["**paper's** data and net"] == "theirs"
    assert found["seeds"] == "2" and summary(table, {}).count("not run") == 3
    with pytest.raises(KeyError, match="the scores of 'x' are those of base, not of base, new"):
        summary(table, {"x": {"scores": {"base": [80.0]}}})


def test_a_page_gets_tables_figures_and_the_scores(tmp_path):
    calls = []
    table = {
        "x": experiment({"base": [80.0, 82.0], "new": [81.0, 84.0]}, calls),
        "y": experiment({"base": [1.0, 2.0], "new": [1.0, 2.0]}, calls),
    }
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    page.write_text("# Results\n<!-- begin summary -->\n<!-- end summary -->\n", encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    reproduce(table, ["x"], request(out), str(page))
    reproduce(table, ["y"], request(out), str(page))
    assert [asked.out for asked in calls] == [str(out / "x"), str(out / "y")]
    text = page.read_text(encoding="utf-8")
    assert "images/results-x.png" in text and "+2.0" not in text.partition("## x")[2]
    assert "not run" not in text and (page.parent / "images" / "results-y.png").exists()
    kept = read_scores(page.parent / "results.json")
    assert kept == json.loads((out / "summary.json").read_text()) and set(kept) == {"x", "y"}
    reproduce(table, ["y"], request(out, quick=True))
    assert calls[-1].out == str(out / "quick" / "y")  # never taken for a finished full run


def test_what_cannot_be_right_is_said_before_anything_runs(tmp_path):
    calls = []
    table = {"x": experiment({"base": [80.0, 82.0], "new": [81.0, 84.0]}, calls)}
    page, scores = tmp_path / "results.md", tmp_path / "results.json"
    page.write_text("# Results\n", encoding="utf-8")
    scores.write_text('{"x": {"seeds": [0, 1, 2], "scores": {"base": [1, 2, 3]}}}')
    for message, names, changes, where in (
        ("'z'", ["z"], {}, None),
        ("each counts once", ["x"], {"seeds": (0, 0)}, None),
        ("leave out --page", ["x"], {"quick": True}, page),
        ("'x' over 3 seeds, which 2 must not replace", ["x"], {}, page),
    ):
        with pytest.raises(ValueError, match=message):
            reproduce(table, names, request(tmp_path / "out", **changes), where and str(where))
    with pytest.raises(FileNotFoundError, match="no.md: --page"):
        reproduce(table, ["x"], request(tmp_path / "out"), str(tmp_path / "no.md"))
    for damaged in ('{"x"', '["x"]', '{"x": {"seeds": [0], "scores": {"base": [1, 2]}}}'):
        scores.write_text(damaged)
        with pytest.raises(ValueError, match="results.json does not hold the scores"):
            reproduce(table, ["x"], request(tmp_path / "out"), str(page))
    scores.write_text('{"x": {"seeds": [0], "scores": {"base": [1], "old": [2]}}}')
    with pytest.raises(ValueError, match="results.json: the scores of 'x' .* remove that entry"):
        reproduce(table, ["x"], request(tmp_path / "out"), str(page))
    assert not calls


def test_calls_at_a_time_lose_nothing(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# T\n", encoding="utf-8")

    def one(number):
        for turn in range(8):
            add_scores(tmp_path / "s.json", {f"{number}-{turn}": {"seeds": [], "scores": {}}})
            replace_block(str(page), f"{number}-{turn}", "text")

    at_once(*(functools.partial(one, number) for number in range(4)))
    with pytest.raises(FileNotFoundError, match="no such page"):
        replace_block(str(tmp_path / "typo" / "page.md"), "a", "text")
    assert not (tmp_path / "typo").exists()
    assert len(read_scores(tmp_path / "s.json")) == 32
    assert page.read_text(encoding="utf-8").count("<!-- begin") == 32


def test_a_finished_run_is_not_taken_for_another(tmp_path, repository):
    """Of other settings or data: it would be published under their name."""
    folder, data = tmp_path / "run", tmp_path / "data"
    write_digits_single(data, images={"train": 20, "val": 10, "test": 10}, seed=0, side=36)
    recipe = load_recipe("icasc_digits_single_resnet20")
    trained = []

    def run(recipe, settings):
        trained.append(settings.save_dir)
        splits = ("train", "val", "test")
        fingerprints = {s: open_dataset(str(data), s).fingerprint() for s in splits}
        write_json(folder / "recipe.json", {"recipe": recipe.to_dict(), "data": fingerprints})
        (folder / "log.jsonl").write_text('{"seconds": 2.0}\n{"seconds": 3.0}\n')
        (folder / "test.json").write_text("{}")

    folder.mkdir()
    same = load_recipe("icasc_digits_single_resnet20", ["theta=0.8"])  # the default
    for asked in (recipe, recipe, same):
        assert train_once(asked, str(data), str(folder), 1, run=run) == 5.0
    for change in ("lr=0.5", "epochs=3", "seed=7"):
        with pytest.raises(FileExistsError, match=f"not of these settings: '{change[:2]}"):
            train_once(recipe.override([change]), str(data), str(folder), 1, run=run)
    other = tmp_path / "other"
    write_digits_single(other, images={"train": 20, "val": 10, "test": 11}, seed=0, side=36)
    with pytest.raises(FileExistsError, match="data of its split 'test' were others"):
        train_once(recipe, str(other), str(folder), 1, run=run)
    (folder / "recipe.json").write_text('{"recipe": ')
    with pytest.raises(FileExistsError, match="recipe.json does not say what it is"):
        train_once(recipe, str(data), str(folder), 1, run=run)
    assert len(trained) == 1


def test_figures(tmp_path):
    path = arms_by_seed({"a": [1.0, 2.0], "b": [3.0, 4.0]}, "mAP %", tmp_path / "a.png")
    assert cv2.imread(str(path)).shape[0] > 100
    path = bands_by_epoch({"a": [[3.0, 2.0, np.nan], [4.0, 1.0, 0.5]]}, "error", tmp_path / "b.png")
    assert cv2.imread(str(path)).std() > 5
    with pytest.raises(ValueError, match="same number"):
        arms_by_seed({"a": [1.0], "b": []}, "mAP %", tmp_path / "c.png")
    with pytest.raises(ValueError, match="no values"):
        bands_by_epoch({}, "error", tmp_path / "c.png")


def test_every_experiment_says_what_the_paper_had():
    assert {e.paper for e in EXPERIMENTS.values()} == {"VAA", "ICASC", "AWMT", "DREAL", "AutoLA"}
    for experiment in EXPERIMENTS.values():
        assert experiment.published.data and len(experiment.arms) == 2
        assert "%" in experiment.score


@pytest.mark.nightly
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_quick_run(name, tmp_path, repository):
    asked = request(tmp_path, quick=True, seeds=(0,))
    text = reproduce(EXPERIMENTS, [name], asked)
    (line,) = [line for line in text.splitlines() if f"`{name}`" in line]
    assert "not run" not in line
    scores = read_scores(tmp_path / "quick" / "summary.json")[name]["scores"]
    assert set(EXPERIMENTS[name].arms) <= set(scores)
    assert all(0 <= score <= 100 for values in scores.values() for score in values)
