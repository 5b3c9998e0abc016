"""A data set and recipes so small that a training run takes seconds."""

from __future__ import annotations

import json

import cv2
import numpy as np

NAMES = ("square", "disc", "stripe")
SIDE = 40


def write_data(root, train=48, val=24, test=24, seed=0):
    """Write a list data set of pictures that show a square, a disc, stripes, or several."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    (root / "names.txt").write_text("\n".join(NAMES) + "\n")
    for split, count in (("train", train), ("val", val), ("test", test)):
        lines = []
        for number in range(count):
            values = (rng.random(3) < 0.5).astype(int)
            path = f"images/{split}{number}.png"
            cv2.imwrite(str(root / path), picture(rng, values))
            values[rng.random(3) < 0.1] = -1  # unspecified
            lines.append(f"{path}\t{','.join(map(str, values))}")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def picture(rng, values):
    """Draw one picture, uint8 BGR."""
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
