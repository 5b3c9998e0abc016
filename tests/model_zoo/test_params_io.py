"""Parameter files: every damaged or unfitting one is refused, and nothing is ever half done."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn
from mxnet.gluon.model_zoo.vision.resnet import BasicBlockV1, ResNetV1

from gluon_attn.core.files import sha256_of
from model_zoo.adapters.read import read_params
from model_zoo.params_io import load_backbone, load_into, save_params

ROOT = str(Path(__file__).resolve().parents[2])


def tiny_resnet(classes=3, seed=0, **kwargs):
    """A two-stage Gluon ResNet with known shapes and random values."""
    net = ResNetV1(BasicBlockV1, [1, 1], [4, 4, 6], classes=classes, **kwargs)
    return started(net, seed)


def started(net, seed=0):
    mx.random.seed(seed)
    net.initialize(mx.init.Normal(1.0))
    net(mx.nd.zeros((1, 3, 32, 32)))
    mx.nd.waitall()  # convolutions reorder their weights in place as they run
    return net


class Wrapped(nn.HybridBlock):
    """A backbone with a head beside it, as attention nets hold theirs."""

    def __init__(self, scoped=True, classes=3, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope() if scoped else nn.HybridSequential(prefix="").name_scope():
            self.backbone = ResNetV1(BasicBlockV1, [1, 1], [4, 4, 6], classes=classes)
            self.heads = nn.HybridSequential()
            self.heads.add(nn.Dense(5), nn.Dense(2))

    def hybrid_forward(self, F, x):
        x = self.backbone(x)
        return x, self.heads(x)


def values(net):
    params = net._collect_params_with_prefix()
    return {name: p.data().asnumpy().copy() for name, p in params.items()}


def same(a, b, names=None):
    return all(np.array_equal(a[n], b[n]) for n in (names or a))


def export(net, tmp_path):
    net.hybridize()
    net(mx.nd.zeros((1, 3, 32, 32)))
    net.export(str(tmp_path / "exported"))
    return str(tmp_path / "exported-0000.params")


def written(net, tmp_path, kind="saved"):
    """Save or export a net; return the path."""
    if kind != "saved":
        return export(net, tmp_path)
    net.save_parameters(str(tmp_path / "a.params"))
    return tmp_path / "a.params"


# ------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("kind", ["saved", "exported"])
def test_read_gives_every_array_without_arg_and_aux(tmp_path, kind):
    net = tiny_resnet()
    params = read_params(written(net, tmp_path, kind))
    if kind == "saved":
        assert same({n: p.asnumpy() for n, p in params.items()}, values(net))
    else:
        assert sorted(params) == sorted(net.collect_params())
        assert "running_var" in "".join(params) and not any(":" in n for n in params)


def test_truncated_at_any_length_is_refused(tmp_path):
    path = tmp_path / "a.params"
    mx.nd.save(str(path), {"w": mx.nd.ones((5, 3)), "b": mx.nd.zeros((5,))})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.params.*(again|Valid are)"):
            read_params(path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "empty file"),
        (b"<html>404 not found</html>", "not an MXNet parameter file.*<html>"),
        (b"PK\x03\x04 zip", "unpack zip"),
        (b"\x12\x01" + b"\0" * 6 + b"\xff" * 64, "truncated or damaged"),
        (b"\x12\x01" + b"\0" * 14 + b"\xff" * 400, "truncated or damaged"),
    ],
)
def test_garbage_is_refused(tmp_path, content, message):
    (tmp_path / "bad.params").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.params: .*" + message):
        read_params(tmp_path / "bad.params")


def test_a_name_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "a.params"
    mx.nd.save(str(path), {"weight": mx.nd.ones((2,))})
    path.write_bytes(path.read_bytes().replace(b"weight", b"\xff\xfeight"))
    with pytest.raises(ValueError, match="damaged"):
        read_params(path)


def test_empty_and_nameless_files_are_refused(tmp_path):
    mx.nd.save(str(tmp_path / "none.params"), {})
    with pytest.raises(ValueError, match=r"none\.params: holds no parameters.*forward"):
        read_params(tmp_path / "none.params")
    mx.nd.save(str(tmp_path / "list.params"), [mx.nd.ones((1,))])
    with pytest.raises(ValueError, match="without names"):
        read_params(tmp_path / "list.params")
    mx.nd.save(str(tmp_path / "twice.params"), {"arg:a": mx.nd.ones(1), "aux:a": mx.nd.ones(1)})
    with pytest.raises(ValueError, match="both"):
        read_params(tmp_path / "twice.params")


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.params"):
        read_params(tmp_path / "gone.params")
    with pytest.raises(FileNotFoundError):
        read_params(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_non_finite_values_are_named(tmp_path, value, dtype):
    bad = np.ones((3, 2), dtype)
    bad[1, 1] = value
    arrays = {"fine": mx.nd.ones((1,)), "spoilt": mx.nd.array(bad, dtype=dtype)}
    mx.nd.save(str(tmp_path / "a.params"), arrays)
    with pytest.raises(ValueError, match=r"a\.params: NaN or infinite values in spoilt\."):
        read_params(tmp_path / "a.params")


# ------------------------------------------------------------------------------------ fitting


def test_int8_numbers_are_multiplied_by_their_steps(tmp_path):
    codes, step = np.array([[-127, 5], [3, 127]], np.int8), np.array([[0.5], [0.25]], np.float32)
    path, plain = str(tmp_path / "a.params"), mx.nd.array([7], dtype=np.int8)
    arrays = {"w": mx.nd.array(codes, dtype=np.int8), "alone": plain, "x.step": mx.nd.ones(1)}
    mx.nd.save(
        path, {"arg:w.step": mx.nd.array(step), **{f"arg:{k}": v for k, v in arrays.items()}}
    )
    found = read_params(path)
    assert set(found) == {"w", "alone", "x.step"} and found["alone"].dtype == np.int8
    np.testing.assert_array_equal(found["w"].asnumpy(), codes * step)
    mx.nd.save(path, {"w": arrays["w"], "w.step": mx.nd.ones((1, 2))})
    with pytest.raises(ValueError, match=r"a.params: w \(2, 2\) has steps \(1, 2\)"):
        read_params(path)


@pytest.mark.parametrize("kind", ["saved", "exported"])
@pytest.mark.parametrize("state", ["initialized", "deferred", "untouched"])
def test_load_into_restores_every_value(tmp_path, kind, state):
    net = tiny_resnet()
    path = written(net, tmp_path, kind)
    other = ResNetV1(BasicBlockV1, [1, 1], [4, 4, 6], classes=3)
    assert other.prefix != net.prefix
    if state != "untouched":
        other.initialize()
    if state == "initialized":
        other(mx.nd.zeros((1, 3, 32, 32)))
    loaded = load_into(other, path)
    assert loaded.missing == loaded.ignored == [] and len(loaded.assigned) == len(values(net))
    assert same(values(net), values(other))
    x = mx.nd.random.normal(shape=(2, 3, 32, 32))
    assert np.array_equal(net(x).asnumpy(), other(x).asnumpy())


def test_a_hybridized_net_uses_the_loaded_values(tmp_path):
    net, other = tiny_resnet(seed=0), tiny_resnet(seed=1)
    other.hybridize(static_alloc=True, static_shape=True)
    x = mx.nd.random.normal(shape=(2, 3, 32, 32))
    other(x).wait_to_read()
    save_params(net, tmp_path / "a.params")
    load_into(other, tmp_path / "a.params")
    assert np.allclose(net(x).asnumpy(), other(x).asnumpy(), rtol=1e-5, atol=1e-5)


def test_one_message_lists_all_that_does_not_fit_and_nothing_is_loaded(tmp_path):
    net = tiny_resnet()
    arrays = {n: mx.nd.array(v) for n, v in values(net).items()}
    del arrays["features.1.gamma"]
    arrays["features.9.weight"] = mx.nd.ones((1,))
    arrays["output.weight"] = mx.nd.ones((7, 6))
    arrays["output.bias"] = mx.nd.ones((3, 1))
    mx.nd.save(str(tmp_path / "a.params"), arrays)
    other = tiny_resnet(seed=1)
    before = values(other)
    with pytest.raises(ValueError) as caught:
        load_into(other, tmp_path / "a.params")
    text = str(caught.value)
    for part in (
        "a.params does not fit ResNetV1; nothing was loaded",
        f"1 of {len(before)} missing in the file: features.1.gamma",
        "in the file unexpected: features.9.weight",
        "2 of another shape: output.weight (file (7, 6), net (3, 6))",
        "output.bias (file (3, 1), net (3,))",
    ):
        assert part in text
    assert same(before, values(other))


def test_long_lists_are_cut_with_counts(tmp_path):
    net = tiny_resnet()
    mx.nd.save(str(tmp_path / "a.params"), {"x.weight": mx.nd.ones((1,))})
    with pytest.raises(ValueError, match=rf"{len(values(net))} of .* and \d+ more"):
        load_into(net, tmp_path / "a.params")


def test_allow_missing_and_ignore(tmp_path):
    net, other = Wrapped(), Wrapped()
    started(net, 0)
    started(other, 1)
    arrays = {n: mx.nd.array(v) for n, v in values(net).items() if not n.startswith("heads.1.")}
    arrays["optimizer.state"] = mx.nd.ones((2,))
    mx.nd.save(str(tmp_path / "a.params"), arrays)
    before = values(other)
    with pytest.raises(ValueError, match="heads.1.weight"):
        load_into(other, tmp_path / "a.params", ignore=("optimizer.*",))
    with pytest.raises(ValueError, match=r"optimizer\.state"):
        load_into(other, tmp_path / "a.params", allow_missing="heads.*")
    assert same(before, values(other))
    loaded = load_into(
        other, tmp_path / "a.params", allow_missing=("heads.*",), ignore="optimizer.*"
    )
    assert loaded.missing == ["heads.1.bias", "heads.1.weight"]
    assert loaded.ignored == ["optimizer.state"]
    after = values(other)
    assert same(before, after, loaded.missing) and same(values(net), after, loaded.assigned)


def test_prefix_map_renames_and_drops(tmp_path):
    net, other = started(Wrapped()), tiny_resnet(seed=1)
    net.save_parameters(str(tmp_path / "a.params"))
    loaded = load_into(other, tmp_path / "a.params", prefix_map={"backbone.": "", "heads.": None})
    assert same(values(net.backbone), values(other)) and len(loaded.ignored) == 4
    with pytest.raises(ValueError, match="makes two parameters"):
        load_into(other, tmp_path / "a.params", prefix_map={"heads.0.": "x.", "heads.1.": "x."})


def test_shared_parameters_need_one_of_their_names(tmp_path):
    def build():
        net = nn.HybridSequential()
        net.add(nn.Dense(4, in_units=4))
        net.add(nn.Dense(4, in_units=4, params=net[0].params))
        net.initialize(mx.init.Normal(1.0), force_reinit=True)
        return net

    net, other = build(), build()
    net.save_parameters(str(tmp_path / "a.params"), deduplicate=True)
    assert len(read_params(tmp_path / "a.params")) == 2
    load_into(other, tmp_path / "a.params")
    assert same(values(net), values(other))


def test_other_precision_is_cast(tmp_path):
    net, other = tiny_resnet(), tiny_resnet(seed=1)
    halves = {n: mx.nd.array(v).astype("float16") for n, v in values(net).items()}
    mx.nd.save(str(tmp_path / "a.params"), halves)
    load_into(other, tmp_path / "a.params")
    weight = other.output.weight.data()
    assert weight.dtype == np.float32
    assert np.array_equal(weight.asnumpy(), halves["output.weight"].asnumpy().astype("float32"))


def test_global_counters_of_unscoped_layers_are_matched(tmp_path):
    def build(width, seed):
        net = nn.HybridSequential()
        net.add(nn.Conv2D(4, 3), nn.BatchNorm(), nn.Conv2D(4, 3), nn.Dense(width), nn.Dense(2))
        return started(net, seed)

    net, other, wider = build(5, 0), build(5, 1), build(6, 2)
    path = export(net, tmp_path)
    assert not set(read_params(path)) & set(other.collect_params())
    load_into(other, path)
    assert same(values(net), values(other))
    before = values(wider)
    with pytest.raises(ValueError, match=r"3 of another shape: 3\.weight"):
        load_into(wider, path)
    wider.add(nn.Dense(2))
    wider[5].initialize()
    wider(mx.nd.zeros((1, 3, 32, 32)))
    with pytest.raises(ValueError, match=r"4 of 14 missing in the file: 3\.weight"):
        load_into(wider, path, allow_missing="5.*")  # which Dense of the file would be which?
    assert same(before, values(wider), before)


class Branches(nn.HybridBlock):
    """Two equal branches that run in the other order than they are registered in."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = nn.Conv2D(2, 1), nn.Conv2D(2, 1)

    def hybrid_forward(self, F, x):
        return F.concat(self.second(x), self.first(x))


def test_equal_branches_are_not_swapped_by_the_order_of_an_export(tmp_path):
    net, other = started(Branches(), 0), started(Branches(), 1)
    path = export(net, tmp_path)
    assert list(read_params(path))[0] == net.second.weight.name
    load_into(other, path)
    assert same(values(net), values(other))


@pytest.mark.parametrize("scoped", [True, False])
def test_an_exported_whole_net_loads_into_another_instance(tmp_path, scoped):
    net, other = started(Wrapped(scoped), 0), started(Wrapped(scoped), 1)
    load_into(other, export(net, tmp_path))
    assert same(values(net), values(other))


# ----------------------------------------------------------------------------------- backbones


@pytest.mark.parametrize("kind", ["saved", "exported"])
def test_backbone_takes_a_zoo_file_with_other_classes(tmp_path, caplog, kind):
    net, other = tiny_resnet(classes=10), tiny_resnet(classes=3, seed=1)
    path = written(net, tmp_path, kind)
    before = values(other)
    with caplog.at_level(logging.INFO):
        skipped = load_backbone(other, path)
    after = values(other)
    body = [n for n in after if n.startswith("features.")]
    assert same(values(net), after, body)
    assert same(before, after, ["output.weight", "output.bias"])
    assert len(skipped) == 2 and "stays at its initialisation" in caplog.text
    if kind == "saved":
        assert skipped == ["output.bias", "output.weight"]


@pytest.mark.parametrize("kind", ["saved", "exported", "exported without scope"])
@pytest.mark.parametrize("classes", [3, 8])
def test_backbone_from_a_whole_net(tmp_path, kind, classes):
    net = started(Wrapped(scoped="without" not in kind, classes=classes))
    other = tiny_resnet(seed=1)
    path = written(net, tmp_path, kind)
    skipped = load_backbone(other, path)
    body = [n for n in values(other) if n.startswith("features.") or classes == 3]
    assert same(values(net.backbone), values(other), body)
    assert len(skipped) == (4 if classes == 3 else 6)
    if kind == "saved":
        assert {"heads.0.weight", "heads.1.bias"} < set(skipped)


def test_backbone_without_a_classifier_in_the_file(tmp_path):
    net, other = tiny_resnet(), tiny_resnet(seed=1)
    arrays = {n: mx.nd.array(v) for n, v in values(net).items() if n.startswith("features.")}
    mx.nd.save(str(tmp_path / "a.params"), arrays)
    assert load_backbone(other, tmp_path / "a.params") == []
    assert same(values(net.features), values(other.features))


def test_backbone_of_another_depth_is_refused_whole(tmp_path):
    net = ResNetV1(BasicBlockV1, [2, 1], [4, 4, 6], classes=3)
    started(net).save_parameters(str(tmp_path / "deep.params"))
    other = tiny_resnet(seed=1)
    before = values(other)
    with pytest.raises(ValueError, match="unexpected: features.4.1."):
        load_backbone(other, tmp_path / "deep.params")
    tiny_resnet().save_parameters(str(tmp_path / "shallow.params"))
    with pytest.raises(ValueError, match="missing in the file: features.4.1."):
        load_backbone(net, tmp_path / "shallow.params")
    assert same(before, values(other))


def test_two_backbones_in_one_file_are_ambiguous(tmp_path):
    net = tiny_resnet()
    arrays = {f"{p}.{n}": mx.nd.array(v) for p in ("a", "b") for n, v in values(net).items()}
    mx.nd.save(str(tmp_path / "a.params"), arrays)
    with pytest.raises(ValueError, match="several places of the file: a., b."):
        load_backbone(net, tmp_path / "a.params")
    load_into(net, tmp_path / "a.params", prefix_map={"a.": "", "b.": None})


# ------------------------------------------------------------------------------------- saving


def test_saved_block_and_dict_are_read_by_gluon(tmp_path):
    net, other = tiny_resnet(), tiny_resnet(seed=1)
    save_params(net, tmp_path / "block.params")
    other.load_parameters(str(tmp_path / "block.params"))
    assert same(values(net), values(other))
    arrays = {n: p.data() for n, p in net._collect_params_with_prefix().items()}
    save_params(arrays, str(tmp_path / "dict.params"))
    assert sha256_of(tmp_path / "dict.params") == sha256_of(tmp_path / "block.params")
    assert sorted(os.listdir(tmp_path)) == ["block.params", "dict.params"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        save_params(net, tmp_path / "nowhere" / "a.params")
