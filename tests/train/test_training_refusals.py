"""What the loop, its checkpoints and its logs say of what they cannot use."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from gluon_attn import workers
from gluon_attn.method import Method
from gluon_attn.tasks.data import predict
from gluon_attn.train import checkpoint, load_checkpoint
from gluon_attn.train.log import TensorBoard

fitting = sys.modules["gluon_attn.train.fit"]  # the package's `fit` is the function


def test_checkpoints_that_are_missing_or_newer(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint .*last.ckpt"):
        load_checkpoint(str(tmp_path / "last.ckpt"))
    meta = json.dumps({"format": checkpoint.FORMAT + 1}).encode()
    with open(str(tmp_path / "new.ckpt"), "wb") as file:
        np.savez(file, meta=np.frombuffer(meta, np.uint8))
    with pytest.raises(ValueError, match=rf"has format {checkpoint.FORMAT + 1}, this is"):
        load_checkpoint(str(tmp_path / "new.ckpt"))


def trained(steps, optimizer, settings):
    """Return a layer and its trainer after some steps."""
    mx.random.seed(0)
    net = mx.gluon.nn.Dense(2, in_units=3)
    net.initialize(mx.init.Xavier())
    trainer = mx.gluon.Trainer(net.collect_params(), optimizer, settings, kvstore=None)
    step(net, trainer, range(steps))
    return net, trainer


def step(net, trainer, numbers):
    for number in numbers:
        images = mx.nd.array(np.random.default_rng(number).normal(size=(4, 3)))
        with autograd.record():
            loss = mx.nd.square(net(images)).sum()
        loss.backward()
        trainer.step(4)


@pytest.mark.parametrize(
    "optimizer, settings, tensors",
    [
        ("sgd", {"learning_rate": 0.1}, 0),
        ("sgd", {"learning_rate": 0.1, "momentum": 0.9}, 2),
        ("adam", {"learning_rate": 0.1}, 4),
        ("ftml", {"learning_rate": 0.1}, 6),
    ],
)
def test_state_of_any_optimizer_goes_on_to_the_bit(optimizer, settings, tensors):
    """Without momentum there is no state; others have one, two or three arrays per parameter."""
    net, trainer = trained(5, optimizer, settings)
    other, late = trained(2, optimizer, settings)
    arrays = checkpoint._trainer_arrays("t", late)
    assert len([name for name in arrays if name.count("/") == 2]) == tensors
    again, fresh = trained(0, optimizer, settings)
    for name, parameter in again._collect_params_with_prefix().items():
        parameter.set_data(other._collect_params_with_prefix()[name].data())
    checkpoint._load_trainer("t", fresh, arrays)
    step(again, fresh, range(2, 5))
    for name, parameter in net._collect_params_with_prefix().items():
        found = again._collect_params_with_prefix()[name].data().asnumpy()
        np.testing.assert_array_equal(found, parameter.data().asnumpy(), err_msg=name)


class NoBatches(list):
    def set_epoch(self, epoch):
        pass


def test_no_batches_to_train_on_or_to_evaluate():
    run = SimpleNamespace(
        loader=NoBatches(), held_out=None, method=SimpleNamespace(workers=workers.current())
    )
    with pytest.raises(ValueError, match="smaller than one batch; lower batch_size"):
        fitting._train_batches(run, 0, 0.1)
    with pytest.raises(ValueError, match="the data set is empty"):
        predict(mx.gluon.nn.Dense(2), [], 0, mx.cpu())


def test_a_method_must_say_its_losses():
    with pytest.raises(NotImplementedError):
        Method.losses(None, None, None)


def test_tensorboard_gets_every_finite_number_of_an_epoch(monkeypatch, tmp_path):
    """The package is replaced: it is optional."""
    written = []
    writer = SimpleNamespace(
        add_scalar=lambda name, value, step: written.append((name, value, step)),
        flush=lambda: written.append("flushed"),
    )
    package = SimpleNamespace(SummaryWriter=lambda folder: written.append(folder) or writer)
    monkeypatch.setitem(sys.modules, "tensorboardX", package)
    board = TensorBoard(str(tmp_path))
    record = {"epoch": 3, "loss": 0.5, "val_mAP": float("nan"), "phase": "joint", "samples": 7}
    board.write(record)
    assert written == [str(tmp_path), ("loss", 0.5, 3), ("samples", 7, 3), "flushed"]
