"""The gallery: every picture is there, truths and decisions are marked."""

from __future__ import annotations

import html.parser
import re

import cv2
import numpy as np
import pytest

from gluon_attn.data.digits import write_digits
from gluon_attn.data.digits_single import write_digits_single
from gluon_attn.workflows.build import load_recipe
from gluon_attn.workflows.gallery import make_gallery
from gluon_attn.workflows.train import Settings, train

IMAGES = {"train": 24, "val": 12, "test": 12}
TINY = ("epochs=1", "batch_size=12", "model_options.width=8", "input_size=32", "resize=36",
        "crop_min=32", "crop_max=36", "eval_crop=34", "warmup_epochs=0")  # fmt: skip
MULTI = {"plain": ("icasc_digits_resnet14", "method=baseline"),
         "VAA": ("vaa_synthetic_resnet18", "phase0_epochs=0", "mirror=false")}  # fmt: skip


class Page(html.parser.HTMLParser):
    """Sources of images, and (class, shown) of every map."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.maps, self.captions = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "img":
            self.sources.append(found["src"])
        if found.get("class") == "map":
            self.maps.append((int(found["data-attribute"]), found["data-shown"]))

    def handle_data(self, data):
        if re.search(r" \d+ % .$", data):
            self.captions.append(data)


def run_of(recipe, repository, data, folder):
    name, *changes = recipe
    made = load_recipe(name, [*changes, *TINY], str(repository / "tools" / "recipes"))
    train(made, Settings(str(data), str(folder), workers=1, console=False, test=False))
    return str(folder)


@pytest.fixture(scope="module")
def several(tmp_path_factory, repository):
    """Scenes of several digits, and a plain and a VAA run on them."""
    root = tmp_path_factory.mktemp("several")
    write_digits(root / "data", images=IMAGES, seed=1)
    runs = {
        title: run_of(recipe, repository, root / "data", root / title)
        for title, recipe in MULTI.items()
    }
    return root / "data", runs


@pytest.fixture(scope="module")
def folder(several, tmp_path_factory):
    """A gallery of both runs, two images."""
    data, runs = several
    out = tmp_path_factory.mktemp("gallery")
    path = make_gallery(runs, str(data), str(out), images=2, workers=1)
    assert path == str(out / "index.html")
    return out


def test_every_picture_is_there_and_shows_something(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.maps) == 2 * 2 * 10 == len(page.captions)
    for source in page.sources:
        picture = cv2.imread(str(folder / source))
        assert picture is not None and picture.std() > 1, source
    assert "attention module" in text and "Grad-CAM" in text
    for caption in ("Average precision by attribute", "Precision and recall", "Training"):
        assert caption in text


def test_nets_show_the_same_classes_in_the_same_order(folder):
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    maps = np.array([k for k, _ in page.maps]).reshape(2, 2, 10)
    assert (maps[:, 0] == maps[:, 1]).all() and (np.sort(maps, axis=2) == np.arange(10)).all()
    marks = np.array([caption[-1] for caption in page.captions]).reshape(2, 2, 10)
    positive = marks[:, 0] == "✓"
    assert positive.any() and (marks[:, 0] == marks[:, 1]).all()
    assert (positive[:, :-1] >= positive[:, 1:]).all(), "what is there comes first"


def test_one_class_per_image(tmp_path, repository):
    data = tmp_path / "data"
    write_digits_single(data, images=IMAGES, seed=1, side=36)
    recipe = ("icasc_digits_resnet14", "method=baseline", "score=top1")
    runs = {"plain": run_of(recipe, repository, data, tmp_path / "run")}
    make_gallery(runs, str(data), str(tmp_path / "out"), images=3, workers=1)
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "top-1 %" in text and "Average precision by attribute" not in text
    captions = Page(text).captions
    assert len(captions) == 30
    for start in range(0, 30, 10):
        shares = [int(re.search(r"(\d+) %", c).group(1)) for c in captions[start : start + 10]]
        assert 95 <= sum(shares) <= 105, "softmax"
        assert sum(c.endswith("✓") for c in captions[start : start + 10]) == 1


def test_runs_of_other_classes_are_refused(several, tmp_path):
    data, runs = several
    with pytest.raises(ValueError, match="at least one"):
        make_gallery({}, str(data), str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"best\.json"):
        make_gallery({"x": str(tmp_path)}, str(data), str(tmp_path / "out"))
