"""The benchmark of engines: turns, rows, table, figure, what is left out, and one real run."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from process_helpers import run as execute
from process_helpers import wait_for

from tools.bench import bench_engines, bench_infer, bench_step, bench_turns
from tools.bench.bench_turns import Job, Measured, Process, take_turns

MODEL = "resnet18_w16_synthetic"
KEYS = {"engine", "precision", "batch", "images_per_s", "p50_ms", "p95_ms", "peak_mb"}
KEYS |= {"load_s", "file_mb", "spread", "ratio_to_mxnet", "ratio_spread"}


# ------------------------------------------------------------------- jobs for other processes


def open_timed(seconds, megabytes=0):
    """A job whose call takes a known time by a clock of its own."""
    kept, now = np.ones(megabytes * 2**20, np.uint8), [0.0]
    bench_turns.time = SimpleNamespace(perf_counter=lambda: now[0])

    def call():
        now[0] += seconds
        return len(kept)

    return call, {"name": seconds}


def open_threaded():
    """A job with a thread of its own, as an engine with a thread pool has them."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return (lambda: None), {"pid": os.getpid()}


def states(pid):
    """Return what the threads of a process are doing: T stopped, Z ended, ..."""
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return {text.read_text().rpartition(")")[2].split()[0] for text in threads}


def open_nothing():
    raise ValueError("first line\nsecond line")


def open_dying():
    return (lambda: os.kill(os.getpid(), signal.SIGKILL)), {}


def print_and_say():
    print("noise")
    return (lambda: None), {"pid": os.getpid()}


def job(name, opener, *arguments):
    return Job(name, "fp32", opener, arguments)


# ------------------------------------------------------------------------------------- turns


def test_turns_measure_what_a_call_takes():
    lines = []
    jobs = [job("long", open_timed, 0.5), job("short", open_timed, 0.125)]
    measured, left_out = take_turns(jobs, 3, 1.25, "batch 1", lines.append)
    assert left_out == {} and [m.job.engine for m in measured] == ["long", "short"]
    for item, seconds, calls in zip(measured, (0.5, 0.125), (3, 10)):
        assert item.facts == {"name": seconds}
        assert item.turns == [[seconds] * calls] * 3
    assert measured[1].against == measured[0].turns
    row = bench_infer.make_row(measured[1], 4)
    assert row["ratio_to_mxnet"] == 4 and row["batch"] == 4
    assert sum("round" in line for line in lines) == 3


def test_one_call_longer_than_a_turn_is_enough():
    measured, _ = take_turns([job("long", open_timed, 0.5)], 2, 0.1, "", lambda line: None)
    assert [len(turn) for turn in measured[0].turns] == [1, 1]


def test_who_waits_does_not_compute():
    with Process(job("threaded", open_threaded)) as process:
        for _ in range(2):
            wait_for(lambda: states(process.facts["pid"]) == {"T"}, "all threads to stop")
            assert process.turn(1e-6)
        process.finish()
        assert process.failure is None


@pytest.mark.parametrize("method, arguments", [("turn", (0.01,)), ("finish", ())])
def test_a_process_killed_while_it_waits_is_a_failure(method, arguments):
    with Process(job("victim", print_and_say)) as process:
        os.kill(process.facts["pid"], signal.SIGKILL)
        wait_for(lambda: states(process.facts["pid"]) <= {"Z"}, "its end")
        getattr(process, method)(*arguments)
        assert "-9" in process.failure


def test_failures_are_reasons_and_the_others_go_on():
    jobs = [job("base", open_timed, 0.5), job("none", open_nothing), job("dead", open_dying),
            job("good", open_timed, 0.5)]  # fmt: skip
    measured, left_out = take_turns(jobs, 2, 1.0, "", lambda line: None)
    assert [m.job.engine for m in measured] == ["base", "good"]
    assert left_out["none fp32"] == "first line"
    assert "-9" in left_out["dead fp32"] and set(left_out) == {"none fp32", "dead fp32"}


@pytest.mark.parametrize("opener", [open_nothing, open_dying])
def test_nothing_is_measured_without_the_reference(opener):
    with pytest.raises(OSError, match="bad fp32"):
        take_turns([job("bad", opener), job("good", open_timed, 1.0)], 1, 1.0, "", print)


def test_peak_memory_is_the_processs_own():
    ballast = np.ones(300 * 2**20, np.uint8)
    jobs = [job("small", open_timed, 1.0), job("large", open_timed, 1.0, 100)]
    measured, _ = take_turns(jobs, 1, 1.0, "", lambda line: None)
    small, large = (item.peak_mb for item in measured)
    assert 95 < large - small < 110
    assert small < bench_turns.peak_memory_mb() - 0.9 * ballast.nbytes / 2**20 + 50


def test_groups_share_the_reference_when_memory_is_short(monkeypatch):
    monkeypatch.setattr(bench_turns, "free_memory_mb", lambda: 1.0)
    jobs = [job(name, open_timed, 1.0) for name in ("base", "a", "b")]
    measured, left_out = take_turns(jobs, 2, 1.0, "", lambda line: None)
    assert [m.job.engine for m in measured] == ["base", "a", "b"] and not left_out
    base, first, second = measured
    assert len(base.turns) == 4  # two rounds in each of two groups
    assert first.against == base.turns[:2] and second.against == base.turns[2:]


def test_processes_print_nothing_on_standard_output_and_leave(capfd):
    with Process(job("loud", print_and_say)) as process:
        pid = process.facts["pid"]
    assert capfd.readouterr().out == ""
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_thread_variables_come_and_go(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert bench_turns.default_threads() == 3
    with bench_turns.thread_variables(7):
        assert {os.environ[name] for name in bench_turns.THREAD_VARIABLES} == {"7"}
    assert os.environ["OMP_NUM_THREADS"] == "3" and "MKL_NUM_THREADS" not in os.environ


# -------------------------------------------------------------------------------------- rows


def measured_of(turns, against, engine="other", precision="fp32", logits=None):
    facts = {"load_s": 1.5, "logits": np.arange(6.0).reshape(2, 3) if logits is None else logits}
    item = Measured(Job(engine, precision, None, ()), facts)
    item.turns, item.against, item.peak_mb = turns, against, 100.0
    return item


def test_a_row_by_hand(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"x" * 2**20)
    # Rates 8 * 2 / 4 = 4, then 8 / 1 = 8, then 16 images/s; the reference's 2, 2 and 2.
    item = measured_of([[1.0, 3.0], [1.0], [0.5]], [[4.0], [4.0], [2.0, 6.0]])
    row = bench_infer.make_row(item, 8, [str(file), str(file)])
    assert (row["images_per_s"], row["spread"]) == (8, [4, 16])
    assert (row["ratio_to_mxnet"], row["ratio_spread"]) == (4, [2, 8])
    assert row["p50_ms"] == 1000 and row["calls"] == 4
    assert row["p95_ms"] == pytest.approx(np.percentile([1000, 3000, 1000, 500], 95))
    assert (row["file_mb"], row["load_s"], row["peak_mb"]) == (2, 1.5, 100)
    assert set(row) >= KEYS


def test_an_engine_with_other_numbers_is_left_out():
    base = np.random.RandomState(0).normal(size=(2, 3))
    turns = [[1.0]]
    measured = [
        measured_of(turns, turns, "mxnet", logits=base),
        measured_of(turns, turns, "near", logits=base + 1e-5),
        measured_of(turns, turns, "far", logits=base + 0.1),
        measured_of(turns, turns, "nan", logits=base * np.nan),
        measured_of(turns, turns, "shape", "int8", logits=base[:, :2]),
        measured_of(turns, turns, "coarse", "int8", logits=base + 0.1),
    ]
    reasons = bench_infer.drop_others(measured)
    assert [m.job.engine for m in measured] == ["mxnet", "near", "coarse"]
    assert set(reasons) == {"far fp32", "nan fp32", "shape int8"}
    rows = [bench_infer.make_row(item, 2) for item in measured]
    bench_infer.add_agreement(rows, measured)
    assert rows[2]["correlation"] == pytest.approx(1) and rows[2]["max_diff"] > 0.03


def rows_of(*batches):
    turns = [[0.5], [0.4]]
    kinds = (("mxnet", "fp32"), ("onnxruntime", "int8"), ("torch", "bf16"))
    return [
        bench_infer.make_row(measured_of(turns, turns, engine, precision), batch)
        for batch in batches
        for engine, precision in kinds
    ]


def test_table_has_a_line_per_row():
    lines = bench_infer.table(rows_of(1, 8)).splitlines()
    assert len(lines) == 2 + 6 and len({line.count("|") for line in lines}) == 1
    assert "files MB" not in lines[0] and "load s" in lines[0]  # a column of nothing is not shown


def test_results_are_written(tmp_path):
    import cv2  # here, as the jobs' processes import this module

    result = bench_infer.describe_run(bench_infer.describe_network(MODEL), 2, 1)
    result.update(rows=rows_of(1, 8), left_out={"openvino int8": "not installed"})
    paths = bench_infer.write_results(result, tmp_path / "new", "Inference")
    assert [path.name for path in paths] == ["results.md", "results.json", "results.png"]
    text = paths[0].read_text(encoding="utf-8")
    assert "openvino int8: not installed" in text and "mxnet 1.9.1" in text
    assert json.loads(paths[1].read_text(encoding="utf-8"))["rows"] == result["rows"]
    assert cv2.imread(str(paths[2])).shape[1] > cv2.imread(str(paths[2])).shape[0]


def test_figure_shows_the_longest_bar_of_its_colour(tmp_path):
    import cv2

    from gluon_attn.figures.bars import speed_bars

    rows = rows_of(8)
    rows[1].update(images_per_s=100.0, spread=[90.0, 110.0])
    picture = cv2.imread(str(speed_bars(rows, tmp_path / "speed.png", "title")))
    green = (np.abs(picture.astype(int) - (0x73, 0x9E, 0)).sum(2) < 30).sum()
    blue = (np.abs(picture.astype(int) - (0xB2, 0x72, 0)).sum(2) < 30).sum()
    assert green > 3 * blue > 0  # 100 against 18, and both in the legend
    with pytest.raises(ValueError, match="nothing to draw"):
        speed_bars([], tmp_path / "none.png")
    with pytest.raises(ValueError, match="precision fp8"):
        speed_bars([dict(rows[0], precision="fp8")], tmp_path / "none.png")


# ----------------------------------------------------------------------------------- engines


def test_engines_are_distinct_and_the_reference_is_first():
    keys = [(e.name, e.precision) for e in bench_engines.ENGINES]
    assert len(set(keys)) == len(keys) and keys[0] == bench_infer.REFERENCE
    assert {e.product for e in bench_engines.ENGINES} == set(bench_engines.PRODUCTS)
    trainers = [(t.name, t.precision) for t in bench_step.TRAINERS]
    assert len(set(trainers)) == len(trainers) and trainers[0] == bench_infer.REFERENCE


def test_selection():
    chosen = bench_infer.select(["onnxruntime", "torch:bf16"])
    assert [(e.name, e.precision) for e in chosen] == [
        ("mxnet", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("torch", "bf16"),
    ]  # fmt: skip
    assert bench_infer.select(None) == list(bench_engines.ENGINES)
    with pytest.raises(ValueError, match="tensorrt.*valid are"):
        bench_infer.select(["tensorrt"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": "resnet19"}, "resnet19"),
        ({"rounds": 0}, "rounds 0"),
        ({"threads": -1}, "threads -1"),
        ({"size": 1.5}, "size 1.5"),
        ({"batches": [8, 0]}, "batch size 0"),
        ({"batches": []}, "batches"),
        ({"seconds": 0}, "seconds 0"),
        ({"only": ["tensorrt"]}, "tensorrt"),
    ],
)
def test_arguments_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        bench_infer.benchmark_inference(**dict({"model": MODEL}, **change))


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"openvino.*gluon_attn\[bench\]"):
        bench_engines.import_library("openvino")


def test_statistics_go_half_of_the_way_to_a_batchs():
    import mxnet as mx

    from model_zoo import get_model

    net = get_model("resnet101_v1", width=4, input_size=32, classes=5)
    net.initialize(mx.init.Xavier())
    before = [layer._kwargs["momentum"] for layer in bench_engines.norms(net)]
    images = mx.nd.array(bench_engines.random_images(4, 32))
    bench_engines.settle(net, images)
    assert [layer._kwargs["momentum"] for layer in bench_engines.norms(net)] == before
    # The first batch-norm's mean was 0.
    entered = net.features[0](images)
    np.testing.assert_allclose(
        net.features[1].running_mean.data().asnumpy(),
        entered.mean((0, 2, 3)).asnumpy() / 2,
        atol=1e-5,
    )
    assert np.abs(net(images).asnumpy()).max() < 100


# --------------------------------------------------------------------------------- real runs


def installed(name):
    return importlib.util.find_spec(name) is not None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The tool's own run, few engines and very short turns: (folder, finished process)."""
    folder = tmp_path_factory.mktemp("bench")
    tool = Path(__file__).resolve().parents[2] / "tools" / "benchmark.py"
    command = [
        sys.executable, str(tool), "infer", "--model", MODEL, "--batch-size", "2", "--size",
        "64", "--rounds", "2", "--seconds", "0.02", "--threads", "1", "--engines",
        "mxnet-fused", "onnxruntime:fp32", "openvino:bf16",
        "--json", str(folder / "rows.json"), "--out", str(folder / "out"),
        "--export", str(folder / "export"),
    ]  # fmt: skip
    code, out, err = execute(command)
    assert code == 0, out + err
    return folder, out, err


@pytest.mark.nightly
def test_rows_of_a_run(run):
    folder, _, _ = run
    rows = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    assert isinstance(rows, list)
    found = [(r["engine"], r["precision"], r["batch"]) for r in rows]
    wanted = [("mxnet", "fp32"), ("mxnet-fused", "fp32")]
    wanted += [("onnxruntime", "fp32")] if installed("onnxruntime") and installed("onnx") else []
    assert [key for key in found if key[0] != "openvino"] == [(*key, 2) for key in wanted]
    for row in rows:
        assert set(row) >= KEYS
        assert row["spread"][0] <= row["images_per_s"] <= row["spread"][1]
        assert row["ratio_spread"][0] <= row["ratio_to_mxnet"] <= row["ratio_spread"][1]
        assert 0 < row["p50_ms"] <= row["p95_ms"] and row["peak_mb"] > 20 and row["load_s"] > 0
        assert row["engine"] == "openvino" or row["correlation"] > 0.9999
        assert row["file_mb"] > 2 or row["precision"] == "int8"


@pytest.mark.nightly
def test_output_of_a_run(run):
    folder, out, err = run
    lines = out.strip().splitlines()
    assert lines[0].startswith(f"{MODEL}, 64 px, 1 thread(s)") and lines[2].startswith("| engine")
    assert all(line.startswith("|") for line in lines[2:])
    measured = any("| openvino" in line for line in lines)
    assert measured or "left out: openvino bf16: " in err
    assert "round 2/2" in err and "Traceback" not in err
    assert (folder / "out" / "results.png").stat().st_size > 5000


@pytest.mark.nightly
def test_the_export_that_was_made_is_kept_and_used_again(run):
    folder, _, _ = run
    before = {p.name: p.read_bytes() for p in (folder / "export").iterdir()}
    assert f"{MODEL}-symbol.json" in before
    result = bench_infer.benchmark_inference(
        MODEL,
        export=folder / "export",
        rounds=1,
        seconds=0.01,
        threads=1,
        only=["mxnet-export:fp32"],
    )
    assert result["size"] == 64  # the export's, not the model's
    assert [row["engine"] for row in result["rows"]] == ["mxnet", "mxnet-export"]
    assert {p.name: p.read_bytes() for p in (folder / "export").iterdir()} == before
    with pytest.raises(ValueError, match="64x64 px, asked for are 96"):
        bench_infer.benchmark_inference(MODEL, 96, export=folder / "export")


def test_training_step():
    result = bench_step.benchmark_step(
        "vaa_resnet18_w16_synthetic", 64, 2, rounds=1, threads=1, seconds=0.01, only=["mxnet:fp32"]
    )
    (row,) = result["rows"]
    assert set(row) >= KEYS and row["file_mb"] is None and row["ratio_to_mxnet"] == 1
