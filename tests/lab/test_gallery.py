"""The gallery: every picture is there, truths and decisions are marked."""

from __future__ import annotations

import html.parser
import json
import re
import runpy
import shutil
import sys

import cv2
import numpy as np
import pytest

from gluon_attn.data.synthetic.digits import write_digits, write_digits_single
from gluon_attn.train.build import load_recipe
from gluon_attn.train.run import Settings, train
from tools.site import gallery
from tools.site.gallery import make_gallery
from tools.site.gallery_files import Files

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
        if re.search(r"\s\d+\s%\s.$", data):
            self.captions.append(data)


def run_of(recipe, repository, data, folder):
    name, *changes = recipe
    made = load_recipe(name, [*changes, *TINY])
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
    plain = several[1]["plain"]
    folder = tmp_path_factory.mktemp("searched") / "run"
    changed_run(plain, folder, lambda best: best["recipe"].update(method="autola"))
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
    path = make_gallery(
        dict(runs, searched=str(searched)), str(data), str(out), images=2, workers=1
    )
    assert path == str(out / "index.html")
    return out


def files_in(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


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


def test_one_class_per_image_and_nets_that_come_along(tmp_path):
    data = tmp_path / "data"
    write_digits_single(data, images={"train": 1, "val": 1, "test": 12}, seed=1, side=36)
    runs = {"plain": "resnet20_w8_digits"}
    make_gallery(runs, str(data), str(tmp_path / "out"), images=3, workers=1)
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "top-1 %" in text and "Average precision by attribute" not in text
    assert "Training" not in text, "there is no log of it"
    captions = Page(text).captions
    assert len(captions) == 30
    for start in range(0, 30, 10):
        shares = [int(re.search(r"(\d+)\s%", c).group(1)) for c in captions[start : start + 10]]
        assert 95 <= sum(shares) <= 105, "softmax"
        assert sum(c.endswith("✓") for c in captions[start : start + 10]) == 1


def test_an_earlier_gallery_goes_and_the_files_of_others_stay(folder):
    written = json.loads((folder / "gallery.json").read_text())["files"]
    assert {"tables/0_plain/test.json", "tables/1_VAA/test.json"} < set(written)
    assert files_in(folder) == {*written, "gallery.json", "maps/mine.jpg"}
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    assert {name for name in written if name.startswith("maps/")} < set(page.sources)


def test_a_search_adds_its_curves_and_no_net(folder, several, searched, tmp_path):
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "Entropy and strength of the edges over the search: searched" in text
    assert "search_2_searched.png" in Page(text).sources and "<td>autola" not in text
    with pytest.raises(ValueError, match="at least one training run; a search is none"):
        make_gallery({"searched": str(searched)}, str(several[0]), str(tmp_path / "out"))
    unfinished = tmp_path / "unfinished"
    shutil.copytree(searched, unfinished)
    (unfinished / "search.png").unlink()
    with pytest.raises(FileNotFoundError, match="unfinished is a search without search.png"):
        make_gallery({"searched": str(unfinished)}, str(several[0]), str(tmp_path / "out"))


def test_files_of_runs_with_alike_titles_differ(tmp_path):
    titles = ["A 2", "A-2", "long" * 99]
    out = str(tmp_path)
    with Files(out, titles) as files:
        paths = [tmp_path / "tables" / files.stem(title) for title in titles]
        assert len(set(paths)) == 3
        for path in paths:
            path.mkdir(parents=True)
            (path / "test.json").write_text("{}")
            files.add([path / "test.json"])
    (paths[1] / "notes.txt").write_text("mine")
    with pytest.raises(OSError), Files(out, titles[:1]):
        raise OSError("disk full")
    assert all((path / "test.json").exists() for path in paths), "a gallery that fails costs none"
    with Files(out, titles[:1]) as files:
        files.add([paths[0] / "test.json"])
    assert files_in(tmp_path) == {
        "gallery.json", "tables/0_A_2/test.json", "tables/1_A_2/notes.txt"
    }  # fmt: skip
    assert not paths[2].exists()


def test_a_list_of_files_is_not_believed_blindly(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for text in ('{"files": ["../mine.txt", "%s"]}' % (tmp_path / "mine.txt"), "{", "[]"):
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        (out / "gallery.json").write_text(text)
        with Files(str(out), []):
            pass
        assert (tmp_path / "mine.txt").exists()


def test_runs_of_other_classes_are_refused(several, tmp_path):
    data, runs = several
    other = changed_run(runs["plain"], tmp_path / "run", lambda best: best["classes"].reverse())
    with pytest.raises(ValueError, match="reversed has other classes than plain"):
        make_gallery(dict(runs, reversed=str(other)), str(data), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_no_run_no_weights_and_no_image_are_refused(several, tmp_path):
    data, runs = several
    with pytest.raises(ValueError, match="at least one"):
        make_gallery({}, str(data), str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"best\.json"):
        make_gallery({"x": str(tmp_path)}, str(data), str(tmp_path / "out"))
    for count in (0, -1):
        with pytest.raises(ValueError, match=f"images={count}: a gallery shows at least one"):
            make_gallery(runs, str(data), str(tmp_path / "out"), images=count)


@pytest.fixture
def command(repository, monkeypatch, tmp_path):
    """A function that runs tools/gallery.py in ``tmp_path``; returns status and arguments."""

    def call(*arguments):
        seen = []
        monkeypatch.setattr(gallery, "make_gallery", lambda *a: seen.append(a) or "PAGE")
        monkeypatch.setattr(sys, "argv", ["gallery.py", *arguments, "--data-dir", "D", "--out=O"])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(repository / "tools" / "gallery.py"), run_name="__main__")
        return stop.value.code, seen

    monkeypatch.chdir(tmp_path)
    for name in ("runs/plain", "runs/vaa", "runs/lr=0.1"):
        (tmp_path / name).mkdir(parents=True)
    return call


def test_the_tool_takes_folders_with_and_without_titles(command, capsys, monkeypatch):
    monkeypatch.setenv("MXNET_GLUON_REPO", "/none")  # no mirror is asked
    status, ((runs, data, out, split, images, ctx, workers),) = command(
        "runs/plain/", "A b=runs/vaa", "runs/lr=0.1", "x=runs/lr=0.1", "y=resnet20_w8_digits",
        "--images=3", "-j1",
    )  # fmt: skip
    assert status == 0 and capsys.readouterr().out == "wrote PAGE\n"
    assert list(runs.items()) == [
        ("plain", "runs/plain/"), ("A b", "runs/vaa"), ("lr=0.1", "runs/lr=0.1"),
        ("x", "runs/lr=0.1"), ("y", "resnet20_w8_digits"),
    ]  # fmt: skip
    assert (data, out, split, images, str(ctx), workers) == ("D", "O", None, 3, "cpu(0)", 1)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["a=runs/vaa", "a=runs/plain"], "two runs are called 'a'"),
        (["=runs/vaa"], "'=runs/vaa' has no title"),
        (["runs/none=0.1"], "'runs/none=0.1': there is no folder '0.1'"),
        (["a="], "'a=': there is no folder ''"),
    ],
)
def test_the_tool_says_what_is_wrong_with_a_run(command, capsys, given, problem):
    status, seen = command(*given)
    assert status == 2 and not seen
    assert capsys.readouterr().err.startswith(f"error: {problem}")
