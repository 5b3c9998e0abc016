"""A data set, recipes and methods so small that training takes seconds; comparison of arrays."""

from __future__ import annotations

import json

import cv2
import mxnet as mx
import numpy as np

from gluon_attn.core.batch import Batch
from gluon_attn.core.recipe import Recipe
from gluon_attn.method import METHODS, Optimization, Task
from gluon_attn.train.run import Settings, train

NAMES = ("square", "disc", "stripe")
SIDE = 40


def write_data(root, train=48, val=24, test=24, seed=0):
    """Write a list data set of images that show a square, a disc, stripes, or several."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    (root / "names.txt").write_text("\n".join(NAMES) + "\n")
    for split, count in (("train", train), ("val", val), ("test", test)):
        lines = []
        for number in range(count):
            values = (rng.random(3) < 0.5).astype(int)
            path = f"images/{split}{number}.png"
            cv2.imwrite(str(root / path), make_image(rng, values))
            values[rng.random(3) < 0.1] = -1  # unspecified
            lines.append(f"{path}\t{','.join(map(str, values))}")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def make_image(rng, values):
    """Draw one image, uint8 BGR."""
    image = rng.integers(60, 120, (SIDE, SIDE, 3)).astype(np.uint8)
    if values[2]:
        image[:, ::4] = 0
    x, y = rng.integers(4, SIDE - 16, 2)
    if values[0]:
        cv2.rectangle(image, (int(x), int(y)), (int(x) + 10, int(y) + 10), (255, 255, 255), -1)
    if values[1]:
        cv2.circle(image, (int(y) + 6, int(x) + 6), 6, (0, 0, 255), -1)
    return image


def recipe(**changes):
    """Return the values of a recipe for the tiny data."""
    values = {
        "method": "vaa", "model": "vaa_resnet18_w16_synthetic", "model_options": {"width": 8},
        "input_size": 32, "resize": 40, "crop_min": 28, "crop_max": 40, "eval_crop": 36,
        "epochs": 4, "batch_size": 8, "lr": 0.02, "schedule": "plateau", "lr_patience": 0,
        "lr_min": 1e-4, "log_interval": 2, "seed": 3,
        "options": {"phase1_epochs": 1, "history_start": 0, "history_weights": 2},
    }  # fmt: skip
    values.update(changes)
    return values


def write_recipe(path, **changes):
    """Write :func:`recipe` as JSON; return the path."""
    path.write_text(json.dumps(recipe(**changes)))
    return path


def checkpoint_arrays(path):
    """Return everything in a checkpoint but its record, for comparing bit by bit."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files if name != "meta"}


def random_batch(seed=0, rows=4, columns=4, side=32, *, label=None, mask=None, share=0.4):
    """Return random images, and labels where none are given."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(rows, 3, side, side))
    label = (rng.random((rows, columns)) < share) if label is None else label
    mask = np.ones((rows, columns)) if mask is None else mask
    return Batch(*map(mx.nd.array, (image, label, mask)), np.arange(rows))


def start_method(
    name, net, names, *, samples=64, prior=0.3, schema=None, optimizer="sgd", lr=0.01, wd=0.0,
    ctx=None, accumulate=1, amp="none", options=None,
):  # fmt: skip
    """Return the method in epoch 0, with the net on its devices."""
    ctx = ctx or [mx.cpu()]
    net.collect_params().reset_ctx(ctx)
    params = {"learning_rate": lr, "wd": wd, **({"momentum": 0.9} if optimizer == "sgd" else {})}
    task = Task(tuple(names), samples, np.full(len(names), prior), schema)
    optimization = Optimization(optimizer, params, accumulate, amp)
    method = METHODS.get(name)(net, ctx, task, optimization, options=options or {})
    method.begin_epoch(0)
    return method


def values(parameters):
    """Return ``{name: NumPy array}`` of a block's parameters or of a ParameterDict."""
    mx.nd.waitall()
    if not hasattr(parameters, "items"):
        parameters = parameters._collect_params_with_prefix()
    return {n: p.data(p.list_ctx()[0]).asnumpy() for n, p in parameters.items()}


def same(found, wanted, **tolerance):
    """Compare arrays by name: bit by bit, or within a tolerance."""
    assert found.keys() == wanted.keys()
    compare = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
    for name, array in wanted.items():
        compare(found[name], array, err_msg=name, **tolerance)


def run(values, data, folder, *, resume=False, test=False, workers=0, **more):
    """Train a recipe of :func:`recipe`; return what the run found."""
    settings = Settings(
        str(data), str(folder), resume=resume, workers=workers, console=False, test=test, **more
    )
    return train(Recipe.from_dict(values), settings)


def resumes_to_the_bit(values, data, folder, *, cut=1):
    """Compare the run in ``whole``, made if need be, with one that stops after ``cut`` epochs.

    Return the arrays of its last checkpoint.
    """
    if not (folder / "whole").exists():
        run(values, data, folder / "whole")
    run(dict(values, epochs=cut), data, folder / "cut")
    run(values, data, folder / "cut", resume=True)
    whole, parts = (checkpoint_arrays(folder / name / "last.ckpt") for name in ("whole", "cut"))
    same(parts, whole)
    return whole
