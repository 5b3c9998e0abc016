"""Boxes with their classes and scores, and people's keypoints, drawn into the image itself."""

from __future__ import annotations

from typing import Any, Sequence

import cv2
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from gluon_attn.figures.canvas import checked_image, colour, file_for

# COCO's 17 keypoints: limbs as pairs from 0, and which keypoints are a person's left and right.
SKELETON = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
    (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
LEFT, RIGHT, MIDDLE = (213, 94, 0), (0, 114, 178), (0, 158, 115)
FIXED = 4  # binary places of OpenCV's fixed-point coordinates


def draw_boxes(
    image: Any,
    boxes: Any,
    labels: Any,
    scores: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    threshold: float = 0.0,
) -> np.ndarray:
    """Return a new image with boxes and, at their upper left corners, class and score.

    ``image`` is ``(H, W, 3)`` uint8 RGB, ``boxes`` ``(N, 4)`` corners x1, y1, x2, y2 in pixels.
    Boxes with a score below ``threshold`` are left out; the least certain lie below the others.
    """
    image, boxes = checked_image(image).copy(), np.asarray(boxes, float).reshape(-1, 4)
    labels = np.asarray(labels, int).ravel()
    values = np.ones(len(boxes)) if scores is None else np.asarray(scores, float).ravel()
    if not len(boxes) == len(labels) == len(values):
        raise ValueError(f"{len(boxes)} boxes, {len(labels)} labels, {len(values)} scores")
    count = len(labels) if class_names is None else len(class_names)
    if class_names is not None and ((labels < 0) | (labels >= count)).any():
        raise ValueError(f"labels {sorted(set(labels))}: there are {count} class names")
    thick = _thickness(image)
    for k in np.argsort(values, kind="stable"):
        if values[k] < threshold or not np.isfinite(boxes[k]).all():
            continue
        shade = ImageColor.getrgb(colour(labels[k]))
        corners = _fixed(boxes[k].reshape(2, 2))
        cv2.rectangle(image, corners[0], corners[1], shade, thick, cv2.LINE_AA, FIXED)
        name = str(labels[k]) if class_names is None else class_names[labels[k]]
        text = name if scores is None else f"{name} {values[k]:.2f}"
        _write(image, text, boxes[k][:2], shade)
    return image


def draw_keypoints(
    image: Any,
    keypoints: Any,
    scores: Any = None,
    threshold: float = 0.0,
    *,
    skeleton: Sequence[tuple[int, int]] = SKELETON,
) -> np.ndarray:
    """Return a new image with people's keypoints and limbs: left orange, right blue, middle green.

    ``image`` is ``(H, W, 3)`` uint8 RGB, ``keypoints`` ``(N, K, 2)`` or ``(N, K, 3)`` x, y in
    pixels (a third column is a score or visibility: 0 leaves the keypoint out); a single person may
    come as ``(K, 2 or 3)``. ``scores`` ``(N, K)`` replace the third column. Keypoints whose score
    is not above ``threshold``, and their limbs, are left out.
    """
    image, people = checked_image(image).copy(), np.asarray(keypoints, float)
    people = people[None] if people.ndim == 2 else people
    if people.ndim != 3 or people.shape[2] not in (2, 3):
        raise ValueError(f"keypoints {people.shape}: must be (N, K, 2) or (N, K, 3)")
    if scores is None:
        shown = people[..., 2] > threshold if people.shape[2] == 3 else np.ones(people.shape[:2])
    else:
        shown = np.asarray(scores, float).reshape(people.shape[:2]) > threshold
    shown = np.logical_and(shown, np.isfinite(people).all(-1))
    thick = _thickness(image)
    for points, known in zip(people[..., :2], shown):
        for a, b in skeleton:
            if max(a, b) < len(points) and known[a] and known[b]:
                ends = _fixed(points[[a, b]])
                cv2.line(image, ends[0], ends[1], _side(a, b), thick, cv2.LINE_AA, FIXED)
        for k in np.flatnonzero(known):
            (centre,) = _fixed(points[[k]])
            radius = int(round((thick + 0.5) * 2**FIXED))
            cv2.circle(image, centre, radius, (255, 255, 255), -1, cv2.LINE_AA, FIXED)
            cv2.circle(image, centre, radius * 3 // 4, _side(k, k), -1, cv2.LINE_AA, FIXED)
    return image


def _side(a: int, b: int) -> tuple[int, int, int]:
    """Return the colour of a limb; keypoint 0 is the nose, then left and right alternate."""
    if a == 0 and b == 0 or 0 not in (a, b) and a % 2 != b % 2:
        return MIDDLE
    return LEFT if max(a, b) % 2 else RIGHT


def _thickness(image: np.ndarray) -> int:
    return max(1, round(min(image.shape[:2]) / 240))


def _fixed(points: Any) -> list[tuple[int, ...]]:
    return [tuple(int(v) for v in p) for p in np.round(np.asarray(points) * 2**FIXED)]


def _write(
    image: np.ndarray, text: str, corner: Sequence[float], background: tuple[int, ...]
) -> None:
    """Write white text on a plate above ``corner``, or below it where the image ends."""
    height, width = image.shape[:2]
    size = max(10, round(min(height, width) / 32))
    plate = _plate(text, size, background)[:height, :width]
    h, w = plate.shape[:2]
    x = int(np.clip(corner[0], 0, width - w))
    top = int(np.clip(corner[1] - h, 0, height - h))
    image[top : top + h, x : x + w] = plate


def _plate(text: str, size: int, background: tuple[int, ...]) -> np.ndarray:
    """Return white text on a plate, ``(h, w, 3)`` uint8; OpenCV's fonts hold no more than ASCII."""
    font = ImageFont.truetype(file_for(text), size)
    left, top, right, bottom = font.getbbox(text, anchor="ls")
    ascent = max(-top, round(0.75 * size))  # the same for all texts, but for higher characters
    descent = max(bottom, round(0.25 * size))
    size_of_plate = (int(right - left + 4), int(ascent + descent + 2))
    shown = Image.new("RGB", size_of_plate, background)
    ImageDraw.Draw(shown).text((2 - left, ascent + 1), text, "white", font, anchor="ls")
    return np.asarray(shown)
