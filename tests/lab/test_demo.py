"""The demo's folders: an earlier demo goes, what is somebody else's stays (no training here)."""

from __future__ import annotations

import json

import pytest

from gluon_attn.core.recipe import Recipe
from gluon_attn.export.sidecar import FORMAT
from tools.site.demo import IMAGES, claim, forget, run_demo

PLAIN = Recipe(method="baseline", model="resnet18_w16_synthetic")
VAA = Recipe(method="vaa", model="vaa_resnet18_w16_synthetic")
COUNTS = {split: {"images": count, "boxes": 0} for split, count in IMAGES.items()}


def write(folder, **files):
    """Write objects as JSON files, ``name`` as ``name.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


@pytest.fixture
def out(tmp_path):
    """What a demo leaves, beside a file of the user's."""
    write(tmp_path / "data", SYNTHETIC={"generator": "synthetic", "seed": 0, "expected": COUNTS})
    (tmp_path / "data" / "Image").mkdir()
    for name, recipe in (("plain", PLAIN), ("vaa", VAA)):
        write(tmp_path / name, recipe={"recipe": recipe.to_dict()})
        (tmp_path / name / "best.params").write_text("weights")
    write(tmp_path / "export", **{VAA.model: {"format": FORMAT}, f"{VAA.model}-symbol": {}})
    (tmp_path / "notes.txt").write_text("mine")
    return tmp_path


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_an_earlier_demo_goes_and_nothing_else(out):
    forget(str(out), PLAIN, VAA)
    assert tree(out) == ["notes.txt"]
    forget(str(out), PLAIN, VAA)


def test_a_demo_that_was_interrupted_goes_too(tmp_path):
    write(tmp_path / "data", GENERATING={"generator": "synthetic"})
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "train.log").write_text("Training on")
    (tmp_path / "vaa").mkdir()
    forget(str(tmp_path), PLAIN, VAA)
    assert not tree(tmp_path)


@pytest.mark.parametrize(
    ("folder", "files"),
    [
        ("data", {"photos": 1}),
        ("data", {"SYNTHETIC": {"generator": "digits", "seed": 0, "expected": COUNTS}}),
        ("data", {"SYNTHETIC": {"generator": "synthetic", "seed": 0,
                                "expected": dict(COUNTS, train={"images": 5000})}}),
        ("plain", {"recipe": {"recipe": VAA.to_dict()}}),
        ("vaa", {"recipe": {"recipe": dict(VAA.to_dict(), model="vaa_resnet101_v1b_wider")}}),
        ("vaa", {"recipe": "damaged"}),
        ("export", {"mine": {"format": FORMAT}, "mine-symbol": {}}),
    ],
)  # fmt: skip
def test_what_is_somebody_elses_is_refused_and_everything_stays(out, folder, files):
    for path in list((out / folder).iterdir()) if "photos" not in files else ():
        path.rmdir() if path.is_dir() else path.unlink()
    write(out / folder, **files)
    before = tree(out)
    for action in (forget, claim, run_demo):  # nor is it trained, drawn or exported into
        with pytest.raises(FileExistsError, match=f"{folder} was not made by .*another --out"):
            action(str(out), PLAIN, VAA)
    assert tree(out) == before


def test_a_link_goes_and_what_it_leads_to_stays(out, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("disk") / "data"
    (out / "data").rename(elsewhere)
    (out / "data").symlink_to(elsewhere)
    forget(str(out), PLAIN, VAA)
    assert tree(out) == ["notes.txt"] and tree(elsewhere) == ["Image", "SYNTHETIC.json"]
