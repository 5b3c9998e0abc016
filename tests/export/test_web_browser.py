"""The page of an export in headless Chromium: Predictor's numbers, and all that one can do there.

Needs Node.js, Chromium (Debian's package) and, in ``node_modules`` of the checkout or in the folder
that ``GLUON_ATTN_NODE_MODULES`` names::

    npm install --no-save onnxruntime-web@1.30.0 puppeteer-core axe-core typescript@5
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from images_helpers import encoded, stored
from PIL import Image
from process_helpers import ROOT, finish, start

from gluon_attn.cli import serve
from gluon_attn.core.files import json_text
from gluon_attn.core.images import RESAMPLING
from gluon_attn.data.synthetic.people import draw_scene
from gluon_attn.export import Predictor, web
from gluon_attn.export.images import Preprocess
from gluon_attn.export.sidecar import input_entry, read_sidecar, write_sidecar
from gluon_attn.runtime import contexts
from gluon_attn.tasks import forms
from gluon_attn.train import trained
from tools.bench import web as bench

MODULES = Path(os.environ.get("GLUON_ATTN_NODE_MODULES", ROOT / "node_modules"))
NAME = "vaa_resnet18_w16_clothing"

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.nightly


def needed(program, *packages):
    """Return the path of a program, or skip: it or an npm package is not installed."""
    path = shutil.which(program)
    lacking = [] if path else [program]
    lacking += [name for name in packages if not (MODULES / name).is_dir()]
    if lacking:
        pytest.skip(f"not installed: {', '.join(lacking)} (packages of npm in {MODULES})")
    return path


def run(*command, given=""):
    """Run a program; return its standard output."""
    process = start(list(command), stdin=-1)
    process.stdin.write(given)
    process.stdin.close()
    process.stdin = None
    status, out, err = finish(process)
    assert status == 0, out + err
    return out


# -- without a browser ----------------------------------------------------------------------------


def test_types():
    node = needed("node", "typescript")
    options = ("--allowJs --checkJs --noEmit --strict --target es2022 --module esnext "
               "--lib es2022,dom,dom.iterable").split()  # fmt: skip
    tsc = MODULES / "typescript" / "bin" / "tsc"
    run(node, tsc, *options, *sorted(web.SOURCE.glob("*.js")))


PREPARE = """
import { prepare, visible } from "%s";
import { readFileSync } from "node:fs";
const found = JSON.parse(readFileSync(0, "utf8")).map(({ rgba, width, height, input }) => [
  [...prepare({ data: Uint8Array.from(rgba), width, height }, input)],
  visible({ x: 0, y: 0, width, height }, input)]);
console.log(JSON.stringify(found));
"""
SIZES = ((64, 48), (37, 53), (40, 40), (20, 20), (17, 90), (91, 16), (9, 7), (60, 20), (33, 41))
WAYS = (
    {"resize": None}, {"resize": 20, "crop": 16}, {"resize": 24, "crop": 18},
    {"resize": 23, "crop": 17, "keep_aspect": True}, {"resize": 26, "keep_aspect": True},
    *({"resize": 24, "crop": 17, "interpolation": method} for method in RESAMPLING[1:]),
    {"resize": 19, "keep_aspect": True, "interpolation": "bicubic"},
)  # fmt: skip


def test_input_is_predictors_to_the_bit():
    node = needed("node")
    rng, jobs, expected = np.random.RandomState(0), [], []
    for height, width in SIZES:
        image = rng.randint(0, 256, (height, width, 3)).astype(np.uint8)
        rgba = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA).ravel().tolist()
        for way in WAYS:
            colours = {"mean": (124, 117, 104), "std": (58.4, 57.1, 57.4)}
            entry = input_entry((20, 15), {"crop": None, **way, **colours})
            jobs.append({"rgba": rgba, "width": width, "height": height, "input": entry})
            expected.append((Preprocess(entry)(image), Preprocess(entry).visible(image).shape))
    script = PREPARE % (web.SOURCE / "pixels.js")
    command = (node, "--input-type=module", "--no-warnings", "-e", script)
    for (values, seen), (right, shape) in zip(
        json.loads(run(*command, given=json.dumps(jobs))), expected
    ):
        np.testing.assert_array_equal(np.float32(values).reshape(right.shape), right)
        assert abs(seen["height"] - shape[0]) < 2 and abs(seen["width"] - shape[1]) < 2


# -- in Chromium ----------------------------------------------------------------------------------


def photographs():
    """Return ten images by file name, as cameras and programs write them."""
    rng = np.random.default_rng(5)
    scenes = [draw_scene(rng)[0] for _ in range(4)]
    noise = rng.integers(0, 256, scenes[2].shape[:2], np.uint8)
    grey = cv2.cvtColor(scenes[1], cv2.COLOR_RGB2GRAY)
    upright = {kind: stored(scenes[0], kind) for kind in (3, 6, 8)}
    return {
        "plain.jpg": encoded(scenes[0], "JPEG", quality=90),
        "exif6.jpg": encoded(upright[6], "JPEG", 6, quality=95),
        "exif3.jpg": encoded(cv2.resize(upright[3], (4032, 3024)), "JPEG", 3),  # a phone's size
        "exif8.png": encoded(upright[8], "PNG", 8),
        "grey.jpg": encoded(grey, "JPEG"),
        "grey.png": encoded(grey[:-1, :-3], "PNG"),
        "alpha.png": encoded(np.dstack([scenes[2], noise]), "PNG"),
        "palette.png": encoded(Image.fromarray(scenes[3]).quantize(64), "PNG"),
        "tiny.png": encoded(cv2.resize(scenes[3], (31, 77)), "PNG"),
        "blocks.webp": encoded(cv2.resize(scenes[1], (384, 256)), "WEBP"),
    }


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    needed("node", "puppeteer-core", "axe-core", "onnxruntime-web")
    needed("chromium")
    folder = tmp_path_factory.mktemp("browser") / "export"
    net = trained.from_zoo(NAME, None, contexts("cpu"), pretrained=True)
    net = net._replace(extra={**net.extra, "data": {}})  # as a user's own: the page has samples
    runtime = str(MODULES / "onnxruntime-web" / "dist")
    wanted = forms.Forms(onnx=True, web="fp16", runtime=runtime)
    variants = forms.make_variants(wanted, net)
    net.task.export(net, str(folder), NAME, with_maps=True, variants=variants)
    return folder


def visit(directory, **job):
    """Open the page of an export and do what ``job`` says; see page.mjs."""
    with serve.make_server(str(directory)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            job["url"] = f"http://127.0.0.1:{server.server_address[1]}/"
            driver = Path(__file__).with_name("page.mjs")
            command = (needed("node"), driver, MODULES, needed("chromium"))
            seen = json.loads(run(*command, given=json.dumps(job)))
        finally:
            server.shutdown()
            thread.join()
    assert not seen.get("failed"), seen
    asked = seen["requests"][: seen.get("before")]
    assert all(url.startswith((job["url"], "data:", "blob:")) for url in asked)
    return seen


def test_numbers_and_everything_that_one_can_do(directory, tmp_path):
    files = {name: tmp_path / name for name in photographs()}
    for name, data in photographs().items():
        files[name].write_bytes(data)
    broken = tmp_path / "notes.jpg"
    broken.write_text("no image")
    paths = [str(path) for path in files.values()]
    given, shots = str(files["tiny.png"]), os.environ.get("GLUON_ATTN_SHOTS")
    seen = visit(
        directory, files=[*paths, str(broken)], use=True, given=given, downloads=str(tmp_path),
        shots=shots,
    )  # fmt: skip
    assert not seen["problems"][: seen["fine"]] and not seen["error"]
    assert "WASM with SIMD" in seen["engine"]
    predictor = Predictor(directory)
    right = dict(zip(paths, predictor(paths)))
    off = {}
    for path, record in seen["records"].items():
        values = np.array(list(record["probabilities"].values()))
        off[Path(path).name] = float(np.abs(values - right[path]).max())
        assert list(record["probabilities"]) == list(predictor.classes)
    assert len(off) == 10 and max(off.values()) <= 1e-3, off
    assert all("prepared in" in seen["statuses"][path] for path in paths)
    told = seen["statuses"][str(broken)]
    assert told == "notes.jpg is no image for this browser: give a JPEG or a PNG."
    # A box, drawn with the mouse.
    (record,) = predictor.predict(paths[:1], [[seen["drawn"]["box"]]])
    values = np.array(list(seen["drawn"]["probabilities"].values()))
    np.testing.assert_allclose(values, list(record["probabilities"].values()), atol=1e-3)
    assert seen["drawn"]["positives"] == record["positives"] and min(record["box"]) > 0
    # A threshold, moved; a map, that is no single colour; a table; a camera.
    assert predictor.classes[0] in seen["lowered"]["positives"]
    assert seen["changed"] > 10000 and seen["kinds"] > 50
    assert seen["label"] == f"plain.jpg, {predictor.attention_names[-1]} of {predictor.classes[1]}"
    head, row = seen["csv"].splitlines()
    assert head.split(",") == ["image", "x", "y", "w", "h", *predictor.classes]
    assert row.startswith("plain.jpg,,,,,0.")
    saved = cv2.imread(str(tmp_path / "plain_attributes.png"))
    assert saved.shape[1] == 800 and saved.std() > 10
    assert seen["camera"]["image"] == "camera" and not seen["filming"]
    # A file that is dropped, an image that is pasted.
    for record, name in ((seen["dropped"], "tiny.png"), (seen["pasted"], "image.png")):
        assert record["image"] == name
        values = list(record["probabilities"].values())
        np.testing.assert_allclose(values, right[given], atol=1e-3)
    # The keyboard alone: a sample, a box, a map, a threshold, a record.
    (record,) = predictor.predict(
        [str(directory / "web" / "sample1.jpg")], [[seen["typed"]["box"]]]
    )
    assert seen["typed"]["image"] == "sample1.jpg" and seen["typed"]["box"][:2] == [20, 0]
    values = list(seen["typed"]["probabilities"].values())
    np.testing.assert_allclose(values, list(record["probabilities"].values()), atol=1e-3)
    assert predictor.classes[1] in seen["typed"]["positives"]
    assert seen["keyLabel"].endswith(f" of {predictor.classes[1]}")
    # Nothing is kept, and the policy holds: the page's and, once more, the server's.
    assert seen["stored"] == [0] * 5 and seen["ran"] == 0
    kinds = ["connect-src", "img-src", "script-src-elem", "style-src-elem"]
    assert seen["blocked"] == sorted(2 * kinds)
    assert seen["axe"] == [] and (seen["scroll1600"], seen["scroll360"]) == (1600, 360)
    assert "Must not be used for surveillance" in seen["about"]


@pytest.mark.parametrize("way", [
    {"resize": 128, "crop": None, "keep_aspect": True},
    {"resize": 128, "crop": 112, "interpolation": "bicubic"},
])  # fmt: skip
def test_other_ways_to_prepare(directory, tmp_path, way):
    copy = Path(shutil.copytree(str(directory), str(tmp_path / "x")))
    told = json.loads((copy / "web" / "export.json").read_text())
    told["input"].update(way)
    (copy / "web" / "export.json").write_text(json_text(told))
    write_sidecar(copy, {**read_sidecar(copy), "input": told["input"]})
    path = tmp_path / "plain.jpg"
    path.write_bytes(photographs()["plain.jpg"])
    seen = visit(copy, files=[str(path)])
    values = list(seen["records"][str(path)]["probabilities"].values())
    np.testing.assert_allclose(values, Predictor(copy)([str(path)])[0], atol=1e-3)
    assert np.abs(values - Predictor(directory)([str(path)])[0]).max() > 1e-3


def test_int8_weights(directory, tmp_path):
    copy = Path(shutil.copytree(str(directory), str(tmp_path / "x")))
    runtime = str(MODULES / "onnxruntime-web" / "dist")
    forms.extend(str(copy), forms.Forms(web="int8", runtime=runtime))
    path = tmp_path / "plain.jpg"
    path.write_bytes(photographs()["plain.jpg"])
    seen = visit(copy, files=[str(path)])
    values = list(seen["records"][str(path)]["probabilities"].values())
    off = np.abs(values - Predictor(copy)([str(path)])[0]).max()
    assert 0 < off <= web.TOLERANCE["int8"] and "weights: int8, 1.9 MB" in seen["engine"]


def test_benchmark_runs_the_page(directory):
    (row,) = bench.measure([str(directory)], str(MODULES), threads=[1], rounds=2)
    assert "WASM with SIMD, threads: 1" in row["engine"] and len(row["page"]) == 2
    assert row["ratio"]["lowest"] <= row["ratio"]["median"] <= row["ratio"]["highest"]
    assert f"| `{NAME}` | 1 | 3.7 | " in bench.table([row])


def test_webgpu_in_software(directory, tmp_path):
    path = tmp_path / "plain.jpg"
    path.write_bytes(photographs()["plain.jpg"])
    seen = visit(directory, files=[str(path)], gpu=True)
    if "WebGPU" not in seen["engine"]:
        pytest.skip("this Chromium has no WebGPU in software")
    values = list(seen["records"][str(path)]["probabilities"].values())
    np.testing.assert_allclose(values, Predictor(directory)([str(path)])[0], atol=1e-3)


def cut_model(folder):
    path = folder / f"{NAME}.onnx"
    path.write_bytes(path.read_bytes()[:-100])


def swap_model(folder):
    path = folder / f"{NAME}.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def no_net(folder):
    path = folder / f"{NAME}.onnx"
    path.write_bytes(b"no net")
    told = json.loads((folder / "export.json").read_text())
    told["web"]["model"] = web.describe_file(path)
    (folder / "export.json").write_text(json_text(told))


@pytest.mark.parametrize("damage, words", [
    (cut_model, f"{NAME}.onnx is damaged or of another export: export again with --web."),
    (swap_model, f"{NAME}.onnx is damaged or of another export: export again with --web."),
    (no_net, f"{NAME}.onnx cannot be run by onnxruntime-web: "),
    (lambda folder: shutil.rmtree(folder / "runtime"), "runtime/ort.wasm.min.mjs is missing: "),
    (lambda folder: (folder / "runtime" / "ort-wasm-simd-threaded.wasm").unlink(),
     "runtime/ort-wasm-simd-threaded.wasm is missing: export again with --onnx --web --runtime"),
    (lambda folder: (folder / "export.json").write_text("{"), "export.json is damaged: "),
    (lambda folder: (folder / "export.json").unlink(), "export.json is missing: "),
])  # fmt: skip
def test_damage_is_told_in_one_sentence(directory, tmp_path, damage, words):
    copy = Path(shutil.copytree(str(directory), str(tmp_path / "x")))
    damage(copy / "web")
    seen = visit(copy)
    assert seen["error"].startswith(words) and "\n" not in seen["error"]
