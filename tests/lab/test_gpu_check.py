"""The check on a GPU, with the CPU in its place: order, numbers, times, what is left out."""

from __future__ import annotations

import contextlib
import json
import os
import types
from pathlib import Path

import numpy as np
import pytest

from gluon_attn.env import gpu
from gluon_attn.env.gpu import Gpu
from model_zoo import list_models
from model_zoo.registry import MODELS
from tools.bench import gpu_check, turns
from tools.bench.gpu_check import Item, Settings

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

MODEL = "resnet18_w16_synthetic"


class Here:
    """In the place of a process of the benchmark: does its job in this one."""

    def __init__(self, job):
        self.failure = self.facts = None
        try:
            self._call, self.facts = job.opener(*job.arguments)
        except (ImportError, ValueError) as error:
            self.failure = str(error)

    def turn(self, seconds):
        try:
            self._call()
        except KeyError as error:  # stands for one that ends the process
            self.failure = f"its process has died ({error})"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setattr(turns, "Process", Here)


def check(folder, *more):
    words = f"--exports {folder} --models {MODEL} --size 32 --batch-size 1 3 --ctx cpu --seconds 0"
    gpu_check.main([*words.split(), "--json", str(folder / "o.json"), *more])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What --prepare leaves."""
    folder = tmp_path_factory.mktemp("check")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "Process", Here)
        check(folder, "--prepare")
    return folder


@pytest.fixture
def torch(monkeypatch, folder):
    """A package that computes what the CPU's reference says; it notes what is asked of it."""
    fake = types.ModuleType("torch")
    fake.float16, fake.bfloat16, fake.channels_last = np.float16, "bfloat16", "channels last"
    fake.notes = []

    class Tensor:
        def __init__(self, array):
            self.array = np.asarray(array)

        def to(self, *device, dtype=None, memory_format=None):
            fake.notes.append(device or (dtype, memory_format))
            return self

        float = cpu = lambda self: self

        def numpy(self):
            return self.array

    with np.load(folder / f"{MODEL}.npz") as arrays:
        _, logits = arrays.values()

    class Net(Tensor):
        def __call__(self, images):
            return Tensor(np.resize(logits, (len(images.array), logits.shape[1])) + 1e-3), None

        eval = lambda self: self  # noqa: E731
        load_state_dict = lambda self, values: None  # noqa: E731

    fake.from_numpy, fake.load = Tensor, lambda *_, **__: {}
    fake.inference_mode = contextlib.nullcontext
    fake.backends = types.SimpleNamespace(cudnn=types.SimpleNamespace())
    fake.cuda = types.SimpleNamespace(
        synchronize=lambda: fake.notes.append("wait"),
        empty_cache=lambda: fake.notes.append("empty"),
    )
    fake.compile = lambda net, **how: fake.notes.append(how) or net
    monkeypatch.setattr(gpu_check.engines, "import_library", lambda name: fake)
    monkeypatch.setattr("tools.bench.torch_nets.build", lambda **arguments: Net(0))
    monkeypatch.setitem(gpu_check.sys.modules, "torch", fake)
    (folder / f"{MODEL}.pt").touch()
    (folder / f"{MODEL}-torch.json").write_text("{}")
    yield fake
    (folder / f"{MODEL}.pt").unlink()


def test_a_net_of_every_family():
    def marks(name):
        factory = MODELS.get(name)
        options = {key: p.default for key, p in factory.__signature__.parameters.items()}
        attention = str(options.get("attention")).partition(":")[0]
        kinds = ("vaa", "reid", "cifar", "wide_", "vgg")
        paper = next((kind for kind in kinds if name.startswith(kind)), "")
        return paper, attention, options.get("variant"), "efficientnet" in name

    other = ("ssd", "faster_rcnn", "simple_pose", "autola_search")  # exported otherwise or not
    every = [marks(name) for name in list_models() if not name.startswith(other)]
    for found, wanted in zip(zip(*map(marks, gpu_check.MODELS)), zip(*every)):
        assert set(found) == set(wanted)  # each mark by itself


def test_order_is_numbers_of_all_nets_then_rivals_of_the_first():
    items = gpu_check.plan(["a", "b"])
    assert [item for item in items if item.model == "b"] == [
        Item("b", "onnxruntime-fp16"), Item("b", "onnxruntime")
    ]  # fmt: skip
    assert items[4] == Item("a", "torch-fp16") and len(set(items)) == len(items)
    kinds = {item.engine: (item.library, item.precision) for item in items}
    assert kinds["torch-compile-bf16"] == ("torch", "bf16")
    assert kinds["tensorrt-fp16"] == ("onnxruntime", "fp16") and kinds["mxnet"] == ("mxnet", "fp32")


def test_a_whole_run_on_the_cpu(folder, torch, capsys):
    check(folder)
    result = json.loads((folder / "o.json").read_text())
    rows = {(row["engine"], row["batch"]): row for row in result["rows"]}
    engines = {"onnxruntime", "onnxruntime-fp16", "mxnet", "torch-fp16", "torch-bf16",
               "torch-compile-fp16", "torch-compile-bf16"}  # fmt: skip
    assert set(rows) == {(name, count) for name in engines for count in (1, 3)}
    for row in rows.values():
        assert row["right"] and row["images_per_s"] > 0 and row["with_copies"] > 0
        assert row["memory_mb"] >= 0
    assert rows["mxnet", 1]["difference"] == 0 and rows["onnxruntime", 1]["difference"] < 1e-5
    assert 0 < rows["onnxruntime-fp16", 1]["difference"] < 0.01
    ratio = rows["onnxruntime-fp16", 3]["images_per_s"] / rows["torch-compile-fp16", 3][
        "images_per_s"]  # fmt: skip
    assert rows["onnxruntime-fp16", 3]["ratio"] == ratio and rows["mxnet", 1]["ratio"] is None
    assert {key.split()[1] for key in result["left_out"]} == {
        "tensorrt-fp16", "tensorrt", "mxnet-fp16"
    }  # fmt: skip
    assert result["device"] == "cpu" and result["machine"]["versions"]["mxnet"]
    out = capsys.readouterr().out
    assert out.count(f"| {MODEL} ") == len(rows) and "x torch-compile" in out
    assert (np.float16, "channels last") in torch.notes and ("cpu",) in torch.notes
    assert {"dynamic": False, "mode": "default"} in torch.notes


def test_wrong_numbers_are_marked_and_the_exit_code_says_so(folder, monkeypatch, capsys):
    monkeypatch.setitem(gpu_check.LIMITS, "fp16", 1e-9)
    monkeypatch.setattr(gpu_check, "RIVALS", ())
    with pytest.raises(SystemExit, match="wrong numbers: onnxruntime-fp16$"):
        check(folder)
    assert capsys.readouterr().out.count("WRONG") == 2


def test_without_time_nothing_is_begun(folder, capsys):
    with pytest.raises(SystemExit, match="nothing was measured"):
        check(folder, "--minutes", "0")
    left_out = json.loads((folder / "o.json").read_text())["left_out"]
    assert set(left_out.values()) == {"no time was left; give --minutes"}
    settings = Settings(str(folder), "cpu", (1, 3), 0, deadline=0)
    found = {}
    gpu_check.measure(Item(MODEL, "mxnet"), settings, 0, found)
    assert found["speeds"] == [] and found["error"] == "no time from batch 1 on"


def test_an_engine_that_ends_its_process_costs_nobody_else(folder, monkeypatch):
    def measure(item, settings, before, found):
        found.update(difference=0.0, speeds=[{"batch": 1}])
        if item.model == "bad":
            raise SystemError("out of memory\nmore")

    def dying(items, *arguments):
        call, facts = open_worker(items, *arguments)

        def die_or_call():
            if items[0].model == "dead":
                raise KeyError("-11")
            call()

        return die_or_call, facts

    open_worker = gpu_check.open_worker
    monkeypatch.setattr(gpu_check, "measure", measure)
    monkeypatch.setattr(gpu_check, "open_worker", dying)
    items = [Item(name, "mxnet") for name in ("dead", "bad", "good")]
    found = list(gpu_check.measure_all(items, Settings(str(folder), "cpu", (1,), 0, 1e12)))
    assert [entry["model"] for entry in found] == ["dead", "bad", "good"]
    assert "has died" in found[0]["error"] and found[1]["error"] == "out of memory"
    assert found[1]["speeds"] == [{"batch": 1}]  # what was measured before is kept
    assert "error" not in found[2]


def test_outputs_of_an_older_export_are_made_again(folder):
    assert gpu_check.is_prepared(MODEL, str(folder))
    assert not gpu_check.is_prepared("other", str(folder))
    outputs = folder / f"{MODEL}.npz"
    times = outputs.stat()
    os.utime(outputs, (times.st_atime, times.st_mtime - 1e4))
    assert not gpu_check.is_prepared(MODEL, str(folder))
    os.utime(outputs, (times.st_atime, times.st_mtime))


def test_models_that_cannot_be_prepared(tmp_path, capsys):
    with pytest.raises(SystemExit, match="nothing was measured"):
        gpu_check.main(["--exports", str(tmp_path), "--models", "no_net", "--prepare"])
    assert "no_net left out: " in capsys.readouterr().err


# -- what only a GPU does -------------------------------------------------------------------------


@pytest.fixture
def cards(monkeypatch):
    """Two GPUs, of which CUDA sees the second."""
    found = [Gpu(0, "A", (7, 0)), Gpu(1, "NVIDIA B", (9, 0))]
    monkeypatch.setattr(gpu, "list_gpus", lambda: found)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")

    def run(command, **options):
        assert command[:2] == ["nvidia-smi", "--query-gpu=memory.used"] and command[-1] == "1"
        return types.SimpleNamespace(stdout="1234\n")

    monkeypatch.setattr(gpu_check.subprocess, "run", run)


def test_memory_and_name_are_those_of_the_gpu_that_cuda_sees(cards):
    assert gpu_check.memory_mb("gpu:0") == 1234 and gpu_check.gpu_of("gpu").name == "NVIDIA B"
    with pytest.raises(ValueError, match="gpu:1: 1 GPUs here; --ctx cpu tries the script"):
        gpu_check.main(["--ctx", "gpu:1"])


def test_pytorch_on_a_gpu_waits_and_gives_memory_back(cards, torch, folder):
    settings = Settings(str(folder), "gpu:0", (2,), 0, 1e12)
    item = Item(MODEL, "torch-compile-bf16")
    call, _ = gpu_check.open_worker([item], settings, str(folder / "lines"))
    call(), call()  # fmt: skip
    (found,) = map(json.loads, (folder / "lines").read_text().splitlines())
    assert found["difference"] < 0.1 and found["speeds"][0]["memory_mb"] == 0
    assert ("cuda:0",) in torch.notes and ("bfloat16", "channels last") in torch.notes
    assert "wait" in torch.notes and torch.notes[-1] == "empty"
    assert {"dynamic": False, "mode": "reduce-overhead"} in torch.notes


def test_tensorrt_builds_for_all_batch_sizes_first(folder, monkeypatch):
    sizes = []

    class Engine:
        def put(self, batch):
            sizes.append(len(batch))

        def compute(self):
            pass

        def fetch(self):
            with np.load(Path(folder, f"{MODEL}.npz")) as arrays:
                return list(arrays.values())[1:]

    monkeypatch.setattr(gpu_check, "open_item", lambda *_: Engine())
    settings = Settings(str(folder), "cpu", (1, 4, 2), 0, 1e12)
    found = {}
    gpu_check.measure(Item(MODEL, "tensorrt"), settings, 0, found)
    assert sizes[:3] == [4, 1, gpu_check.IMAGES] and found["difference"] == 0


@pytest.mark.nightly
def test_processes_of_its_own(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(gpu_check, "RIVALS", ("mxnet",))
    check(tmp_path)
    rows = json.loads((tmp_path / "o.json").read_text())["rows"]
    assert {row["engine"] for row in rows} == {"onnxruntime", "onnxruntime-fp16", "mxnet"}
