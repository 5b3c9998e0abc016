"""The demo's folders, and the gallery: every map is there, truths and decisions are marked."""

from __future__ import annotations

import html.parser
import json
import os
import re
import shutil

import cv2
import mxnet as mx
import numpy as np
import pytest
from clothing_helpers import write_parsing
from process_helpers import run_tool

from gluon_attn.core.recipe import Recipe
from gluon_attn.data.synthetic.digits import write_digits, write_digits_single
from gluon_attn.export.onnx import OnnxVariant
from gluon_attn.export.sidecar import FORMAT
from gluon_attn.export.web import WebVariant
from gluon_attn.train.build import load_recipe
from gluon_attn.train.run import Settings, train
from tools.site import demo, gallery
from tools.site.gallery import Files, make_gallery

PLAIN = Recipe(method="baseline", model="resnet18_w16_synthetic")
VAA = Recipe(method="vaa", model="vaa_resnet18_w16_synthetic")
COUNTS = {split: {"images": count, "boxes": 0} for split, count in demo.IMAGES.items()}
IMAGES = {"train": 24, "val": 12, "test": 12}
TINY = (
    *("epochs=1", "batch_size=12", "model_options.width=8", "input_size=32", "resize=36"),
    *("crop_min=32", "crop_max=36", "eval_crop=34", "warmup_epochs=0"),
)
MULTI = {
    "plain": ("icasc_digits_resnet14", "method=baseline"),
    "VAA": ("vaa_synthetic_resnet18", "phase0_epochs=0", "mirror=false"),
}


def tree(folder, files=False):
    found = folder.rglob("*")
    return {p.relative_to(folder).as_posix() for p in found if not files or p.is_file()}


# ------------------------------------------------------------------------------------ the demo
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


def test_an_earlier_demo_goes_and_nothing_else(out, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("disk") / "data"
    (out / "data").rename(elsewhere)
    (out / "data").symlink_to(elsewhere)
    demo.forget(str(out), PLAIN, VAA)
    assert tree(out) == {"notes.txt"}
    assert tree(elsewhere) == {"Image", "SYNTHETIC.json"}, "a link goes, not what it leads to"
    demo.forget(str(out), PLAIN, VAA)


def test_a_demo_that_was_interrupted_goes_too(tmp_path):
    write(tmp_path / "data", GENERATING={"generator": "synthetic"})
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "train.log").write_text("Training on")
    (tmp_path / "vaa").mkdir()
    demo.forget(str(tmp_path), PLAIN, VAA)
    assert not tree(tmp_path)


def generated(generator="synthetic", **expected):
    return {"generator": generator, "seed": 0, "expected": {**COUNTS, **expected}}


@pytest.mark.parametrize(
    "folder, files",
    [
        ("data", {"photos": 1}),
        ("data", {"SYNTHETIC": generated("digits")}),
        ("data", {"SYNTHETIC": generated(train={"images": 5000})}),
        ("plain", {"recipe": {"recipe": VAA.to_dict()}}),
        ("vaa", {"recipe": {"recipe": dict(VAA.to_dict(), model="vaa_resnet101_v1b_wider")}}),
        ("vaa", {"recipe": "damaged"}),
        ("export", {"mine": {"format": FORMAT}, "mine-symbol": {}}),
    ],
)
def test_what_is_something_else_is_refused_and_everything_stays(out, folder, files):
    for path in list((out / folder).iterdir()) if "photos" not in files else ():
        path.rmdir() if path.is_dir() else path.unlink()
    write(out / folder, **files)
    before = tree(out)
    for action in (demo.forget, demo.claim, demo.run_demo):  # nor is it trained or exported into
        with pytest.raises(FileExistsError, match=f"{folder} was not made by .*another --out"):
            action(str(out), PLAIN, VAA)
    assert tree(out) == before


def not_found(name):
    raise FileNotFoundError(name)


@pytest.mark.parametrize(
    "installed, models",
    [(True, ["efficientnet_lite0", "vaa_efficientnet_lite0"]), (False, [PLAIN.model, VAA.model])],
)
def test_photographs_are_learnt_from_the_best_start_that_is_here(monkeypatch, installed, models):
    monkeypatch.setattr(demo.store, "find", (lambda name: name) if installed else not_found)
    said = []
    plain, vaa = demo.recipes(["seed=3"], photographs=True, say=said.append)
    assert [plain.model, vaa.model] == models and plain.method == "baseline"
    assert len(said) == (not installed), "it says what to install"
    same = ("dataset", "epochs", "input_size", "resize", "eval_crop", "lr", "batch_size", "seed",
            "backbone", "mean", "schedule")  # fmt: skip
    assert all(getattr(plain, key) == getattr(vaa, key) for key in same)
    assert plain.dataset == "clothing_co_parsing" and plain.eval_crop == plain.resize
    assert sum(vaa.options.values()) < vaa.epochs, "the joint phase has its share"


@pytest.mark.nightly
def test_the_demo_on_photographs(tmp_path, monkeypatch):
    """From a miniature to the page, from scratch."""
    write_parsing(tmp_path / "data")
    monkeypatch.setattr(demo.store, "find", not_found)
    small = "epochs=8 batch_size=12 input_size=32 resize=32 crop_min=28 crop_max=32 eval_crop=32"
    out, said = str(tmp_path / "out"), []
    pair = demo.recipes(small.split(), photographs=True, say=said.append)
    page = demo.run_demo(out, *pair, photographs=str(tmp_path / "data"), say=said.append)
    found = Page(tmp_path / "out")
    assert page == os.path.join(out, "index.html") and "street photographs" in found.text
    figures = [os.path.join("localisation", f"test_localisation{end}.png") for end in ("", "_maps")]
    assert {*figures, "ap.png", "attention.png", "prediction2.png"} < set(found.sources)
    assert all((tmp_path / "out" / source).is_file() for source in found.sources)
    text = "\n".join(said)
    for words in ("data: ", "training: VAA", "localisation: maps against", "export: ", "predict: "):
        assert words in text


# --------------------------------------------------------------------------------- the gallery
class Page(html.parser.HTMLParser):
    """Sources of images, (class, shown) of every map, and captions."""

    def __init__(self, folder):
        super().__init__()
        self.sources, self.maps, self.captions = [], [], []
        self.text = (folder / "index.html").read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "img":
            self.sources.append(found["src"])
        if found.get("class") == "map":
            self.maps.append((int(found["data-attribute"]), found["data-shown"]))

    def handle_data(self, data):
        if re.search(r"\s\d+\s%\s.$", data):
            self.captions.append(data)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Scenes of several digits, and a plain and a VAA run on them."""
    root, runs = tmp_path_factory.mktemp("several"), {}
    write_digits(root / "data", images=IMAGES, seed=1)
    for title, (name, *changes) in MULTI.items():
        runs[title] = str(root / title)
        settings = Settings(str(root / "data"), runs[title], workers=1, console=False, test=False)
        train(load_recipe(name, [*changes, *TINY]), settings)
    return str(root / "data"), runs


def changed_run(run, folder, change):
    """Return the folder of a copy of a run whose ``best.json`` was changed by a function."""
    shutil.copytree(run, folder)
    best = json.loads((folder / "best.json").read_text(encoding="utf-8"))
    change(best)
    (folder / "best.json").write_text(json.dumps(best), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def searched(several, tmp_path_factory):
    """What tells a search: its method. Its curves are noise."""
    folder = tmp_path_factory.mktemp("searched") / "run"
    changed_run(several[1]["plain"], folder, lambda best: best["recipe"].update(method="autola"))
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    cv2.imwrite(str(folder / "search.png"), noise)
    return folder


@pytest.fixture(scope="module")
def folder(several, searched, tmp_path_factory):
    """A gallery of both runs and of a search, two images, in the folder of a larger one."""
    data, runs = several
    out = tmp_path_factory.mktemp("gallery")
    (out / "maps").mkdir()
    for name in ("maps/9_0_0.jpg", "maps/mine.jpg"):
        (out / name).write_text("old")
    (out / "gallery.json").write_text(json.dumps({"files": ["maps/9_0_0.jpg"]}))
    path = make_gallery(dict(runs, searched=str(searched)), data, str(out), images=2, workers=1)
    assert path == str(out / "index.html")
    return out


def test_every_image_is_there_and_nets_show_the_same_classes_in_the_same_order(folder):
    page = Page(folder)
    assert len(page.maps) == 2 * 2 * 10 == len(page.captions)
    for source in page.sources:
        image = cv2.imread(str(folder / source))
        assert image is not None and image.std() > 1, source
    captions = ("Average precision by attribute", "Precision and recall", "Training")
    for text in ("attention module", "Grad-CAM", *captions):
        assert text in page.text
    assert "Entropy and strength of the edges over the search: searched" in page.text
    assert "search_2_searched.png" in page.sources and "<td>autola" not in page.text
    maps = np.array([k for k, _ in page.maps]).reshape(2, 2, 10)
    assert (maps[:, 0] == maps[:, 1]).all() and (np.sort(maps, axis=2) == np.arange(10)).all()
    marks = np.array([caption[-1] for caption in page.captions]).reshape(2, 2, 10)
    positive = marks[:, 0] == "✓"
    assert positive.any() and (marks[:, 0] == marks[:, 1]).all()
    assert (positive[:, :-1] >= positive[:, 1:]).all(), "what is there comes first"


def test_an_earlier_gallery_goes_and_the_files_of_others_stay(folder):
    written = json.loads((folder / "gallery.json").read_text())["files"]
    assert {"tables/0_plain/test.json", "tables/1_VAA/test.json"} < set(written)
    assert tree(folder, files=True) == {*written, "gallery.json", "maps/mine.jpg"}
    assert {name for name in written if name.startswith("maps/")} < set(Page(folder).sources)


def test_one_class_per_image_and_nets_that_are_shipped(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    variants = [OnnxVariant(), WebVariant(None, {}, [])]
    monkeypatch.setattr(gallery, "offered", lambda trained: variants)
    data = tmp_path / "data"
    write_digits_single(data, images={"train": 1, "val": 1, "test": 12}, seed=1, side=36)
    runs = {"plain": "resnet20_w8_digits"}
    make_gallery(runs, str(data), str(tmp_path / "out"), images=3, workers=1)
    page = Page(tmp_path / "out")
    assert "top-1 %" in page.text and "Average precision by attribute" not in page.text
    assert "Training" not in page.text, "there is no log of it"
    export = tmp_path / "out" / "exports" / "0_plain"
    assert f"python tools/serve.py {export}" in page.text and (export / "web/app.js").is_file()
    written = json.loads((tmp_path / "out" / "gallery.json").read_text())["files"]
    assert "exports/0_plain/web/index.html" in written
    assert len(page.captions) == 30
    for start in range(0, 30, 10):
        captions = page.captions[start : start + 10]
        shares = [int(re.search(r"(\d+)\s%", c).group(1)) for c in captions]
        assert 95 <= sum(shares) <= 105, "softmax"
        assert sum(c.endswith("✓") for c in captions) == 1


def _reversed(best):
    best["classes"].reverse()
    del best["schema"]


def test_what_cannot_be_shown_is_refused(several, searched, tmp_path):
    data, runs = several
    other = changed_run(runs["plain"], tmp_path / "run", _reversed)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(searched, unfinished)
    (unfinished / "search.png").unlink()
    for chosen, images, error, message in (
        ({}, 1, ValueError, "at least one"),
        (runs, 0, ValueError, "images=0: a gallery shows at least one"),
        ({"s": str(searched)}, 1, ValueError, "at least one training run; a search is none"),
        ({"s": str(unfinished)}, 1, FileNotFoundError, "is a search without search.png"),
        ({"x": str(tmp_path)}, 1, FileNotFoundError, r"best\.json"),
        (dict(runs, o=str(other)), 1, ValueError, "o has other classes than plain"),
    ):
        with pytest.raises(error, match=message):
            make_gallery(chosen, data, str(tmp_path / "out"), images=images)
    assert not (tmp_path / "out").exists()


def test_files_of_runs_with_alike_titles_differ(tmp_path):
    titles, out = ["A 2", "A-2", "long" * 99], str(tmp_path)
    with Files(out, titles) as files:
        paths = [tmp_path / "tables" / files.stem(title) for title in titles]
        assert len(set(paths)) == 3
        for path in paths:
            write(path, test={})
            files.add([path / "test.json"])
    (paths[1] / "notes.txt").write_text("mine")
    with pytest.raises(OSError), Files(out, titles[:1]):
        raise OSError("disk full")
    assert all((path / "test.json").exists() for path in paths), "a gallery that fails costs none"
    with Files(out, titles[:1]) as files:
        files.add([paths[0] / "test.json"])
    kept = {"gallery.json", "tables/0_A_2/test.json", "tables/1_A_2/notes.txt"}
    assert tree(tmp_path, files=True) == kept and not paths[2].exists()


def test_a_list_of_files_is_not_believed_blindly(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    for text in ('{"files": ["../mine.txt", "%s"]}' % (tmp_path / "mine.txt"), "{", "[]"):
        (out / "gallery.json").write_text(text)
        with Files(str(out), []):
            pass
        assert (tmp_path / "mine.txt").exists()


def test_the_tool_takes_folders_with_and_without_titles(seen, monkeypatch):
    monkeypatch.setenv("MXNET_GLUON_REPO", "/none")  # no mirror is asked
    given = ("runs/plain/", "A b=runs/vaa", "runs/lr=0.1", "x=runs/lr=0.1", "y=resnet20_w8_digits")
    done = run_tool("gallery.py", *given, "--images=3", "-j1", "--data-dir", "D", "--out=O")
    assert done == (0, "wrote PAGE\n", "")
    ((runs, *rest),) = seen
    assert list(runs.items()) == [
        *(("plain", "runs/plain/"), ("A b", "runs/vaa"), ("lr=0.1", "runs/lr=0.1")),
        *(("x", "runs/lr=0.1"), ("y", "resnet20_w8_digits")),
    ]
    assert rest == ["D", "O", None, {"images": 3, "ctx": mx.cpu(0), "workers": 1}]
    monkeypatch.delenv("MXNET_GLUON_REPO")
    for words, problem in (
        (["a=runs/vaa", "a=runs/plain"], "two runs are called 'a'"),
        (["=runs/vaa"], "'=runs/vaa' has no title"),
        (["runs/none=0.1"], "'runs/none=0.1': there is no folder '0.1'"),
        (["a="], "'a=': there is no folder ''"),
    ):
        status, _, err = run_tool("gallery.py", *words, "--data-dir", "D", "--out=O")
        assert status == 2 and len(seen) == 1 and err.startswith(f"error: {problem}")


@pytest.fixture
def seen(monkeypatch, tmp_path):
    """What the gallery is asked for by calls in ``tmp_path``, which holds three runs."""
    found = []
    monkeypatch.setattr(gallery, "make_gallery", lambda *a, **o: found.append((*a, o)) or "PAGE")
    monkeypatch.chdir(tmp_path)
    for name in ("runs/plain", "runs/vaa", "runs/lr=0.1"):
        (tmp_path / name).mkdir(parents=True)
    return found
