"""The search of AutoLA: super-network, steps of the architecture, derivation, whole runs."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from parts_helpers import started
from training_helpers import checkpoint_arrays, random_batch, same, start_method, values

from gluon_attn.core.batch import Batch
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.schema import Attribute, Schema
from gluon_attn.figures.curves import search_curves
from gluon_attn.losses.classification import objective
from gluon_attn.nets import cifar_resnet, resnet
from gluon_attn.papers.autola import SearchHOGA, SuperNet, derive, random_genotype
from gluon_attn.papers.autola.genotype import EDGES, OPERATIONS, find_genotype
from gluon_attn.papers.autola.operations import DepthWise, operation
from gluon_attn.papers.autola.search import Architect, AutoLA, clip_gradients, entropy, strengths
from gluon_attn.papers.autola.search import shares as shares_of
from gluon_attn.papers.autola.supernet import PASSES, EdgePass, PairConv
from gluon_attn.train import read_json_lines
from gluon_attn.train.run import Settings
from gluon_attn.train.search import halves, search
from model_zoo import get_model
from tools.experiments.search_compare import compare

CLASSES = 3
SCHEMA = Schema([Attribute("class", "multiclass", ("a", "b", "c"))])


def normal(shape, seed=0, scale=1.0):
    return mx.nd.array(np.random.default_rng(seed).normal(size=shape) * scale)


# -- the super-network ---------------------------------------------------------------------------

# Where an operation's parameter lies in the stacked layers of a pass.
STACKED = {
    "sep_conv_3x3": ("sep", "gate.body"), "dil_conv_3x3": ("dil", "gate.body"),
    "sep_conv_3x3_spatial": ("sep_spatial", "gate.body"),
    "dil_conv_3x3_spatial": ("dil_spatial", "gate.body"),
    "SE": ("se", "gate"), "SE_A_M": ("se_a_m", "gate"), "CBAM": ("cbam", "channel"),
}  # fmt: skip


def rows(array, edge, edges):
    """Return the rows of one edge of what lies side by side."""
    size = array.shape[0] // edges
    return array[edge * size : (edge + 1) * size]


def operations_of(stack, edge, edges, channels):
    """Return the nine operations of one edge as blocks of their own, by name."""
    given = {n: p.data() for n, p in stack._collect_params_with_prefix().items()}
    found = {}
    for name in OPERATIONS:
        block = operation(name, channels, affine=False)
        block.initialize()
        for key, parameter in block._collect_params_with_prefix().items():
            if key.endswith(("gamma", "beta")):
                continue
            parameter.set_data(
                _stacked_value(given, name, key, edge, edges).reshape(parameter.shape)
            )
        found[name] = block
    return found


def _stacked_value(given, name, key, edge, edges):
    """Return one edge's rows of the array in a pass that belongs to an operation's parameter."""
    layer, statistic = key.rsplit(".", 2)[-2:]
    if name == "CBAM" and key.startswith("spatial"):
        layer = "cbam_spatial.0.each" if layer == "0" else "cbam_spatial.1"
        return rows(given[f"{layer}.{statistic}"], edge, edges)
    if statistic.startswith("running") and layer == ("6" if name.startswith("sep") else "2"):
        # the batch norm that two operations share
        both = given[f"{'spatial_norm' if 'spatial' in name else 'norm'}.{statistic}"]
        half = both.shape[0] // 2
        return rows(both[:half] if name.startswith("sep") else both[half:], edge, edges)
    theirs, ours = STACKED[name]
    path = theirs + key[len(ours) :]
    return rows(given[path.replace("dil_spatial.0.", "dil_spatial.0.each.")], edge, edges)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("edges, shared", [(4, False), (3, True), (2, True), (1, True)])
def test_a_pass_is_the_weighted_sum_of_the_operations(edges, shared, train):
    c = 4
    stack = started(EdgePass(c, edges, shared))
    sources = 1 if shared else edges
    x = normal((3, sources * c, 6, 5))
    weight = mx.nd.softmax(normal((edges, len(OPERATIONS)), 1), axis=1)
    blocks = [operations_of(stack, edge, edges, c) for edge in range(edges)]
    with autograd.record(train_mode=train):
        found = stack(x, weight).asnumpy()
        for edge in range(edges):
            source = x if shared else x[:, edge * c : (edge + 1) * c]
            terms = [
                weight[edge, k].asscalar() * blocks[edge][name](source)
                for k, name in enumerate(OPERATIONS)
            ]
            expected = sum(t.asnumpy() for t in terms)
            np.testing.assert_allclose(
                found[:, edge * c : (edge + 1) * c], expected, rtol=1e-4, atol=2e-6
            )


def test_passes_hold_every_edge_once():
    assert PASSES == ((0, 1, 3, 6), (2, 4, 7), (5, 8), (9,))
    assert all(EDGES[k][1] == source for source, edges in enumerate(PASSES) for k in edges)


@pytest.mark.parametrize("channels", [1, 3, 4, 8, 12])
def test_filling_up_channels_changes_nothing(channels):
    layer, x = started(DepthWise(channels)), normal((2, channels, 5, 5))
    expected = mx.nd.Convolution(
        x, layer.weight.data(), kernel=(3, 3), pad=(1, 1), num_filter=channels,
        num_group=channels, no_bias=True,
    )  # fmt: skip
    np.testing.assert_allclose(layer(x).asnumpy(), expected.asnumpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(7, 7), (8, 12)])
@pytest.mark.parametrize("side, dilation", [(3, 2), (7, 1)])
def test_pairs_are_convolutions_of_two_channels(side, dilation, size):
    layer, x = started(PairConv(3, side, dilation)), normal((2, 6, *size))
    weight, pad = layer.each.weight, (dilation * (side // 2),) * 2
    kernel = weight.data().reshape((3, 2, side, side)).copy()
    kernel.attach_grad()
    with autograd.record():
        found = layer(x)
        expected = mx.nd.Convolution(
            x, kernel, kernel=(side, side), pad=pad, dilate=(dilation,) * 2, num_filter=3,
            num_group=3, no_bias=True,
        )  # fmt: skip
    head = normal(expected.shape, 1)
    autograd.backward([found, expected], [head, head])
    np.testing.assert_allclose(found.asnumpy(), expected.asnumpy(), rtol=1e-5, atol=1e-5)
    slope = weight.grad().reshape(kernel.shape).asnumpy()
    np.testing.assert_allclose(slope, kernel.grad.asnumpy(), rtol=1e-4, atol=1e-4)


def test_only_skips_make_the_nodes_sums():
    """With all weight on skip_connect the block is the HOGA of ten skips."""
    block, x = started(SearchHOGA(16)), normal((2, 16, 4, 4))
    one = np.eye(9, dtype=np.float32)[OPERATIONS.index("skip_connect")]
    weights = [mx.nd.array(np.tile(one, (len(e), 1))) for e in PASSES]
    groups = mx.nd.split(x, num_outputs=4, axis=1)
    expected = []
    for node, group in zip(block.nodes(mx.nd, x, groups, *weights), groups):
        expected.append(group.asnumpy() + sum(expected))
        np.testing.assert_allclose(node.asnumpy(), expected[-1], rtol=1e-4, atol=1e-5)


def super_net(seed=0, width=8):
    """Return one with a single unit in each stage."""
    net = get_model("autola_search_resnet20", depth=8, classes=CLASSES, width=width, input_size=16)
    mx.random.seed(seed)
    net.initialize(mx.init.Xavier())
    return net


def test_hybridized_and_imperative_super_networks_agree():
    net, x, results = super_net(), normal((4, 3, 16, 16)), []
    for hybrid in (False, True):
        if hybrid:
            net.hybridize(static_alloc=True, static_shape=True)
        with autograd.record():
            out = net(x)
        out.backward()
        results.append((out.asnumpy(), net.alpha.grad().asnumpy()))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-3, atol=1e-4)
    scale = abs(results[0][1]).max()
    np.testing.assert_allclose(results[0][1], results[1][1], atol=2e-3 * scale)
    assert (results[0][1][:, 0] != 0).all()  # softmax: what is given to none is taken elsewhere


def test_backbones_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="BottleneckV1b: the search knows units of two"):
        SuperNet(resnet(50, "v1b", width=8))
    with pytest.raises(ValueError, match="neither taps nor attention blocks"):
        SuperNet(cifar_resnet(20, attention="se"))


# -- derivation ----------------------------------------------------------------------------------


def test_derivation_by_hand():
    alpha = np.zeros((10, 9))
    alpha[:, OPERATIONS.index("none")] = 9  # never chosen
    wanted = find_genotype("autola_cifar10")
    for edge, name in enumerate(wanted.operations):
        alpha[edge, OPERATIONS.index(name)] = 1
    assert derive(alpha) == wanted
    share = np.exp(1) / (np.exp(9) + np.exp(1) + 7)
    np.testing.assert_allclose(strengths(alpha), share, rtol=1e-12)
    np.testing.assert_allclose(shares_of(alpha).sum(axis=1), 1)


def test_entropy_has_its_limits():
    np.testing.assert_allclose(entropy(np.zeros((10, 9))), np.log(9))
    sure = np.zeros((10, 9))
    sure[:, 3] = 1000
    np.testing.assert_allclose(entropy(sure), 0, atol=1e-12)
    for bad in (np.zeros((9, 9)), np.full((10, 9), np.nan)):
        with pytest.raises(ValueError, match="needs 10 edges x 9"):
            entropy(bad)


def test_random_genotypes_are_uniform_without_none_and_repeatable():
    drawn = [random_genotype(seed).operations for seed in range(300)]
    assert drawn[7] == random_genotype(7).operations != random_genotype(8).operations
    counts = {name: sum(ops.count(name) for ops in drawn) for name in OPERATIONS}
    assert counts.pop("none") == 0
    assert max(abs(c - 375) for c in counts.values()) < 4 * np.sqrt(375)


# -- steps ---------------------------------------------------------------------------------------


def batch_of(seed, rows=6):
    label = np.eye(CLASSES)[np.random.default_rng(seed).integers(CLASSES, size=rows)]
    return random_batch(seed, rows, CLASSES, 16, label=label)


def method_of(net, **options):
    return start_method(
        "autola", net, SCHEMA.columns, samples=60, prior=1 / CLASSES, schema=SCHEMA, lr=0.05,
        wd=5e-4, options=options,
    )  # fmt: skip


def test_a_step_moves_alpha_by_adam_and_weights_by_sgd():
    net = super_net()
    method, before = method_of(net, alpha_wd=0.0), values(net)
    sums = method.train_step(batch_of(0), batch_of(1))
    assert set(sums) == {"ce", "ce_architecture", "loss"}
    after = values(net)
    # The first step of Adam is its learning rate in the direction of the gradient's sign.
    moved = after["alpha"] - before["alpha"]
    assert np.abs(np.abs(moved) - 3e-3).max() < 3e-4
    changed = {n for n in before if (before[n] != after[n]).any()}
    assert "output.weight" in changed and "units.0.attention.passes.0.sep.0.weight" in changed
    norms = [n for n in before if n.endswith("gamma") and "passes" in n]
    assert norms and not changed & set(norms)
    assert net.alpha.grad_req == "null"  # the step of the weights computes no gradient of alpha


def test_the_gradient_is_clipped_to_its_norm():
    arrays = [normal((4, 3), 1), normal((5,), 2)]
    before = [a.asnumpy() for a in arrays]
    norm = np.sqrt(sum((a**2).sum() for a in before))
    found = clip_gradients(arrays, norm / 4)
    assert found.asscalar() == pytest.approx(norm, rel=1e-5)
    for array, old in zip(arrays, before):
        np.testing.assert_allclose(array.asnumpy(), old / 4, rtol=1e-4)
    for largest in (0, 10 * norm):  # no limit, and one that is not reached
        kept = [mx.nd.array(old) for old in before]
        clip_gradients(kept, largest)
        for array, old in zip(kept, before):
            np.testing.assert_array_equal(array.asnumpy(), old)


class Toy(mx.gluon.HybridBlock):
    """Logits that depend on both kinds of parameters, smooth, without batch norm."""

    output_names = ("logits",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.alpha = self.params.get("alpha", shape=(2, 3), init=mx.init.Normal(0.5))
            self.weight = self.params.get("weight", shape=(3, 48), init=mx.init.Normal(0.2))

    def hybrid_forward(self, F, x, alpha, weight):
        hidden = F.tanh(F.FullyConnected(F.Flatten(x), weight, num_hidden=3, no_bias=True))
        return F.broadcast_mul(hidden, F.softmax(F.sum(alpha, axis=0, keepdims=True))) * 5


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_second_order_step_against_differences(momentum):
    """The gradient through one step of the weights equals that of numbers computed afresh."""
    net, loss, lr, wd = Toy(), objective(SCHEMA), 0.5, 0.01
    net.initialize()
    rng = np.random.default_rng(0)
    train, held_out = (
        Batch(normal((5, 3, 4, 4), s), mx.nd.array(np.eye(3)[rng.integers(3, size=5)]),
              mx.nd.ones((5, 3)), np.arange(5)) for s in (1, 2)
    )  # fmt: skip
    velocity = normal(net.weight.shape, 3, 0.05)
    net.alpha.grad_req = "null"
    settings = {"learning_rate": 1.0}
    architect = Architect(net, loss, settings, second_order=True)
    architect.trainer = mx.gluon.Trainer(architect.trainer._params, "sgd", settings, kvstore=None)
    alpha, weight = net.alpha.data().asnumpy(), net.weight.data().asnumpy()

    def unrolled(value):
        net.alpha.set_data(mx.nd.array(value))
        net.weight.set_data(mx.nd.array(weight))
        with autograd.record():
            total = loss(net(train.image), train.label, train.mask).mean()
        total.backward()
        step = net.weight.grad() + wd * net.weight.data()
        net.weight.set_data(net.weight.data() - lr * step + momentum * velocity)
        return loss(net(held_out.image), held_out.label, held_out.mask).mean().asscalar()

    expected, step = np.zeros_like(alpha), 2e-2
    for place in np.ndindex(*alpha.shape):
        shift = np.zeros_like(alpha)
        shift[place] = step
        expected[place] = (unrolled(alpha + shift) - unrolled(alpha - shift)) / (2 * step)
    net.alpha.set_data(mx.nd.array(alpha)), net.weight.set_data(mx.nd.array(weight))
    told = {"momentum": momentum, "wd": wd, "velocity": {net.weight.name: velocity}}
    architect.step(held_out, train, lr, **told)
    found = alpha - net.alpha.data().asnumpy()  # plain SGD with rate 1
    np.testing.assert_allclose(found, expected, rtol=3e-2, atol=3e-4)
    np.testing.assert_array_equal(net.weight.data().asnumpy(), weight)  # put back to the bit
    with autograd.record():
        value = loss(architect.view(held_out.image), held_out.label, held_out.mask).mean()
    value.backward()
    assert np.abs(architect.alpha.grad().asnumpy() - expected).max() > 0.01  # first order differs


def test_a_second_order_step_is_told_of_the_weights_optimiser():
    method = method_of(super_net())
    assert method._unrolling() == {}, "first order needs nothing"
    method.train_step(batch_of(0), batch_of(10))
    method.options["second_order"] = True
    told = method._unrolling()
    assert (told["lr"], told["momentum"]) == (method.trainer.learning_rate, 0.9)
    parameters = {p.name: p for p in method.trainer._params}
    assert set(told["velocity"]) == set(parameters)
    for name, velocity in told["velocity"].items():
        assert velocity.shape == parameters[name].shape


def test_what_a_search_refuses():
    plain = get_model("cifar_resnet20_cifar10", classes=CLASSES, width=8)
    plain.initialize()
    with pytest.raises(ValueError, match="needs a super-network"):
        method_of(plain)
    with pytest.raises(ValueError, match="use tools/search.py"):
        method_of(super_net()).train_step(batch_of(0))
    for settings, text in (
        ({"ctx": [mx.cpu(0), mx.cpu(1)]}, "one device"), ({"accumulate": 2}, "no accumulate"),
        ({"amp": "float16"}, "float32"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            start_method("autola", super_net(), SCHEMA.columns, schema=SCHEMA, **settings)


# -- whole runs ----------------------------------------------------------------------------------


def test_halves_are_disjoint_and_follow_the_seed():
    first, second = halves(101, 3)
    assert len(first) == len(second) == 50 and not set(first) & set(second)
    assert (halves(101, 3)[0] == first).all() and (halves(101, 4)[0] != first).any()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of tiny images whose class is their brightest colour."""
    import cv2

    root, rng = tmp_path_factory.mktemp("classes"), np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 9), ("test", 9)):
        for k, name in enumerate("abc"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count // 3):
                image = rng.integers(0, 120, (16, 16, 3)).astype(np.uint8)
                image[4:12, 4:12, k] += 100
                cv2.imwrite(str(folder / f"{number}.png"), image)
    (root / "classes.txt").write_text("a\nb\nc\n")
    return root


def recipe_of(**changes):
    settings = dict(
        method="autola", model="autola_search_resnet20", model_options={"width": 8, "depth": 8},
        score="top1", keep="last", input_size=16, resize=16, augment="pad", pad=2, eval_crop=16,
        epochs=2, batch_size=4, lr=0.05, schedule="cosine", lr_min=1e-4, log_interval=50,
    )  # fmt: skip
    return Recipe.from_dict(dict(settings, **changes))


def run(recipe, data, folder, resume=False):
    settings = Settings(str(data), str(folder), resume=resume, workers=0, cache=True, console=False)
    return search(recipe, settings)


def test_a_search_writes_its_result_and_resumes_to_the_bit(data, tmp_path, monkeypatch):
    whole = run(recipe_of(), data, tmp_path / "whole")
    assert find_genotype(whole["file"]) == whole["genotype"]
    about = json.loads((tmp_path / "whole" / "genotype.json").read_text())["about"]
    assert about["seed"] == 0 and len(about["strength"]) == 10
    for name in ("genotype.png", "search.png", "curves.png", "log.jsonl"):
        assert (tmp_path / "whole" / name).stat().st_size > 1000
    log = read_json_lines(str(tmp_path / "whole" / "log.jsonl"))
    assert len(log) == 2 and len(log[0]["edge_entropy"]) == 10
    assert log[0]["edge_entropy"] != log[1]["edge_entropy"]
    with pytest.raises(FileExistsError, match="holds a run already"):
        run(recipe_of(), data, tmp_path / "whole")
    begin = AutoLA.begin_epoch

    def begin_epoch(self, epoch):
        if epoch == 1:
            raise Enough
        begin(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(AutoLA, "begin_epoch", begin_epoch)
        with pytest.raises(Enough):
            run(recipe_of(), data, tmp_path / "parts")
    again = run(recipe_of(), data, tmp_path / "parts", resume=True)
    assert again["genotype"] == whole["genotype"]
    one, other = (checkpoint_arrays(tmp_path / n / "last.ckpt") for n in ("whole", "parts"))
    assert any("trainer/architecture" in name for name in one)
    same(other, one)


class Enough(Exception):
    pass


def test_a_comparison_trains_all_ways_alike(data, tmp_path):
    def training(overrides):
        values = dict(method="baseline", model="hoga_resnet20_cifar10", epochs=1)
        return recipe_of(**values).override(overrides)

    def searching(overrides):
        return recipe_of(epochs=1).override(overrides)

    def compared(*ways):
        return compare(
            searching, training, str(data), [3], out=str(tmp_path), ways=ways, workers=0, say=len,
            settings={"none, longer": ("epochs=2",)},
        )  # fmt: skip

    ways = ("HOG-SE", "published", "none", "none, longer")
    done = compared(*ways)
    assert set(done.rows) == {"searched", "random", *ways}
    trained = json.loads((tmp_path / "none-longer-3" / "recipe.json").read_text())["recipe"]
    assert trained["epochs"] == 2 and trained["model_options"]["attention"] is None
    for size in ("parameters", "multiply_adds"):
        sizes = {way: rows[0][size] for way, rows in done.rows.items()}
        assert sizes["none"] == sizes["none, longer"] < sizes["HOG-SE"]
    assert f"{done.rows['none'][0]['multiply_adds'] / 1e6:.1f} M" in done.text
    assert "minus random" in done.text and "minus none" in done.text
    assert done.rows["random"][0]["genotype"] == f"hoga:{random_genotype(3)}"
    assert done.rows["HOG-SE"][0]["genotype"] == "hog_se"
    assert done.rows["searched"][0]["seconds_of_search"] > 0
    assert "searched genotypes are above the mean of the random ones" in done.text
    entropy = list(
        read_json_lines(str(tmp_path / "search-3" / "log.jsonl"))[-1]["edge_entropy"].values()
    )
    assert done.rows["searched"][0]["entropy"] == pytest.approx(np.mean(entropy))
    assert f"mean: {np.mean(entropy):.2f} nats; ln 9 = 2.20" in done.text
    gain = 100 * (done.rows["published"][0]["score"] - done.rows["none, longer"][0]["score"])
    assert f"published minus none, longer: {gain:+.1f}." in done.text
    before = (tmp_path / "results.json").stat().st_mtime_ns
    compared(*ways)  # tables again, no training
    assert (tmp_path / "results.json").stat().st_mtime_ns > before
    with pytest.raises(ValueError, match="valid ways are HOG-SE"):
        compared("SEE")


def test_curves_need_a_search(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        search_curves([{"epoch": 0, "loss": 1}], tmp_path / "search.png")
