"""What workers tell one another; threads stand in for processes, a sum for MXNet's kvstore."""

from __future__ import annotations

import functools
import sys
import threading
import types

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from process_helpers import at_once
from training_helpers import random_batch, recipe, start_method

from gluon_attn import workers
from gluon_attn.core.batch import Batch
from gluon_attn.core.recipe import Recipe
from gluon_attn.data import Loader
from gluon_attn.data.loader import IdentityLoader
from gluon_attn.papers.vaa.history import PredictionHistory
from gluon_attn.train.run import _check_shares
from gluon_attn.workers import Workers
from model_zoo import get_model


class Kvstore:
    """A worker's end of a sum over threads."""

    def __init__(self, rank, count, shared):
        self.rank, self.num_workers, self._shared = rank, count, shared

    def broadcast(self, key, value, out):
        pass

    def pushpull(self, key, value, out, priority=0):
        barrier, found = self._shared
        found[self.rank] = key, [array.copy() for array in value]
        barrier.wait(60)
        keys, lists = zip(*found)
        assert len(set(keys)) == 1, f"the workers are not at one place: {keys}"
        total = sum(array for arrays in lists for array in arrays)
        barrier.wait(60)
        for array in out:
            array[:] = total


def group(count=2):
    shared = threading.Barrier(count), [None] * count
    return [Workers(Kvstore(rank, count, shared)) for rank in range(count)]


def each(call, *arguments):
    """Return ``call(group, argument, …)`` of every worker, made at the same time."""
    groups = group()
    mine = [[values[one.rank] for values in arguments] for one in groups]
    return at_once(*[functools.partial(call, *given) for given in zip(groups, *zip(*mine))])


def test_alone_nothing_changes():
    alone = Workers()
    array = mx.nd.ones(3)
    alone.add_up("x", [array])
    rows = np.arange(3, dtype=np.int32)
    assert alone.is_first and alone.size == 1 and (array.asnumpy() == 1).all()
    assert alone.total("x", rows) is rows and alone.merge("x", [rows], rows)[0] is rows
    alone.wait()
    alone.check_equal(3, "x")


def test_totals_and_agreement():
    found = each(lambda one, x: one.total("x", x), [np.arange(6).reshape(2, 3), np.ones((2, 3))])
    np.testing.assert_array_equal(found[0], np.arange(6).reshape(2, 3) + 1)
    np.testing.assert_array_equal(*found)
    each(lambda one, number: one.check_equal(number, "x"), [4, 4])
    with pytest.raises(ValueError, match=r"the epoch differs \(worker 0: 4, worker 1: 0\)"):
        each(lambda one, number: one.check_equal(number, "the epoch"), [4, 0])


def test_rows_come_from_the_worker_that_has_them():
    arrays = [[np.array([[1.5], [np.nan], [7], [2]])], [np.array([[9.0], [3], [8], [4]])]]
    mine = [np.array([1, 1, 0, 1.0]), np.array([0, 0, 0, 1.0])]
    found = each(lambda one, a, m: one.merge("x", a, m)[0], arrays, mine)
    np.testing.assert_array_equal(found[0][[0, 1, 3]], [[1.5], [np.nan], [3]])
    assert found[0][2] == 7 and found[1][2] == 8  # that none has seen
    exact = np.array([[1 / 3], [2 / 3]])
    found = each(lambda one, m: one.merge("y", [exact], m)[0], [np.array([1, 0]), np.array([0, 1])])
    np.testing.assert_allclose(found[0], exact, rtol=1e-14)


def test_history_follows_a_sample_from_worker_to_worker_exactly():
    rng = np.random.default_rng(0)
    order = [rng.permutation(10) for _ in range(7)]
    probs = rng.random((7, 10, 3)).astype(np.float32)
    whole = PredictionHistory(10, 3)
    for index, found in zip(order, probs):
        whole.update(index, found)

    def train(one):
        own = PredictionHistory(10, 3)
        for epoch, (index, found) in enumerate(zip(order, probs)):
            rows = slice(0, 4) if one.rank == 0 else slice(4, 10)
            own.update(index[rows], found[rows])
            if epoch == 3:  # a checkpoint in between
                own.share(one)
                state, own = own.state(), PredictionHistory(10, 3)
                own.load_state(state)
            own.share(one)
        return own

    for own in each(train):
        for name, array in whole.state().items():
            np.testing.assert_array_equal(own.state()[name], array)
        np.testing.assert_array_equal(own.std(range(10)).asnumpy(), whole.std(range(10)).asnumpy())


def test_a_sample_that_two_workers_have_seen_counts_once():
    def see(one, prob):
        own = PredictionHistory(2, 1)
        own.update([1], np.array([[prob]]))
        own.share(one)
        return own.state()

    for state in each(see, [0.25, 0.75]):
        assert state["count"].tolist() == [0, 1] and state["rows"][1, 0] == 0.5


def test_running_statistics_are_averaged_and_nothing_else():
    def train(one):
        net = mx.gluon.nn.BatchNorm(in_channels=2)
        net.initialize()
        net.gamma.set_data(mx.nd.array([one.rank, 5]))
        net.running_mean.set_data(mx.nd.array([one.rank, 4]))
        one.make_equal(net)
        return net.gamma.data().asnumpy().tolist(), net.running_mean.data().asnumpy().tolist()

    assert each(train) == [([0, 5], [0.5, 4]), ([1, 5], [0.5, 4])]


def test_awmt_measures_the_validation_images_of_all_workers():
    """The window is not read before its end; then all have the weights of one process."""
    net = get_model("resnet18_w16_synthetic", classes=4, input_size=32, width=8, dropout=0.0)
    net.initialize(mx.init.Xavier())
    batches = [random_batch(seed, rows=4) for seed in (0, 1)]
    options = {"window": 2, "val_batch_size": 4}
    told: list[np.ndarray] = []  # what earlier workers have measured

    def observe(rank, size):
        method = start_method("awmt", net, "abcd", options=options)
        told_before = sum(told) if rank else 0

        def total(name, sums):
            told.append(sums)
            return sums + told_before

        method.workers = Workers()
        method.workers.size, method.workers.total = size, total
        rows = slice(4 * rank // size, 4 * (rank + 1) // size)
        with autograd.pause(train_mode=True):
            method.tasks.observe([Batch(*(array[rows] for array in batches[0]))])
            assert not told or rank  # nothing is read before the window ends
            method.tasks.observe([Batch(*(array[rows] for array in batches[1]))])
        return method.tasks.trend.history()["losses"]

    wanted = observe(0, 1)
    told.clear()
    observe(0, 2)
    found = observe(1, 2)
    assert len(found) == 1 and len(told) == 2
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


# -- shares of batches -----------------------------------------------------------------------------
class Numbers:
    """Samples whose image is their number, and the transform that leaves them alone."""

    draws, resize, size = 1, 2, 2

    def __init__(self, count, classes=1):
        self.label = np.zeros((count, 1), np.float32)
        self.targets = np.arange(count) % classes

    def __len__(self):
        return len(self.label)

    def __getitem__(self, i):
        return np.full((2, 2, 3), i), self.label[i], 1, i

    def __call__(self, image, random, out, corner):
        out[:] = image.transpose(2, 0, 1) + random[0] / 2


def rows_of(loader, epoch):
    loader.set_epoch(epoch)
    return [(batch.index, batch.image.asnumpy()) for batch in loader]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("last", ["pad", "discard"])
def test_shares_make_up_the_batches_whatever_their_number(count, last):
    numbers = Numbers(20)

    def loader():
        return Loader(numbers, numbers, 6, shuffle=True, seed=5, last=last)

    whole, shares = loader(), [loader() for _ in range(count)]
    for number, part in enumerate(shares):
        part.set_share(number, count)
    for epoch in (0, 1):
        parts = list(zip(*[rows_of(part, epoch) for part in shares]))
        expected = rows_of(whole, epoch)
        assert len(parts) == len(expected)
        for (index, image), found in zip(expected, parts):
            np.testing.assert_array_equal(np.concatenate([p[0] for p in found]), index)
            np.testing.assert_array_equal(np.concatenate([p[1] for p in found]), image)
        seen = np.concatenate([index for index, _ in expected])
        assert sorted(seen[seen >= 0]) == list(range(20)) or last == "discard"
    with pytest.raises(ValueError, match="a batch of 6 has no share 0 of 7"):
        loader().set_share(0, 7)


def test_shares_of_identities_are_whole_identities():
    numbers = Numbers(24, classes=6)
    whole, *shares = (IdentityLoader(numbers, numbers, 4, 2, seed=1) for _ in range(3))
    for number, part in enumerate(shares):
        part.set_share(number, 2)
    for whole_rows, *found in zip(*[rows_of(loader, 3) for loader in (whole, *shares)]):
        for k in (0, 1):
            np.testing.assert_array_equal(
                np.concatenate([part[k] for part in found]), whole_rows[k]
            )
        for index, _ in found:
            assert (numbers.targets[index].reshape(2, 2).T == numbers.targets[index[::2]]).all()


@pytest.mark.parametrize("batch, held_out, name", [(9, 8, "batch_size=9"), (8, 5, "val_batch_siz")])
def test_batches_that_cannot_be_shared_evenly_are_refused(batch, held_out, name):
    method = types.SimpleNamespace(workers=group()[0], held_out_size=held_out)
    with pytest.raises(ValueError, match=f"{name}.*multiple of the 2 workers"):
        _check_shares(Recipe.from_dict(recipe(batch_size=batch)), method)


# -- joining ---------------------------------------------------------------------------------------
@pytest.fixture
def unjoined(monkeypatch):
    monkeypatch.setattr(workers, "_current", Workers())
    monkeypatch.setattr(workers, "_kind", None)


def test_horovod_adds_up_and_is_joined_once(unjoined, monkeypatch):
    with pytest.raises(ImportError, match="--kvstore horovod needs Horovod: HOROVOD_WITH_MXNET=1"):
        workers.join("horovod")
    hvd = types.ModuleType("horovod.mxnet")
    hvd.init, hvd.rank, hvd.size = (lambda: None), (lambda: 1), (lambda: 2)

    def allreduce_(array, average, name, priority):
        assert not average
        array *= 2

    hvd.allreduce_ = allreduce_
    package = types.ModuleType("horovod")
    package.mxnet = hvd
    monkeypatch.setitem(sys.modules, "horovod", package)
    monkeypatch.setitem(sys.modules, "horovod.mxnet", hvd)
    found = workers.join("horovod")
    assert (found.rank, found.size, found.is_first) == (1, 2, False)
    assert workers.join("horovod") is found is workers.current() is workers.join(None)
    arrays = [mx.nd.ones(2, ctx=mx.cpu(k)) for k in (0, 1)]
    found.add_up("x", arrays)
    assert all((array.asnumpy() == 4).all() for array in arrays)
    with pytest.raises(ValueError, match="has joined as horovod already"):
        workers.join("dist_sync")


@pytest.mark.parametrize("kind", ["dist_async", "dist_sync"])
def test_groups_that_are_not_joined(unjoined, kind, monkeypatch):
    monkeypatch.delenv("DMLC_ROLE", raising=False)
    with pytest.raises(ValueError, match="kvstore.*dist_sync"):
        workers.join(kind)
