"""The page of an export: what is written, what is refused, and who serves it."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import threading
from urllib.parse import quote

import numpy as np
import pytest
from export_helpers import PREPROCESS, SIZE, export, make_net

from gluon_attn.cli import serve
from gluon_attn.core.files import sha256_of
from gluon_attn.core.schema import Attribute, Schema
from gluon_attn.export import ExportError, Predictor, export_model, sidecar, web
from gluon_attn.export.writer import add_variants
from gluon_attn.task import Exported
from gluon_attn.tasks import page
from gluon_attn.tasks.forms import Forms, check_forms, make_variants

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from gluon_attn.export.onnx import OnnxVariant  # noqa: E402
from gluon_attn.export.onnx_half import quarter_weights  # noqa: E402
from gluon_attn.export.onnx_session import open_onnx_session  # noqa: E402

SCHEMA = Schema([Attribute("hat <b>", group="head & hair"), Attribute("bag"),
                 Attribute("legs", "multiclass", ("skirt", "logo"))])  # fmt: skip


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """A folder in the place of onnxruntime-web's, whose checksums are the known ones."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in web.RUNTIME:
        (folder / name).write_text(f"of {name}")
    monkeypatch.setattr(web, "RUNTIME", {n: sha256_of(folder / n) for n in web.RUNTIME})
    return folder


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """An export with a page and without an engine."""
    folder = tmp_path_factory.mktemp("web") / "x"
    variants = [OnnxVariant(), web.WebVariant(None, {"one.jpg": b"1"}, ["Trained & tested."])]
    export_model(
        make_net(), folder, "tiny", SCHEMA.columns, SIZE, PREPROCESS, with_maps=True,
        check=False, schema=SCHEMA, variants=variants, thresholds=0.25,
    )  # fmt: skip
    return folder


def test_what_is_written(directory):
    folder, contents = directory / "web", sidecar.read_sidecar(directory)
    names = {"index.html", "export.json", "tiny.onnx", "one.jpg", *web.PAGE}
    assert {path.name for path in folder.iterdir()} == names
    told = json.loads((folder / "export.json").read_text())
    assert told["web"] == contents["web"] and told["web"]["runtime"] is None
    assert told["web"]["model"] == sidecar.describe_file(folder / "tiny.onnx")
    for key in ("classes", "thresholds", "activation", "schema", "input", "outputs"):
        assert told[key] == contents[key]
    Predictor(directory)  # the export itself is as good as without a page


def test_page_holds_net_and_card_as_text(directory):
    text = (directory / "web" / "index.html").read_text()
    assert not re.search(r"{{|<b>(?!<)", text.replace("<b></b>", ""))
    assert "<h1>tiny</h1>" in text and "<p>Trained &amp; tested.</p>" in text
    assert f'content="{web.POLICY}"' in text
    assert re.findall(r"<h3>(.*?)</h3>", text) == ["head &amp; hair", "legs"]
    assert re.findall(r"<li.*?<button.*?>(.*?)</button>", text) == [
        "hat &lt;b&gt;", "bag", "skirt", "logo"
    ]  # fmt: skip
    # One threshold for each binary attribute: of several classes it is the most probable one.
    assert text.count("Threshold of") == 2 and text.count('type="range"') == 3
    assert "<option selected>attention_stem" in text and 'src="one.jpg"' in text


def test_nothing_of_the_page_names_another_origin_or_runs_text():
    for path in web.SOURCE.iterdir():
        text = path.read_text()
        assert not re.search(r"https?:|//cdn|eval\(|localStorage|sessionStorage|cookie", text)
        assert not re.search(r"<script(?! type=\"module\" src=)|\son\w+=|\sstyle=", text), path
    assert set(re.findall(r"'[^']*'", web.POLICY)) == {"'none'", "'self'", "'wasm-unsafe-eval'"}


def test_script_is_short():
    scripts = [path.read_text().splitlines() for path in web.SOURCE.glob("*.js")]
    assert sum(map(len, scripts)) <= 500
    assert max(len(line) for lines in scripts for line in lines) <= 100


@pytest.mark.parametrize("weights, end, most", [
    ("fp16", "_float16", 1e-2), ("int8", "_int8", 0.2)
])  # fmt: skip
def test_model_is_small_and_has_nearly_the_same_probabilities(
    weights, end, most, tmp_path, monkeypatch
):
    monkeypatch.setattr(web, "SMALL", 100)
    variant = web.WebVariant(None, {}, [], weights)
    export(make_net(), tmp_path / "x", variants=[OnnxVariant(), variant])
    raw = (tmp_path / "x" / "tiny.onnx").read_bytes()
    small = (tmp_path / "x" / "web" / "tiny.onnx").read_bytes()
    model = onnx.load_from_string(small)
    onnx.checker.check_model(model, full_check=True)
    kinds = {w.name: w.data_type for w in model.graph.initializer}
    assert {name for name in kinds if name.endswith(end)} and len(set(kinds.values())) > 1
    data = {"data": np.random.RandomState(0).normal(size=(2, 3, SIZE, SIZE)).astype("float32")}
    full, found = (open_onnx_session(m).run(["logits"], data)[0] for m in (raw, small))
    assert 0 < np.abs(full - found).max() < most
    told = sidecar.read_sidecar(tmp_path / "x")["web"]
    assert 0 < told["max_abs_diff"] <= web.TOLERANCE[weights]
    assert told["weights"].startswith(web.NAMES[weights])
    monkeypatch.setitem(web.TOLERANCE, weights, told["max_abs_diff"] / 2)
    with pytest.raises(ExportError, match=f"in {web.NAMES[weights]} a probability changes by"):
        add_variants(tmp_path / "x", [variant])
    assert sidecar.read_sidecar(tmp_path / "x")["web"] == told


def test_int8_weights_are_within_half_a_step_of_each_channel():
    helper, values = onnx.numpy_helper, np.random.RandomState(1).normal(size=(6, 30))
    values[2] *= 1000
    values[4] = 0
    weight = helper.from_array(values.astype("float32"), "w")
    node = onnx.helper.make_node("Identity", ["w"], ["logits"])
    output = onnx.helper.make_tensor_value_info("logits", 1, values.shape)
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [], [output], [weight]),
        opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8,
    )  # fmt: skip
    quarter_weights(onnx, model, 100)
    onnx.checker.check_model(model, full_check=True)
    (found,) = open_onnx_session(model.SerializeToString()).run(None, {})
    step = np.abs(values).max(1) / 127
    assert (np.abs(found - values).max(1) <= step * 0.5001).all()
    assert np.abs(found[5]).max() == pytest.approx(np.abs(values[5]).max()) and not found[4].any()


def test_page_needs_onnx(tmp_path):
    with pytest.raises(ExportError, match="needs the ONNX form: give --onnx too"):
        export(make_net(), tmp_path / "x", variants=[web.WebVariant(None, {}, [])])
    assert not (tmp_path / "x").exists()


def test_engine_is_copied_and_stays_when_other_forms_come(directory, runtime, tmp_path):
    copy = shutil.copytree(directory, tmp_path / "x")
    add_variants(copy, [web.WebVariant(runtime, {}, [])])
    for _ in range(2):
        found = {path.name: sha256_of(path) for path in (copy / "web" / "runtime").iterdir()}
        assert found == web.RUNTIME
        assert sidecar.read_sidecar(copy)["web"]["runtime"] == web.VERSION
        add_variants(copy, [OnnxVariant()])


@pytest.mark.parametrize("damage, error, words", [
    (lambda path: path.unlink(), FileNotFoundError, "no such file of onnxruntime-web; npm install"),
    (lambda path: path.write_text("x"), ValueError, "checksum mismatch: damaged or not onnx"),
])  # fmt: skip
def test_other_engines_are_refused(runtime, damage, error, words):
    check_forms(Forms(web="fp16", runtime=str(runtime)))
    damage(runtime / "ort.wasm.min.mjs")
    with pytest.raises(error, match=f"ort.wasm.min.mjs: {words}"):
        check_forms(Forms(web="fp16", runtime=str(runtime)))


def test_page_without_onnx_is_refused_before_the_export():
    source = Exported("x", {"files": {}, "extra": {}})
    with pytest.raises(ValueError, match="--web needs --onnx: the page runs the ONNX model"):
        make_variants(Forms(web="fp16"), source)


def test_engine_without_a_page_is_refused(runtime):
    with pytest.raises(ValueError, match="--runtime DIR is for --web"):
        check_forms(Forms(onnx=True, runtime=str(runtime)))


def test_page_is_offered_where_npm_has_put_the_engine(runtime, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = Exported("x", {"extra": {}})
    assert web.find_runtime() is None and page.offered(source) == []
    shutil.copytree(runtime, tmp_path / "node_modules" / "onnxruntime-web" / "dist")
    assert [variant.name for variant in page.offered(source)] == ["onnx", "web"]
    (web.find_runtime() / "ort.wasm.min.mjs").write_text("another version")
    assert page.offered(source) == []


# -- what the page shows beside the net -----------------------------------------------------------


def test_card_says_what_the_net_must_not_be_used_for():
    extra = {"params": "pretrained", "model": "resnet18_w16_garments",
             "recipe": {"model": "resnet101_wider"},
             "data": {"made_with": "a command", "name": "garments"}}  # fmt: skip
    card = page.about(extra)
    assert card[0] == "Trained on garments: a command."
    assert any(text.startswith("Must not be used for surveillance") for text in card)
    assert any(text.startswith("Limits. Trained on about 3,000 photographs") for text in card)
    own = page.about({"recipe": {"model": "vaa_resnet18_w16_synthetic", "method": "vaa",
                                 "dataset": "wider"}})  # fmt: skip
    assert own == ["Trained by vaa on data read as 'wider'.", page.MUST_NOT]
    assert page.about({})[0].endswith("data that this export does not name.")


@pytest.mark.parametrize("made_with", ["", "prepare_data.py digits"])
def test_samples_are_synthetic_images(made_with):
    found = page.samples(made_with)
    assert len(found) == page.SAMPLES == len(set(found.values()))
    assert all(data.startswith(b"\xff\xd8\xff") and len(data) < 1e5 for data in found.values())
    assert page.samples("photographs as published") == {}


# -- who serves it --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ask(directory):
    """Return ``ask(path, host)``: status, headers and body that the server answers."""
    (directory / "web" / "out.json").symlink_to(directory / "tiny.json")
    server = serve.make_server(str(directory))
    assert server.server_address[0] == "127.0.0.1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def answer(path, host="localhost:80"):
        link = http.client.HTTPConnection(*server.server_address)
        link.putrequest("GET", path, skip_host=True)
        link.putheader("Host", host)
        link.endheaders()
        found = link.getresponse()
        body = found.read()
        link.close()
        return found.status, dict(found.getheaders()), body

    yield answer
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name, kind", [
    ("", "text/html"), ("app.js", "text/javascript"), ("export.json", "application/json"),
])  # fmt: skip
def test_server_gives_the_page_with_its_policy(ask, directory, name, kind):
    status, headers, body = ask(f"/{name}")
    assert (status, headers["Content-type"]) == (200, kind)
    assert body == (directory / "web" / (name or "index.html")).read_bytes()
    assert headers["Content-Security-Policy"] == f"{web.POLICY}; frame-ancestors 'none'"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"  # gives the engine threads
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"


@pytest.mark.parametrize("path, host, status", [
    ("/../tiny.json", "localhost", 404), ("/%2e%2e/tiny.json", "127.0.0.1:8000", 404),
    ("//etc/passwd", "localhost:1", 404), (quote("/..\\tiny.json"), "localhost:1", 404),
    ("/out.json", "localhost:1", 403), ("/", "example.org:80", 403), ("/", "", 403),
])  # fmt: skip
def test_server_gives_nothing_else(ask, path, host, status):
    found, headers, body = ask(path, host)
    assert found == status and b"format_version" not in body and b"root:" not in body
    assert "Content-Security-Policy" in headers


def test_folders_are_not_listed(ask, directory):
    (directory / "web" / "empty").mkdir()
    assert ask("/empty/")[0] == 404


def test_export_without_a_page_is_told_what_to_do(tmp_path):
    export(make_net(), tmp_path / "x")
    with pytest.raises(FileNotFoundError, match="has no page; .*--onnx --web"):
        serve.make_server(str(tmp_path / "x"))
    with pytest.raises(ValueError, match="valid are 0 to 65535"):
        serve.main([str(tmp_path / "x"), "--port", "70000"])


def test_port_in_use_is_named(directory):
    with serve.make_server(str(directory)) as server:
        port = server.server_address[1]
        with pytest.raises(OSError, match=f"--port {port}: .*in use; give another one, or 0"):
            serve.make_server(str(directory), port)


def test_command_says_where_the_page_is(directory, monkeypatch, capsys):
    monkeypatch.setattr(serve.ThreadingHTTPServer, "serve_forever", lambda server: None)
    serve.main([str(directory), "--port", "0"])
    assert re.match(r"open http://127\.0\.0\.1:\d+/ ", capsys.readouterr().out)
