"""Transforms and batches of images with boxes: laws that hold for every random draw."""

from __future__ import annotations

import numpy as np
import pytest

from gluon_attn.coco.detection_batches import (
    DetectionLoader,
    FitTransform,
    SsdTransform,
    StretchTransform,
    cut_piece,
    distort,
)
from gluon_attn.core.batch import PADDING

MEAN, STD = (0, 0, 0), (1, 1, 1)
COLOUR = (250, 10, 10)


def drawn(width=120, height=90, boxes=((20, 10, 60, 50),)):
    """Return a grey image with a filled rectangle of one colour per box."""
    image = np.full((height, width, 3), 90, np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = COLOUR
    return image, np.array(boxes, np.float32), np.arange(len(boxes))


def coloured(planes):
    """Return the extent x1, y1, x2, y2 of the colour in a prepared image."""
    mask = (np.abs(planes - np.reshape(COLOUR, (3, 1, 1))) < 40).all(0)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def test_stretch_maps_boxes_with_the_image_and_back():
    image, boxes, classes = drawn()
    transform = StretchTransform(60, MEAN, STD)
    framed = transform(image, boxes, classes)
    np.testing.assert_allclose(framed.boxes[0], [10, 20 / 3, 30, 100 / 3], rtol=1e-6)
    np.testing.assert_allclose(coloured(framed.image), framed.boxes[0], atol=1.5)
    x, y = transform.scale(120, 90)
    np.testing.assert_allclose(framed.boxes[0] / (x, y, x, y), boxes[0], rtol=1e-6)


@pytest.mark.parametrize("seed", range(25))
def test_ssd_augmentation_moves_boxes_with_the_image(seed):
    """Where one object is drawn, its box lies on it, whatever was cut, widened and mirrored."""
    image, boxes, classes = drawn()
    random = np.random.default_rng(seed).random()
    framed = SsdTransform(96, MEAN, STD, colour=False)(image, boxes, classes, random)
    assert framed.image.shape == (3, 96, 96) and framed.classes.tolist() == [0]
    np.testing.assert_allclose(coloured(framed.image), framed.boxes[0], atol=2.5)
    assert (framed.boxes >= 0).all() and (framed.boxes <= 96).all()


def test_ssd_augmentation_is_a_function_of_its_draw_and_without_its_parts_the_evaluation():
    arguments = drawn()
    transform = SsdTransform(96, MEAN, STD)
    one, same, other = (transform(*arguments, r) for r in (0.3, 0.3, 0.4))
    assert np.abs(one.image - other.image).max() > 1
    plain = SsdTransform(96, MEAN, STD, expand=1, crop=False, colour=False, mirror=False)
    evaluated = StretchTransform(96, MEAN, STD)(*arguments)
    for a, b in ((one, same), (plain(*arguments, 0.7), evaluated)):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.boxes, b.boxes)


def test_pieces_keep_the_boxes_whose_centres_they_hold():
    rng = np.random.default_rng(0)
    boxes = ((5, 5, 45, 45), (70, 50, 110, 85))
    kept = []
    for _ in range(200):
        image, found, classes = cut_piece(*drawn(boxes=boxes), rng)
        height, width = image.shape[:2]
        assert len(found) == len(classes) >= 1
        assert (found >= 0).all() and (found <= [width, height, width, height]).all()
        assert image.shape == (90, 120, 3) or 0.5 <= width / height <= 2
        kept.append(len(found))
    assert set(kept) == {1, 2}


def test_colours_change_but_not_the_type():
    image, _, _ = drawn()
    changed = [distort(image, np.random.default_rng(k)) for k in range(12)]
    assert all(c.dtype == np.uint8 and c.shape == image.shape for c in changed)
    assert len({c.tobytes() for c in changed}) > 6


@pytest.mark.parametrize("size, frame", [
    ((640, 480), (800, 1344)), ((480, 640), (1344, 800)), ((1000, 300), (800, 1344)),
    ((500, 500), (800, 1344)),
])  # fmt: skip
def test_fit_keeps_proportions_inside_its_frame(size, frame):
    """mmdetection's rule: the shorter side 800 unless the longer one would exceed 1333."""
    width, height = size
    transform = FitTransform(800, 1333, mean=MEAN, std=STD)
    assert transform.frame(width, height) == frame
    x, y = transform.scale(width, height)
    factor = min(800 / min(size), 1333 / max(size))
    np.testing.assert_allclose([x, y], factor, rtol=2e-3)
    assert round(width * x) <= frame[1] and round(height * y) <= frame[0]


def test_fit_pads_with_zeros_behind_the_image():
    image, boxes, classes = drawn(100, 50, ((10, 10, 40, 30),))
    framed = FitTransform(96, 128, mean=MEAN, std=STD)(image, boxes, classes)
    assert framed.image.shape == (3, 96, 128) and framed.extent == (128, 64)
    assert not framed.image[:, 64:].any() and framed.image[:, :64].all()
    np.testing.assert_allclose(coloured(framed.image), framed.boxes[0], atol=1.5)
    mirror = FitTransform(96, 128, mirror=True, mean=MEAN, std=STD)(image, boxes, classes, 0.1)
    np.testing.assert_allclose(mirror.boxes[0, [0, 2]], 128 - framed.boxes[0, [2, 0]], rtol=1e-6)


@pytest.mark.parametrize("make, message", [
    (lambda: SsdTransform(expand=0.5), "expand=0.5"), (lambda: StretchTransform(0), "size=0"),
    (lambda: FitTransform(800, 600), "short=800, long=600"),
])  # fmt: skip
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Images:
    """Images of several sizes with k boxes in the k-th."""

    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def size(self, i):
        return self.sizes[i]

    def __getitem__(self, i):
        width, height = self.sizes[i]
        boxes = np.tile(np.array([[2, 2, 12, 12]], np.float32), (i, 1))
        return np.full((height, width, 3), i, np.uint8), boxes, np.full(i, 3), i


def test_batches_have_one_frame_and_padded_rows():
    data = Images([(64, 48), (48, 64), (64, 40), (40, 64), (64, 32)])
    loader = DetectionLoader(data, FitTransform(32, 64, mean=MEAN, std=STD), 2, last="pad")
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    seen = [i for b in batches for i in b.index.tolist() if i != PADDING]
    assert sorted(seen) == [0, 1, 2, 3, 4]
    for batch in batches:
        wide = batch.image.shape[3] > batch.image.shape[2]
        label, mask = batch.label.asnumpy(), batch.mask.asnumpy()
        assert label.shape == (2, 9, 5) and mask.shape == (2, 9)
        for row, i in enumerate(batch.index.tolist()):
            if i == PADDING:
                assert (label[row] == -1).all() and not mask[row].any()
                continue
            assert wide == (data.sizes[i][0] > data.sizes[i][1])
            assert mask[row].sum() == i and (label[row, 1 : 1 + i, 4] == 3).all()
            assert (label[row, 1 + i :] == -1).all()
            assert label[row, 0, 4] == -1 and label[row, 0, 2:4].min() > 0


def test_batches_repeat_by_seed_and_epoch_and_not_by_workers():
    data = Images([(64, 48)] * 6 + [(48, 64)] * 5)
    transform = FitTransform(32, 64, mirror=True, mean=MEAN, std=STD)

    def epoch(number, workers):
        loader = DetectionLoader(
            data, transform, 2, shuffle=True, seed=1, workers=workers, last="discard"
        )
        loader.set_epoch(number)
        return [(b.index.tolist(), b.image.asnumpy()) for b in loader]

    first, again, other = epoch(0, 0), epoch(0, 3), epoch(1, 0)
    assert len(first) == 5
    assert [i for i, _ in first] == [i for i, _ in again] != [i for i, _ in other]
    for (_, one), (_, same) in zip(first, again):
        np.testing.assert_array_equal(one, same)


def test_too_few_images_of_every_frame_are_refused():
    data = Images([(64, 48), (48, 64)])
    with pytest.raises(ValueError, match="2 images in 2 frames do not fill one batch of 2"):
        DetectionLoader(data, FitTransform(32, 64), 2, last="discard")
