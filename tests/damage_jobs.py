"""Kinds of file for :mod:`damage_kinds` that long jobs keep, in parts or unfinished, and are given.

Shards and their merging, what an interrupted job continues from, files of boxes, hosts and speeds.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import kinds_helpers
import numpy as np

from gluon_attn.core.files import write_json
from gluon_attn.core.shards import Shard

COUNT, OF = 6, 2  # samples, and the shards that have them
BOXES = {"a/1.jpg": [[0, 1, 20, 40.5], [3, 4, 10, 10]], "b é/2.jpg": [[5, 5, 9, 9]]}


def as_text(value):
    """Return any plain value as an array, to be compared."""
    return {} if value is None else {"": np.array(repr(value))}


def bytes_of(folder, *names):
    return {name: np.frombuffer((folder / name).read_bytes(), np.uint8) for name in names}


# ----------------------------------------------------------------------------- packs, in parts


def write_pack(folder, shard=None):
    """Pack a list data set, which stays beside the pack, or one part of it."""
    from gluon_attn.data import open_dataset, pack

    source = folder / "lists"
    if not source.is_dir():
        (source / "images").mkdir(parents=True)
        (source / "names.txt").write_text("hat\nbag\n")
        for k in range(COUNT):
            kinds_helpers.image(source / "images" / f"{k}.png", 40 * k)
        rows = (f"images/{k}.png\t{k % 2},{k % 3 - 1}\n" for k in range(COUNT))
        (source / "train.txt").write_text("".join(rows))
    pack(open_dataset(source, "train"), folder / "train", 32, train_size=24, workers=1,
         progress=False, shard=shard)  # fmt: skip


def write_pack_shards(path):
    for number in range(1, OF + 1):
        write_pack(path.parent, Shard(number, OF))
    return sorted(file for file in path.parent.glob("train-*") if file.is_file())


def read_pack_shards(path):
    """Read the shards as one split, as training does."""
    from gluon_attn.data import DATASETS

    dataset = DATASETS.get("packed")(Path(path).parent, "train")
    dataset.verify()
    labels = np.stack([dataset[i][1] for i in range(len(dataset))])
    return {"": np.array(dataset.fingerprint()), "labels": labels, "first": dataset[0][0]}


def merge_pack(path):
    from gluon_attn.data.packing import merge

    folder = Path(path).parent
    shutil.rmtree(folder / "out", ignore_errors=True)
    merge(folder, "train", folder / "out")
    return bytes_of(folder / "out", "train.rec", "train.idx", "train.json")


def write_pack_parts(path):
    """Write what packing leaves when it is killed before it joins its parts."""
    from gluon_attn.data import packing

    def killed(*_):
        raise KeyboardInterrupt

    whole, packing._finish = packing._finish, killed
    try:
        write_pack(path.parent)
    except KeyboardInterrupt:
        pass
    finally:
        packing._finish = whole
    return sorted((path.parent / "train.rec.parts").iterdir())


def read_pack_parts(path):
    """Continue, on a copy, what was killed."""
    folder = Path(path).parent / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("lists", "train.rec.parts"):
        shutil.copytree(folder.parent / name, folder / name)
    write_pack(folder)
    return bytes_of(folder, "train.rec", "train.idx", "train.json")


# ----------------------------------------------------------------------- predictions, in parts


class Net:
    """Stands for an export; image 3 cannot be read."""

    directory, sidecar = "x", {"name": "x"}

    def __init__(self):
        from gluon_attn.task import TASKS, Predicting

        head = {"export": "x", "classes": ["hat", "bäg"], "thresholds": [0.5, 0.5]}
        names = [f"{k}/é.jpg" for k in range(COUNT)]

        def find(some, before):
            for i in some:
                error = f"{names[i]}: bad" if i == 3 else None
                values = {} if error else {"hat": i / 7, "bäg": None}
                yield {"image": names[i], "box": None, "probabilities": values, "positives": [],
                       "error": error}  # fmt: skip

        class Task(type(TASKS.get("attributes"))):
            def predict(self, net, options):
                return Predicting(names, None, find, head)

        self.task = Task()


def predict(path, shard=None):
    from gluon_attn.tasks import predictions

    before, predictions.CHUNK = predictions.CHUNK, 2
    try:
        predictions.run(Net(), SimpleNamespace(
            json=str(Path(path).with_suffix(".json")), csv=str(Path(path).with_suffix(".csv")),
            batch_size=2, overwrite=False, on_bad_image="skip", heatmaps=None, draw=None,
            shard=shard))  # fmt: skip
    finally:
        predictions.CHUNK = before


def write_prediction_shards(path):
    for number in range(1, OF + 1):
        predict(path, Shard(number, OF))
    return sorted(path.parent.glob("r-*"))


def merge_predictions(path):
    from gluon_attn.tasks.predictions import merge

    folder = Path(path).parent
    shutil.rmtree(folder / "out", ignore_errors=True)
    merge(folder, "r", folder / "out")
    return bytes_of(folder / "out", "r.json", "r.csv")


def write_unfinished(path):
    """Write what a call leaves that was killed behind its last chunk."""
    predict(path.parent / "s", Shard(1, 1))
    (path.parent / "s-00001-of-00001.jsonl").rename(path)


def read_unfinished(path):
    """Continue it: a shard of the predictions."""
    target = Path(str(path)[: -len(".unfinished")])
    target.unlink(missing_ok=True)
    predict(target.parent / "s", Shard(1, 1))
    found = {"": np.frombuffer(target.read_bytes(), np.uint8)}
    target.unlink()
    return found


# -------------------------------------------------------------------- files of boxes and hosts


def write_boxes(path):
    if path.suffix == ".csv":
        rows = [",".join([f'"{name}"', *map(str, box)]) for name in BOXES for box in BOXES[name]]
        path.write_text("\n".join(["path,x,y,w,h", *rows, ""]))
    elif "wider" in path.name:
        images = [{"file_name": name, "targets": [{"bbox": box} for box in boxes]}
                  for name, boxes in BOXES.items()]  # fmt: skip
        write_json(path, {"images": images})
    else:
        write_json(path, BOXES)


def read_boxes(path):
    from gluon_attn.tasks.images import read_boxes as read

    return as_text(read(path))


def write_results(path):
    record = {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3.5, 4], "score": 0.75}
    write_json(path, [dict(record, score=k / 9) for k in range(5)])


def read_results(path):
    from gluon_attn.coco.keypoints_boxes import read_results as read

    return as_text(read(path))


def read_hosts(path):
    from gluon_attn.cli.launch import read_hosts as read

    return as_text(read(path))


def write_speeds(path):
    from gluon_attn.export import backends

    backends._remember(path, {"threads": 2, "files": "0" * 64, "images_per_s": {"mxnet": 40.5}})


def read_speeds(path):
    """Read measured speeds: a damaged file is told of, and measured again."""
    from gluon_attn.export import backends

    return as_text(backends._read_speeds(Path(path)))


KINDS = {
    "shards_pack": (write_pack_shards, read_pack_shards, False, "x"),
    "merge_pack": (write_pack_shards, merge_pack, False, "x"),
    "merge_predictions": (write_prediction_shards, merge_predictions, True, "r.csv"),
    "unfinished_pack": (write_pack_parts, read_pack_parts, True, "x"),
    "unfinished_predictions": (
        write_unfinished, read_unfinished, True, "s-00001-of-00001.jsonl.unfinished",
    ),
    "boxes_csv": (write_boxes, read_boxes, False, ".csv"),
    "boxes_json": (write_boxes, read_boxes, False, ".json"),
    "boxes_wider": (write_boxes, read_boxes, False, "_wider.json"),
    "boxes_coco": (write_results, read_results, False, ".json"),
    "hosts": (lambda path: path.write_text("a.example  # the first\n\n10.0.0.7\nb\n") and None,
              read_hosts, False, ".txt"),
    "speeds": (write_speeds, read_speeds, False, ".json"),
}  # fmt: skip
