"""Small images, and files that hold them with an EXIF orientation."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from gluon_attn.core.images import turn

ORIENTATIONS = range(1, 9)
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}


def scene(height=24, width=40):
    """Return an image of which no two of the eight views are alike."""
    image = np.random.default_rng(1).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)


def stored(image, orientation):
    """Return the pixels that a file with an orientation must hold, so that ``image`` is seen."""
    return turn(image, {6: 8, 8: 6}.get(orientation, orientation))


def encoded(image, kind, orientation=None, **options):
    stream, exif = io.BytesIO(), Image.Exif()
    if orientation:
        exif[0x0112] = orientation
        options["exif"] = exif
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(stream, kind, **LOSSLESS.get(kind, {}), **options)
    return stream.getvalue()
