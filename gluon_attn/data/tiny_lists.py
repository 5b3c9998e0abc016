"""Tiny CelebA and VOC 2012 trees, see ``tiny``."""

from __future__ import annotations

import numpy as np

from gluon_attn.data import voc
from gluon_attn.data.tiny import TINY, picture, random_labels, write_lines, write_picture

CELEBA_NAMES = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose "
    "Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee "
    "Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard "
    "Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair "
    "Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"
).split()


def write_celeba(root, images, rng):
    """Write ``Anno/``, ``Eval/`` and ``Img/img_align_celeba/``; return the expected counts."""
    splits = np.repeat([0, 1, 2], [images[s] for s in ("train", "val", "test")])
    labels = random_labels(rng, len(splits), len(CELEBA_NAMES))
    names = [f"{k:06d}.jpg" for k in range(1, len(splits) + 1)]
    for name, row in zip(names, labels):
        rgb = picture(rng, row, 89, 109)
        write_picture(root / "Img" / "img_align_celeba" / name, rgb)
    rows = [f"{name} {' '.join(f'{v:2d}' for v in row)}" for name, row in zip(names, labels)]
    heading = [str(len(names)), " ".join(CELEBA_NAMES) + " "]
    write_lines(root / "Anno" / "list_attr_celeba.txt", heading + rows)
    lines = [f"{name} {split}" for name, split in zip(names, splits)]
    write_lines(root / "Eval" / "list_eval_partition.txt", lines)
    return {split: {"images": n} for split, n in images.items()}


def write_voc(root, images, rng):
    """Write ``VOCdevkit/VOC2012`` with train and val; return the expected counts."""
    folder = root / "VOCdevkit" / "VOC2012"
    images = {split: images[split] for split in ("train", "val")}
    total = sum(images.values())
    labels = random_labels(rng, total, len(voc.CLASSES))
    labels[rng.random(labels.shape) < 0.03] = 0
    ids = [f"2008_{k:06d}" for k in sorted(rng.choice(9999, total, replace=False))]
    for name, row in zip(ids, labels):
        write_picture(folder / "JPEGImages" / f"{name}.jpg", picture(rng, row, 100, 75))
    where = np.repeat(["train", "val"], list(images.values()))
    for split, wanted in (("train", ["train"]), ("val", ["val"]), ("trainval", ["train", "val"])):
        chosen = np.flatnonzero(np.isin(where, wanted))
        sets = folder / "ImageSets" / "Main"
        write_lines(sets / f"{split}.txt", [ids[k] for k in chosen])
        for column, name in enumerate(voc.CLASSES):
            lines = [f"{ids[k]} {labels[k, column]:2d}" for k in chosen]
            write_lines(sets / f"{name}_{split}.txt", lines)
    expected = dict(images, trainval=total)
    return {split: {"images": n} for split, n in expected.items()}


TINY.register("celeba")((write_celeba, ("Anno", "Eval", "Img")))
TINY.register("voc")((write_voc, ("VOCdevkit",)))
