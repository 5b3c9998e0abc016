"""The benchmarks: turns, rows, table, what is left out, comparisons of steps, one real run."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from bench_jobs import open_dying, open_nothing, open_threaded, open_timed
from process_helpers import run as execute
from process_helpers import wait_for

from tools.bench import engines, infer, steps, turns
from tools.bench.turns import Job, Measured, Process, take_turns

MODEL = "resnet18_w16_synthetic"
KEYS = {"engine", "precision", "batch", "images_per_s", "p50_ms", "p95_ms", "peak_mb"}
KEYS |= {"load_s", "file_mb", "spread", "ratio_to_mxnet", "ratio_spread"}


def states(pid):
    """Return what the threads of a process are doing: T stopped, Z ended, ..."""
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return {text.read_text().rpartition(")")[2].split()[0] for text in threads}


def job(name, opener, *arguments):
    return Job(name, "fp32", opener, arguments)


# ------------------------------------------------------------------------------------- turns
def test_turns_measure_what_a_call_takes_and_failures_are_reasons():
    lines, openers = [], {"none": open_nothing, "dead": open_dying}
    jobs = [job("long", open_timed, 0.5), job("short", open_timed, 0.125),
            *(job(*pair) for pair in openers.items()), job("slow", open_timed, 5)]  # fmt: skip
    measured, left_out = take_turns(jobs, 3, 1.25, "batch 1", lines.append)
    for item, name, seconds, calls in zip(
        measured, ("long", "short", "slow"), (0.5, 0.125, 5), (3, 10, 1)
    ):  # one call that is longer than a turn is enough
        assert item.job.engine == name and item.facts == {"name": seconds}
        assert item.turns == [[seconds] * calls] * 3
    assert measured[1].against == measured[0].turns
    row = infer.make_row(measured[1], 4)
    assert row["ratio_to_mxnet"] == 4 and row["batch"] == 4
    assert sum("round" in line for line in lines) == 3
    assert left_out["none fp32"] == "first line"
    assert "-9" in left_out["dead fp32"] and set(left_out) == {"none fp32", "dead fp32"}
    for opener in openers.values():
        with pytest.raises(OSError, match="bad fp32"):
            take_turns([job("bad", opener)], 1, 1.0, "", len)


def test_who_waits_does_not_compute_nor_print(capfd):
    with Process(job("threaded", open_threaded)) as process:
        pid = process.facts["pid"]
        for _ in range(2):
            wait_for(lambda: states(pid) == {"T"}, "all threads to stop")
            assert process.turn(1e-6)
        process.finish()
        assert process.failure is None
    assert capfd.readouterr().out == ""
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("method, arguments", [("turn", (0.01,)), ("finish", ())])
def test_a_process_killed_while_it_waits_is_a_failure(method, arguments):
    with Process(job("victim", open_threaded)) as process:
        os.kill(process.facts["pid"], signal.SIGKILL)
        wait_for(lambda: states(process.facts["pid"]) <= {"Z"}, "its end")
        getattr(process, method)(*arguments)
        assert "-9" in process.failure


def test_peak_memory_is_the_processs_own():
    ballast = np.ones(300 * 2**20, np.uint8)
    jobs = [job("small", open_timed, 1.0), job("large", open_timed, 1.0, 100)]
    measured, _ = take_turns(jobs, 1, 1.0, "", len)
    small, large = (item.peak_mb for item in measured)
    assert 95 < large - small < 110
    assert small < turns.peak_memory_mb() - 0.9 * ballast.nbytes / 2**20 + 50


def test_groups_share_the_reference_when_memory_is_short(monkeypatch):
    monkeypatch.setattr(turns, "free_memory_mb", lambda: 1.0)
    jobs = [job(name, open_timed, 1.0) for name in ("base", "a", "b")]
    measured, left_out = take_turns(jobs, 2, 1.0, "", len)
    assert [m.job.engine for m in measured] == ["base", "a", "b"] and not left_out
    base, first, second = measured
    assert len(base.turns) == 4  # two rounds in each of two groups
    assert first.against == base.turns[:2] and second.against == base.turns[2:]


def test_thread_variables_come_and_go(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert turns.default_threads() == 3
    with turns.thread_variables(7):
        assert {os.environ[name] for name in turns.THREAD_VARIABLES} == {"7"}
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
    row = infer.make_row(item, 8, [str(file), str(file)])
    assert (row["images_per_s"], row["spread"]) == (8, [4, 16])
    assert (row["ratio_to_mxnet"], row["ratio_spread"]) == (4, [2, 8])
    assert row["p50_ms"] == 1000 and row["calls"] == 4
    assert row["p95_ms"] == pytest.approx(np.percentile([1000, 3000, 1000, 500], 95))
    assert (row["file_mb"], row["load_s"], row["peak_mb"]) == (2, 1.5, 100)
    assert set(row) >= KEYS


def test_an_engine_with_other_numbers_is_left_out():
    base = np.random.RandomState(0).normal(size=(2, 3))
    given = {
        ("mxnet", "fp32"): base,
        ("near", "fp32"): base + 1e-5,
        ("far", "fp32"): base + 0.1,
        ("nan", "fp32"): base * np.nan,
        ("shape", "int8"): base[:, :2],
        ("coarse", "int8"): base + 0.1,
    }
    measured = [measured_of([[1.0]], [[1.0]], *key, logits=x) for key, x in given.items()]
    reasons = infer.drop_others(measured)
    assert [m.job.engine for m in measured] == ["mxnet", "near", "coarse"]
    assert set(reasons) == {"far fp32", "nan fp32", "shape int8"}
    rows = [infer.make_row(item, 2) for item in measured]
    infer.add_agreement(rows, measured)
    assert rows[2]["correlation"] == pytest.approx(1) and rows[2]["max_diff"] > 0.03


def test_results_are_written(tmp_path):
    import cv2  # here, as the jobs' processes import this module

    from gluon_attn.figures.bars import speed_bars

    kinds = (("mxnet", "fp32"), ("onnxruntime", "int8"), ("torch", "bf16"))
    times = [[0.5], [0.4]]
    rows = [infer.make_row(measured_of(times, times, *kind), b) for b in (1, 8) for kind in kinds]
    lines = infer.table(rows).splitlines()
    assert len(lines) == 2 + 6 and len({line.count("|") for line in lines}) == 1
    assert "files MB" not in lines[0] and "load s" in lines[0]  # a column of nothing is not shown
    result = infer.describe_run(infer.describe_network(MODEL), 2, 1)
    result.update(rows=rows, left_out={"openvino int8": "not installed"})
    paths = infer.write_results(result, tmp_path / "new", "Inference")
    assert [path.name for path in paths] == ["results.md", "results.json", "results.png"]
    text = paths[0].read_text(encoding="utf-8")
    assert "openvino int8: not installed" in text and "mxnet 1.9.1" in text
    assert json.loads(paths[1].read_text(encoding="utf-8"))["rows"] == rows
    image = cv2.imread(str(paths[2]))
    assert image.shape[1] > image.shape[0] and image.std() > 5
    for bad, message in (([], "nothing to draw"), ([dict(rows[0], precision="x")], "precision x")):
        with pytest.raises(ValueError, match=message):
            speed_bars(bad, tmp_path / "none.png")


# ----------------------------------------------------------------------------------- engines
def test_engines_are_distinct_and_the_reference_is_first(monkeypatch):
    for every in (engines.ENGINES, infer.TRAINERS):
        keys = [(e.name, e.precision) for e in every]
        assert len(set(keys)) == len(keys) and keys[0] == infer.REFERENCE
    assert {e.product for e in engines.ENGINES} == set(engines.PRODUCTS)
    chosen = infer.select(["onnxruntime", "torch:bf16"])
    assert [f"{e.name} {e.precision}" for e in chosen] == [
        *("mxnet fp32", "onnxruntime fp32", "onnxruntime int8", "torch bf16")
    ]
    assert infer.select(None) == list(engines.ENGINES)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"openvino.*gluon_attn\[bench\]"):
        engines.import_library("openvino")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": "resnet19"}, "resnet19"),
        ({"rounds": 0}, "rounds 0"),
        ({"size": 1.5}, "size 1.5"),
        ({"batches": [8, 0]}, "batch size 0"),
        ({"batches": []}, "batches"),
        ({"seconds": 0}, "seconds 0"),
        ({"only": ["tensorrt"]}, "tensorrt.*valid are"),
    ],
)
def test_arguments_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        infer.benchmark_inference(**dict({"model": MODEL}, **change))


def test_statistics_go_half_of_the_way_to_a_batchs():
    import mxnet as mx

    from model_zoo import get_model

    net = get_model("resnet101_v1", width=4, input_size=32, classes=5)
    net.initialize(mx.init.Xavier())
    before = [layer._kwargs["momentum"] for layer in engines.norms(net)]
    images = mx.nd.array(engines.random_images(4, 32))
    engines.settle(net, images)
    assert [layer._kwargs["momentum"] for layer in engines.norms(net)] == before
    mean = net.features[0](images).mean((0, 2, 3)).asnumpy()  # the first batch-norm's was 0
    found = net.features[1].running_mean.data().asnumpy()
    np.testing.assert_allclose(found, mean / 2, atol=1e-5)
    assert np.abs(net(images).asnumpy()).max() < 100


# -------------------------------------------------------------------------- steps and real runs
def test_comparisons_of_steps(monkeypatch):
    """Ratios by hand; what cannot be compared is refused before anything starts."""

    def measured(jobs, *others):
        found = [Measured(j, {"steps": n}) for j, n in zip(jobs, (1, 2))]
        found[0].turns = found[0].against = [[1.0, 3.0], [2.0]]
        found[1].turns, found[1].against = [[8.0], [12.0]], found[0].turns
        return found, {"sampled": "why"}

    monkeypatch.setattr(steps, "take_turns", measured)
    result = steps.measure("dreal", "se_resnet50", 32, 4, only=["all"])
    assert list(result["variants"]) == ["plain", "all"] and result["left_out"] == {"sampled": "why"}
    found = result["variants"]["all"]
    assert found["turns"] == [4, 6] and found["ratio"] == {"median": 2.5, "lowest": 2, "highest": 3}
    assert "2.50 (2.00–3.00)" in steps.table("dreal", result)
    for name, model, batch, only, message in (
        ("dreal", "se_resnet50", 4, ["some"], "valid are plain"),
        ("dreal", "se_resnet50", 0, [], "batch=0"),
        ("search", "resnet18_v1", 4, [], "no super-network"),
        ("awmt", "resnet18_v1", 5, [], "must be even"),
    ):
        with pytest.raises(ValueError, match=message):
            steps.measure(name, model, 32, batch, only=only)


@pytest.mark.parametrize("name, model, batch", [
    ("dreal", "se_resnet14_w8_digits", 2), ("train", "vaa_resnet18_w16_synthetic", 2),
    ("awmt", "resnet18_w16_synthetic", 4),
])  # fmt: skip
def test_every_variant_makes_a_step(name, model, batch):
    for variant in steps.COMPARISONS[name].variants:
        call, count = steps.COMPARISONS[name].open(variant, model, 32, batch)
        assert call() is None
        assert name != "awmt" or count == 2


def test_training_step():
    options = {"rounds": 1, "threads": 1, "seconds": 0.01, "only": ["mxnet:fp32"]}
    (row,) = infer.benchmark_step("vaa_resnet18_w16_synthetic", 64, 2, **options)["rows"]
    assert set(row) >= KEYS and row["file_mb"] is None and row["ratio_to_mxnet"] == 1


def installed(name):
    return importlib.util.find_spec(name) is not None


@pytest.mark.nightly
def test_a_run_of_the_tool(tmp_path, repository):
    """Few engines and very short turns; the export that was made is kept and used again."""
    command = [
        *(sys.executable, repository / "tools" / "benchmark.py", "infer", "--model", MODEL),
        *("--batch-size", 2, "--size", 64, "--rounds", 2, "--seconds", 0.02, "--threads", 1),
        *("--engines", "mxnet-fused", "onnxruntime:fp32", "openvino:bf16"),
        *("--json", tmp_path / "rows.json", "--out", tmp_path / "out"),
        *("--export", tmp_path / "export"),
    ]
    code, out, err = execute([str(word) for word in command])
    assert code == 0, out + err
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    wanted = [("mxnet", "fp32"), ("mxnet-fused", "fp32")]
    wanted += [("onnxruntime", "fp32")] if installed("onnxruntime") and installed("onnx") else []
    found = [(r["engine"], r["precision"]) for r in rows if r["engine"] != "openvino"]
    assert found == wanted
    for row in rows:
        assert set(row) >= KEYS
        assert row["spread"][0] <= row["images_per_s"] <= row["spread"][1]
        assert 0 < row["p50_ms"] <= row["p95_ms"] and row["peak_mb"] > 20 and row["load_s"] > 0
        assert row["engine"] == "openvino" or row["correlation"] > 0.9999
    lines = out.strip().splitlines()
    assert lines[0].startswith(f"{MODEL}, 64 px, 1 thread(s)") and lines[2].startswith("| engine")
    measured = any("| openvino" in line for line in lines)
    assert measured or "left out: openvino bf16: " in err
    assert "round 2/2" in err and "Traceback" not in err
    folder = tmp_path / "export"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    options = {"rounds": 1, "seconds": 0.01, "threads": 1, "only": ["mxnet-export:fp32"]}
    result = infer.benchmark_inference(MODEL, export=folder, **options)
    assert result["size"] == 64  # the export's, not the model's
    assert [row["engine"] for row in result["rows"]] == ["mxnet", "mxnet-export"]
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    with pytest.raises(ValueError, match="64x64 px, asked for are 96"):
        infer.benchmark_inference(MODEL, 96, export=folder)
