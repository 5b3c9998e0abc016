"""Tiny trees of the data sets that come with MATLAB files, see ``tiny``.

The nesting of structs and cells is that of the official files, as their public readers index them.
Names of columns are placeholders where the reader takes them from the file.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.io import savemat

from formats.tiny import TINY, image, random_labels, sizes, write_lines, write_photo
from gluon_attn.data import peta
from gluon_attn.data.reid import DUKE, MARKET


def numbered(count):
    """Return names of attributes."""
    return [f"Attribute-{number}" for number in range(1, count + 1)]


def cell(items, row=False):
    """Return a cell array, N x 1, or 1 x N with ``row``, for ``savemat``."""
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape((1, -1) if row else (-1, 1))


def save(path, variables):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        savemat(file, variables, do_compression=True, oned_as="row")


def write_peta(root, images, rng, version="mat"):
    """Write ``PETA.mat`` and ``images/``, or the authors' folders; return the expected counts."""
    counts = [images[split] for split in ("train", "val", "test")]
    total, named = sum(counts), len(peta.ATTRIBUTES)
    labels = random_labels(rng, total, 105)
    if version == "folders":
        return _write_peta_folders(root, labels[:, :named], rng)
    values = np.where(labels == 1, 1, 0).astype(np.float64)
    for k in range(total):
        rgb = image(rng, labels[k, :named], 36, 72)
        write_photo(root / "images" / f"{k + 1:05d}.png", rgb)
    values[(labels == -1) & (rng.random(labels.shape) < 0.02)] = 2  # uncertain, read as negative
    number = np.arange(total)
    ids = np.stack([number + 1, number // 2 + 1, number % 10 + 1, number // 2], 1)
    names = peta.ATTRIBUTES + tuple(f"unused{k}" for k in range(named + 1, 106))
    save(root / "PETA.mat", {"peta": {
        "attribute_data": np.hstack([ids, values]),
        "attribute_name": cell(names),
        "unused": cell(names),
        "partition": cell([
            dict(zip(("train", "val", "test"), (part[:, None] for part in cut(rng, counts))))
            for _ in range(5)
        ]),
    }})  # fmt: skip
    return sizes(images)


def _write_peta_folders(root, labels, rng):
    """Write the ten sub-sets, two images of a person except in CUHK; return their counts."""
    found = {name: [] for name in peta.SUBSETS}
    for k, subset in enumerate(np.resize(list(found), len(labels))):
        number = len(found[subset])
        row = labels[k] if subset == "CUHK" or number % 2 == 0 else found[subset][-1][1]
        person = f"{number + 1:04d}" if subset == "CUHK" else f"{number // 2 + 1:03d}"
        name = f"{person}.png" if subset == "CUHK" else f"{person}_{number % 2 + 1}.jpg"
        found[subset].append((name, row))
        folder = root / "PETA dataset" / subset / "archive"
        write_photo(folder / name, image(rng, row, 36, 72))
    for subset, samples in found.items():
        lines = {}
        for name, row in samples:
            words = [peta.ATTRIBUTES[k] for k in np.flatnonzero(row == 1)] + ["hairShort"]
            words = [{"footwearSneaker": "footwearSneakers"}.get(word, word) for word in words]
            lines[name if subset == "CUHK" else name.partition("_")[0]] = " ".join(words)
        path = root / "PETA dataset" / subset / "archive" / "Label.txt"
        write_lines(path, [f"{person} {words}" for person, words in lines.items()])
    return sizes({name: len(samples) for name, samples in found.items()})


def cut(rng, counts):
    """Return numbers from 1 in random order, cut into parts of the given sizes."""
    return np.split(1.0 + rng.permutation(sum(counts)), np.cumsum(counts)[:-1])


def write_rap(root, images, rng, version="1"):
    """Write ``RAP_annotation/`` and ``RAP_dataset/``; return the expected counts."""
    counts = [images[split] for split in ("train", "val", "test")]
    names = [f"CAM{rng.integers(1, 26):02d}_2014-02-15_{k:06d}.png" for k in range(sum(counts))]
    width = 92 if version == "1" else 152
    labels = random_labels(rng, len(names), width)
    columns = np.arange(51) if version == "1" else np.sort(rng.permutation(width)[:54])
    for name, row in zip(names, labels):
        write_photo(root / "RAP_dataset" / name, image(rng, row[columns], 40, 80))
    titles = numbered(width)
    tables = _rap1 if version == "1" else _rap2
    content = tables(rng, names, (labels == 1).astype(np.float64), titles, counts, columns)
    save(root / "RAP_annotation" / "RAP_annotation.mat", {"RAP_annotation": content})
    if version == "1":  # what is held out of the training part is the reader's choice
        return sizes({"trainval": counts[0] + counts[1], "test": counts[2]})
    return sizes(images)


def _rap1(rng, names, values, titles, counts, columns):
    def partition():
        trainval, test = cut(rng, [counts[0] + counts[1], counts[2]])
        return {"train_index": trainval[None], "test_index": test[None]}

    return {
        "partition": cell([partition() for _ in range(5)]),
        "label": values,
        "attribute_chinese": cell(titles),
        "attribute_eng": cell(titles),
        "position": np.zeros((len(names), 16)),
        "imagesname": cell(names),
        "attribute_exp": cell(titles[: len(columns)]),
        # Two images of a person; every fifth image shows a person who is not known.
        "identity": np.array([[-1 if k % 5 == 4 else k // 2 + 1] for k in range(len(names))]),
    }


def _rap2(rng, names, values, titles, counts, columns):
    def partition():
        keys = ("train_index", "val_index", "test_index")
        return {key: part[None] for key, part in zip(keys, cut(rng, counts))}

    return {
        "name": cell(names),
        "data": values,
        "attribute": cell(titles),
        "selected_attribute": 1.0 + columns[None],
        "partition_attribute": cell([partition() for _ in range(5)], row=True),
        "person_identity": np.arange(1.0, len(names) + 1)[:, None],
    }


def write_pa100k(root, images, rng):
    """Write ``annotation.mat`` and ``data/``; return the expected counts."""
    content, number = {"attributes": cell(numbered(26))}, 0
    for split in ("train", "val", "test"):
        labels = random_labels(rng, images[split], 26)
        names = [f"{number + k:06d}.jpg" for k in range(1, len(labels) + 1)]
        number += len(names)
        for name, row in zip(names, labels):
            write_photo(root / "data" / name, image(rng, row, 36, 72))
        content[f"{split}_images_name"] = cell(names)
        content[f"{split}_label"] = (labels == 1).astype(np.uint8)
    save(root / "annotation.mat", content)
    return sizes(images)


def write_reid(layout, pattern, root, images, rng):
    """Write folders and annotation, three images per identity, among them the known traps."""
    numbers = {"train": images["train"] + images["val"], "test": images["test"]}
    content, expected = {}, {}
    for number, (part, count) in enumerate(numbers.items()):
        people = [f"{2 * k + 2 + number:04d}" for k in range(max(4, count // 3))]
        fields = _reid_fields(layout, len(people), rng)
        shown = {p: row for p, row in zip(people, _chequers(layout, fields))}
        folders = {f"bounding_box_{part}": [people[k % len(people)] for k in range(count)]}
        if part == "test":
            folders["query"] = people
            folders["bounding_box_test"] += ["-1", "0000"]
        for folder, owners in folders.items():
            for k, person in enumerate(owners):
                rgb = image(rng, shown.get(person, shown[people[0]]), 32, 64)
                name = pattern.format(person, k % 6 + 1, 100 * number + k)
                write_photo(root / folder / name, rgb)
        key = "trainval" if part == "train" else part
        expected[key] = {"images": count, "identities": len(people)}
        order = list(fields) if part == "train" else list(fields)[::-1]  # as in the official files
        content[part] = {name: fields[name][None] for name in order}
        content[part]["image_index"] = cell(people, row=True)
    n = expected["test"]["identities"]
    expected["query"] = {"images": n, "identities": n}
    save(root / f"{layout.variable}.mat", {layout.variable: content})
    return expected


def _reid_fields(layout, people, rng):
    """Return ``{field: values of the identities}``; the first wears no colour, the last two."""
    fields = {}
    for task in layout.tasks:
        if len(task.fields) < 2:
            largest = len(task.classes) or 2
            values = 1 + rng.permutation(people) % largest
            fields.update({(task.fields or (task.name,))[0]: values.astype(np.uint8)})
            continue
        chosen = rng.integers(0, len(task.fields), people)
        table = np.where(chosen[:, None] == np.arange(len(task.fields)), 2, 1).astype(np.uint8)
        table[0] = 1
        table[-1, (chosen[-1] + 1) % len(task.fields)] = 2
        fields.update(zip(task.fields, table.T))
    return fields


def _chequers(layout, fields):
    """Return what the identities' images show, rows of {1, -1}."""
    columns = []
    for task in layout.tasks:
        names = task.fields or (task.name,)
        if len(names) == 1 and task.classes:
            columns += [fields[names[0]] == k for k in range(1, len(task.classes) + 1)]
        else:
            columns += [fields[name] == 2 for name in names]
    return np.where(np.stack(columns, 1), 1, -1)


TINY.register("peta")((write_peta, ("PETA.mat", "images", "PETA dataset")))
TINY.register("rap")((write_rap, ("RAP_annotation", "RAP_dataset")))
TINY.register("pa100k")((write_pa100k, ("annotation.mat", "data")))
REID_FOLDERS = ("bounding_box_train", "bounding_box_test", "query")
for layout, pattern in ((MARKET, "{}_c{}s1_{:06d}_01.jpg"), (DUKE, "{}_c{}_f{:07d}.jpg")):
    outputs = (*REID_FOLDERS, f"{layout.variable}.mat")
    TINY.register(layout.variable.partition("_")[0])(
        (partial(write_reid, layout, pattern), outputs)
    )
