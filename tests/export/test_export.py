"""Export directories: numbers, names, atomicity, and refusal of anything damaged."""

from __future__ import annotations

import json
import os
import shutil

import mxnet as mx
import numpy as np
import pytest
from export_helpers import CLASSES, SIZE, export, images, make_net
from mxnet import autograd, gluon
from mxnet.gluon import nn
from process_helpers import ended_process, run_python

from gluon_attn.export import ExportError, load_exported, parity, sidecar


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """A net and its export with maps, made with the parity check in another process."""
    net = make_net()
    return net, export(
        net, tmp_path_factory.mktemp("checked") / "x", with_maps=True, check=True, extra={"mAP": 1}
    )


# --- numbers -----------------------------------------------------------------------------------


def test_other_process_gives_the_nets_numbers(checked):
    parity = sidecar.read_sidecar(checked[1])["parity"]
    assert parity["max_abs_diff"] <= parity["tolerance"] == 1e-5
    assert parity["batch"] == [1, 2, 3] and parity["mxnet"] == mx.__version__


def test_sidecar_says_what_is_exported(checked):
    contents = sidecar.read_sidecar(checked[1])
    assert contents["classes"] == list(CLASSES) and contents["thresholds"] == [0.5] * 4
    assert contents["input"]["shape"] == ["batch", 3, SIZE, SIZE]
    assert contents["extra"] == {"mAP": 1}
    assert [(o["name"], o["shape"], o["kind"]) for o in contents["outputs"]] == [
        ("logits", ["batch", 4], "logits"),
        ("attention_stem", ["batch", 4, 8, 8], "attention"),
    ]
    assert sorted(os.listdir(checked[1])) == ["tiny-0000.params", "tiny-symbol.json", "tiny.json"]


def test_other_numbers_are_refused_with_the_figure():
    ours, theirs = {"a": [np.full(2, 50.0), np.zeros(3)]}, {"a": [np.full(2, 50.0), np.zeros(3)]}
    assert parity.compare(theirs, ours, (1,), "x differs")["max_abs_diff"] == 0
    theirs["a"][0][1] += 4e-4  # of 50
    assert parity.compare(theirs, ours, (1,), "x differs")["max_abs_diff"] == pytest.approx(8e-6)
    for wrong, figure in ((3e-4, r"0\.0003"), (np.nan, "nan")):
        theirs["a"][1][2] = wrong
        with pytest.raises(ExportError, match=rf"x differs by {figure} of .*at most 1e-05"):
            parity.compare(theirs, ours, (1,), "x differs")


def test_a_difference_is_a_share_of_the_largest_output():
    ours, theirs = {"a": [np.array([50.0, 0.0])]}, {"a": [np.array([50.0, 4e-4])]}
    assert parity.compare(theirs, ours, (1,), "x")["max_abs_diff"] == pytest.approx(8e-6)
    small = {"a": [np.array([0.5, 0.0])]}, {"a": [np.array([0.5, 8e-6])]}
    assert parity.compare(*small, (1,), "x")["max_abs_diff"] == pytest.approx(8e-6)


def test_running_statistics_right_after_a_static_training_step(tmp_path):
    net = make_net()
    net.hybridize(static_alloc=True, static_shape=True)
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1}, kvstore=None)
    for step in range(3):
        with autograd.record():
            loss = net(images(4, step))[0].mean()
        loss.backward()
        trainer.step(4, ignore_stale_grad=True)
    block, _ = load_exported(export(net, tmp_path / "x"))
    np.testing.assert_allclose(
        block(images(2)).asnumpy(), net(images(2))[0].asnumpy(), rtol=0, atol=1e-5
    )


def test_plain_gluon_net_with_one_output(tmp_path):
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3), nn.GlobalAvgPool2D(), nn.Dense(len(CLASSES)))
    net.initialize()  # no forward yet: export makes the shapes known itself
    block, contents = load_exported(export(net, tmp_path / "x"))
    assert [o["name"] for o in contents["outputs"]] == ["logits"]
    np.testing.assert_allclose(block(images(2)).asnumpy(), net(images(2)).asnumpy(), atol=1e-6)


# --- the net is left alone, names are stable ----------------------------------------------------


def names_in(directory, which):
    return getattr(mx.sym.load(str(directory / "tiny-symbol.json")), which)()


def test_export_does_not_disturb_the_net(tmp_path):
    net = make_net()
    net.hybridize(static_alloc=True, static_shape=True)
    before = net(images(2))[0].asnumpy()
    cached = net._cached_op
    values = {k: p.data().asnumpy() for k, p in net.collect_params().items()}
    numpy_state = np.random.get_state()[1].copy()
    export(net, tmp_path / "x")
    assert net._cached_op is cached and net._active
    np.testing.assert_array_equal(net(images(2))[0].asnumpy(), before)
    for key, value in values.items():
        np.testing.assert_array_equal(net.collect_params()[key].data().asnumpy(), value)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)


def test_two_instances_give_identical_files(tmp_path):
    first, second = make_net(), make_net()
    assert first.collect_params().keys() != second.collect_params().keys()  # Gluon's own names
    second.collect_params().setattr("lr_mult", 0.0)
    second.hybridize()
    one, two = export(first, tmp_path / "one"), export(second, tmp_path / "two")
    for file in ("tiny-symbol.json", "tiny-0000.params", "tiny.json"):
        assert (one / file).read_bytes() == (two / file).read_bytes(), file


def test_names_are_structural_and_unused_parameters_stay_out(checked):
    arrays = mx.nd.load(str(checked[1] / "tiny-0000.params"))
    structural = set(checked[0]._collect_params_with_prefix())
    assert {name.split(":")[1] for name in arrays} == {
        name for name in structural if not name.startswith("unused")
    }
    assert arrays.keys() >= {"arg:stem.conv.weight", "aux:stem.norm.running_mean"}
    assert names_in(checked[1], "list_outputs") == ["logits_output", "attention_stem_output"]
    nodes = json.loads((checked[1] / "tiny-symbol.json").read_text())["nodes"]
    names = [node["name"] for node in nodes]
    assert len(names) == len(set(names)) and "stem.conv.fwd" in names


# --- all or nothing -----------------------------------------------------------------------------


def test_existing_directory_is_refused_and_only_an_export_is_replaced(tmp_path):
    net, target = make_net(), tmp_path / "x"
    export(net, target)
    with pytest.raises(FileExistsError, match="exists"):
        export(net, target)
    export(net, target, overwrite=True, thresholds=0.25)
    assert sidecar.read_sidecar(target)["thresholds"] == [0.25] * 4
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.json").write_text("{}")
    with pytest.raises(FileExistsError, match="no export"):
        export(net, other, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["thesis", "x"]


def test_killed_export_leaves_no_directory_and_the_next_one_cleans_up(tmp_path):
    script = """
        import os, signal, sys
        from export_helpers import export, make_net
        from gluon_attn.export import sidecar
        net = make_net()
        sidecar.describe_file = lambda path: os.kill(os.getpid(), signal.SIGKILL)
        export(net, sys.argv[1])
    """
    target = tmp_path / "x"
    code, _, err = run_python(script, target)
    assert code == -9, err
    left = os.listdir(tmp_path)
    assert not target.exists() and len(left) == 1 and ".partial-" in left[0]
    export(make_net(), target)
    assert os.listdir(tmp_path) == ["x"]


def test_killed_between_the_two_renames_gives_the_old_export_back(tmp_path):
    target = tmp_path / "x"
    export(make_net(), target)
    host = sidecar.socket.gethostname()
    target.rename(tmp_path / f".x.old-{host}-{ended_process()}-00000000")
    with sidecar.new_directory(target, overwrite=True) as partial:
        assert sidecar.is_export(target)
        shutil.copytree(str(target), str(partial), dirs_exist_ok=True)
    assert os.listdir(tmp_path) == ["x"]
