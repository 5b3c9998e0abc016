"""Person re-identification: readers, batches of identities, pictures, net, method, evaluation."""

from __future__ import annotations

import argparse
import json
import re

import cv2
import mxnet as mx
import numpy as np
import pytest
from formats import tiny_reid  # noqa: F401
from formats.tiny import write_tiny
from training_helpers import checkpoint_arrays

from gluon_attn.core.recipe import Recipe
from gluon_attn.core.schema import Schema
from gluon_attn.data import DATASETS, BadImageError, open_dataset, prepare  # noqa: F401
from gluon_attn.data.loader import IdentityLoader, IdentitySampler, Loader
from gluon_attn.data.reid import choose_queries
from gluon_attn.data.transforms import ReidEvalTransform, ReidTrainTransform
from gluon_attn.export import Predictor, export_model
from gluon_attn.export.images import Preprocess
from gluon_attn.export.sidecar import input_entry
from gluon_attn.method import METHODS
from gluon_attn.papers.baselines.reid import IdentityLosses, ReidBaseline
from gluon_attn.papers.combined.dreal_reid import DrealReid
from gluon_attn.task import TASKS, Asked, Trained
from gluon_attn.tasks import data as data_of
from gluon_attn.tasks import reid
from gluon_attn.train import SCHEDULES, Run, build, fit
from model_zoo import get_model

SMALL = {
    "method": "reid", "model": "reid_resnet18_w16_synthetic",
    "model_options": {"width": 8, "attention": "se"}, "dataset": "reid_market", "input_size": 32,
    "resize": 36, "crop_min": 32, "crop_max": 32, "eval_crop": 36, "batch_size": 8,
    "options": {"images_per_identity": 2}, "splits": ("trainval", "val", "test"), "keep": "last",
    "optimizer": "adam", "lr": 1e-3, "iterations_per_epoch": 3, "epochs": 3, "schedule": "constant",
}  # fmt: skip

REID = TASKS.get("reid")
RAW = {"size": (32, 16), "mean": (0, 0, 0), "std": (1, 1, 1)}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Drawn people in Market-1501's format: 10 identities to learn, 4 to find."""
    root = tmp_path_factory.mktemp("people")
    write_tiny("reid_market", root, images={"train": 32, "val": 8, "test": 16}, cameras=2, each=2)
    return root


def picture(root, name, level=100):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / name), np.full((8, 4, 3), level, np.uint8))


@pytest.fixture
def market(tmp_path):
    for k, name in enumerate(
        ("0010_c2s1_000001_01", "0002_c3s2_000002_01", "0002_c1s1_000009_02", "0007_c1s1_000003_01",
         "0010_c6s4_000011_03", "0020_c1s1_000001_01")
    ):  # fmt: skip
        picture(tmp_path, f"bounding_box_train/{name}.jpg", 40 * k)
    for name in ("-1_c1s1_000001_01", "0000_c4s1_000002_01", "0003_c1s1_000001_01",
                 "0001_c6s3_00000_0", "0001_c5s3_000070_00"):  # fmt: skip
        picture(tmp_path, f"bounding_box_test/{name}.jpg")
    picture(tmp_path, "query/0003_c2s1_000005_00.jpg")
    picture(tmp_path, "query/0001_c2s1_000006_00.jpg")
    (tmp_path / "bounding_box_test" / "Thumbs.db").write_bytes(b"not a picture")
    return tmp_path


# -- readers -----------------------------------------------------------------------------------
def test_names_give_identity_and_camera(market):
    data = open_dataset(market, "trainval", kind="reid_market")
    assert data.sample_ids == [
        f"bounding_box_train/{name}.jpg"
        for name in ("0002_c1s1_000009_02", "0002_c3s2_000002_01", "0007_c1s1_000003_01",
                     "0010_c2s1_000001_01", "0010_c6s4_000011_03", "0020_c1s1_000001_01")
    ]  # fmt: skip
    assert data.identities.tolist() == [2, 2, 7, 10, 10, 20]
    assert data.cameras.tolist() == [1, 3, 1, 2, 6, 1]
    assert data.classes == ("0002", "0007", "0010", "0020")
    assert data.targets.tolist() == [0, 0, 1, 2, 2, 3]
    image, label, mask, index = data[0]
    assert image.shape == (8, 4, 3) and abs(int(image.mean()) - 80) < 3, (
        "the third that was written"
    )
    assert label.tolist() == [1, 0, 0, 0] and mask.all() and index == 0


def test_gallery_has_junk_and_distractors_and_test_has_all(market):
    gallery = open_dataset(market, "gallery", kind="reid_market")
    assert gallery.identities.tolist() == [-1, 0, 1, 1, 3], "-1 sorts before digits"
    assert gallery.cameras.tolist() == [1, 4, 5, 6, 1]
    assert gallery.classes == ("-1", "0000", "0001", "0003")
    text = gallery.report.text()
    assert "1 images are junk (-1)" in text and "1 images are distractors (0000)" in text
    test = open_dataset(market, "test", kind="reid_market")
    assert [test.sample_ids[i].split("/")[0] for i in test.query] == ["query"] * 2
    assert [test.sample_ids[i].split("/")[0] for i in test.gallery] == ["bounding_box_test"] * 5
    assert test.identities[test.query].tolist() == [1, 3] and len(test) == 7


def test_holding_out_identities(market):
    train, val = (open_dataset(market, s, kind="reid_market", seed=3) for s in ("train", "val"))
    assert len(set(val.identities)) == 2 and not set(train.identities) & set(val.identities)
    assert set(train.sample_ids) | set(val.sample_ids) == set(
        open_dataset(market, "trainval", kind="reid_market").sample_ids
    )
    assert train.query is None and val.gallery.tolist() == list(range(len(val)))


def test_the_held_out_identities_are_those_of_the_attribute_reader(tmp_path):
    write_tiny("market", tmp_path, images={"train": 60, "val": 12, "test": 12})
    attributes = open_dataset(tmp_path, "val", kind="market", holdout=0.2)
    own = open_dataset(tmp_path, "val", kind="reid_market", holdout=0.2)
    assert {int(i) for i in attributes.identities} == set(own.identities.tolist())
    assert own.sample_ids == attributes.sample_ids


def test_choice_of_queries():
    identities = np.array([5, 5, 5, 5, 6, 6, 7, 0, 0, -1])
    cameras = np.array([1, 1, 2, 3, 4, 4, 1, 1, 2, 3])
    chosen = choose_queries(identities, cameras, 0)
    assert len(chosen) == 3 and set(identities[chosen]) == {5}, "6 and 7 were seen by one camera"
    assert cameras[chosen].tolist() == [1, 2, 3]
    again = {tuple(choose_queries(identities, cameras, seed)) for seed in range(20)}
    assert again == {(0, 2, 3), (1, 2, 3)}


def test_duke_and_its_names(tmp_path):
    for name in ("train/0005_c2_f0046985", "train/0006_c8_f0046986", "test/0001_c1_f0000001",
                 "test/0002_c1_f0000009"):  # fmt: skip
        picture(tmp_path, f"bounding_box_{name}.jpg")
    picture(tmp_path, "query/0001_c2_f0000003.jpg")
    picture(tmp_path, "query/0002_c3_f0000003.jpg")
    data = open_dataset(tmp_path, "trainval", kind="reid_duke")
    assert data.identities.tolist() == [5, 6] and data.cameras.tolist() == [2, 8]
    with pytest.raises(ValueError, match=r"no image of Market-1501; expected a name like 0002_c1"):
        open_dataset(tmp_path, "trainval", kind="reid_market")
    found = data_of.open_for(Trained("x", small_net(), (), {}, {}), str(tmp_path))
    assert found.identities.tolist() == [1, 2, 1, 2], "names tell which it is"


def test_published_counts():
    assert DATASETS.get("reid_market").published == {
        "trainval": {"images": 12936, "identities": 751},
        "query": {"images": 3368, "identities": 750},
        "gallery": {"images": 19732, "identities": 750},
    }
    images = [
        DATASETS.get("reid_duke").published[s]["images"] for s in ("trainval", "query", "gallery")
    ]
    assert images == [16522, 2228, 17661]


@pytest.mark.parametrize("name", ("-1_c1s1_000001_01", "0000_c1s1_000001_01"))
@pytest.mark.parametrize("folder", ("bounding_box_train", "query"))
def test_nobody_belongs_into_the_gallery_only(market, folder, name):
    picture(market, f"{folder}/{name}.jpg")
    split = "query" if folder == "query" else "trainval"
    with pytest.raises(ValueError, match=rf"{name}.*bounding_box_test/ only"):
        open_dataset(market, split, kind="reid_market")


def test_what_is_missing_is_named(market):
    with pytest.raises(ValueError, match="unknown split 'gallerie'; did you mean 'gallery'"):
        open_dataset(market, "gallerie", kind="reid_market")
    for path in (market / "query").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="query holds no images like 0002_c1s1"):
        open_dataset(market, "test", kind="reid_market")
    (market / "query").rmdir()
    with pytest.raises(FileNotFoundError, match="query is missing; looked for bounding_box_train"):
        open_dataset(market, "test", kind="reid_market")
    with pytest.raises(FileNotFoundError, match="split 'test'.*reid_duke"):
        data_of.open_for(Trained("x", small_net(), (), {}, {}), str(market))


def test_check_compares_with_what_was_written(people):
    said = []
    options = argparse.Namespace(
        command="reid_market", root=str(people), check=True, splits=None, out=None
    )
    assert prepare.run(options, said.append) == 0
    assert said[0].startswith("reid_market: complete; ") and "0 cannot be read" in said[0]
    assert "all counts are as generated" in said[0]
    lost = next((people / "query").glob("*.jpg"))
    hidden = lost.rename(people / "hidden.jpg")
    try:
        assert prepare.run(options, said.append) == 1
    finally:
        hidden.rename(lost)
    assert re.search(r"query: \d+ images, generated \d+ \(-1\)", said[1])


@pytest.mark.parametrize("kind", ("reid_market", "reid_duke"))
def test_tiny_trees_hold_what_they_say(tmp_path, kind):
    report = write_tiny(kind, tmp_path, images={"train": 8, "val": 4, "test": 8}, cameras=2, each=2)
    data = {s: open_dataset(tmp_path, s, kind=kind) for s in ("trainval", "query", "gallery")}
    for split, dataset in data.items():
        assert dataset.report.ok and len(dataset) == report["expected"][split]["images"]
        assert all(dataset.read(i).shape == (128, 64, 3) for i in range(3))
    junk = np.isin(data["gallery"].identities, (-1, 0)).sum()
    assert junk == (8 if kind == "reid_market" else 0)
    assert set(data["query"].identities) == set(data["gallery"].identities) - {-1, 0}
    assert not set(data["query"].identities) & set(data["trainval"].identities)
    test = open_dataset(tmp_path, "test", kind=kind)
    for i in test.query:
        same = test.identities[test.gallery] == test.identities[i]
        assert (test.cameras[test.gallery][same] != test.cameras[i]).any(), "can be found"


# -- batches -----------------------------------------------------------------------------------
TARGETS = np.repeat([0, 1, 2, 3, 4, 5, 6], [5, 4, 1, 9, 2, 3, 6])


def test_a_batch_has_p_identities_with_k_pictures():
    sampler = IdentitySampler(TARGETS, 3, 4, seed=1)
    assert len(sampler) == 2 and sampler.batch_size == 12
    for epoch in range(5):
        order = sampler.order(epoch).reshape(2, 3, 4)
        shown = TARGETS[order]
        assert (shown == shown[:, :, :1]).all(), "rows of an identity follow one another"
        assert len(set(shown[:, :, 0].ravel())) == 6, "no identity comes twice in a pass"
        for rows in order.reshape(-1, 4):
            have = (TARGETS == TARGETS[rows[0]]).sum()
            assert len(set(rows)) == min(4, have), "all of its pictures before one comes again"


def test_order_depends_on_seed_and_epoch_only():
    sampler = IdentitySampler(TARGETS, 3, 2, seed=1)
    first = sampler.order(0)
    np.testing.assert_array_equal(first, IdentitySampler(TARGETS, 3, 2, seed=1).order(0))
    assert (first != sampler.order(1)).any()
    assert (first != IdentitySampler(TARGETS, 3, 2, seed=2).order(0)).any()


def test_every_identity_and_every_picture_comes_up():
    sampler = IdentitySampler(TARGETS, 3, 2)
    seen = np.concatenate([sampler.order(epoch) for epoch in range(60)])
    assert set(seen) == set(range(len(TARGETS)))
    times = np.bincount(TARGETS[seen], minlength=7)
    assert times.min() > 0.75 * times.max(), "whatever their number of pictures"


def test_bad_batches_are_refused():
    with pytest.raises(ValueError, match="at least 2 of each"):
        IdentitySampler(TARGETS, 3, 1)
    with pytest.raises(ValueError, match="at least 2 of each"):
        IdentitySampler(TARGETS, 1, 4)
    with pytest.raises(ValueError, match="show 7 identities, a batch wants 8"):
        IdentitySampler(TARGETS, 8, 2)


def identity_loader(people, workers=0):
    data = open_dataset(people, "trainval", kind="reid_market")
    return IdentityLoader(
        data, ReidTrainTransform((32, 16), erase=0.5), 3, 4, seed=7, workers=workers
    )


def test_batches_do_not_depend_on_workers_and_can_be_resumed(people):
    whole = list(identity_loader(people))
    threads = identity_loader(people, workers=2)
    assert len(whole) == len(threads) == 3
    for a, b in zip(whole, threads):
        np.testing.assert_array_equal(a.index, b.index)
        np.testing.assert_array_equal(a.image.asnumpy(), b.image.asnumpy())
    threads.set_epoch(0, 1)
    rest, _ = list(threads)
    np.testing.assert_array_equal(rest.image.asnumpy(), whole[1].image.asnumpy())
    assert whole[0].image.shape == (12, 3, 32, 16)
    label = whole[0].label.asnumpy().reshape(3, 4, -1)
    assert (label == label[:, :1]).all() and label.sum() == 12 and whole[0].mask.asnumpy().all()
    threads.set_epoch(1)
    assert (next(iter(threads)).index != whole[0].index).any()


def test_a_picture_that_comes_twice_is_augmented_twice(market):
    data = open_dataset(market, "trainval", kind="reid_market")
    rows = np.linspace(0, 255, 8 * 4 * 3).reshape(8, 4, 3).astype(np.uint8)
    data.read = lambda i: rows
    loader = IdentityLoader(data, ReidTrainTransform((32, 16)), 4, 3)
    (batch,) = list(loader)
    twice = [np.flatnonzero(batch.index == i) for i in set(batch.index.tolist())]
    pairs = [k for k in twice if len(k) > 1]
    assert pairs, "identities have one or two pictures, batches three of each"
    image = batch.image.asnumpy()
    assert any((image[k[0]] != image[k[1]]).any() for k in pairs)


# -- pictures ----------------------------------------------------------------------------------
def test_training_transform_cuts_rectangles():
    transform = ReidTrainTransform((32, 16), mean=(0, 0, 0), std=(1, 1, 1))
    assert transform.resize == (36, 18)
    image = np.zeros((36, 18, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(36)[:, None], np.arange(18)
    for top, left, mirrored in ((0, 0, False), (4, 2, False), (2, 1, True)):
        draws = [(top + 0.5) / 5, (left + 0.5) / 3, 0.1 if mirrored else 0.9] + [0.9] * 5
        found = transform(image, draws)
        assert found.shape == (3, 32, 16) and found.dtype == np.float32
        assert found[0, :, 0].tolist() == list(range(top, top + 32))
        columns = list(range(left, left + 16))
        assert found[1, 0].tolist() == (columns[::-1] if mirrored else columns)


def test_evaluation_sees_the_whole_picture_in_its_proportions():
    image = np.zeros((64, 32, 3), np.uint8)
    image[:32, :, 0], image[:, 16:, 1] = 200, 100
    found = ReidEvalTransform((16, 8), (0, 0, 0), (1, 1, 1))(image)
    assert found.shape == (3, 16, 8)
    assert (found[0, :8] == 200).all() and not found[0, 8:].any()
    assert (found[1, :, 4:] == 100).all() and not found[1, :, :4].any()


def test_erasing_is_off_by_default_and_within_its_bounds():
    rng = np.random.default_rng(0)
    image = np.full((64, 32, 3), 255, np.uint8)
    assert all((ReidTrainTransform((32, 16))(image, rng.random(8)) > 0).all() for _ in range(50))
    transform = ReidTrainTransform((32, 16), erase=0.5)
    shares = np.array([(transform(image, rng.random(8)) == 0).mean() for _ in range(400)])
    erased = shares[shares > 0]
    assert 0.4 < len(erased) / len(shares) < 0.6
    assert erased.min() > 0.005 and erased.max() <= 0.42 and 0.12 < erased.mean() < 0.25


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="does not fit"):
        ReidTrainTransform((32, 16), (30, 18))
    with pytest.raises(ValueError, match="probability"):
        ReidTrainTransform((32, 16), erase=1.5)
    with pytest.raises(ValueError, match="two whole numbers"):
        ReidEvalTransform(256)


# -- net and method ----------------------------------------------------------------------------
def small_net(**options):
    options = {"width": 8, "input_size": 32, "classes": 8, **options}
    net = get_model("reid_resnet18_w16_synthetic", **options)
    mx.random.seed(0)
    net.initialize(mx.init.Xavier())
    return net


@pytest.mark.parametrize("attention", (None, "se", {"stage4": "cbam"}))
def test_logits_come_from_the_embedding(attention, tmp_path):
    net = small_net(attention=attention)
    assert net.output_names == ("logits", "embedding") and net.input_size == (32, 16)
    names = [name for name, _ in net.attention_blocks()]
    assert len(names) == {None: 0, "se": 8}.get(
        attention if attention is None else str(attention), 2
    )
    image = mx.nd.random.uniform(shape=(3, 3, 32, 16))
    plain = [out.asnumpy() for out in net(image)]
    assert plain[0].shape == (3, 8) and plain[1].shape == (3, 64)
    weight, bias = (p.data().asnumpy() for p in (net.output.weight, net.output.bias))
    np.testing.assert_allclose(plain[1] @ weight.T + bias, plain[0], atol=1e-5)
    net.hybridize(static_alloc=True, static_shape=True)
    for a, b in zip(plain, net(image)):
        np.testing.assert_allclose(a, b.asnumpy(), atol=1e-5)
    net.export(str(tmp_path / "net"))
    again = mx.gluon.SymbolBlock.imports(
        str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params")
    )
    for a, b in zip(net(image), again(image)):
        np.testing.assert_array_equal(a.asnumpy(), b.asnumpy())


def test_weights_are_those_of_the_plain_net(tmp_path):
    plain = get_model("resnet18_v1", classes=8, width=8, input_size=32)
    plain.initialize(mx.init.Xavier())
    plain.save_parameters(str(tmp_path / "plain.params"))
    net = small_net(version="v1")
    net.load_parameters(str(tmp_path / "plain.params"))
    image = mx.nd.random.uniform(shape=(2, 3, 32, 16))
    np.testing.assert_array_equal(net(image)[0].asnumpy(), plain(image).asnumpy())


@pytest.mark.parametrize("depth, version", ((18, "v1"), (50, "v1b")))
def test_last_stride(depth, version):
    for stride, shape in ((2, (1, 1)), (1, (2, 1))):
        net = small_net(depth=depth, version=version, last_stride=stride)
        last_stage = net.features[:-1](mx.nd.zeros((1, 3, 32, 16)))
        assert last_stage.shape[2:] == shape


def test_bad_nets_are_refused():
    for options, message in (
        ({"input_size": 33}, "height must be even"), ({"last_stride": 3}, "last_stride=3"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            small_net(**options)


def small_recipe(**changes):
    return Recipe(**{**SMALL, **changes})


def parts(people, **changes):
    """Return recipe, data, net and method of a small run."""
    recipe = small_recipe(**changes)
    data = [data_of.open_split(recipe, str(people), split) for split in recipe.splits]
    data = dict(zip(("train", "val", "test"), data))
    net = build.build_net(recipe, len(data["train"].names))
    build.initialize_net(recipe, net, [mx.cpu()])
    return recipe, data, net, build.build_method(recipe, net, [mx.cpu()], data["train"])


@pytest.mark.parametrize(
    "options, names",
    [
        ({}, {"softmax", "triplet"}), ({"triplet_weight": 0.0}, {"softmax"}),
        ({"softmax_weight": 0.0}, {"triplet"}), ({"soft_margin": True}, {"softmax", "triplet"}),
    ],
)  # fmt: skip
def test_losses(people, options, names):
    recipe, data, net, method = parts(people, options={"images_per_identity": 2, **options})
    batch = next(iter(REID.train_loader(recipe, data["train"], method, 0)))
    method.begin_epoch(0)
    sums = method.train_step(batch)
    assert set(sums) == names | {"loss"} and all(np.isfinite(v.asscalar()) for v in sums.values())


def test_weights_scale_their_loss(people):
    _, data, net, method = parts(people)
    losses = IdentityLosses(dict(method.options, triplet_weight=3.0), net, data["train"].schema)
    batch = next(iter(REID.train_loader(small_recipe(), data["train"], method, 0)))
    with mx.autograd.pause():
        outputs = method.forward(batch.image)
        once, thrice = method.losses(outputs, batch), losses(outputs, batch)
    np.testing.assert_allclose(thrice["triplet"].asnumpy(), 3 * once["triplet"].asnumpy(), 1e-6)
    np.testing.assert_array_equal(thrice["softmax"].asnumpy(), once["softmax"].asnumpy())


def test_the_triplet_loss_does_not_touch_the_classifier(people):
    recipe, data, net, method = parts(
        people, options={"images_per_identity": 2, "softmax_weight": 0.0}, wd=0.0
    )
    before = {name: p.data().copy() for name, p in net.output.collect_params().items()}
    inner = net.features[0].weight.data().copy()
    method.begin_epoch(0)
    method.train_step(next(iter(REID.train_loader(recipe, data["train"], method, 0))))
    mx.nd.waitall()
    assert (net.features[0].weight.data() != inner).asnumpy().any()
    for name, parameter in net.output.collect_params().items():
        np.testing.assert_array_equal(parameter.data().asnumpy(), before[name].asnumpy())


def test_wrong_nets_and_data_are_refused(people):
    _, data, net, method = parts(people)
    plain = get_model("resnet18_v1", classes=8, width=8, input_size=32)
    schema = data["train"].schema
    with pytest.raises(ValueError, match="needs 'embedding'"):
        IdentityLosses(method.options, plain, schema)
    with pytest.raises(ValueError, match="these data have attributes"):
        IdentityLosses(method.options, net, Schema.binary(["hat"]))
    for change, message in (
        ({"margin": 0.0}, "margin"), ({"softmax_weight": -1.0}, "softmax_weight"),
        ({"images_per_identity": 1}, "images_per_identity"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            IdentityLosses(dict(method.options, **change), net, schema)


@pytest.mark.parametrize(
    "changes, parts_of_batch, message",
    [
        ({"batch_size": 9}, 1, "multiple of 2"), ({"batch_size": 12}, 4, "multiple of 8"),
        ({"batch_size": 8}, 4, "two identities or more in each"),
        ({"crop_min": 30}, 1, "crop_min=30"),
        ({"crop_max": 34}, 1, "crop_max=34"), ({"eval_crop": 32}, 1, "eval_crop=32 must equal"),
        ({"resize": 32, "eval_crop": 32, "crop_max": 30, "crop_min": 30}, 1, "crop_max=30"),
        ({"augment": "pad"}, 1, "augment=pad must be crop"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(people, changes, parts_of_batch, message):
    _, data, _, method = parts(people)
    with pytest.raises(ValueError, match=message):
        REID.train_loader(small_recipe(**changes), data["train"], method, 0, parts=parts_of_batch)


def test_dreal_adds_its_quality_loss_to_those_of_the_baseline(people):
    recipe, data, net, plain = parts(people)
    dreal = DrealReid(
        net, [mx.cpu()], plain.task, plain.optimization, options={"images_per_identity": 2}
    )
    batch = next(iter(REID.train_loader(recipe, data["train"], dreal, 0)))
    with mx.autograd.record():
        losses = dreal.losses(dreal.forward(batch.image), batch)
        expected = plain.losses(plain.forward(batch.image), batch)
    assert set(losses) == {"softmax", "triplet", "quality"}
    for name, value in expected.items():
        np.testing.assert_allclose(losses[name].asnumpy(), value.asnumpy(), rtol=1e-4, atol=1e-5)
    dreal.begin_epoch(0)
    sums = dreal.train_step(batch)
    assert set(sums) == {"softmax", "triplet", "quality", "loss", "regression"}
    assert all(np.isfinite(value.asscalar()) for value in sums.values())
    assert len(dreal.report()["reward"]) == 8, "two units in each of four stages"


def test_dreal_needs_attention_in_the_net(people):
    _, _, _, plain = parts(people)
    net = small_net()
    with pytest.raises(ValueError, match="attention=se"):
        DrealReid(net, [mx.cpu()], plain.task, plain.optimization)


# -- whole runs --------------------------------------------------------------------------------
def run(people, folder, epochs, resume=False, **changes):
    recipe, data, net, method = parts(people, epochs=epochs, seed=4, **changes)
    loader = REID.train_loader(recipe, data["train"], method, 0)
    validate = REID.validator(recipe, data["val"], mx.cpu(), 0)
    schedule = SCHEDULES.get("constant")(recipe)
    record = {"recipe": recipe.to_dict()}
    return fit(
        Run(
            method=method,
            loader=loader,
            validate=validate,
            schedule=schedule,
            epochs=epochs,
            folder=str(folder),
            seed=recipe.seed,
            record=record,
        ),
        resume,
    )


@pytest.mark.parametrize("method", ("reid", "dreal_reid"))
def test_a_run_continues_to_the_bit(people, tmp_path, method):
    changes = {"method": method, "iterations_per_epoch": 2}
    if method == "dreal_reid":
        changes["options"] = {"images_per_identity": 2, "sample": 3, "hidden": 8}
    best = run(people, tmp_path / "whole", 2, **changes)
    run(people, tmp_path / "cut", 1, **changes)
    run(people, tmp_path / "cut", 2, resume=True, **changes)
    whole, cut = (checkpoint_arrays(tmp_path / f / "last.ckpt") for f in ("whole", "cut"))
    assert set(whole) == set(cut) and len(whole) > 50
    for name in whole:
        np.testing.assert_array_equal(whole[name], cut[name], err_msg=name)
    assert {"mAP", "mAP_rectangle", "rank1", "rank5"} < set(best) and 0 < best["mAP"] <= 1


def trained_net(net, recipe, classes):
    extra = {"recipe": recipe.to_dict()}
    return Trained("reid", net, classes, REID.preprocess(recipe, net), extra)


def test_evaluation_writes_what_it_says(people, tmp_path):
    recipe, data, net, _ = parts(people)
    trained = trained_net(net, recipe, data["train"].names)
    dataset = data_of.open_for(trained, str(people))
    asked = Asked(str(tmp_path), "test", mx.cpu(), batch_size=5, workers=0)
    done = trained.task.evaluate(trained, dataset, asked)
    assert done.values["queries"] == len(data["test"].query) and not dataset.skipped
    assert "single queries" in done.text and len(done.files) == 4
    assert json.loads((tmp_path / "test.json").read_text())["mAP"] == done.values["mAP"]
    rows = (tmp_path / "test.csv").read_text().splitlines()
    assert rows[1].startswith("query/0001_c") and len(rows) == 1 + done.values["queries"]
    own = REID.final_scores(recipe, net, data["test"], asked._replace(stem="again"))
    assert own.values["mAP"] == pytest.approx(done.values["mAP"], abs=1e-6)


def test_preprocessing_of_an_export_is_that_of_the_evaluation(people):
    recipe, data, net, _ = parts(people)
    values = REID.preprocess(recipe, net)
    entry = input_entry(values.pop("size"), values)
    image = data["val"].read(0)
    expected = ReidEvalTransform((32, 16), recipe.mean, recipe.std)(image)
    np.testing.assert_allclose(Preprocess(entry)(image), expected, atol=1e-5)


def test_embeddings_are_in_the_order_of_the_data(people):
    recipe, data, net, _ = parts(people)
    loader = reid.eval_loader(reid.recipe_view(recipe), data["val"], 3, 0)
    assert isinstance(loader, Loader)
    features, seen = reid.embed(net, loader, len(data["val"]), mx.cpu())
    transform = ReidEvalTransform((32, 16), recipe.mean, recipe.std)
    images = np.stack([transform(data["val"].read(i)) for i in range(len(data["val"]))])
    expected = net(mx.nd.array(images))[1].asnumpy()
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert seen.all() and len(features) % 3, "the padding of the last batch is dropped"
    both, _ = reid.embed(net, loader, len(data["val"]), mx.cpu(), flip=True)
    mirrored = net(mx.nd.array(images[..., ::-1].copy()))[1].asnumpy()
    np.testing.assert_allclose(both, expected + mirrored, atol=1e-5)


def test_an_export_gives_the_embedding(people, tmp_path):
    recipe, data, net, _ = parts(people)
    values = REID.preprocess(recipe, net)
    size, classes = values.pop("size"), [f"person {n}" for n in range(net.classes)]
    export_model(net, tmp_path / "x", "x", classes, size, values, activation="softmax")
    predictor = Predictor(tmp_path / "x")
    paths = [str(path) for path in sorted(people.rglob("query/*.jpg"))[:3]]
    transform = ReidEvalTransform((32, 16), recipe.mean, recipe.std)
    images = np.stack([transform(cv2.imread(path)[..., ::-1]) for path in paths])
    expected = net(mx.nd.array(images))[1].asnumpy()
    np.testing.assert_allclose(predictor.embedding(paths), expected, rtol=1e-4, atol=1e-4)
    assert [out["kind"] for out in predictor.sidecar["outputs"]] == ["logits", "embedding"]
    assert not predictor.attention_names


def test_unreadable_pictures_neither_ask_nor_answer(market):
    for path in market.rglob("*.jpg"):
        if path.name in ("0003_c2s1_000005_00.jpg", "0001_c6s3_00000_0.jpg"):
            path.write_bytes(path.read_bytes()[:100])
    data = open_dataset(market, "test", kind="reid_market", on_bad_image="skip")
    net = small_net()
    loader = reid.eval_loader(RAW, data, 4, 0)
    result = reid.retrieve(net, data, loader, mx.cpu())
    assert result["names"] == ["query/0001_c2s1_000006_00.jpg"] and result["queries"] == 1
    assert len(data.skipped) == 2
    strict = open_dataset(market, "test", kind="reid_market")
    with pytest.raises(BadImageError, match="0003_c2s1"):
        loader = reid.eval_loader(RAW, strict, 4, 0)
        reid.retrieve(net, strict, loader, mx.cpu())


def test_only_splits_with_queries_and_gallery_can_be_evaluated(people):
    recipe, data, net, _ = parts(people)
    for split in ("trainval", "query", "gallery"):
        dataset = open_dataset(people, split, kind="reid_market")
        with pytest.raises(ValueError, match="use test or val"):
            reid.retrieve(net, dataset, None, mx.cpu())
    plain = get_model("resnet18_v1", classes=8, width=8, input_size=32)
    with pytest.raises(ValueError, match="gives no embedding"):
        reid.embed(plain, [], 3, mx.cpu())


@pytest.mark.parametrize("data", ("market", "duke"))
def test_recipes(data):
    recipe = Recipe.load(f"reid_{data}_resnet50")
    assert METHODS.get(recipe.method) is ReidBaseline and recipe.dataset == f"reid_{data}"
    images = recipe.options["images_per_identity"]
    assert recipe.batch_size % images == 0 and set(recipe.options) <= set(ReidBaseline.OPTIONS)
    assert recipe.crop_min == recipe.crop_max == recipe.input_size == 256
    assert recipe.resize == recipe.eval_crop == 256 * 9 // 8
    assert (recipe.splits, recipe.keep) == (("trainval", "val", "test"), "last")
    dreal = Recipe.load(f"dreal_{data}_se_resnet50")
    assert METHODS.get(dreal.method) is DrealReid and dreal.model_options["attention"] == "se"
    assert set(dreal.options) <= set(DrealReid.OPTIONS)
    for key in ("dataset", "input_size", "resize", "batch_size", "epochs", "lr", "lr_epochs"):
        assert getattr(dreal, key) == getattr(recipe, key), "compared with the baseline on the rest"


@pytest.mark.nightly
def test_drawn_people_are_found_again(tmp_path):
    """A few hundred updates on a narrow net must beat its random weights by far."""
    write_tiny("reid_market", tmp_path / "data", images={"train": 240, "val": 40, "test": 120})
    changes = {
        "model_options": {"width": 8}, "input_size": 64, "resize": 72, "crop_min": 64,
        "crop_max": 64, "eval_crop": 72, "batch_size": 32, "options": {"images_per_identity": 4},
        "splits": ("train", "val", "test"), "iterations_per_epoch": 40,
    }  # fmt: skip
    recipe, data, net, method = parts(tmp_path / "data", **changes)
    before = REID.final_scores(
        recipe, net, data["test"], Asked(str(tmp_path), "test", mx.cpu(), workers=0)
    ).values["mAP"]
    loader = REID.train_loader(recipe, data["train"], method, 0)
    method.begin_epoch(0)
    for epoch in range(6):
        loader.set_epoch(epoch)
        for batch in loader:
            method.train_step(batch)
    mx.nd.waitall()
    after = REID.final_scores(
        recipe, net, data["test"], Asked(str(tmp_path), "test", mx.cpu(), workers=0)
    ).values["mAP"]
    assert after > before + 0.1
