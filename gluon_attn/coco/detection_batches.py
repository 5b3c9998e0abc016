"""Images with boxes: the augmentation of SSD, resizing with fixed proportions, and the batches.

A transform is called as ``(image, boxes, classes, random)``: uint8 ``(h, w, 3)`` RGB; float32
``(N, 4)`` corners x1, y1, x2, y2 in pixels; int64 ``(N,)``; one number in [0, 1) from which all
random choices follow, or None for a transform without any. (GluonCV's transforms draw from global
generators, which the threads of a loader would share.)

References: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, section 2.2 and 3.6 (data
augmentation); Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, section 5.1
(resizing).
"""

from __future__ import annotations

from typing import Any, Iterator, NamedTuple, Sequence

import cv2
import mxnet as mx
import numpy as np

from gluon_attn.coco.parts import Array
from gluon_attn.core.batch import PADDING, Batch
from gluon_attn.data.images import resize as resize_image
from gluon_attn.data.loader import Job, Loader
from gluon_attn.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Normalize, planes

BRIGHTNESS, HUE, SPREAD = 32, 18, (0.5, 1.5)  # grey levels, degrees, contrast and saturation
OVERLAPS = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)  # None: no crop; 0: any crop
ATTEMPTS = 50
PIECE = (0.3, 1.0)  # sides of a crop, as shares of the image's
ROWS = 8  # labels are padded to a multiple of so many rows: few shapes


class Framed(NamedTuple):
    """An image as the net takes it."""

    image: Array  # (3, H, W) float32, normalised; zeros behind its right and lower border
    boxes: Array  # (N, 4) float32 in pixels of ``image``
    classes: Array  # (N,) int64
    extent: tuple[int, int]  # width and height that the image itself takes of ``image``


class StretchTransform:
    """Resize to a square whatever the proportions; nothing random: SSD's evaluation."""

    draws = 0

    def __init__(
        self,
        size: int = 300,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        if size < 1:
            raise ValueError(f"size={size}: must be positive")
        self.size = self.resize = int(size)
        self.normalize = Normalize(mean, std)

    def frame(self, width: int, height: int) -> tuple[int, int]:
        """Return height and width of the net's input for an image of this size."""
        return self.size, self.size

    def extent(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height that the image itself takes of the input."""
        return self.size, self.size

    def scale(self, width: int, height: int) -> tuple[float, float]:
        """Return the factors on x and y, which differ by the rounding to whole pixels at least."""
        x, y = self.extent(width, height)
        return x / width, y / height

    def __call__(
        self, image: Array, boxes: Array, classes: Array, random: float | None = None
    ) -> Framed:
        return self.framed(image, boxes, classes, False)

    def framed(self, image: Array, boxes: Array, classes: Array, mirror: bool) -> Framed:
        height, width = image.shape[:2]
        extent = self.extent(width, height)
        image = resize_image(image, *extent)
        boxes = boxes * np.array(self.scale(width, height) * 2, np.float32)
        if mirror:
            image, boxes = mirrored(image, boxes)
        out = np.zeros((3, *self.frame(width, height)), np.float32)
        out[:, : extent[1], : extent[0]] = planes(self.normalize(image))
        return Framed(out, boxes, classes, extent)


class SsdTransform(StretchTransform):
    """SSD's training augmentation: colours, a canvas around, a piece, mirrored, resized.

    Colours: brightness +-32, contrast and saturation 0.5 to 1.5, hue +-18 degrees, each half of the
    time. Canvas: half of the time up to ``expand`` times as wide and high (1: never), filled with
    the mean. Piece: the whole image, or one whose sides are 0.3 to 1 of the image's, of shape 1:2
    to 2:1, that overlaps a box by a minimum chosen from 0.1, 0.3, 0.5, 0.7, 0.9 or none; boxes
    whose centre is outside are dropped, the others cut. Half of the images are mirrored.
    """

    draws = 1

    def __init__(
        self,
        size: int = 300,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        *,
        expand: float = 4.0,
        crop: bool = True,
        colour: bool = True,
        mirror: bool = True,
    ) -> None:
        super().__init__(size, mean, std)
        if expand < 1:
            raise ValueError(f"expand={expand}: the canvas cannot be smaller than the image (1)")
        self.expand, self.crop, self.colour, self.mirror = expand, crop, colour, mirror
        self._fill = tuple(int(round(v)) for v in mean)

    def __call__(
        self, image: Array, boxes: Array, classes: Array, random: float | None = None
    ) -> Framed:
        rng = np.random.default_rng(int((random or 0.0) * 2**53))
        if self.colour:
            image = distort(image, rng)
        if self.expand > 1 and rng.random() < 0.5:
            image, boxes = self._put_on_canvas(image, boxes, rng)
        if self.crop:
            image, boxes, classes = cut_piece(image, boxes, classes, rng)
        return self.framed(image, boxes, classes, self.mirror and rng.random() < 0.5)

    def _put_on_canvas(
        self, image: Array, boxes: Array, rng: np.random.Generator
    ) -> tuple[Array, Array]:
        height, width = image.shape[:2]
        factor = rng.uniform(1, self.expand)
        rows, columns = int(height * factor), int(width * factor)
        y, x = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
        canvas = np.empty((rows, columns, 3), np.uint8)
        canvas[:] = self._fill
        canvas[y : y + height, x : x + width] = image
        return canvas, boxes + np.array([x, y, x, y], np.float32)


class FitTransform(StretchTransform):
    """Resize with the proportions kept, into one of two frames: a wide one or a high one.

    The shorter side becomes ``short`` pixels unless the longer one would exceed ``long``. The
    frame's sides are these two rounded up to multiples of 32, the coarsest stride of the net; the
    image lies in its upper left corner. (mmdetection pads to the largest image of the batch: the
    same but for the width of the padding, and two frames are two static graphs.) With ``mirror``,
    half of the images are mirrored, which needs ``random`` in the call.
    """

    def __init__(
        self,
        short: int = 800,
        long: int = 1333,
        *,
        mirror: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        if not 1 <= short <= long:
            raise ValueError(f"short={short}, long={long}: need 1 <= short <= long")
        super().__init__(short, mean, std)
        self.short, self.long, self.draws = int(short), int(long), int(mirror)

    def frame(self, width: int, height: int) -> tuple[int, int]:
        short, long = (-(-side // 32) * 32 for side in (self.short, self.long))
        return (short, long) if width >= height else (long, short)

    def extent(self, width: int, height: int) -> tuple[int, int]:
        factor = min(self.short / min(width, height), self.long / max(width, height))
        return max(1, round(width * factor)), max(1, round(height * factor))

    def __call__(
        self, image: Array, boxes: Array, classes: Array, random: float | None = None
    ) -> Framed:
        mirror = bool(self.draws) and random is not None and random < 0.5
        return self.framed(image, boxes, classes, mirror)


def distort(image: Array, rng: np.random.Generator) -> Array:
    """Return the image with other brightness, contrast, saturation and hue."""

    def contrast(image: Array) -> Array:
        return _grey_levels(image.astype(np.float32) * rng.uniform(*SPREAD))

    if rng.random() < 0.5:
        image = _grey_levels(image.astype(np.float32) + rng.uniform(-BRIGHTNESS, BRIGHTNESS))
    first = rng.random() < 0.5  # contrast comes before or behind the others
    if first and rng.random() < 0.5:
        image = contrast(image)
    change, turn = rng.random(2) < 0.5
    if change or turn:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.float32)
        if change:
            hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(*SPREAD), 0, 255)
        if turn:
            hsv[..., 0] = (hsv[..., 0] + rng.uniform(-HUE, HUE) / 2) % 180  # OpenCV: 2 degrees each
        image = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    return contrast(image) if not first and rng.random() < 0.5 else image


def _grey_levels(image: Array) -> Array:
    return cv2.convertScaleAbs(np.clip(image, 0, 255))


def cut_piece(
    image: Array, boxes: Array, classes: Array, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Return a random piece of the image that shows a box, or the image itself."""
    minimum = OVERLAPS[rng.integers(len(OVERLAPS))]
    if minimum is None or not len(boxes):
        return image, boxes, classes
    height, width = image.shape[:2]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    for w, h, right, down in rng.random((ATTEMPTS, 4)):
        w, h = (PIECE[0] + share * (PIECE[1] - PIECE[0]) for share in (w, h))
        w, h = max(1, int(w * width)), max(1, int(h * height))
        if not 0.5 <= w / h <= 2:
            continue
        x, y = int(right * (width - w + 1)), int(down * (height - h + 1))
        piece = np.array([x, y, x + w, y + h], np.float32)
        inside = ((centres > piece[:2]) & (centres < piece[2:])).all(1)
        if inside.any() and _overlap(boxes, piece).max() >= minimum:
            boxes = np.clip(boxes[inside], piece[[0, 1, 0, 1]], piece[[2, 3, 2, 3]])
            return image[y : y + h, x : x + w], boxes - piece[[0, 1, 0, 1]], classes[inside]
    return image, boxes, classes


def mirrored(image: Array, boxes: Array) -> tuple[Array, Array]:
    """Return image and boxes seen in a mirror."""
    boxes = boxes.copy()
    boxes[:, [0, 2]] = image.shape[1] - boxes[:, [2, 0]]
    return cv2.flip(image, 1), boxes


def _overlap(boxes: Array, piece: Array) -> Array:
    """Return intersection over union of every box with one."""
    inner = np.minimum(boxes[:, 2:], piece[2:]) - np.maximum(boxes[:, :2], piece[:2])
    inner = np.maximum(inner, 0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (piece[2:] - piece[:2]).prod()
    return inner / np.maximum(areas - inner, 1e-12)


class DetectionLoader(Loader):
    """Batches of images with boxes, of one frame each; otherwise as :class:`Loader` makes them.

    A batch's ``image`` is ``(B, 3, H, W)``, where H and W depend on whether its images are wide or
    high if the transform's frame does; ``label`` is ``(B, 1 + M, 5)``: x1, y1, x2, y2 in pixels of
    the image, and class, -1 in rows without a box. Row 0 is no object but the frame that the image
    itself takes, ``(0, 0, width, height, -1)``. ``mask`` ``(B, 1 + M)`` is 1 where an object is.

    ``dataset[i]`` is ``(image, boxes, classes, i)``, ``dataset.size(i)`` ``(width, height)``. A
    ValueError as of :class:`Loader`, or if no frame has images enough for one batch.
    """

    def __init__(self, dataset: Any, transform: Any, batch_size: int, **others: Any) -> None:
        super().__init__(dataset, transform, batch_size, **others)
        frames = [transform.frame(*dataset.size(i)) for i in range(len(dataset))]
        kinds = {frame: k for k, frame in enumerate(sorted(set(frames)))}
        self._kinds = np.array([kinds[frame] for frame in frames])
        if not len(self):
            raise ValueError(
                f"{len(dataset)} images in {len(kinds)} frames do not fill one batch of "
                f"{batch_size}; use a smaller batch or last='pad'"
            )

    def __len__(self) -> int:
        pad, size = self.last == "pad", self.batch_size
        return int(sum(-(-n // size) if pad else n // size for n in np.bincount(self._kinds)))

    def jobs(self, epoch: int) -> Iterator[Job]:
        """Yield positions and random numbers; shuffled frames alternate at random."""
        order, draws, size = self.order(epoch), self.draws(epoch), self.batch_size
        found: list[Array] = []
        for kind in range(self._kinds.max() + 1):
            rows = order[self._kinds[order] == kind]
            parts = [rows[k : k + size] for k in range(0, len(rows), size)]
            found += [p for p in parts if len(p) == size or self.last == "pad"]
        if self.shuffle:
            places = np.random.default_rng((self.seed, epoch, 2)).permutation(len(found))
            found = [found[k] for k in places]
        for rows in found[self.start :]:
            yield rows, draws

    def _make(self, indices: Array, draws: Array) -> Batch:
        framed = []
        for i in indices.tolist():
            random = float(draws[i, 0]) if draws.shape[1] else None
            framed.append(self.transform(*self.dataset[i][:3], random))
        most = max((len(sample.boxes) for sample in framed), default=0)
        rows = 1 + max(ROWS, -(-most // ROWS) * ROWS)
        images = np.zeros((self.rows, *framed[0].image.shape), np.float32)
        label = np.full((self.rows, rows, 5), -1, np.float32)
        mask = np.zeros((self.rows, rows), np.float32)
        index = np.full(self.rows, PADDING, np.int64)
        index[: len(indices)] = indices
        for k, sample in enumerate(framed):
            images[k] = sample.image
            count = len(sample.boxes)
            label[k, 0, :4] = 0, 0, *sample.extent
            label[k, 1 : 1 + count, :4], label[k, 1 : 1 + count, 4] = sample.boxes, sample.classes
            mask[k, 1 : 1 + count] = 1
        image, label, mask = (mx.nd.from_numpy(array) for array in (images, label, mask))
        return Batch(image, label, mask, index)
