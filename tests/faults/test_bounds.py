"""What a file promises is not believed: images that fill the memory, paths that lead elsewhere."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib

import cv2
import numpy as np
import pytest
from damage_kinds import EDITION, write_recipe
from PIL import Image

from gluon_attn.core.images import ImageError, decode
from gluon_attn.core.recipe import Recipe
from gluon_attn.core.text import read_json
from gluon_attn.export.sidecar import ExportError, read_sidecar, write_sidecar
from model_zoo.transfer import WeightEntry, fetch, parse_table

resource = pytest.importorskip("resource")
SIDE = 30_000  # 900 million pixels
SMALL = np.arange(3 * 64 * 64, dtype=np.uint8).reshape(64, 64, 3)


def encoded(ending):
    return cv2.imencode(ending, SMALL)[1].tobytes()


def png():
    data = bytearray(encoded(".png"))
    struct.pack_into(">II", data, 16, SIDE, SIDE)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return bytes(data)


def jpeg(filler=b""):
    """With fill bytes before a marker the quick header does not read it."""
    data = encoded(".jpg")
    at = data.index(b"\xff\xc0")
    return data[:at] + filler + data[at : at + 5] + struct.pack(">HH", SIDE, SIDE) + data[at + 9 :]


def bmp():
    data = bytearray(encoded(".bmp"))
    struct.pack_into("<ii", data, 18, SIDE, SIDE)
    return bytes(data)


def jp2():
    data = encoded(".jp2").replace(struct.pack(">II", 64, 64), struct.pack(">II", SIDE, SIDE))
    return data


BOMBS = {
    "png": png(), "jpeg": jpeg(), "jpeg, filled": jpeg(b"\xff" * 3), "bmp": bmp(), "jp2": jp2(),
    "ppm": b"P6 %d %d 255\n" % (SIDE, SIDE) + bytes(64),
    "pam": b"P7\nWIDTH %d\nHEIGHT %d\nDEPTH 3\nMAXVAL 255\nENDHDR\n" % (SIDE, SIDE) + bytes(64),
    "hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (SIDE, SIDE) + bytes(64),
    "ras": struct.pack(">8I", 0x59A66A95, SIDE, SIDE, 24, 3 * SIDE * SIDE, 1, 0, 0) + bytes(64),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(BOMBS))
def test_pixels_are_counted_before_memory_is_taken(kind):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="pixels|truncated"):
        decode(BOMBS[kind])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KB


@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".tiff", ".webp", ".jp2"])
def test_the_setting_bounds_every_format_that_pillow_reads(ending, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    with pytest.raises(ImageError, match="more than 14 pixels.*MAX_IMAGE_PIXELS"):
        decode(encoded(ending))


def test_jpeg_2000_has_the_pixels_that_opencv_reads():
    rng = np.random.default_rng(0)
    for image in (rng.integers(0, 256, (64, 50, 3), np.uint8), np.full((70, 40), 77, np.uint8)):
        data = cv2.imencode(".jp2", image, [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])[1]
        theirs = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_allclose(decode(data.tobytes()), theirs, atol=1)


def test_nothing_of_an_archive_is_written_beside_its_member(tmp_path):
    (tmp_path / "mirror").mkdir()
    with zipfile.ZipFile(tmp_path / "mirror" / "net.zip", "w") as archive:
        archive.writestr("../../evil", b"x")
        archive.writestr("/evil", b"x")
        archive.writestr("net-12345678.params", b"weights")
    entry = WeightEntry("net", "net-12345678.params", "0" * 64, remote="net.zip")
    with pytest.raises(ValueError, match="expected sha256 0000"):
        fetch(entry, str(tmp_path / "mirror"), str(tmp_path / "store"))
    found = {p.name for p in tmp_path.rglob("*") if p.is_file() and p.name[0] != "."}
    assert found == {"net.zip"}


@pytest.mark.parametrize("file", ["../x.params", "/etc/passwd", "net-aaaaaaaa.params/../../x"])
def test_a_table_names_no_file_elsewhere(file):
    record = {"file": file, "sha256": "a" * 64, "size": 3}
    text = json.dumps({"version": 1, "weights": {"net": record}}).encode()
    with pytest.raises(ValueError, match="mirror: entry 'net': file must be net-aaaaaaaa.params"):
        parse_table(text, "mirror")


SIDECARS = (
    (lambda s: s["files"]["params"].update(file="../x"), "'../x' is none of this directory"),
    (lambda s: s["files"]["params"].update(bytes="3"), "is none of this directory"),
    (lambda s: s["files"].update(params=[]), "TypeError"),
    (lambda s: s["input"].update(shape=["batch", 3, 1 << 40, 16]), "valid are whole pixels from 1"),
    (lambda s: s["input"].update(shape=["batch", 3, True, 16]), "the side True"),
    (lambda s: s["input"].update(mean=None), "TypeError"),
    (lambda s: s.update(activation="tanh"), "activation 'tanh'"),
    (lambda s: s.update(outputs={"a": 1}), "TypeError"),
    (lambda s: s.update(classes=["a", "a"]), "repeated: a"),
)  # fmt: skip


@pytest.mark.parametrize("change, message", SIDECARS)
def test_a_sidecar_whose_checksum_fits_is_not_believed_either(tmp_path, change, message):
    sidecar = read_json(EDITION / "export" / "people.json")
    change(sidecar)
    write_sidecar(tmp_path, sidecar)
    with pytest.raises(ExportError, match=rf"people\.json: malformed: .*{message}.*export again"):
        read_sidecar(tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("lr = " + "1+" * 200_000 + "1", r"\d+ characters; a recipe file has at most 65536"),
        ("lr = " + "-" * 20_000 + "1", "(nested too deeply|only assignments of plain values)"),
        ("options = {[]: 1}", "a recipe holds only assignments of plain values"),
        ("lr = " + "(" * 300, "(parentheses|nested|EOF)"),
    ],
    ids=("chain", "signs", "no key", "brackets"),
)
def test_recipes_that_ended_the_interpreter_or_were_no_values(tmp_path, text, message):
    """Chains of operators this long are a segmentation fault in Python 3.8 and 3.9."""
    path = tmp_path / "own.py"
    write_recipe(path)
    path.write_text(path.read_text() + text)
    with pytest.raises(ValueError, match=rf"own\.py.*{message}"):
        Recipe.load(str(path))
