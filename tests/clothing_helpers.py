"""Miniatures of Clothing Co-Parsing and of the clothing dataset, in their official formats."""

from __future__ import annotations

import json

import cv2
import numpy as np
from formats.tiny import write_lines
from scipy.io import savemat

from gluon_attn.data import clothing as ccp
from gluon_attn.data.clothing import CLASSES

WORN = dict.fromkeys(tag for name in ccp.ATTRIBUTES for tag in ccp.MERGED.get(name, (name,)))
TAGS = ["null", "hair", "skin", *WORN]


def save_tags(path, tags):
    cell = np.empty((1, len(tags)), object)
    cell[0] = tags
    savemat(path, {"label_list": cell})


def write_parsing(root, masked=20):
    """Write photographs with masks and as many with tags; number k shows tag 3 + k of them."""
    for folder in ("photos", f"annotations/{ccp.PIXELS}", f"annotations/{ccp.IMAGES}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    save_tags(root / "label_list.mat", TAGS)
    for k in range(1, 2 * masked + 1):
        name, tag = f"{k:04d}", 3 + k % (len(TAGS) - 3)
        cv2.imwrite(
            str(root / "photos" / f"{name}.jpg"), np.full((12, 8, 3), 5 * k % 256, np.uint8)
        )
        if k <= masked:
            truth = np.zeros((6, 4), np.uint8)
            truth[2:4, 1:3] = tag
            values, kind = {"groundtruth": truth}, ccp.PIXELS
        else:
            values, kind = {"tags": np.array([[0, tag]], np.uint8)}, ccp.IMAGES
        savemat(root / "annotations" / kind / f"{name}.mat", values)
    expected = dict.fromkeys(ccp.HALVES, {"images": masked})
    (root / "SYNTHETIC.json").write_text(json.dumps({"expected": expected}))
    write_split(root, 0)


def write_split(root, seed):
    """Write the split of a seed to ``split.csv``, which goes before it."""
    parts = {s: ccp.ClothingCoParsing(root, s, seed=seed) for s in ("train", "val", "test")}
    pairs = sorted((name[7:11], s) for s, part in parts.items() for name in part.sample_ids)
    write_lines(root / ccp.SPLIT_FILE, ["photo,split", *(f"{k},{s}" for k, s in pairs)])


def write_garments(root, senders=30):
    """Write senders; sender s has s % 4 + 1 photographs, of class s modulo 14."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    lines = ["image,sender_id,label,kids"]
    for sender in range(senders):
        for k in range(sender % 4 + 1):
            name = f"{sender}-{k}"
            cv2.imwrite(str(root / "images" / f"{name}.jpg"), np.zeros((6, 6, 3), np.uint8))
            lines.append(f"{name},{sender},{CLASSES[sender % 14]},{sender % 5 == 0}")
    lines.append("x,1,Not sure,False")
    (root / "images.csv").write_text("\n".join(lines) + "\n")
