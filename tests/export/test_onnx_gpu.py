"""ONNX Runtime on a GPU, with the CPU in the GPU's place: the path, and what is refused."""

from __future__ import annotations

import types
from types import SimpleNamespace

import numpy as np
import pytest
from export_helpers import export, images, make_net

from gluon_attn.export import Predictor, backends, onnx_session, sidecar
from gluon_attn.export.backends import BACKENDS
from gluon_attn.export.onnx import OnnxVariant
from gluon_attn.export.onnx_session import open_onnx_session

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

CUDA, TENSORRT, CPU = (
    "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
)  # fmt: skip
NAMES = ["onnxruntime", "onnxruntime-fp16", "tensorrt", "tensorrt-fp16"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("gpu") / "x"
    return make_net(), export(
        make_net(), directory, with_maps=True, variants=[OnnxVariant(half=True)]
    )


@pytest.fixture
def gpu(monkeypatch):
    """The package with GPU providers whose work the CPU does; it notes how sessions are opened."""
    fake = types.ModuleType("onnxruntime")
    fake.__dict__.update(vars(onnxruntime))
    fake.available, fake.opened, fake.preloaded = [TENSORRT, CUDA, CPU], [], []

    def session(raw, options, providers, **more):
        fake.opened.append((options, providers, more))
        made = onnxruntime.InferenceSession(raw, providers=[CPU])
        made.get_providers = lambda: [p if isinstance(p, str) else p[0] for p in providers]
        return made

    fake.InferenceSession = session
    fake.get_available_providers = lambda: fake.available
    fake.preload_dlls = lambda: fake.preloaded.append(True)
    for module in (onnx_session, backends):
        monkeypatch.setattr(module, "import_onnxruntime", lambda: fake)
    monkeypatch.setitem(backends.DEVICES, "gpu", "cpu")
    return fake


def batch(count, seed=1):
    return images(count, seed).asnumpy().astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_through_bound_buffers(made, gpu, name):
    predictor = Predictor(made[1], ctx="gpu:2", backend=name)
    half = BACKENDS[name].precision == "fp16"
    assert (predictor.backend, predictor.precision) == (name, "fp16" if half else "fp32")
    kept = []
    for count in (2, 2, 3, 1, 3):
        data = batch(count, len(kept))
        logits, _, maps = (out.asnumpy() for out in made[0](backends.mx.nd.array(data)))
        found = predictor.outputs(data)
        for values, right in ((found["logits"], logits), (found["attention_stem"], maps)):
            assert values.dtype == np.float32
            tolerance = 5e-3 if half else 1e-5
            np.testing.assert_allclose(values, right, rtol=tolerance, atol=tolerance)
            kept.append((values, values.copy()))
    assert all((values == copy).all() for values, copy in kept)  # no run has overwritten another's


@pytest.mark.parametrize("name", NAMES)
def test_sessions_may_not_fall_back(made, gpu, name):
    BACKENDS[name].make(made[1], ctx="gpu:2")
    ((options, providers, more),) = gpu.opened
    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert more == {"enable_fallback": False} and gpu.preloaded
    cuda = (CUDA, {"device_id": 2, "use_tf32": 0})
    half = int("fp16" in name)
    tensorrt = (TENSORRT, {"device_id": 2, "trt_fp16_enable": half})
    assert providers == ([tensorrt, cuda] if "tensorrt" in name else [cuda])


def test_the_package_knows_that_entry():
    """It refuses it together with the CPU's provider, so it is spelt right."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    raw = onnx_bytes()
    onnxruntime.InferenceSession(raw, providers=[CPU])
    with pytest.raises(Exception, match="fallback"):
        onnxruntime.InferenceSession(raw, options, providers=[CPU])


def onnx_bytes():
    import onnx.parser

    head = '<ir_version: 7, opset_import: ["" : 13]> g (float[b, 3, 16, 16] data) =>'
    text = f"{head} (float[b, 3, 16, 16] logits) {{ logits = Relu (data) }}"
    return onnx.parser.parse_model(text).SerializeToString()


def raising(*arguments, **options):
    raise RuntimeError("[ONNXRuntimeError] graph nodes that are assigned to the default CPU EP\nx")


def elsewhere(*arguments, **options):
    return SimpleNamespace(get_providers=lambda: [CPU])


@pytest.mark.parametrize("provider, change, words", [
    ("cuda", {"available": [CPU]}, "gpu:1: this onnxruntime has only CPUExecutionProvider; pip"),
    ("tensorrt", {"available": [CUDA, CPU]}, "instead of onnxruntime and TensorRT, or use ctx"),
    ("cuda", {"InferenceSession": raising},
     r"cannot run the net there with CUDA.*: \[ONNXRuntimeError\] graph nodes that are assigned to"
     " the default CPU EP; .*libonnxruntime_providers_.*so: .*; use ctx 'cpu'"),
    ("cuda", {"InferenceSession": elsewhere}, "CUDA.*: .*providers_.*; use ctx 'cpu'"),
    ("tensorrt", {"InferenceSession": elsewhere}, "Tensorrt.*: .*providers_.*; use ctx 'cpu'"),
])  # fmt: skip
def test_what_is_refused_and_why(gpu, tmp_path, provider, change, words):
    vars(gpu).update(__file__=str(tmp_path / "__init__.py"), **change)
    with pytest.raises(ValueError, match=words) as caught:
        open_onnx_session(onnx_bytes(), provider=provider, number=1)
    assert "\n" not in str(caught.value)


def test_libraries_that_load_are_not_to_blame(gpu, monkeypatch):
    monkeypatch.setattr(onnx_session.ctypes, "CDLL", lambda *_: None)
    gpu.InferenceSession = elsewhere
    with pytest.raises(ValueError, match="its libraries load; is there such a GPU, its driver"):
        open_onnx_session(onnx_bytes(), provider="cuda")


def test_candidates_are_those_that_the_package_has(made, gpu, monkeypatch):
    contents = sidecar.read_sidecar(made[1])
    monkeypatch.setattr(backends, "parse_context", no_gpu)
    assert backends.candidates(contents, "gpu:0") == ["onnxruntime", "tensorrt"]
    gpu.available = [CUDA, CPU]
    assert backends.candidates(contents, "gpu:0") == ["onnxruntime"]
    gpu.available = [CPU]
    assert backends.candidates(contents, "gpu:0") == []
    with pytest.raises(ValueError, match="tensorrt' runs on a GPU only: give ctx 'gpu:0'"):
        monkeypatch.undo()
        Predictor(made[1], backend="tensorrt")


def no_gpu(ctx):
    raise ValueError(f"{ctx}: MXNet has no GPU")
