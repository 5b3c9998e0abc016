"""Tiny trees of the single-label data sets, see ``tiny``.

Every image has a colour and a pattern of its class, so that a net can learn it, and readers that
mix up images and labels are found out. **No number on them means anything.**
"""

from __future__ import annotations

import io
import pickle
import struct
from functools import partial

import numpy as np

from formats.tiny import TINY, sizes, write_lines, write_photo
from formats.tiny_mats import save
from gluon_attn.data import caltech256, cifar, cub200


def class_image(rng, k, classes, side):
    """Return the uint8 ``(side, side, 3)`` image of class ``k``: bars that spell its number.

    The bars lie, so that a mirrored image is still of its class.
    """
    bars = max(1, int(np.ceil(np.log2(classes))))
    bits = [(k >> b) & 1 for b in range(bars)]
    column = np.repeat(np.array(bits), -(-side // bars))[:side]
    image = 60 + 130 * column[:, None, None] + np.zeros((side, side, 3))
    image[:, side // 3 : -(side // 3)] += np.array([37 * k, 61 * k, 89 * k]) % 60 - 30
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


class Python2Pickler(pickle._Pickler):
    """Writes protocol 2 as Python 2 did: every text and byte string as a byte string."""

    dispatch = pickle._Pickler.dispatch.copy()

    def _save_string(self, value):
        data = value.encode("latin1") if isinstance(value, str) else value
        if len(data) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = _save_string


def python2_pickle(value):
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def write_cifar(forms, count, root, images, rng, version="python"):
    """Write one version of CIFAR; return the expected counts.

    There are at least four training images and a test image of every class, as the number of
    classes is part of the format.
    """
    form = forms[version == "binary"]
    folder = root / form.folder
    folder.mkdir(parents=True, exist_ok=True)
    training = max(images["train"] + images["val"], 4 * count)
    test = max(images["test"], count)
    names = [f"kind_{k:03d}" for k in range(count)]
    parts = np.array_split(rng.permutation(np.arange(training) % count), len(form.training))
    parts.append(rng.permutation(np.arange(test) % count))
    for name, targets in zip((*form.training, form.test), parts):
        pixels = np.stack([class_image(rng, k, count, 32) for k in targets])
        pixels = pixels.transpose(0, 3, 1, 2).reshape(len(targets), -1)  # red, green, blue
        (folder / name).write_bytes(_cifar_file(form, name, pixels, targets.tolist()))
    more = {"coarse_label_names": [f"super_{k:02d}" for k in range(20)]} if count == 100 else {}
    if version == "binary":
        for name, lines in {form.names: names, **{f"{k}.txt": v for k, v in more.items()}}.items():
            write_lines(folder / name, lines)
    else:
        (folder / form.names).write_bytes(python2_pickle({form.key: names, **more}))
    return sizes({"trainval": training, "test": test})


def _cifar_file(form, name, pixels, targets):
    coarse = [k // 5 for k in targets]
    if form.key is None:
        labels = np.array(targets, np.uint8)[:, None]
        if form.labels[0] == 2:
            labels = np.hstack([np.array(coarse, np.uint8)[:, None], labels])
        return np.hstack([labels, pixels]).tobytes()
    content = {
        "batch_label": f"{name} of a tiny CIFAR", "data": pixels, form.labels: targets,
        "filenames": [f"{name}_{k:05d}.png" for k in range(len(targets))],
    }  # fmt: skip
    if form.labels == "fine_labels":
        content["coarse_labels"] = coarse
    return python2_pickle(content)


def write_cub200(root, images, rng, classes=6):
    """Write ``CUB_200_2011`` with a few classes; return the expected counts."""
    folder = root / "CUB_200_2011"
    training = images["train"] + images["val"]
    total = training + images["test"]
    targets = np.concatenate(
        [rng.permutation(np.arange(n) % classes) for n in (training, images["test"])]
    )
    mark = np.repeat([1, 0], [training, images["test"]])
    order = np.argsort(targets, kind="stable")  # the official list goes class by class
    folders = [f"{k + 1:03d}.Tiny_bird_{k}" for k in range(classes)]
    paths = []
    for number, at in enumerate(order, 1):
        k = int(targets[at])
        paths.append(f"{folders[k]}/Tiny_Bird_{number:04d}_{number + 7}.jpg")
        rgb = class_image(rng, k, classes, 64)[: 48 + number % 5]
        write_photo(folder / "images" / paths[-1], rgb)
    numbers = range(1, total + 1)
    write_lines(folder / cub200.LISTS[0], [f"{n} {p}" for n, p in zip(numbers, paths)])
    write_lines(folder / cub200.LISTS[1], [f"{n} {targets[a] + 1}" for n, a in zip(numbers, order)])
    write_lines(folder / cub200.LISTS[2], [f"{n} {mark[a]}" for n, a in zip(numbers, order)])
    write_lines(folder / cub200.LISTS[3], [f"{k} {name}" for k, name in enumerate(folders, 1)])
    write_lines(folder / "bounding_boxes.txt", [f"{n} 2.0 3.0 40.0 30.0" for n in numbers])
    return sizes({"trainval": training, "test": images["test"]})


def write_caltech256(root, images, rng, classes=4):
    """Write ``256_ObjectCategories`` with a few classes and clutter; every class 60 to 62 images.

    The images of a class are as many as 30 for training and 25 for testing need, and the traps
    of the official archive are there: a script, a nested folder, a grey image. The numbers in
    ``images`` are not used.
    """
    folder = root / caltech256.FOLDER
    names = [
        f"{k + 1:03d}.{name}" for k, name in enumerate(("ak47", "bag", "bat", "bear")[:classes])
    ]
    for k, name in enumerate([*names, caltech256.CLUTTER]):
        for number in range(1, 61 + k % 3):
            rgb = class_image(rng, k, classes + 1, 40)[: 30 + number % 7]
            if k == 0 and number == 1:
                rgb = np.repeat(rgb.mean(2, keepdims=True), 3, 2).astype(np.uint8)
            write_photo(folder / name / f"{name[:3]}_{number:04d}.jpg", rgb)
    write_lines(folder / names[-1] / "RENAME2", ["#!/bin/sh"])
    write_photo(folder / names[0] / "copies" / "001_0001.jpg", np.zeros((8, 8, 3), np.uint8))
    return sizes({"trainval": 30 * classes, "test": 25 * classes})


def write_imagenet(root, images, rng, classes=5):
    """Write ``train/`` by synset, a flat ``val/`` and the development kit's labels."""
    synsets = [f"n{1440764 + 1000 * k:08d}" for k in range(classes)]
    words = ["tench, Tinca tinca", "goldfish", "crane", "crane", "hen"][:classes]
    for number in range(images["train"]):
        k = number % classes
        rgb = class_image(rng, k, classes, 72)[: 60 + number % 9]
        name = f"{synsets[k]}_{1000 + number}.JPEG"
        write_photo(root / "train" / synsets[k] / name, rgb)
    ids = rng.permutation(np.arange(1, classes + 1))  # the kit numbers its classes its own way
    targets = rng.permutation(np.arange(images["val"]) % classes)
    for number, k in enumerate(targets, 1):
        write_photo(root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG",
                   class_image(rng, k, classes, 72))  # fmt: skip
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    write_lines(kit / "ILSVRC2012_validation_ground_truth.txt", [ids[k] for k in targets])
    rows = [(int(ids[k]), synsets[k], words[k], 0) for k in range(classes)]
    rows.append((classes + 1, "n00001740", "entity", classes))
    kind = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "num_children")]
    save(kit / "meta.mat", {"synsets": np.array(rows, kind)[:, None]})
    return sizes({split: images[split] for split in ("train", "val")})


for count, forms in ((10, cifar.CIFAR10), (100, cifar.CIFAR100)):
    outputs = tuple(form.folder for form in forms)
    TINY.register(f"cifar{count}")((partial(write_cifar, forms, count), outputs))
TINY.register("cub200")((write_cub200, ("CUB_200_2011",)))
TINY.register("caltech256")((write_caltech256, (caltech256.FOLDER,)))
TINY.register("imagenet")((write_imagenet, ("train", "val", "ILSVRC2012_devkit_t12")))
