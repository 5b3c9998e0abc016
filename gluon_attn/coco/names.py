"""What the official COCO 2017 annotation calls things: 80 categories, 17 keypoints, the skeleton.

Category ids run from 1 to 90 with gaps (12, 26, 29, 30, 45, 66, 68, 69, 71, 83 do not occur);
readers number the classes 0..79 in the order of the ids.
"""

from __future__ import annotations

from typing import Sequence

_NAMES = """person bicycle car motorcycle airplane bus train truck boat traffic-light fire-hydrant -
stop-sign parking-meter bench bird cat dog horse sheep cow elephant bear zebra giraffe - backpack
umbrella - - handbag tie suitcase frisbee skis snowboard sports-ball kite baseball-bat
baseball-glove skateboard surfboard tennis-racket bottle - wine-glass cup fork knife spoon bowl
banana apple sandwich orange broccoli carrot hot-dog pizza donut cake chair couch potted-plant bed -
dining-table - - toilet - tv laptop mouse remote keyboard cell-phone microwave oven toaster sink
refrigerator - book clock vase scissors teddy-bear hair-drier toothbrush"""
CATEGORIES = {k: n.replace("-", " ") for k, n in enumerate(_NAMES.split(), 1) if n != "-"}

_SIDED = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
KEYPOINTS = ("nose", *(f"{side}_{part}" for part in _SIDED for side in ("left", "right")))
FLIP_PAIRS = tuple((k, k + 1) for k in range(1, len(KEYPOINTS), 2))  # left and right
# Limbs, as pairs of keypoints counted from 1, in the order of the official file.
SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9),
    (8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip


def limbs_of(skeleton: object, count: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs of a skeleton, from 0; what is no pair of numbers 1 to ``count`` goes."""
    pairs = skeleton if isinstance(skeleton, (list, tuple)) else ()
    pairs = [p for p in pairs if isinstance(p, (list, tuple)) and len(p) == 2]
    known = range(1, count + 1)
    return tuple((a - 1, b - 1) for a, b in pairs if a in known and b in known)


def mirror_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return pairs of positions whose names differ only in 'left' and 'right'."""
    at = {name: k for k, name in enumerate(names)}
    pairs = ((k, at.get(name.replace("left", "right"))) for name, k in at.items() if "left" in name)
    return tuple((a, b) for a, b in pairs if b is not None)
