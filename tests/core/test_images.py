"""From bytes to pixels: EXIF orientations, kinds of pixels, what is no image, limits."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from images_helpers import LOSSLESS, ORIENTATIONS, encoded, scene, stored
from PIL import Image, ImageFile, ImageOps

from gluon_attn.core import images
from gluon_attn.core.images import ImageError, MissingImageError, box_window, decode, from_pil
from gluon_attn.data.images import BadImageError, image_size, read_image


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


# ------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
def test_every_orientation_is_seen_as_viewers_show_it(tmp_path, kind, orientation):
    image, options = scene(), {}
    if kind in ("JPEG", "MPO"):
        options = {"quality": 100, "subsampling": 0}
    data = encoded(stored(image, orientation), kind, orientation, **options)
    viewer = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(decode(data), np.asarray(viewer))
    np.testing.assert_array_equal(from_pil(Image.open(io.BytesIO(data))), np.asarray(viewer))
    if kind in LOSSLESS:
        np.testing.assert_array_equal(decode(data), image)
        np.testing.assert_array_equal(decode(data, upright=False), stored(image, orientation))
    else:
        assert np.abs(decode(data).astype(int) - image).mean() < 3
    path = tmp_path / "x"
    path.write_bytes(data)
    assert read_image(path, "s").shape[1::-1] == image_size(path, "s") == (40, 24)
    lying = image_size(path, "s", upright=False)
    assert lying == read_image(path, "s", upright=False).shape[1::-1]
    assert lying == ((24, 40) if orientation >= 5 else (40, 24))


def test_a_png_may_hold_its_orientation_behind_the_pixels_or_as_text(tmp_path):
    image = scene()
    plain, exif = encoded(stored(image, 6), "PNG"), Image.Exif()
    exif[0x0112] = 6
    end = plain.index(b"IEND") - 4
    late = plain[:end] + chunk(b"eXIf", exif.tobytes()[6:]) + plain[end:]
    words = f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n"
    raw = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(words.encode()))
    start = plain.index(b"IDAT") - 4
    for data in (late, plain[:start] + raw + plain[start:]):
        np.testing.assert_array_equal(decode(data), image)
        np.testing.assert_array_equal(from_pil(Image.open(io.BytesIO(data))), image)
        (tmp_path / "x.png").write_bytes(data)
        assert image_size(tmp_path / "x.png", "s") == (40, 24)


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0", b"Exif\0\0" + b"\xff" * 40]
)
def test_damaged_exif_is_none(exif):
    image = scene()
    data = encoded(image, "PNG")
    end = data.index(b"IDAT") - 4
    np.testing.assert_array_equal(decode(data[:end] + chunk(b"eXIf", exif) + data[end:]), image)


# ------------------------------------------------------------------------------- kinds of pixels


def kinds():
    """Yield ``(name, file, tolerance)``; tolerance is that of Pillow's conversion of CMYK."""
    colour = Image.fromarray(scene())
    alpha = Image.fromarray(scene()[..., 0])
    grey, palette = colour.convert("L"), colour.quantize(16)
    deep = Image.fromarray(np.arange(24 * 40, dtype=np.uint16).reshape(24, 40) * 68)
    yield "1", encoded(colour.convert("1"), "PNG"), 0
    yield "L", encoded(grey, "PNG"), 0
    yield "LA", encoded(Image.merge("LA", (grey, alpha)), "PNG"), 0
    yield "P", encoded(palette, "PNG"), 0
    yield "P with a transparent colour", encoded(palette, "PNG", transparency=3), 0
    yield "P with alpha", encoded(palette, "PNG", transparency=bytes(range(0, 160, 10))), 0
    yield "RGB with a transparent colour", encoded(colour, "PNG", transparency=(1, 2, 3)), 0
    transparent = colour.copy()
    transparent.putalpha(alpha)
    yield "RGBA", encoded(transparent, "PNG"), 0
    yield "RGBA in WebP", encoded(transparent, "WEBP", exact=True), 0
    yield "RGBA in TIFF", encoded(transparent, "TIFF"), 0
    yield "I;16", encoded(deep, "PNG"), 0
    yield "I;16 in TIFF", encoded(deep, "TIFF"), 0
    colour16 = np.random.default_rng(0).integers(0, 65536, (24, 40, 3), np.uint16)
    yield "RGB of 16 bits", cv2.imencode(".png", colour16)[1].tobytes(), 0
    yield "CMYK", encoded(colour.convert("CMYK"), "JPEG", quality=100, subsampling=0), 1
    yield "BMP", encoded(palette, "BMP"), 0


@pytest.mark.parametrize("name, data, tolerance", kinds(), ids=[k[0] for k in kinds()])
def test_kinds_of_pixels_are_the_same_from_files_and_from_pillow(recwarn, name, data, tolerance):
    pixels = decode(data)
    assert pixels.shape == (24, 40, 3) and pixels.dtype == np.uint8
    opened = Image.open(io.BytesIO(data))
    assert np.abs(from_pil(opened).astype(int) - pixels).max() <= tolerance
    if name.startswith("I;16"):
        grey = np.arange(24 * 40).reshape(24, 40) * 68 // 256
        np.testing.assert_array_equal(pixels, np.dstack([grey] * 3))
    elif "16 bits" not in name:
        shown = opened.convert("RGBA").convert("RGB") if "P" in opened.mode else opened
        assert np.abs(np.asarray(shown.convert("RGB")).astype(int) - pixels).max() <= tolerance
    assert not recwarn.list


@pytest.mark.parametrize("mode, words", [("I", "integers"), ("F", "floating-point numbers")])
def test_pixels_of_unknown_range_are_refused(mode, words):
    image = Image.new(mode, (4, 3), 5)
    for read in (lambda: decode(encoded(image, "TIFF")), lambda: from_pil(image)):
        with pytest.raises(ImageError, match=f"32-bit {words}.*convert it to 8 bits"):
            read()


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "HSV", "YCbCr", "RGBX"])
def test_kinds_of_pixels_that_only_pillow_has(mode):
    grey = Image.new("RGB", (4, 3), (102, 102, 102))
    steps = {"La": ("LA", "La"), "RGBa": ("RGBA", "RGBa"), "PA": ("P", "PA")}.get(mode, (mode,))
    for step in steps:
        grey = grey.convert(step)
    assert np.abs(from_pil(grey).astype(int) - 102).max() <= 2 and grey.mode == mode


def test_pillow_images_that_cannot_be_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)  # other packages switch it on
    (tmp_path / "x.png").write_bytes(encoded(scene(), "PNG")[:-200])
    closed = Image.open(io.BytesIO(encoded(scene(), "PNG")))
    closed.close()
    for image in (Image.open(tmp_path / "x.png"), closed):
        with pytest.raises(ImageError, match="cannot be used, as Pillow says"):
            from_pil(image)
    with pytest.raises(ImageError, match="is empty: 0 x 5"):
        from_pil(Image.new("RGB", (0, 5)))


# ------------------------------------------------------------------------------- no images


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "is empty"),
        (b"GIF89a" + bytes(20), "is a GIF.*save the one that is meant"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC.*convert it to JPEG or PNG"),
        (b"\0\0\0\x18ftypavif" + bytes(20), "AVIF"),
        (b"\0\0\0\x18ftypisom" + bytes(20), "is a video: extract its frames first"),
        (b"\0\0\0\x18ftypcrx " + bytes(20), "raw file"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "is a video"),
        (b"RIFF\0\0\0\0AVI LIST", "is a video"),
        (b"\x1aE\xdf\xa3" + bytes(20), "is a video"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(20), "raw file"),
        (b"%PDF-1.7\n", "is a PDF"),
        (b"8BPS\0\x01", "Photoshop"),
        (b"PK\x03\x04" + bytes(20), "is an archive: unpack it"),
        (bytes(257) + b"ustar", "is an archive"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"\x93NUMPY\x01\0", "NumPy file.*numpy.load"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg">', "SVG drawing"),
        (b"<!DOCTYPE html><html><body>404", "web page, perhaps in place of a download"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer.*git lfs pull"),
        ("\ufeffpath,label\r\nä.jpg,1".encode(), "is a text file"),
        (bytes(1000), "zeros only"),
        (b"\xff\xd8\xff" + bytes(range(256)), r"is truncated or no image \(259 bytes\)"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(tmp_path, data, message):
    with pytest.raises(ImageError, match=message):
        decode(data)
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    for read in (read_image, image_size):
        with pytest.raises(BadImageError, match=rf"photo\.jpg: .*{message}.* \(sample 's'\)"):
            read(path, "s")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_half_a_file_is_refused(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(noise, kind)
    for share in (0.02, 0.5, 0.9):
        with pytest.raises(ImageError, match="truncated"):
            decode(data[: int(len(data) * share)])


def test_paths_that_are_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingImageError, match=f"does not exist in {tmp_path}"):
        images.read_bytes("no.jpg")
    with pytest.raises(MissingImageError, match="'~' is not expanded here"):
        images.read_bytes("~/no.jpg")
    with pytest.raises(MissingImageError, match="is no path"):
        images.read_bytes("")
    with pytest.raises(FileNotFoundError, match="does not exist$"):
        images.read_bytes(tmp_path / "no.jpg")
    urls = ["https://host/a.jpg", "https:/host/a.jpg", "s3://b/a.jpg", "file:///tmp/a.jpg"]
    for url in (*urls, "data:image/png;base64," + "A" * 5000, tmp_path / "https://host/a.jpg"):
        with pytest.raises(ImageError, match="is a URL: download the image"):
            images.read_bytes(url)
    with pytest.raises(ImageError, match="is a folder: give the images in it"):
        images.read_bytes(tmp_path)
    with pytest.raises(ImageError, match="is no ordinary file"):
        images.read_bytes("/dev/null")
    for path in ("a\0b", "x" * 5000):
        with pytest.raises(ImageError, match="cannot be read: "):
            images.read_bytes(path)


def test_a_huge_file_is_not_read_as_a_whole(tmp_path, monkeypatch):
    (tmp_path / "film.jpg").write_bytes(b"\0\0\0\x18ftypisom" + bytes(2000))
    (tmp_path / "noise.jpg").write_bytes(b"\x80" * 2000)
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    with pytest.raises(ImageError, match="is a video"):
        images.read_bytes(tmp_path / "film.jpg")
    with pytest.raises(ImageError, match="is no image .2,000 bytes"):
        images.read_bytes(tmp_path / "noise.jpg")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pixels_are_bounded(tmp_path, monkeypatch):
    """By Pillow's limit where it reads the header, else by OpenCV's; neither decodes a pixel."""
    wide = chunk(b"IHDR", struct.pack(">IIBBBBB", 200_000, 200_000, 1, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + wide + chunk(b"IDAT", zlib.compress(bytes(1000)))
    with pytest.raises(ImageError, match="more than 178,956,970 pixels: reduce it, or raise PIL"):
        decode(bomb + chunk(b"IEND", b""))
    (tmp_path / "x.png").write_bytes(bomb)
    with pytest.raises(BadImageError, match="x.png: has more than 178,956,970 pixels"):
        image_size(tmp_path / "x.png", "s")
    with pytest.raises(ImageError, match="has more pixels than OpenCV reads: reduce it"):
        decode(b"P5\n2000000 1\n255\n" + bytes(2_000_000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="more than 200 pixels"):
        decode(encoded(scene(), "JPEG"))


def test_formats_that_only_opencv_knows():
    image = scene()
    data = cv2.imencode(".ppm", image[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode(data), image)
    text = b"P3 2 1 255\n10 20 30  40 50 60\n"  # an image that is a text
    assert decode(text).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_previews_of_raw_files_are_not_taken_for_them(tmp_path):
    grey = Image.new("L", (40, 24), ord("A"))  # whose file looks like text
    assert decode(encoded(grey, "TIFF")).shape == (24, 40, 3)
    for tags in ({254: 1}, {50706: (1, 4, 0, 0)}):
        with pytest.raises(ImageError, match="raw file: export it"):
            decode(encoded(grey, "TIFF", tiffinfo=tags))


# ------------------------------------------------------------------------------- boxes


@pytest.mark.parametrize(
    "box, message",
    [
        ([1, 2, 3], "must be four numbers x, y, width, height in pixels"),
        *[(box, "must be four numbers") for box in (
            [1, 2, 3, 4, 5], "1,2,3,4", "1234", 5, None, [1, 2, "wide", 4], [1, 2, None, 4],
            [1, 2, float("nan"), 4], [1, 2, float("inf"), 4],
        )],
        ([1, 2, 0, 4], "width and height above 0"), ([1, 2, 3, -4], "width and height above 0"),
        ([40, 0, 5, 5], "lies outside the image of 40x24 pixels"),
        ([0, 24, 5, 5], "lies outside"), ([-5, 0, 5, 5], "lies outside"),
        ([1e308, 0, 1e308, 5], "lies outside"),
    ],
)  # fmt: skip
def test_boxes_that_show_nothing_are_refused(box, message):
    with pytest.raises(ValueError, match=message):
        box_window(box, 40, 24)


def test_boxes_are_clipped_to_whole_pixels():
    assert box_window([-1e308, -3, 1.5e308, 99], 40, 24) == (0, 0, 40, 24)
    assert box_window(np.array([1.5, 2, 3, 4]), 40, 24) == (1, 2, 5, 6)
    assert images.unit_doubt([0, 0, 1.5, 0.2], "a") is None
    assert "not fractions of the image" in images.unit_doubt([0.1, 0.2, 0.5, 1], "a")
