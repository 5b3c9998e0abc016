"""The synthetic pedestrians: WIDER's format, WIDER's rates, and attributes one can see."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace

import cv2
import numpy as np
import pytest
from kinds_helpers import refuses
from process_helpers import run_python

from gluon_attn.data.synthetic import drawing as generate
from gluon_attn.data.synthetic.pedestrian import (
    ATTRIBUTES,
    LOWERS,
    RATES,
    TOPS,
    Outfit,
    Population,
    draw_person,
    fit_table,
    sample_look,
    truth_rate,
)
from gluon_attn.data.synthetic.people import SCENES, draw_scene, write_synthetic

COUNTS = {"train": 24, "val": 4, "test": 6}
# Copied from the published annotation files, not from the code under test
WIDER_ORDER = "Male longHair sunglass Hat Tshirt longSleeve formal shorts jeans longPants skirt"
WIDER_ORDER = [*WIDER_ORDER.split(), "faceMask", "logo", "stripe"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic") / "set"
    report = write_synthetic(root, COUNTS, seed=5, workers=1, progress=False)
    return root, report


def _annotations(root):
    paths = (root / "Anno" / f"wider_attribute_{part}.json" for part in ("trainval", "test"))
    return [json.loads(path.read_text()) for path in paths]


def _images(root):
    return [image for document in _annotations(root) for image in document["images"]]


def _files(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_annotation_has_the_published_keys_and_maps(made):
    for document in _annotations(made[0]):
        assert set(document) == {"images", "attribute_id_map", "scene_id_map"}
        assert document["attribute_id_map"] == {str(i): n for i, n in enumerate(WIDER_ORDER)}
        assert len(document["scene_id_map"]) == 30
        for image in document["images"]:
            assert set(image) == {"file_name", "scene_id", "targets"}
            for target in image["targets"]:
                assert set(target) == {"attribute", "bbox"}


def test_images_are_where_the_annotation_says(made):
    root, names = made[0], []
    for image in _images(root):
        number, scene = image["scene_id"], SCENES[image["scene_id"]]
        names.append(image["file_name"])
        pattern = rf"(train|val|test)/{number}--{scene}/{number}_{scene}_\w+_\d+\.jpg"
        assert re.fullmatch(pattern, names[-1])
        height, width = cv2.imread(str(root / "Image" / names[-1])).shape[:2]
        assert 240 <= height <= 400 and 320 <= width <= 480
    trainval = COUNTS["train"] + COUNTS["val"]
    assert {n.split("/")[0] for n in names[:trainval]} == {"train", "val"}
    assert all(name.startswith("test/") for name in names[trainval:])
    on_disk = {str(p.relative_to(root / "Image")) for p in (root / "Image").rglob("*.*")}
    assert on_disk == set(names) and len(names) == trainval + COUNTS["test"]


def test_labels_and_boxes_are_valid(made):
    root, outside = made[0], 0
    for image in _images(root):
        height, width = cv2.imread(str(root / "Image" / image["file_name"])).shape[:2]
        for target in image["targets"]:
            assert len(target["attribute"]) == 14 and set(target["attribute"]) <= {1, -1, 0}
            x, y, w, h = target["bbox"]
            assert all(isinstance(v, int) for v in target["bbox"]) and w > 0 and h > 0
            assert min(x + w, width) - max(x, 0) >= 12 and min(y + h, height) - max(y, 0) >= 30
            over = max(-x, -y, x + w - width, y + h - height)
            outside += over > 0
            assert over <= 8
    assert outside > 0  # the reader's clipping must have something to do


def test_summary_counts_what_is_there(made):
    root, report = made
    summary = json.loads((root / "SYNTHETIC.json").read_text())
    assert summary["generator"] == "synthetic" and summary["seed"] == 5 and summary["version"] >= 1
    assert summary["expected"] == report["expected"]
    images = _images(root)
    for split, count in COUNTS.items():
        chosen = [i for i in images if i["file_name"].startswith(split)]
        boxes = sum(len(i["targets"]) for i in chosen)
        assert summary["expected"][split] == {"images": count, "boxes": boxes}
    labels = np.array([t["attribute"] for i in images for t in i["targets"]])
    assert np.allclose(list(report["positive_rate"].values()), (labels == 1).mean(0))
    assert (labels == 0).any() and (labels == 0).mean() < 0.15


def test_files_do_not_depend_on_the_number_of_workers(made, tmp_path):
    write_synthetic(tmp_path / "two", COUNTS, seed=5, workers=2, progress=False)
    assert _files(tmp_path / "two") == _files(made[0])


def test_another_seed_gives_another_image():
    first, second, again = (draw_scene(np.random.default_rng([s, 0, 0]))[0] for s in (0, 1, 0))
    assert np.array_equal(first, again)
    assert first.shape != second.shape or not np.array_equal(first, second)


def test_fitted_table_keeps_zeros_odds_ratios_and_marginals():
    rng = np.random.default_rng(0)
    rows, columns = np.array([0.2, 0.8]), np.array([0.5, 0.3, 0.2])
    start = rng.uniform(0.5, 2, (2, 3))
    table = fit_table(start, [rows, columns])
    assert np.allclose(table.sum(1), rows) and np.allclose(table.sum(0), columns)
    ratio = [t[0, 0] * t[1, 1] / (t[0, 1] * t[1, 0]) for t in (start, table)]
    assert np.isclose(*ratio)
    refuses("zeros", np.array([[1.0, 0.0], [1.0, 0.0]]), [np.array([0.5, 0.5])] * 2, by=fit_table)


def test_rates_follow_the_published_class_weights():
    weights = [3.46, 18.47, 3.39, 3.60, 1.14, 12.58, 5.78, 10.83, 1.75, 8.81, 28.43, 2.76, 18.02]
    assert tuple(RATES) == ATTRIBUTES == tuple(WIDER_ORDER)
    assert np.allclose(list(RATES.values())[1:], 1 / (1 + np.array(weights)), atol=6e-4)
    assert RATES["Male"] > 0.5


def test_outfits_have_the_wanted_rates_and_no_contradictions():
    rng, population = np.random.default_rng(1), Population()
    outfits = [population.sample(rng) for _ in range(20000)]
    got = np.mean([o.attributes() for o in outfits], 0)
    assert np.allclose(got, [truth_rate(n) for n in ATTRIBUTES], atol=0.013)
    for outfit in outfits:
        a = dict(zip(ATTRIBUTES, outfit.attributes()))
        assert outfit.top in TOPS and outfit.lower in LOWERS
        assert not (a["Tshirt"] and (a["longSleeve"] or a["formal"]))
        assert not a["formal"] or (a["longSleeve"] and not a["shorts"] and not a["jeans"])
        assert a["skirt"] + a["shorts"] + max(a["longPants"], a["jeans"]) <= 1
        assert not (a["skirt"] and a["Male"])
    jeans = [o for o in outfits if o.attributes()[8]]
    assert 0.3 < np.mean([o.attributes()[9] for o in jeans]) < 0.8


@pytest.mark.nightly
def test_recorded_rates_are_widers_within_three_points(tmp_path):
    report = write_synthetic(tmp_path, {"train": 900, "val": 1, "test": 1}, seed=3, progress=False)
    for name, rate in report["positive_rate"].items():
        assert abs(rate - RATES[name]) < 0.03, name


PLAIN = Outfit(male=False, top="tshirt", lower="capri")
TOGGLES = {
    "Male": (PLAIN, replace(PLAIN, male=True), "body"),
    "longHair": (PLAIN, replace(PLAIN, long_hair=True), "hair"),
    "sunglass": (PLAIN, replace(PLAIN, sunglass=True), "face"),
    "Hat": (PLAIN, replace(PLAIN, hat=True), "hat"),
    "Tshirt": (replace(PLAIN, top="tank"), PLAIN, "top"),
    "longSleeve": (PLAIN, replace(PLAIN, top="long"), "top"),
    "formal": (replace(PLAIN, top="long"), replace(PLAIN, top="suit"), "body"),
    "shorts": (PLAIN, replace(PLAIN, lower="shorts"), "legs"),
    "jeans": (replace(PLAIN, lower="long"), replace(PLAIN, lower="jeans"), "legs"),
    "longPants": (replace(PLAIN, lower="cropped_jeans"), replace(PLAIN, lower="jeans"), "legs"),
    "skirt": (replace(PLAIN, lower="shorts"), replace(PLAIN, lower="skirt"), "legs"),
    "faceMask": (PLAIN, replace(PLAIN, mask=True), "face"),
    "logo": (PLAIN, replace(PLAIN, logo=True), "chest"),
    "stripe": (PLAIN, replace(PLAIN, stripe=True), "top"),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_toggling_an_attribute_changes_its_part_of_the_body(name):
    off, on, part = TOGGLES[name]
    number = ATTRIBUTES.index(name)
    assert on.attributes()[number] and not off.attributes()[number]
    for seed in range(3):
        look = sample_look(np.random.default_rng(seed))
        look.bag = None  # a bag hanging before the part would hide it
        before, alpha, regions = draw_person(off, look, 160)
        after, _, _ = draw_person(on, look, 160)
        changed = np.abs(after - before).max(2) > 12
        x0, y0, x1, y1 = (int(round(v)) for v in regions[part])
        inside = changed[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1].sum()
        assert inside >= 25, f"only {inside} of {int((alpha > 0.5).sum())} pixels changed"
        assert inside >= 0.98 * changed.sum(), "the change spreads beyond its part of the body"


def test_every_outfit_can_be_drawn_from_both_sides():
    look = [sample_look(np.random.default_rng(2), back) for back in (False, True)]
    for top in TOPS:
        for lower in LOWERS:
            outfit = Outfit(top=top, lower=lower, stripe=True, logo=True, hat=True)
            rgb, alpha, _ = draw_person(outfit, look[len(lower) % 2], 80)
            assert np.isfinite(rgb).all() and alpha.min() >= 0 and alpha.max() <= 1.001
            assert (rgb <= 255.0 * 1.7 * alpha[..., None] + 1).all()


ONE = {"train": 1, "val": 1, "test": 1}


def test_refuses_to_replace_unless_asked(tmp_path):
    write_synthetic(tmp_path, {"train": 2, "val": 1, "test": 1}, progress=False)
    before = _files(tmp_path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_synthetic(tmp_path, ONE, seed=1, progress=False)
    assert _files(tmp_path) == before
    write_synthetic(tmp_path, ONE, seed=1, overwrite=True, progress=False)
    assert len(list((tmp_path / "Image").rglob("*.jpg"))) == 3  # nothing stale is left


@pytest.mark.parametrize("name", ["Anno", "Image"])
def test_never_touches_a_data_set_it_did_not_write(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="did not write"):
        write_synthetic(tmp_path, ONE, overwrite=True, progress=False)
    assert _files(tmp_path) == {f"{name}/mine.txt": b"precious"}


def test_a_failing_disk_leaves_no_annotation(tmp_path, monkeypatch):
    real = os.replace

    def full(source, target):
        if str(target).endswith("test.json"):
            raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(generate.os, "replace", full)
    refuses("No space", tmp_path, ONE, by=write_synthetic, error=OSError, progress=False)
    assert not (tmp_path / "SYNTHETIC.json").exists()
    assert not (tmp_path / "Anno" / "wider_attribute_test.json").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    write_synthetic(tmp_path, ONE, progress=False)  # starts over without being told to
    assert (tmp_path / "SYNTHETIC.json").exists()


def test_killed_in_the_middle_leaves_no_annotation(tmp_path):
    script = """
        import os, signal, sys
        from gluon_attn.data.synthetic.people import write_synthetic
        replace, images = os.replace, []
        def replace_or_die(temporary, path):
            images.extend([path] * str(path).endswith(".jpg"))
            if len(images) > 3:
                os.kill(os.getpid(), signal.SIGKILL)  # the fourth image has no name yet
            replace(temporary, path)
        os.replace = replace_or_die
        write_synthetic(sys.argv[1], dict(train=50, val=1, test=1), workers=1)
    """
    code, _, err = run_python(script, tmp_path)
    assert code == -signal.SIGKILL, err
    assert len(list(tmp_path.rglob("[!.]*.jpg"))) == 3 and not (tmp_path / "Anno").exists()
    assert not (tmp_path / "SYNTHETIC.json").exists()
    for image in tmp_path.rglob("[!.]*.jpg"):
        assert image.read_bytes()[-2:] == b"\xff\xd9"  # JPEG's end mark: no half image
    write_synthetic(tmp_path, ONE, progress=False)
    assert len(list((tmp_path / "Image").rglob("*.jpg"))) == 3


@pytest.mark.parametrize("arguments", [
    {"images": {"train": 1}}, {"images": {"train": 0, "val": 1, "test": 1}},
    {"images": {"train": 1.5, "val": 1, "test": 1}}, {"seed": -1}, {"images": ONE, "workers": 0},
])  # fmt: skip
def test_invalid_arguments_are_named(tmp_path, arguments):
    refuses("images|seed|workers", tmp_path / "x", by=write_synthetic, progress=False, **arguments)
