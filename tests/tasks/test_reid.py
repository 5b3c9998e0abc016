"""Person re-identification: readers, batches of identities, images, net, method, evaluation."""

from __future__ import annotations

import json

import cv2
import mxnet as mx
import numpy as np
import pytest
from formats.tiny import write_tiny
from training_helpers import resumes_to_the_bit, values

from gluon_attn.core.recipe import Recipe
from gluon_attn.core.schema import MULTICLASS, Attribute, Schema
from gluon_attn.data import DATASETS, BadImageError, open_dataset
from gluon_attn.data.loader import IdentityLoader, IdentitySampler
from gluon_attn.data.reid import choose_queries
from gluon_attn.data.transforms import ReidEvalTransform, ReidTrainTransform
from gluon_attn.export import Predictor, export_model
from gluon_attn.export.images import Preprocess
from gluon_attn.export.sidecar import input_entry
from gluon_attn.method import Optimization, Task
from gluon_attn.papers.baselines import IdentityLosses, ReidBaseline
from gluon_attn.papers.combined import DrealReid
from gluon_attn.task import TASKS, Asked, Trained
from gluon_attn.tasks import data as data_of
from gluon_attn.tasks import reid
from gluon_attn.train import build, use_static_graph
from model_zoo import get_model

SMALL = {
    "method": "reid", "model": "reid_resnet18_w16_synthetic",
    "model_options": {"width": 8, "attention": "se"}, "dataset": "reid_market", "input_size": 32,
    "resize": 36, "crop_min": 32, "crop_max": 32, "eval_crop": 36, "batch_size": 8,
    "options": {"images_per_identity": 2}, "splits": ("trainval", "val", "test"), "keep": "last",
    "optimizer": "adam", "lr": 1e-3, "iterations_per_epoch": 3, "epochs": 3, "schedule": "constant",
}  # fmt: skip

REID = TASKS.get("reid")
ONE = Schema([Attribute("class", MULTICLASS, tuple("abcdefgh"))])
RAW = {"size": (32, 16), "mean": (0, 0, 0), "std": (1, 1, 1)}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """synthetic people in Market-1501's format: 10 identities to learn, 4 to find."""
    root = tmp_path_factory.mktemp("people")
    write_tiny("reid_market", root, images={"train": 32, "val": 8, "test": 16}, cameras=2, each=2)
    return root


@pytest.fixture
def market(tmp_path):
    train = ("0010_c2s1_000001_01", "0002_c3s2_000002_01", "0002_c1s1_000009_02",
             "0007_c1s1_000003_01", "0010_c6s4_000011_03", "0020_c1s1_000001_01")  # fmt: skip
    for k, name in enumerate(train):
        image(tmp_path, f"bounding_box_train/{name}.jpg", 40 * k)
    for name in ("-1_c1s1_000001_01", "0000_c4s1_000002_01", "0003_c1s1_000001_01",
                 "0001_c6s3_00000_0", "0001_c5s3_000070_00"):  # fmt: skip
        image(tmp_path, f"bounding_box_test/{name}.jpg")
    for name in ("0003_c2s1_000005_00", "0001_c2s1_000006_00"):
        image(tmp_path, f"query/{name}.jpg")
    (tmp_path / "bounding_box_test" / "Thumbs.db").write_bytes(b"no image")
    return tmp_path


def opened(root, split, kind="reid_market", **options):
    return open_dataset(root, split, kind=kind, **options)


# -- readers -----------------------------------------------------------------------------------
def test_names_give_identity_and_camera(market):
    data = opened(market, "trainval")
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
    assert image.shape == (8, 4, 3) and abs(int(image.mean()) - 80) < 3, "the third written"
    assert label.tolist() == [1, 0, 0, 0] and mask.all() and index == 0


def test_gallery_has_junk_and_distractors_and_test_has_all(market):
    gallery = opened(market, "gallery")
    assert gallery.identities.tolist() == [-1, 0, 1, 1, 3], "-1 sorts before digits"
    assert gallery.cameras.tolist() == [1, 4, 5, 6, 1]
    assert gallery.classes == ("-1", "0000", "0001", "0003")
    text = gallery.report.text()
    assert "1 images are junk (-1)" in text and "1 images are distractors (0000)" in text
    test = opened(market, "test")
    assert [test.sample_ids[i].split("/")[0] for i in test.query] == ["query"] * 2
    assert [test.sample_ids[i].split("/")[0] for i in test.gallery] == ["bounding_box_test"] * 5
    assert test.identities[test.query].tolist() == [1, 3] and len(test) == 7


def test_holding_out_identities(market, tmp_path_factory):
    train, val = (opened(market, split, seed=3) for split in ("train", "val"))
    assert len(set(val.identities)) == 2 and not set(train.identities) & set(val.identities)
    assert {*train.sample_ids, *val.sample_ids} == set(opened(market, "trainval").sample_ids)
    assert train.query is None and val.gallery.tolist() == list(range(len(val)))
    # They are those of the reader of attributes.
    root = tmp_path_factory.mktemp("attributes")
    write_tiny("market", root, images={"train": 60, "val": 12, "test": 12})
    attributes, own = (opened(root, "val", k, holdout=0.2) for k in ("market", "reid_market"))
    assert {int(i) for i in attributes.identities} == set(own.identities.tolist())
    assert own.sample_ids == attributes.sample_ids


def image(root, name, level=100):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / name), np.full((8, 4, 3), level, np.uint8))


def test_choice_of_queries():
    identities = np.array([5, 5, 5, 5, 6, 6, 7, 0, 0, -1])
    cameras = np.array([1, 1, 2, 3, 4, 4, 1, 1, 2, 3])
    chosen = choose_queries(identities, cameras, 0)
    assert len(chosen) == 3 and set(identities[chosen]) == {5}, "6 and 7 were seen by one camera"
    assert cameras[chosen].tolist() == [1, 2, 3]
    again = {tuple(choose_queries(identities, cameras, seed)) for seed in range(20)}
    assert again == {(0, 2, 3), (1, 2, 3)}


def test_duke_and_its_names(tmp_path):
    for name in ("bounding_box_train/0005_c2_f0046985", "bounding_box_train/0006_c8_f0046986",
                 "bounding_box_test/0001_c1_f0000001", "bounding_box_test/0002_c1_f0000009",
                 "query/0001_c2_f0000003", "query/0002_c3_f0000003"):  # fmt: skip
        image(tmp_path, f"{name}.jpg")
    data = opened(tmp_path, "trainval", "reid_duke")
    assert data.identities.tolist() == [5, 6] and data.cameras.tolist() == [2, 8]
    with pytest.raises(ValueError, match=r"no image of Market-1501; expected a name like 0002_c1"):
        opened(tmp_path, "trainval")
    found = data_of.open_for(Trained("x", small_net(), (), {}, {}), str(tmp_path))
    assert found.identities.tolist() == [1, 2, 1, 2], "names tell which it is"
    published = {kind: DATASETS.get(kind).published for kind in ("reid_market", "reid_duke")}
    counts = [[p[s]["images"] for s in ("trainval", "query", "gallery")]
              for p in published.values()]  # fmt: skip
    assert counts == [[12936, 3368, 19732], [16522, 2228, 17661]]
    assert [entry["identities"] for entry in published["reid_market"].values()] == [751, 750, 750]


@pytest.mark.parametrize("name", ("-1_c1s1_000001_01", "0000_c1s1_000001_01"))
@pytest.mark.parametrize("folder", ("bounding_box_train", "query"))
def test_junk_and_distractors_belong_into_the_gallery_only(market, folder, name):
    image(market, f"{folder}/{name}.jpg")
    with pytest.raises(ValueError, match=rf"{name}.*bounding_box_test/ only"):
        opened(market, "query" if folder == "query" else "trainval")


def test_what_is_missing_is_named(market):
    with pytest.raises(ValueError, match="unknown split 'gallerie'; did you mean 'gallery'"):
        opened(market, "gallerie")
    for path in (market / "query").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="query holds no images like 0002_c1s1"):
        opened(market, "test")
    (market / "query").rmdir()
    with pytest.raises(FileNotFoundError, match="query is missing; looked for bounding_box_train"):
        opened(market, "test")
    with pytest.raises(FileNotFoundError, match="split 'test'.*reid_duke"):
        data_of.open_for(Trained("x", small_net(), (), {}, {}), str(market))


def test_a_batch_has_p_identities_with_k_images():
    sampler = IdentitySampler(TARGETS, 3, 4, seed=1)
    assert len(sampler) == 2 and sampler.batch_size == 12
    for epoch in range(5):
        order = sampler.order(epoch).reshape(2, 3, 4)
        shown = TARGETS[order]
        assert (shown == shown[:, :, :1]).all(), "rows of an identity follow one another"
        assert len(set(shown[:, :, 0].ravel())) == 6, "no identity comes twice in a pass"
        for rows in order.reshape(-1, 4):
            have = (TARGETS == TARGETS[rows[0]]).sum()
            assert len(set(rows)) == min(4, have), "all of its images before one comes again"
    first = sampler.order(0)
    np.testing.assert_array_equal(first, IdentitySampler(TARGETS, 3, 4, seed=1).order(0))
    assert (first != sampler.order(1)).any()
    assert (first != IdentitySampler(TARGETS, 3, 4, seed=2).order(0)).any()


# -- batches -----------------------------------------------------------------------------------
TARGETS = np.repeat([0, 1, 2, 3, 4, 5, 6], [5, 4, 1, 9, 2, 3, 6])


def test_every_identity_and_every_image_comes_up():
    sampler = IdentitySampler(TARGETS, 3, 2)
    seen = np.concatenate([sampler.order(epoch) for epoch in range(60)])
    assert set(seen) == set(range(len(TARGETS)))
    times = np.bincount(TARGETS[seen], minlength=7)
    assert times.min() > 0.75 * times.max(), "whatever their number of images"


def identity_loader(people, workers=0):
    transform = ReidTrainTransform((32, 16), erase=0.5)
    return IdentityLoader(opened(people, "trainval"), transform, 3, 4, seed=7, workers=workers)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: IdentitySampler(TARGETS, 3, 1), "at least 2 of each"),
        (lambda: IdentitySampler(TARGETS, 1, 4), "at least 2 of each"),
        (lambda: IdentitySampler(TARGETS, 8, 2), "show 7 identities, a batch wants 8"),
        (lambda: ReidTrainTransform((32, 16), (30, 18)), "does not fit"),
        (lambda: ReidTrainTransform((32, 16), erase=1.5), "probability"),
        (lambda: ReidEvalTransform(256), "two whole numbers"),
        (lambda: small_net(input_size=33), "height must be even"),
        (lambda: small_net(last_stride=3), "last_stride=3"),
        (lambda: losses_of(net=plain_net()), "needs 'embedding'"),
        (lambda: losses_of(schema=Schema.binary(["hat"])), "these data have attributes"),
        (lambda: losses_of(margin=0.0), "margin"),
        (lambda: losses_of(softmax_weight=-1.0), "softmax_weight"),
        (lambda: losses_of(images_per_identity=1), "images_per_identity"),
        (lambda: DrealReid(small_net(), [mx.cpu()], Task("ab", 4, None, ONE), Optimization()),
         "attention=se"),
        (lambda: reid.embed(plain_net(), [], 3, mx.cpu()), "gives no embedding"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def losses_of(net=None, schema=None, **options):
    options = dict(ReidBaseline.OPTIONS, **options)
    return IdentityLosses(options, net or small_net(), schema or ONE)


def plain_net():
    return get_model("resnet18_v1", classes=8, width=8, input_size=32)


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


def test_an_image_that_comes_twice_is_augmented_twice(market):
    data = opened(market, "trainval")
    rows = np.linspace(0, 255, 8 * 4 * 3).reshape(8, 4, 3).astype(np.uint8)
    data.read = lambda i: rows
    (batch,) = list(IdentityLoader(data, ReidTrainTransform((32, 16)), 4, 3))
    twice = [np.flatnonzero(batch.index == i) for i in set(batch.index.tolist())]
    pairs = [k for k in twice if len(k) > 1]
    assert pairs, "identities have one or two images, batches three of each"
    image = batch.image.asnumpy()
    assert any((image[k[0]] != image[k[1]]).any() for k in pairs)


# -- images ------------------------------------------------------------------------------------
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


def test_evaluation_sees_the_whole_image_in_its_proportions():
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


# -- net and method ----------------------------------------------------------------------------
def small_net(**options):
    options = {"width": 8, "input_size": 32, "classes": 8, **options}
    net = get_model("reid_resnet18_w16_synthetic", **options)
    mx.random.seed(0)
    net.initialize(mx.init.Xavier())
    return net


@pytest.mark.parametrize("attention, blocks", [(None, 0), ("se", 8), ({"stage4": "cbam"}, 2)])
def test_logits_come_from_the_embedding(attention, blocks, tmp_path):
    net = small_net(attention=attention)
    assert net.output_names == ("logits", "embedding") and net.input_size == (32, 16)
    assert len(list(net.attention_blocks())) == blocks
    image = mx.nd.random.uniform(shape=(3, 3, 32, 16))
    plain = [out.asnumpy() for out in net(image)]
    assert plain[0].shape == (3, 8) and plain[1].shape == (3, 64)
    weight, bias = (p.data().asnumpy() for p in (net.output.weight, net.output.bias))
    np.testing.assert_allclose(plain[1] @ weight.T + bias, plain[0], atol=1e-5)
    use_static_graph(net)
    for a, b in zip(plain, net(image)):
        np.testing.assert_allclose(a, b.asnumpy(), atol=1e-5)


def test_weights_are_those_of_the_plain_net(tmp_path):
    plain = plain_net()
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


def small_recipe(**changes):
    return Recipe.from_dict({**SMALL, **changes})


def first_batch(recipe, data, method):
    return next(iter(REID.train_loader(recipe, data["train"], method, 0)))


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
    recipe, data, net, method = parts(people, options={"images_per_identity": 2, **options}, wd=0.0)
    before = values(net)
    method.begin_epoch(0)
    sums = method.train_step(first_batch(recipe, data, method))
    assert set(sums) == names | {"loss"} and all(np.isfinite(v.asscalar()) for v in sums.values())
    moved = {name for name, array in values(net).items() if (array != before[name]).any()}
    assert "features.0.weight" in moved
    assert ("output.weight" in moved) == ("softmax" in names), "triplets leave the classifier"


def test_weights_scale_their_loss(people):
    _, data, net, method = parts(people)
    thrice = losses_of(net, data["train"].schema, **dict(method.options, triplet_weight=3.0))
    batch = first_batch(small_recipe(), data, method)
    with mx.autograd.pause():
        outputs = method.forward(batch.image)
        once, found = method.losses(outputs, batch), thrice(outputs, batch)
    np.testing.assert_allclose(found["triplet"].asnumpy(), 3 * once["triplet"].asnumpy(), 1e-6)
    np.testing.assert_array_equal(found["softmax"].asnumpy(), once["softmax"].asnumpy())


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
    options = {"images_per_identity": 2}
    dreal = DrealReid(net, [mx.cpu()], plain.task, plain.optimization, options=options)
    batch = first_batch(recipe, data, dreal)
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


# -- whole runs --------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ("reid", "dreal_reid"))
def test_a_run_continues_to_the_bit(people, tmp_path, method):
    options = {"sample": 3, "hidden": 8} if method == "dreal_reid" else {}
    changes = {"method": method, "iterations_per_epoch": 2, "epochs": 2, "seed": 4}
    recipe = {**SMALL, **changes, "options": {"images_per_identity": 2, **options}}
    assert len(resumes_to_the_bit(recipe, people, tmp_path)) > 50
    best = json.loads((tmp_path / "whole" / "best.json").read_text())
    assert {"mAP", "mAP_rectangle", "rank1", "rank5"} < set(best) and 0 < best["mAP"] <= 1


def test_evaluation_writes_what_it_says(people, tmp_path):
    recipe, data, net, _ = parts(people)
    extra = {"recipe": recipe.to_dict()}
    names = data["train"].names
    trained = Trained("reid", net, names, REID.preprocess(recipe, net), extra)
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


def test_embeddings_are_in_the_order_of_the_data(people):
    recipe, data, net, _ = parts(people)
    loader = reid.eval_loader(reid.recipe_view(recipe), data["val"], 3, 0)
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
    preprocess = REID.preprocess(recipe, net)
    size, classes = preprocess.pop("size"), [f"person {n}" for n in range(net.classes)]
    transform = ReidEvalTransform((32, 16), recipe.mean, recipe.std)
    image = data["val"].read(0)
    found = Preprocess(input_entry(size, preprocess))(image)
    np.testing.assert_allclose(found, transform(image), atol=1e-5)
    export_model(net, tmp_path / "x", "x", classes, size, preprocess, check=False)
    predictor = Predictor(tmp_path / "x")
    paths = [str(path) for path in sorted(people.rglob("query/*.jpg"))[:3]]
    images = np.stack([transform(cv2.imread(path)[..., ::-1]) for path in paths])
    expected = net(mx.nd.array(images))[1].asnumpy()
    np.testing.assert_allclose(predictor.embedding(paths), expected, rtol=1e-4, atol=1e-4)
    assert [out["kind"] for out in predictor.sidecar["outputs"]] == ["logits", "embedding"]
    assert not predictor.attention_names


def test_unreadable_images_neither_ask_nor_answer(market):
    for path in market.rglob("*.jpg"):
        if path.name in ("0003_c2s1_000005_00.jpg", "0001_c6s3_00000_0.jpg"):
            path.write_bytes(path.read_bytes()[:100])
    data, net = opened(market, "test", on_bad_image="skip"), small_net()
    result = reid.retrieve(net, data, reid.eval_loader(RAW, data, 4, 0), mx.cpu())
    assert result["names"] == ["query/0001_c2s1_000006_00.jpg"] and result["queries"] == 1
    assert len(data.skipped) == 2
    strict = opened(market, "test")
    with pytest.raises(BadImageError, match="0003_c2s1"):
        reid.retrieve(net, strict, reid.eval_loader(RAW, strict, 4, 0), mx.cpu())


@pytest.mark.parametrize("split", ("trainval", "query", "gallery"))
def test_only_splits_with_queries_and_gallery_can_be_evaluated(people, split):
    with pytest.raises(ValueError, match="use test or val"):
        reid.retrieve(small_net(), opened(people, split), None, mx.cpu())


@pytest.mark.nightly
def test_synthetic_people_are_found_again(tmp_path):
    """A few hundred updates on a narrow net must beat its random weights by far."""
    write_tiny("reid_market", tmp_path / "data", images={"train": 240, "val": 40, "test": 120})
    changes = {
        "model_options": {"width": 8}, "input_size": 64, "resize": 72, "crop_min": 64,
        "crop_max": 64, "eval_crop": 72, "batch_size": 32, "options": {"images_per_identity": 4},
        "splits": ("train", "val", "test"), "iterations_per_epoch": 40,
    }  # fmt: skip
    recipe, data, net, method = parts(tmp_path / "data", **changes)
    asked = Asked(str(tmp_path), "test", mx.cpu(), workers=0)
    before = REID.final_scores(recipe, net, data["test"], asked).values["mAP"]
    loader = REID.train_loader(recipe, data["train"], method, 0)
    method.begin_epoch(0)
    for epoch in range(6):
        loader.set_epoch(epoch)
        for batch in loader:
            method.train_step(batch)
    mx.nd.waitall()
    after = REID.final_scores(recipe, net, data["test"], asked).values["mAP"]
    assert after > before + 0.1


@pytest.mark.parametrize("kind", ("reid_market", "reid_duke"))
def test_tiny_trees_can_be_retrieved_from(tmp_path, kind):
    write_tiny(kind, tmp_path, images={"train": 8, "val": 4, "test": 8}, cameras=2, each=2)
    learnt, query, gallery, test = (
        opened(tmp_path, split, kind) for split in ("trainval", "query", "gallery", "test")
    )
    junk = np.isin(gallery.identities, (-1, 0)).sum()
    assert junk == (8 if kind == "reid_market" else 0)
    assert set(query.identities) == set(gallery.identities) - {-1, 0}
    assert not set(query.identities) & set(learnt.identities)
    for i in test.query:
        same = test.identities[test.gallery] == test.identities[i]
        assert (test.cameras[test.gallery][same] != test.cameras[i]).any()
