"""The loader: same batches for any number of workers, padding, errors, threads that end."""

from __future__ import annotations

import gc
import threading

import cv2
import mxnet as mx
import numpy as np
import pytest
from kinds_helpers import refuses

from gluon_attn.core.batch import PADDING
from gluon_attn.data import (
    AttributeDataset,
    BadImageError,
    EvalTransform,
    Loader,
    TrainTransform,
    open_dataset,
    pack,
)
from tools.bench.loading import loader_rate

TRAIN = TrainTransform(32, (16, 28), 24)
EVAL = EvalTransform(32, 28, 24)


class Numbers(AttributeDataset):
    """Image ``i`` is noise seeded by ``i``; some cannot be read."""

    def __init__(self, count=23, bad=(), **options):
        raw = np.random.default_rng(0).integers(-1, 2, (count, 4))
        super().__init__("abcd", "train", raw, [f"s{i}" for i in range(count)], **options)
        self.bad, self.reads = bad, []

    def read(self, i):
        self.reads.append(i)
        if i in self.bad:
            raise BadImageError(f"{i}.jpg", self.sample_ids[i], "is bad")
        return np.random.default_rng(i).integers(0, 256, (40, 30, 3), np.uint8)


def epoch(loader, number=0, start=0):
    loader.set_epoch(number, start)
    return [
        [batch.image.asnumpy(), batch.label.asnumpy(), batch.mask.asnumpy(), batch.index]
        for batch in loader
    ]


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x, y)


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("cache", [False, True])
def test_results_do_not_depend_on_workers_or_cache(workers, cache):
    settings = {"batch_size": 4, "shuffle": True, "seed": 5}
    one = Loader(Numbers(), TRAIN, **settings)
    other = Loader(Numbers(), TRAIN, workers=workers, cache=cache, **settings)
    for number in (0, 1, 2, 1):
        assert_equal(epoch(one, number), epoch(other, number))
    assert not loader_threads()


def test_epochs_and_seeds_differ_and_repeat():
    loader = Loader(Numbers(), TRAIN, 4, shuffle=True, seed=5)
    first, second = epoch(loader, 0), epoch(loader, 1)
    assert not np.array_equal(first[0][3], second[0][3])
    assert_equal(first, epoch(loader, 0))
    assert_equal(epoch(loader, 1, start=3), second[3:])
    fixed = Loader(Numbers(), TRAIN, 4)
    a, b = epoch(fixed, 0), epoch(fixed, 1)
    np.testing.assert_array_equal(a[0][3], b[0][3])
    assert not np.array_equal(a[0][0], b[0][0]), "augmentation changes with the epoch"
    assert not np.array_equal(loader.order(0), Loader(Numbers(), TRAIN, 4, True, seed=6).order(0))


def test_augmentation_belongs_to_the_sample_not_to_its_place():
    ordered = Loader(Numbers(), TRAIN, 23)
    shuffled = Loader(Numbers(), TRAIN, 5, shuffle=True)
    expected = epoch(ordered, 7)[0]
    for image, label, mask, index in epoch(shuffled, 7):
        real = index != PADDING
        for got, want in zip((image, label, mask), expected):
            np.testing.assert_array_equal(got[real], want[index[real]])


def test_rows_are_dataset_rows_under_the_transform():
    dataset = Numbers()
    loader = Loader(dataset, TRAIN, 4)
    image, label, mask, index = epoch(loader, 2)[1]
    np.testing.assert_array_equal(index, [4, 5, 6, 7])
    for row, i in enumerate(index):
        random = loader.draws(2)[i]
        np.testing.assert_array_equal(image[row], TRAIN(dataset.read(i), random))
        np.testing.assert_array_equal(label[row], dataset.label[i])
        np.testing.assert_array_equal(mask[row], dataset.mask[i])


def test_shapes_types_and_padding():
    loader = Loader(Numbers(), EVAL, 8)
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    for batch in batches:
        assert batch.image.shape == (8, 3, 24, 24) and batch.image.dtype == np.float32
        assert batch.label.shape == batch.mask.shape == (8, 4) and batch.label.dtype == np.float32
        assert batch.index.dtype == np.int64 and batch.image.context == mx.cpu()
    last = batches[-1]
    np.testing.assert_array_equal(last.index, [16, 17, 18, 19, 20, 21, 22, PADDING])
    assert not last.mask.asnumpy()[7:].any() and not last.image.asnumpy()[7:].any()
    assert last.mask.asnumpy()[:7].any()
    indices = np.concatenate([batch.index for batch in batches])
    np.testing.assert_array_equal(indices[indices != PADDING], np.arange(23))


def test_discard_and_impossible_arguments():
    loader = Loader(Numbers(), EVAL, 8, last="discard", shuffle=True)
    indices = np.concatenate([batch.index for batch in loader])
    assert len(loader) == 2 and len(set(indices)) == 16 and indices.min() >= 0
    refuses("23 samples do not fill one batch", Numbers(), EVAL, 24, by=Loader, last="discard")
    refuses("valid are pad, discard", Numbers(), EVAL, 4, by=Loader, last="keep")
    refuses("batch_size=0", Numbers(), EVAL, 0, by=Loader)
    refuses("an epoch has 2 batches", 0, by=loader.set_epoch, start=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_surfaces_with_its_name(workers):
    loader = Loader(Numbers(bad={9}), EVAL, 4, workers=workers)
    seen = []
    with pytest.raises(BadImageError, match="9.jpg: is bad .sample 's9'"):
        for batch in loader:
            seen.append(batch.index[0])
    assert seen == [0, 4] and not loader_threads()
    loader.dataset.bad = ()
    assert len(list(loader)) == 6, "the loader can be used again"


def test_skipped_images_have_mask_zero():
    dataset = Numbers(bad={9}, on_bad_image="skip")
    mask = np.concatenate([b[2] for b in epoch(Loader(dataset, EVAL, 4, workers=2, cache=True))])
    assert not mask[9].any() and mask[8].all()
    assert dataset.skipped == [("s9", "is bad")]


def test_leaving_early_ends_the_threads_and_bounds_the_reading():
    dataset = Numbers(400)
    loader = Loader(dataset, EVAL, 4, workers=2)
    for batch in loader:
        assert batch.index[0] == 0
        break
    gc.collect()
    assert not loader_threads()
    assert len(dataset.reads) <= 4 * (2 * 2 + 2)
    iterator = iter(loader)
    next(iterator)
    iterator.close()
    assert not loader_threads()


def test_cache_reads_every_image_once(caplog):
    dataset = Numbers()
    with caplog.at_level("INFO"):
        loader = Loader(dataset, TRAIN, 4, cache=True)
    assert "0.1 MB of memory" in caplog.text  # 23 * 32 * 32 * 3 bytes
    for number in range(3):
        epoch(loader, number)
    assert sorted(dataset.reads) == list(range(23))


def test_batches_that_are_kept_keep_their_contents():
    loader = Loader(Numbers(), TRAIN, 4, workers=2)
    kept = list(loader)
    views = [batch.image[1:3].reshape((2, -1)) for batch in loader]  # only views stay
    pending = [batch.image * 2 for batch in loader]
    expected = epoch(loader)
    for batch, view, doubled, (image, _, _, _) in zip(kept, views, pending, expected):
        np.testing.assert_array_equal(batch.image.asnumpy(), image)
        np.testing.assert_array_equal(view.asnumpy(), image[1:3].reshape(2, -1))
        np.testing.assert_array_equal(doubled.asnumpy(), image * 2)


def test_memory_is_used_again():
    loader = Loader(Numbers(400), TRAIN, 4)
    for batch in loader:
        batch.image.wait_to_read()
        del batch
    mx.nd.waitall()
    assert 1 <= len(loader._buffers._free) <= 4, "100 batches were made in as much memory"


def test_packed_data_and_the_benchmark(tmp_path):
    pack(Numbers(), tmp_path / "train", size=32, train_size=28, workers=2, progress=False)
    packed = open_dataset(tmp_path, "train")
    assert_equal(
        epoch(Loader(packed, TRAIN, 4, True, workers=0), 3),
        epoch(Loader(packed, TRAIN, 4, True, workers=3), 3),
    )
    whole = Loader(packed, TRAIN, 4, True)
    whole._windows = False
    assert_equal(epoch(whole, 3), epoch(Loader(packed, TRAIN, 4, True), 3))
    result = loader_rate(packed, batch_size=4, workers=2, batches=3, rounds=2, transform=TRAIN)
    assert len(result["loader"]) == len(result["opencv"]) == 2 and result["images"] == 12
    assert result["cpu_ratio"] > 0
    assert result["spread"][0] <= result["ratio"] <= result["spread"][1]
    assert cv2.getNumThreads() <= 1
