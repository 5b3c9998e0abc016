"""Weights from outside: what their pixels and outputs are is given once, stored, and never guessed.

In small with random weights, and with the public CIFAR ResNets where they are.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import pytest
from adapters_helpers import Stored, write_zip
from reference.cifar_resnet import forward, random_state

from gluon_attn.cli import common, convert, evaluate, export
from gluon_attn.data.lists import classes_of
from gluon_attn.export.sidecar import trained_on
from gluon_attn.task import task_of
from gluon_attn.tasks import attributes
from gluon_attn.train.trained import from_zoo
from model_zoo import get_model, outside, store, trained
from model_zoo.adapters import read_arrays

DATA = Path(
    os.environ.get("GLUON_ATTN_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
)
CLASSES = ("airplane", "cat", "truck")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--resize", "32")
NAME = "cifar_resnet20_cifar10"


def softmax(logits):
    values = np.exp(logits - logits.max(1, keepdims=True))
    return values / values.sum(1, keepdims=True)


def inputs(images):
    """Return what PyTorch's ToTensor and Normalize make of ``(N, 32, 32, 3)`` uint8."""
    return ((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A checkpoint of PyTorch, images in folders, a plain file of classes."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.RandomState(0)
    state = random_state(rng, 3, 16, "A")
    images = rng.randint(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    state["linear.weight"], state["linear.bias"] = rng.randn(3, 64), np.zeros(3)
    logits = forward(state, inputs(images))
    state["linear.weight"] /= logits.std()  # for probabilities far from 0 and 1
    write_zip(folder / "net.th", {"state_dict": {f"module.{n}": Stored(a)
                                                 for n, a in state.items()}})  # fmt: skip
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    for k, image in enumerate(images):
        path = folder / "data" / "test" / CLASSES[k // 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image[..., ::-1])
    return folder, softmax(logits / logits.std())


@pytest.fixture
def folder(world, tmp_path, monkeypatch):
    """The same files, in a folder of the test's own; no check of exports in another process."""
    shutil.copytree(world[0], tmp_path, dirs_exist_ok=True)
    whole = attributes.export_model
    monkeypatch.setattr(
        attributes, "export_model", lambda *args, **more: whole(*args, **dict(more, check=False))
    )
    return tmp_path


def labels(folder):
    return "--classes", str(folder / "classes.txt"), "--single-label"


def converted(folder, *more, source="net.th"):
    convert.main([str(folder / source), "--out", str(folder / "a.params"), *more])
    return str(folder / "a.params")


def evaluated(folder, *source):
    """Evaluate and return the probabilities that were stored."""
    evaluate.main([*map(str, source), "--data-dir", str(folder / "data"), "-j", "0",
                   "--no-figures", "--out", str(folder / "out")])  # fmt: skip
    return np.load(folder / "out" / "test_predictions.npz")["probs"]


def refused(call, *arguments):
    """Return the one line of the error."""
    with pytest.raises((ValueError, OSError)) as caught:
        call(*arguments)
    return " ".join(str(caught.value).split())


# ------------------------------------------------------------------------------ the whole way


def test_what_convert_stores_is_what_evaluate_and_export_use(world, folder, capsys):
    path = converted(folder, *PIXELS, *labels(folder))
    assert "beside:" in capsys.readouterr().out
    np.testing.assert_allclose(evaluated(folder, "--model", NAME, "--params", path), world[1],
                               rtol=1e-5, atol=1e-5)  # fmt: skip
    assert "top1" in capsys.readouterr().out  # one class per image, not three attributes
    export.main(["--model", NAME, "--params", path, "--out", str(folder / "export")])
    np.testing.assert_allclose(evaluated(folder, "--export", folder / "export"), world[1],
                               rtol=1e-5, atol=1e-5)  # fmt: skip
    sidecar = json.loads((folder / "export" / f"{NAME}.json").read_text())
    assert sidecar["activation"] == "softmax" and sidecar["classes"][0] == "class=airplane"
    assert sidecar["input"]["mean"] == [123.675, 116.28, 103.53] and sidecar["input"]["crop"] == 32


def test_flags_do_without_a_record_and_go_before_one(world, folder):
    found = evaluated(folder, "--model", NAME, "--params", folder / "net.th", *PIXELS,
                      *labels(folder))  # fmt: skip
    np.testing.assert_allclose(found, world[1], rtol=1e-5, atol=1e-5)
    path = converted(folder, "--mean", "0", "--std", "255", *PIXELS[4:], *labels(folder))
    other = evaluated(folder, "--model", NAME, "--params", path)
    assert np.abs(other - world[1]).max() > 1e-3
    found = evaluated(folder, "--model", NAME, "--params", path, *PIXELS[:4])
    np.testing.assert_allclose(found, world[1], rtol=1e-5, atol=1e-5)


def test_a_flag_goes_before_what_a_record_says_of_the_outputs(folder, caplog):
    path = converted(folder, *PIXELS, *labels(folder)[:2])
    assert "3 attributes, each present or absent; if every image is of one" in caplog.text
    command = ("--model", NAME, "--params", path)
    assert "add --single-label" in refused(evaluated, folder, *command)
    assert evaluated(folder, *command, *labels(folder)).sum(1) == pytest.approx(1)
    names = folder / "plain.json"
    names.write_text(json.dumps(["airplane", "bird", "cat"]), encoding="utf-8")
    caplog.clear()
    converted(folder, *PIXELS, "--classes", str(names))
    assert "plain.json: 3 attributes, each present or absent" in caplog.text
    path = converted(folder, *PIXELS, *labels(folder))  # and one that is right is not undone
    assert evaluated(folder, *command, *labels(folder)[:2]).sum(1) == pytest.approx(1)


def test_nothing_is_guessed(folder, capsys):
    path = converted(folder)
    printed = capsys.readouterr().out
    assert "outputs: not known; evaluate and export will ask for --classes FILE" in printed
    assert "pixels:  not known" in printed and "(CIFAR's are seen whole: --resize 32," in printed
    assert not (folder / "a.json").exists()
    command = ("--model", NAME, "--params", path)
    for more, words in (
        ((), ("what the 10 outputs", "--classes FILE", "--single-label", "--mean, --std")),
        (labels(folder), (f"{path}: nothing says how the images", "--mean, --std and --resize")),
        ((*labels(folder), *PIXELS[:4]), ("brought to the input", "--resize")),
        ((*PIXELS, *labels(folder)[2:]), ("--single-label: of which classes",)),
        ((*PIXELS[:2], *PIXELS[4:], *labels(folder)), ("--mean and --std: give both",)),
    ):
        line = refused(evaluated, folder, *command, *more)
        assert all(word in line for word in words)
        export_it = [*command, "--out", str(folder / "export"), *more]
        assert all(word in refused(export.main, export_it) for word in words)
    assert not (folder / "export").exists() and not (folder / "out").exists()
    line = refused(evaluated, folder, *command, *PIXELS, *labels(folder)[:2])
    assert "class=airplane" in line and line.endswith(
        "classes of one attribute: add --single-label"
    )


def test_units_and_sides_of_the_flags(capsys):
    parser = common.parser(None)
    common.add_outside_flags(parser)
    found = lambda *words: outside.pixels_of(parser.parse_args(words))  # noqa: E731
    assert found("--mean", "127", "--std", "128") == {"mean": (127,) * 3, "std": (128,) * 3}
    assert found("--mean", "0.5", "--std", "0.5")["mean"] == (127.5,) * 3
    assert found("--mean", "104,117,123", "--std", "1")["std"] == (1,) * 3
    assert found("--resize", "256x256") == {"resize": 256, "keep_aspect": False}
    assert found("--resize", "256", "--crop", "224", "--interpolation", "bicubic") == {
        "resize": 256, "keep_aspect": True, "crop": 224, "interpolation": "bicubic",
    }  # fmt: skip
    for mean, std in (("0.5", "58"), ("104", "0.5"), ("0.5", "1"), ("1", "0")):
        assert "--std 255" in refused(found, "--mean", mean, "--std", std)
    for words in (("--mean", "1,2"), ("--std", "x"), ("--resize", "3x4"), ("--resize", "0"),
                  ("--resize", "x")):  # fmt: skip
        with pytest.raises(SystemExit):
            parser.parse_args(words)
        assert f"'{words[1]}': give " in capsys.readouterr().err


def test_inputs_of_which_the_unit_is_open_are_told(caplog):
    parser = common.parser(None)
    common.add_outside_flags(parser)
    outside.pixels_of(parser.parse_args(["--mean", "104", "--std", "1"]))
    assert not caplog.text
    outside.pixels_of(parser.parse_args(["--mean", "0", "--std", "1"]))
    assert "taken as inputs of 0 to 255; if they are of 0 to 1" in caplog.text


def test_sides_that_do_not_fit_are_refused(folder):
    line = refused(converted, folder, *PIXELS[:4], "--resize", "28", *labels(folder))
    assert "--crop 32 (the input size of cifar_resnet20_cifar10 is 32) is larger" in line
    names = folder / "names.txt"
    names.write_text("a\nb\n")
    assert "3" in refused(converted, folder, *PIXELS, "--classes", str(names))
    assert sorted(p.name for p in folder.glob("a.*")) == []


# ------------------------------------------------------------------------------ classes


def test_files_of_classes(tmp_path):
    plain, several = tmp_path / "plain.txt", tmp_path / "several.txt"
    plain.write_text("airplane\ncat\n")
    several.write_text("hat\ncolour=red\ncolour=blue\n")
    one = classes_of(plain, True)
    assert one.columns == ("class=airplane", "class=cat") and one.is_single_label
    assert classes_of(plain).is_binary and not classes_of(several).is_binary
    (tmp_path / "own.txt").write_text("class=airplane\nclass=cat\n")
    assert classes_of(tmp_path / "own.txt") == classes_of(tmp_path / "own.txt", True) == one
    schema = classes_of(several)
    for number, contents in enumerate((schema.to_json(), {"schema": schema.to_json(), "x": 1})):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(contents))
        assert classes_of(path) == schema
    assert "2 attributes, which is not one class" in refused(classes_of, several, True)
    for contents in (["airplane", "cat"], {"1": "cat", "0": "airplane"}):
        (tmp_path / "names.json").write_text(json.dumps(contents))
        assert classes_of(tmp_path / "names.json", True) == one
    assert "lost.txt: no such file of classes" in refused(classes_of, tmp_path / "lost.txt")
    (tmp_path / "bad.json").write_text('{"classes": ["a"]}')
    assert "bad.json" in refused(classes_of, tmp_path / "bad.json")


# ------------------------------------------------------------------------------ the record


def test_a_record_belongs_to_its_file(folder):
    path = converted(folder, *PIXELS, *labels(folder))
    record = folder / "a.json"
    text = record.read_text()
    load = lambda: from_zoo(NAME, path, [mx.cpu()])  # noqa: E731
    assert load().preprocess["resize"] == 32
    convert.main([path, "--out", str(folder / "b.pth")])  # and goes with it
    assert json.loads((folder / "b.json").read_text())["pixels"] == json.loads(text)["pixels"]
    with pytest.raises(FileExistsError, match="describes a.params: give another name"):
        convert.main([path, "--out", str(folder / "a.pth")])
    assert record.read_text() == text and not (folder / "a.pth").exists()
    for damage, words in (
        (lambda r: r.update(sha256="0" * 64), "describes another file"),
        (lambda r: r.update(version=2), "version 2"),
        (lambda r: r["pixels"].update(std=[1, 0, 1]), "is damaged"),
        (lambda r: r["pixels"].pop("mean"), "is damaged"),
        (lambda r: r["schema"][0].pop("kind"), "is damaged"),
        (lambda r: r.update(model_options=3), "is damaged"),
    ):
        changed = json.loads(text)
        damage(changed)
        record.write_text(json.dumps(changed))
        line = refused(load)
        assert str(record) in line and words in line
    record.write_text(text[:99])
    assert str(record) in refused(load)
    record.write_text('{"anything": 1}')  # a user's own file is left alone
    assert "what the 10 outputs" in refused(load)
    line = refused(converted, folder, *PIXELS, *labels(folder))
    assert "no record of weights" in line and record.read_text() == '{"anything": 1}'


def test_the_record_of_a_run_serves_too(folder, caplog):
    """``best.json`` beside ``best.params``, and a record is never written in its place."""
    path = converted(folder, *PIXELS, *labels(folder))
    best = str(folder / "best.params")
    shutil.copy(path, best)
    schema = classes_of(folder / "classes.txt", True)
    recipe = {"method": "baseline", "model": NAME, "mean": [1, 2, 3],
              "model_options": {"depth": 20}, "input_size": 32, "resize": 40, "augment": "pad",
              "eval_crop": 32}  # fmt: skip
    record = {"recipe": recipe, "classes": list(schema.columns), "schema": schema.to_json(),
              "sha256": outside.sha256_of(best)}  # fmt: skip
    (folder / "best.json").write_text(json.dumps(record))
    found = from_zoo(NAME, best, [mx.cpu()])
    assert found.preprocess["mean"] == (1, 2, 3) and found.preprocess["resize"] == 40
    assert found.classes == schema.columns and found.activation == "softmax"
    record["data"] = {"test": "0" * 64}
    for known in (None, record["data"]):
        (folder / "best.json").write_text(json.dumps({**record, "data": known}))
        assert evaluated(folder, "--model", NAME, "--params", best).shape == (6, 3)
        assert ("other samples or labels" in caplog.text) == bool(known)
    convert.main([best, "--out", str(folder / "left.pth")])
    assert json.loads((folder / "left.json").read_text())["pixels"]["resize"] == 40
    assert "no record" in refused(convert.main, [path, "--out", best, *PIXELS])


def test_a_record_says_which_net_it_is(tmp_path):
    state = random_state(np.random.RandomState(0), 1, 8, "B", head="fc")
    write_zip(tmp_path / "net.pth", {n: Stored(a) for n, a in state.items()})
    (tmp_path / "classes.txt").write_text("\n".join("abcdefghij"))
    path = converted(
        tmp_path, *PIXELS, "--classes", str(tmp_path / "classes.txt"), source="net.pth"
    )
    image = np.random.RandomState(1).randn(2, 3, 32, 32).astype(np.float32)
    found = from_zoo("ResNet20_CIFAR10", path, [mx.cpu()])  # depth 8 and width 8, not 20 and 16
    logits = found.net(mx.nd.array(image)).asnumpy()
    np.testing.assert_allclose(logits, forward(state, image), rtol=1e-4, atol=1e-4)
    assert found.activation == "sigmoid" and found.classes == tuple("abcdefghij")


def test_published_imagenet_weights_know_their_pixels(monkeypatch):
    for name in ("resnet18_v1", "efficientnet_lite1"):
        entry, net = store.builtin(name), get_model(name)
        schema = trained.default_schema(name, net, entry)
        assert schema.is_single_label and schema.columns[999] == "class=999"
        known = outside.known_pixels(entry, task_of(net, schema), net)
        fed = outside.preprocess(name, net, task_of(net, schema), known, "file")
        assert fed["crop"] == fed["size"] == net.input_size[0] < fed["resize"]
        monkeypatch.setattr(store, "find", lambda name, root, entry=entry: ("file", entry))
        names = [f"name{number}" for number in range(1000)]
        with pytest.raises(ValueError, match="add --single-label"):
            from_zoo(name, None, [mx.cpu()], names, pretrained=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trained, "_fill", lambda *args: None)  # there is no such file
            extra = from_zoo(name, None, [mx.cpu()], pretrained=True).extra
        assert trained_on(extra) == "ImageNet (ILSVRC2012)"


def test_trained_on_names_the_weights_that_a_net_began_with():
    recipe = {"dataset": "folders", "backbone": "efficientnet_lite0"}
    assert trained_on({"recipe": recipe}).endswith(
        "'folders', from the weights of efficientnet_lite0"
    )
    assert trained_on({"recipe": {**recipe, "backbone": ""}}) == "data read as 'folders'"
    assert trained_on({"recipe": {**recipe, "dataset": "auto"}}) == ""


# ------------------------------------------------------------------------------ public files


@pytest.mark.parity
@pytest.mark.parametrize("depth, file, wanted", [
    (20, "resnet20-12fca82f.th", 91.5), (56, "resnet56-4bfd9763.th", 92.6),
])  # fmt: skip
def test_public_weights_reach_their_accuracy(tmp_path, depth, file, wanted):
    """The first 1,000 test images, through `evaluate` and an export; NumPy gives the same."""
    from gluon_attn.cli import prepare

    weights, images = DATA / "weights" / file, DATA / "cifar10-lossless"
    if not weights.is_file() or not images.is_dir():
        pytest.skip(f"needs {weights} and {images}; set GLUON_ATTN_DATA")
    prepare.main(["cifar10_png", "--root", str(images), "--out", str(tmp_path / "data")])
    names = (tmp_path / "data" / "batches.meta.txt").read_text()
    (tmp_path / "classes.txt").write_text(names)
    path, name = str(tmp_path / "net.params"), f"cifar_resnet{depth}_cifar10"
    convert.main([str(weights), "--out", path, *PIXELS, *labels(tmp_path)])
    found = evaluated(tmp_path, "--model", name, "--params", path)
    target = np.load(tmp_path / "out" / "test_predictions.npz")["target"]
    assert len(target) == 1000 and 100 * (found.argmax(1) == target).mean() == pytest.approx(wanted)
    export.main(["--model", name, "--params", path, "--out", str(tmp_path / "export")])
    exported = evaluated(tmp_path, "--export", tmp_path / "export")
    assert 100 * (exported.argmax(1) == target).mean() == pytest.approx(wanted)
    np.testing.assert_allclose(exported, found, atol=1e-5)
    rows = cv2.imread(str(images / "cifar10_batch_50.png"))[:8, :, ::-1].reshape(8, 32, 32, 3)
    state = {n.replace("module.", ""): a.asnumpy() for n, a in read_arrays(weights).items()}
    np.testing.assert_allclose(found[:8], softmax(forward(state, inputs(rows))), atol=1e-5)
