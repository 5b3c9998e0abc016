"""Twenty steps of methods: ``python -m distributed_helpers OUT METHOD…`` in one process or several.

A worker takes its rows of every batch, and writes into OUT what it has found.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mxnet as mx
import numpy as np
from contracts import suites
from contracts.test_contracts import COLUMNS, METHOD_EXAMPLES, SINGLE
from mxnet.gluon import nn
from training_helpers import values

from gluon_attn.core.batch import Batch
from gluon_attn.method import METHODS, Optimization, Task
from gluon_attn.workers import current, join

EPOCHS, STEPS, ROWS, SAMPLES = 4, 5, 8, 64
OPTIONS = {name: {"history_weights": 2} for name in ("vaa", "vaa_awmt")}
OPTIONS.update({name: {"val_batch_size": ROWS} for name in ("awmt", "vaa_awmt")})
OPTIONS["vaa_awmt"] = {"history_weights": 2, "val_batch_size": ROWS}
OPTIONS["dreal"] = {"sample": 2}
COCO = ("ssd", "faster_rcnn", "simple_pose")


def frozen_norms(block):
    """Let batch norms use their running statistics, so that images do not see one another."""
    if isinstance(block, nn.BatchNorm):
        block._kwargs["use_global_stats"] = True


def build(name, ctx):
    """Return the method on its devices, and ``(seed, index) -> Batch``."""
    mx.random.seed(0)
    np.random.seed(0)
    if name in COCO:
        net, batch, schema, options = coco(name)
    else:
        make_net, settings = METHOD_EXAMPLES[name]
        net, schema = make_net(), settings.get("schema", COLUMNS)
        options = {**settings.get("options", {}), **OPTIONS.get(name, {})}
        single = schema is SINGLE

        def batch(seed):
            found = suites.batch(ROWS, seed=seed, single=single)
            if "reid" in name:  # whole identities, two images each
                classes = mx.nd.array(np.repeat(np.random.default_rng(seed).permutation(5)[:4], 2))
                found = found._replace(label=mx.nd.one_hot(classes, 5))
            return found

    if name == "autola":
        net.apply(frozen_norms)
    net.collect_params().reset_ctx(ctx)
    names = schema.columns if schema else [f"class{k}" for k in range(net.classes)]
    task = Task(tuple(names), SAMPLES, np.full(len(names), 0.3), schema)
    optimization = Optimization("sgd", {"learning_rate": 0.01, "momentum": 0.9})
    return METHODS.get(name)(net, ctx, task, optimization, options=options), batch


def coco(name):
    import coco_helpers

    net = coco_helpers.tiny_net(name)
    if name == "simple_pose":
        return net, lambda seed: coco_helpers.heatmap_batch(net, ROWS, seed), None, {}
    batches = coco_helpers.batch_of(ROWS)

    def batch(seed):
        noise = np.random.default_rng(seed).normal(0, 0.1, batches.image.shape)
        return batches._replace(image=batches.image + mx.nd.array(noise))

    return net, batch, None, coco_helpers.recipe(name)["options"]


def share(batch, index):
    """Return this worker's rows."""
    group = current()
    rows = slice(*(len(index) * k // group.size for k in (group.rank, group.rank + 1)))
    return Batch(*(array[rows] for array in batch[:3]), index[rows])


def begin(method, epoch):
    """Begin an epoch with the learning rate of the others.

    A trainer's first step gives all devices the first one's running statistics, which that step
    has moved; here the trainer does so before.
    """
    method.begin_epoch(epoch)
    method.set_learning_rate(0.01)
    for trainer in method.trainers.values():
        if not trainer._kv_initialized:
            trainer._init_kvstore()
            trainer._init_params()


def make_equal(method):
    """Average running statistics over the workers, or over the devices of one process."""
    current().make_equal(method.net)
    for parameter in method.net.collect_params().values():
        if len(method.ctx) > 1 and not parameter._differentiable:
            parameter.set_data(sum(a.as_in_context(mx.cpu()) for a in parameter.list_data()) / 2)


def train(name, out):
    """Train; write losses, parameters and the method's state."""
    group = current()
    alone = group.size == 1 and name != "autola"
    method, batch = build(name, [mx.cpu(0), mx.cpu(1)] if alone else [mx.cpu()])
    losses = []
    for epoch in range(EPOCHS):
        begin(method, epoch)
        order = np.random.default_rng(epoch).permutation(SAMPLES)
        for step in range(STEPS):
            seed, index = epoch * STEPS + step, order[step * ROWS : (step + 1) * ROWS]
            held_out = None
            if method.held_out_size or name == "autola":
                held_out = share(batch(1000 + seed), np.arange(ROWS))
            found = method.train_step(share(batch(seed), index), held_out)
            losses.append({key: value.asscalar() for key, value in found.items()})
        method.end_epoch()
        method.report()
        make_equal(method)
    keys = sorted({key for step in losses for key in step})
    arrays = {f"loss {k}": np.array([s.get(k, 0) for s in losses], np.float64) for k in keys}
    prefix = method.net.prefix
    arrays.update({f"net {k.replace(prefix, '')}": a for k, a in values(method.net).items()})
    arrays.update({f"state {k}": np.asarray(a) for k, a in method.state().items()})
    np.savez(Path(out) / f"{name}-{group.size}-{group.rank}.npz", **arrays)


def read(out, name, size, rank):
    """Return the arrays that :func:`train` has written."""
    with np.load(Path(out) / f"{name}-{size}-{rank}.npz") as archive:
        return dict(archive)


if __name__ == "__main__":
    if "-" not in sys.argv[2]:
        join(sys.argv[2])
    for given in sys.argv[3:]:
        train(given, sys.argv[1])
