"""Backends: the same numbers from every engine, refusal of damaged files, and the choice of one."""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import shutil
import sys

import numpy as np
import pytest
from export_helpers import SIZE, export, images, make_net
from process_helpers import at_once

from gluon_attn.env import cpu as _cpu
from gluon_attn.export import ExportError, Predictor, backends, sidecar
from gluon_attn.export.backends import BACKENDS
from gluon_attn.export.onnx import OnnxVariant
from gluon_attn.export.writer import Variant, add_variants


def installed(*packages):
    return all(importlib.util.find_spec(package) is not None for package in packages)


ENGINES = [
    name
    for name, needs in BACKENDS.items()
    if needs.cpu
    and ("onnx" not in needs.variant or installed("onnx", "onnxruntime", needs.package))
]
ONNX_ENGINES = [name for name in ENGINES if "onnx" in BACKENDS[name].variant]
MEASURED = [name for name in ENGINES if BACKENDS[name].precision != "fp16"]
BF16_FLAGS = {"avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl"}
FILES = {
    name: (of.variant,) if "onnx" in of.variant
    else tuple(f"{of.variant}_{kind}".strip("_") for kind in ("symbol", "params"))
    for name, of in BACKENDS.items()
}  # fmt: skip


class Copy(Variant):
    """The float32 graph under the names of another precision: what is loaded can be told exactly.

    Quantization itself has tests of its own.
    """

    def __init__(self, name, **entry):
        self.name, self.entry = name, entry

    def write(self, directory, contents):
        files = {}
        for key, end in (("symbol", "symbol.json"), ("params", "0000.params")):
            file = f"{contents['name']}-{self.name}-{end}"
            shutil.copy(str(directory / contents["files"][key]["file"]), str(directory / file))
            files[f"{self.name}_{key}"] = file
        return files, self.entry


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A net and its export with maps and all variants."""
    net, variants = make_net(), [Copy("int8"), Copy("bf16")]
    if "onnxruntime" in ENGINES:
        variants.append(OnnxVariant(half=True))
    directory = tmp_path_factory.mktemp("backends") / "x"
    return net, export(net, directory, with_maps=True, variants=variants)


@pytest.fixture(scope="module")
def opened(made):
    """All engines of that export."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cpu, "read_flags", lambda path=None: BF16_FLAGS)
        return {name: BACKENDS[name].make(made[1]) for name in ENGINES}


@pytest.fixture(autouse=True)
def flags(monkeypatch):
    """Pretend that the processor has AVX-512: the copied "bf16" graph is float32, runs anywhere."""
    flags = set(BF16_FLAGS)
    monkeypatch.setattr(_cpu, "read_flags", lambda path=None: flags)
    return flags


@pytest.fixture
def bare(tmp_path):
    """An export without variants."""
    return export(make_net(), tmp_path / "bare")


def batch(count, seed=1):
    return images(count, seed).asnumpy().astype(np.float32)


def expected(net, data):
    logits, _, attention = net(backends.mx.nd.array(data))
    return [logits.asnumpy(), attention.asnumpy()]


# --- the same numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENGINES)
def test_outputs_are_the_nets_in_order_for_any_batch(made, opened, name):
    engine = opened[name]
    for count in (1, 4, 3, 1):
        outputs = engine.run(batch(count, count))
        assert len(outputs) == 2
        for actual, wanted in zip(outputs, expected(made[0], batch(count, count))):
            assert isinstance(actual, np.ndarray) and actual.dtype == np.float32
            tolerance = 5e-3 if "fp16" in name else 1e-5
            np.testing.assert_allclose(actual, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ENGINES)
def test_results_are_not_overwritten_and_input_is_not_changed(opened, name):
    engine, data = opened[name], batch(3)
    kept = data.copy()
    first = engine.run(data)
    copies = [out.copy() for out in first]
    engine.run(batch(3, 9))
    np.testing.assert_array_equal(data, kept)
    for out, copy in zip(first, copies):
        np.testing.assert_array_equal(out, copy)
    # a batch that is a view with strides of its own
    for out, copy in zip(engine.run(np.asfortranarray(data)), copies):
        np.testing.assert_allclose(out, copy, rtol=0, atol=1e-6)


def pixels(count):
    rng = np.random.RandomState(5)
    return [rng.randint(0, 256, (30 + k, 20, 3)).astype(np.uint8) for k in range(count)]


def test_all_backends_agree_from_several_threads_at_once(made):
    """One predictor per engine, each used by three threads, all at the same time."""
    images = pixels(7)
    wanted = Predictor(made[1], batch_size=4)(images)
    assert np.ptp(wanted) > 1e-2
    predictors = [Predictor(made[1], batch_size=4, backend=name) for name in ENGINES]
    jobs = [(p, slice(k, 5 + k)) for p in predictors for k in range(3)]

    def work(predictor, part):
        return [predictor(images[part]) for _ in range(5)]

    for predictor, name in zip(predictors, ENGINES):
        assert (predictor.backend, predictor.precision) == (name, BACKENDS[name].precision)
    results = at_once(*(functools.partial(work, *job) for job in jobs))
    for result, (predictor, part) in zip(results, jobs):
        for actual in result:
            message, tolerance = predictor.backend, 5e-3 if predictor.precision == "fp16" else 1e-5
            np.testing.assert_allclose(
                actual, wanted[part], rtol=0, atol=tolerance, err_msg=message
            )


@pytest.mark.parametrize("threads", [None, 1, 2])
@pytest.mark.parametrize("name", ONNX_ENGINES)
def test_threads_are_those_asked_for_else_mxnets(made, name, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    engine = BACKENDS[name].make(made[1], threads=threads)
    if "onnxruntime" in name:
        actual = engine._session.get_session_options().intra_op_num_threads
    else:
        actual = engine._request.get_compiled_model().get_property("INFERENCE_NUM_THREADS")
    assert actual == (threads or 2)


# --- what is refused ----------------------------------------------------------------------------


def damage(directory, key, how):
    """Spoil one file of an export."""
    contents = sidecar.read_sidecar(directory)
    path = directory / contents["files"][key]["file"]
    data = path.read_bytes()
    middle = len(data) // 2
    if how == "missing":
        path.unlink()
        return
    path.write_bytes({
        "longer": data + b"x", "truncated": data[:middle],
        "tampered": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "swapped": (directory / contents["files"]["symbol"]["file"]).read_bytes(),
    }[how])  # fmt: skip


@pytest.mark.parametrize("name, key, how", [
    *[("mxnet", "params", how) for how in ("truncated", "swapped", "missing", "longer")],
    *[(n, key, "tampered") for n in ENGINES for key in FILES[n]],
])  # fmt: skip
def test_damaged_file_is_refused_before_an_engine_sees_it(copied, name, key, how, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("an engine was given a damaged file")

    damage(copied, key, how)
    monkeypatch.setattr(backends, "open_onnx_session", never)
    monkeypatch.setattr(backends.mx.sym, "load_json", never)
    if "openvino" in ENGINES:
        monkeypatch.setattr("openvino.Core", never)
    error = FileNotFoundError if how == "missing" else ExportError
    message = "missing from the export" if how == "missing" else "truncated|mismatch|too long"
    with pytest.raises(error, match=message):
        BACKENDS[name].make(copied)
    with pytest.raises(error, match=message):
        Predictor(copied, backend=name)


@pytest.mark.parametrize(
    "data, message",
    [
        (np.zeros((2, SIZE, SIZE, 3), np.float32), r"shape \(2, 16, 16, 3\): give \(B, 3, 16, 16"),
        (np.zeros((3, SIZE, SIZE), np.float32), r"shape \(3, 16, 16\): give \(B, 3, 16, 16"),
        (np.zeros((0, 3, SIZE, SIZE), np.float32), r"shape \(0, 3, 16, 16\)"),
        (np.zeros((2, 3, SIZE, SIZE)), "float64 array: give a NumPy array, float32"),
        (np.zeros((2, 3, SIZE, SIZE), np.uint8), "uint8 array"),
        ([[0.0]], "batch is a list"),
    ],
)
def test_wrong_input(opened, data, message):
    for engine in opened.values():
        with pytest.raises(ValueError, match=message):
            engine.run(data)


@pytest.mark.parametrize("name", [n for n in BACKENDS if BACKENDS[n].variant])
def test_variant_that_the_export_lacks(bare, name):
    parts = BACKENDS[name].variant.split("_")
    message = f"'{name}': export 'tiny' has no {' '.join(parts)} variant; .*--{' --'.join(parts)}"
    for make in (BACKENDS[name].make, lambda d: Predictor(d, backend=name)):
        with pytest.raises(ValueError, match=message):
            make(bare)


@pytest.mark.parametrize("name", ONNX_ENGINES)
def test_package_that_is_not_installed(made, name, monkeypatch):
    monkeypatch.setitem(sys.modules, BACKENDS[name].package, None)
    for make in (BACKENDS[name].make, lambda d: Predictor(d, backend=name)):
        with pytest.raises(ImportError, match=f"needs {BACKENDS[name].package}: pip install"):
            make(made[1])
    assert Predictor(made[1]).backend == "mxnet"


def test_bf16_needs_avx512(made, flags, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("bfloat16 was loaded on a processor that cannot run it")

    assert backends.has_avx512()
    for ceiling, able in (("AVX2", False), ("AVX512_CORE_AMX", True), ("ALL", True)):
        monkeypatch.setenv("DNNL_MAX_CPU_ISA", ceiling)
        assert backends.has_avx512() == able
    monkeypatch.delenv("DNNL_MAX_CPU_ISA")
    monkeypatch.setattr(backends, "load_exported", never)
    flags.remove("avx512bw")
    for make in (BACKENDS["mxnet-bf16"].make, lambda d: Predictor(d, backend="mxnet-bf16")):
        with pytest.raises(ValueError, match="bfloat16 needs a processor with AVX-512"):
            make(made[1])


def test_devices(made):
    with pytest.raises(ValueError, match="precision 'fp8': valid are fp32, int8, bf16"):
        backends.MXNetBackend(made[1], precision="fp8")
    assert backends.parse_device("GPU:3") == ("gpu", 3) and backends.parse_device("gpu")[1] == 0
    assert backends.parse_device(None) == backends.parse_device("cpu") == ("cpu", 0)
    for name in ENGINES:
        with pytest.raises(ValueError, match="tpu"):
            Predictor(made[1], ctx="tpu", backend=name)
    if "onnxruntime" in ENGINES:
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            with pytest.raises(ValueError, match="onnxruntime-gpu"):
                Predictor(made[1], ctx="gpu:0", backend="onnxruntime")


def test_onnx_file_that_an_engine_does_not_take(copied):
    contents = sidecar.read_sidecar(copied)
    for key in {BACKENDS[name].variant for name in ONNX_ENGINES}:
        path = copied / contents["files"][key]["file"]
        path.write_bytes(b"not ONNX at all")
        contents["files"][key] = sidecar.describe_file(path)
    sidecar.write_sidecar(copied, contents)
    for name in ONNX_ENGINES:
        with pytest.raises(ExportError, match="ONNX Runtime refuses|OpenVINO"):
            BACKENDS[name].make(copied)


# --- the choice ---------------------------------------------------------------------------------


class Fake:
    """Engine of a given speed that counts how often one is made."""

    made = []
    now = 0.0  # of a clock that only these engines move: a busy machine changes no result

    def __init__(self, name, seconds, directory, ctx=None, threads=None):
        if isinstance(seconds, Exception):
            raise seconds
        self.made.append((name, threads))
        self.seconds, self.sizes = seconds, []

    def run(self, data):
        assert data.dtype == np.float32 and data.shape[1:] == (3, SIZE, SIZE)
        Fake.now += self.seconds * len(data)
        return [np.zeros((len(data), 4), np.float32), np.zeros((len(data), 4, 8, 8), np.float32)]


@pytest.fixture
def speeds(monkeypatch):
    """Replace the engines by fakes; the values are seconds per image, or what they raise."""
    seconds = {"mxnet": 0.003, "mxnet-fused": 0.0035, "mxnet-int8": 0.001, "mxnet-bf16": 0.004}
    seconds.update({"onnxruntime": 0.002, "openvino": 0.005})
    monkeypatch.setattr(backends, "SECONDS", 0.01)
    monkeypatch.setattr(Fake, "made", [])
    monkeypatch.setattr(backends.time, "perf_counter", lambda: Fake.now)
    for name, backend in list(BACKENDS.items()):

        def make(*a, n=name, **options):
            return Fake(n, seconds[n], *a, **options)

        monkeypatch.setitem(BACKENDS, name, backend._replace(make=make))
    return seconds


def memory(directory):
    return json.loads((directory / "tiny-speed.json").read_text(encoding="utf-8"))["measured"]


def test_fastest_is_measured_once_and_remembered(copied, speeds, caplog):
    with caplog.at_level(logging.INFO, "gluon_attn.export.backends"):
        predictor = Predictor(copied, batch_size=2, threads=1, backend="fastest")
    assert (predictor.backend, predictor.precision) == ("mxnet-int8", "int8")
    assert "backend mxnet-int8 (int8): " in caplog.text and "images/s" in caplog.text
    assert [name for name, _ in Fake.made] == [*MEASURED, "mxnet-int8"]
    assert {threads for _, threads in Fake.made} == {1}
    (record,) = memory(copied)
    assert sorted(record["images_per_s"]) == sorted(MEASURED)
    assert record["images_per_s"]["mxnet-int8"] == pytest.approx(1000)
    assert record["images_per_s"]["mxnet"] == pytest.approx(1000 / 3, rel=1e-3)
    assert (record["threads"], record["batch_size"]) == (1, 2)
    assert record["processor"] and record["packages"]["mxnet"]
    for name in ("fastest", "auto"):
        Fake.made.clear()
        assert Predictor(copied, batch_size=2, threads=1, backend=name).backend == "mxnet-int8"
        assert len(Fake.made) == 1  # not measured again
    assert set(sidecar.read_sidecar(copied)["files"]) == {k for n in ENGINES for k in FILES[n]}


@pytest.mark.parametrize("options", [{"batch_size": 4}, {"threads": 2}])
def test_another_situation_is_measured_by_itself(copied, speeds, options, monkeypatch):
    wanted = {"batch_size": 2, "threads": 1}
    Predictor(copied, backend="fastest", **wanted)
    assert Predictor(copied, backend="auto", **dict(wanted, **options)).backend == "mxnet"
    Predictor(copied, backend="fastest", **dict(wanted, **options))
    assert len(memory(copied)) == 2
    assert Predictor(copied, backend="auto", **dict(wanted, **options)).backend == "mxnet-int8"
    monkeypatch.setattr(backends, "versions", lambda: {"processor": "other", "amx": "on"})
    assert Predictor(copied, backend="auto", **wanted).backend == "mxnet"


def test_auto_without_memory_is_mxnet_and_measures_nothing(copied, speeds):
    assert Predictor(copied, backend="auto").backend == "mxnet"
    assert Fake.made == [("mxnet", None)] and not (copied / "tiny-speed.json").exists()


def test_only_what_the_export_holds_is_a_candidate(bare, speeds):
    assert Predictor(bare, batch_size=2, backend="fastest").backend == "mxnet"
    assert {name for name, _ in Fake.made} == {"mxnet", "mxnet-fused"}


def test_int8_whose_bound_does_not_hold_here_must_be_asked_for(bare, speeds, flags):
    add_variants(bare, [Copy("int8", vnni=True, drop=0.1)])
    assert Predictor(bare, batch_size=2, backend="fastest").backend == "mxnet"
    assert "mxnet-int8" not in {name for name, _ in Fake.made}
    assert Predictor(bare, batch_size=2, backend="mxnet-int8").backend == "mxnet-int8"
    flags.add("avx512_vnni")
    assert Predictor(bare, batch_size=4, backend="fastest").backend == "mxnet-int8"
    flags.remove("avx512_vnni")  # the same directory on another machine of the same name
    assert Predictor(bare, batch_size=4, backend="auto").backend == "mxnet"


def test_new_variant_forgets_the_measurement(bare, speeds):
    Predictor(bare, batch_size=2, backend="fastest")
    kept = (bare / "tiny-speed.json").read_bytes()
    add_variants(bare, [Copy("int8")])
    assert not (bare / "tiny-speed.json").exists()
    (bare / "tiny-speed.json").write_bytes(kept)  # even if it is copied back
    assert Predictor(bare, batch_size=2, backend="auto").backend == "mxnet"
    assert Predictor(bare, batch_size=2, backend="fastest").backend == "mxnet-int8"


def test_engine_that_fails_is_left_out_with_a_warning(copied, speeds, caplog):
    speeds["mxnet-int8"] = RuntimeError("no primitive\nstack")
    with caplog.at_level(logging.WARNING):
        predictor = Predictor(copied, batch_size=2, backend="fastest")
    assert predictor.backend != "mxnet-int8"
    assert "backend mxnet-int8 left out: no primitive" in caplog.text
    speeds.update(dict.fromkeys(speeds, RuntimeError("broken")))
    with pytest.raises(
        ValueError, match="no backend can run it here: mxnet: broken; mxnet-fused: broken"
    ):
        Predictor(copied, batch_size=4, backend="fastest")


@pytest.mark.parametrize("key", ["params", "int8_params", "bf16_symbol"])
def test_damaged_export_is_not_just_left_out(copied, key, monkeypatch):
    monkeypatch.setattr(backends, "SECONDS", 0.01)
    damage(copied, key, "tampered")
    with pytest.raises(ExportError, match="mismatch"):
        Predictor(copied, batch_size=1, backend="fastest")


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"format": "other", "measured": []}',
        b'{"format": "gluon_attn speeds"}', b'{"format": "gluon_attn speeds", "measured": 5}',
        b'{"format": "gluon_attn speeds", "measured": [1]}',
        b'{"format": "gluon_attn speeds", "measured": [{"images_per_s": {"magic": 1}}]}',
        b'{"format": "gluon_attn speeds", "measured": [{"images_per_s": {"mxnet": "1"}}]}',
        b'{"format": "gluon_attn speeds", "measured": [{"images_per_s": {"mxnet": NaN}}]}',
        b'{"format": "gluon_attn speeds", "measured": [{"images_per_s": {}}]}',
    ],
)  # fmt: skip
def test_unreadable_memory_costs_a_warning_and_is_replaced(copied, speeds, caplog, text):
    (copied / "tiny-speed.json").write_bytes(text)
    with caplog.at_level(logging.WARNING):
        assert Predictor(copied, batch_size=2, backend="auto").backend == "mxnet"
    assert "tiny-speed.json ignored: not a file of speeds" in caplog.text
    assert Predictor(copied, batch_size=2, backend="fastest").backend == "mxnet-int8"
    assert len(memory(copied)) == 1


def test_directory_that_cannot_be_written_costs_a_warning(copied, speeds, caplog, monkeypatch):
    def read_only(path, text):
        raise PermissionError(13, f"cannot write {path}: Permission denied")

    monkeypatch.setattr(backends, "write_json", read_only)
    with caplog.at_level(logging.WARNING):
        assert Predictor(copied, batch_size=2, backend="fastest").backend == "mxnet-int8"
    assert "not remembered: " in caplog.text and "Permission denied" in caplog.text
    assert not (copied / "tiny-speed.json").exists()


def test_remembered_engine_that_is_gone_is_not_used(copied, speeds, flags):
    speeds.update({"mxnet-bf16": 0.0005})
    assert Predictor(copied, batch_size=2, backend="fastest").backend == "mxnet-bf16"
    flags.clear()
    assert Predictor(copied, batch_size=2, backend="fastest").backend == "mxnet-int8"


def test_real_engines_can_be_measured(made, monkeypatch):
    monkeypatch.setattr(backends, "SECONDS", 0.01)
    contents = sidecar.read_sidecar(made[1])
    found = backends.measure(made[1], contents, batch_size=2, threads=1)
    assert list(found) == MEASURED and min(found.values()) > 0
