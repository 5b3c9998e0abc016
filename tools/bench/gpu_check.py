"""Check exports on a GPU in a few minutes: are the numbers right, and how fast is it?

    python tools/bench/gpu_check.py --exports exports/check --prepare     # anywhere, needs no GPU
    python tools/bench/gpu_check.py --exports exports/check --json gpu.json

Each zoo net is exported with random weights, ONNX and float16 ONNX (an export that is there, DIR/
MODEL, is taken). On the GPU its outputs are compared with those of MXNet on the CPU, and its speed
is measured with host copies (NumPy to NumPy) and without (images and outputs stay on the device),
for ONNX Runtime with CUDA and TensorRT, MXNet (Maxwell to Ada), and PyTorch with channels last,
eager and compiled. --ctx cpu tries the script itself. Exit code 1: a number is wrong.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Sequence

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from gluon_attn.cli import common as cli
from gluon_attn.core.errors import first_line
from gluon_attn.core.files import json_text, write_json
from gluon_attn.core.text import read_json
from gluon_attn.train.log import read_json_lines
from tools.bench import engines, turns

# One net of every family; the first is also compared with PyTorch.
MODELS = (
    "vaa_resnet50_v1b_wider", "vaa_resnet101_wider", "resnet50_wider", "se_resnet50",
    "cbam_resnet50", "eca_resnet50", "srm_resnet50", "hoga_resnet50", "reid_resnet50_market",
    "vaa_resnet101_released_wider", "vgg16_bn", "wide_resnet50_2", "efficientnet_lite0",
    "vaa_efficientnet_lite0", "cifar_resnet20_cifar10",
)  # fmt: skip
OURS = ("onnxruntime-fp16", "onnxruntime")
RIVALS = (
    "torch-fp16", "torch-compile-fp16", "tensorrt-fp16", "torch-bf16", "torch-compile-bf16",
    "mxnet-fp16", "mxnet", "tensorrt",
)  # fmt: skip
LIMITS = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.1}  # of max(1, |output|)
TINY = 1e-9  # seconds of a turn: one item
IMAGES = 2  # that are compared


class Item(NamedTuple):
    """One net in one engine."""

    model: str
    engine: str  # a backend of gluon_attn.export, or one of PyTorch

    @property
    def library(self) -> str:
        """Return which process it may share: CUDA versions of two libraries do not mix."""
        name = self.engine.split("-")[0]
        return "onnxruntime" if name == "tensorrt" else name

    @property
    def precision(self) -> str:
        last = self.engine.split("-")[-1]
        return last if last in LIMITS else "fp32"


class Settings(NamedTuple):
    """What the processes must know."""

    folder: str  # of the exports
    ctx: str
    batches: tuple[int, ...]
    seconds: float  # of one measurement
    deadline: float  # in seconds since the epoch


def flags() -> Any:
    """Return the command's flags."""
    parser = cli.parser(__doc__)
    parser.add_argument("--exports", metavar="DIR", help="exports, kept; default: not kept")
    parser.add_argument("--prepare", action="store_true", help="only make them")
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="zoo models")
    parser.add_argument("--size", type=int, help="input side in pixels; default: the model's")
    parser.add_argument("--ctx", default="gpu:0", help="default: gpu:0")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8, 32, 128], metavar="B")
    parser.add_argument("--seconds", type=float, default=0.2, help="per measurement; default: 0.2")
    parser.add_argument(
        "--minutes", type=float, default=3.5, help="after which nothing is begun; default: 3.5"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures here")
    return parser


def plan(models: Sequence[str]) -> list[Item]:
    """Return what to measure, the most telling first: the clock may end it early."""
    first = [Item(models[0], engine) for engine in RIVALS]
    return [Item(model, engine) for model in models for engine in OURS] + first


# -- preparations ---------------------------------------------------------------------------------


def prepare(model: str, folder: str, size: int | None) -> tuple[None, str]:
    """Make an export if there is none, its outputs on the CPU and PyTorch's weights."""
    from gluon_attn.export.backends import BACKENDS
    from gluon_attn.export.onnx import OnnxVariant
    from gluon_attn.export.sidecar import read_sidecar
    from gluon_attn.export.writer import add_variants
    from tools.bench.infer import describe_network

    directory = Path(folder, model)
    spec = describe_network(model, size, directory)
    spec.update(folder=folder, export=str(directory))
    spec["products"] = {"export": engines.make_export(spec)}
    if "onnx_fp16" not in read_sidecar(directory)["files"]:
        add_variants(directory, [OnnxVariant(half=True)])
    images = engines.random_images(IMAGES, spec["arguments"]["input_size"])
    outputs = BACKENDS["mxnet"].make(directory).run(images)
    np.savez(Path(folder, f"{model}.npz"), images, *outputs)
    try:
        Path(engines.save_for_torch(spec)[0]).replace(Path(folder, f"{model}.pt"))
        write_json(Path(folder, f"{model}-torch.json"), spec["arguments"])
    except (ImportError, ValueError) as error:  # not installed, or a net that it has not
        return None, first_line(error)
    return None, ""


def is_prepared(model: str, folder: str) -> bool:
    """Return whether the outputs are there, and of no older export."""
    outputs, export = Path(folder, f"{model}.npz"), Path(folder, model)
    if not outputs.exists() or not export.exists():
        return False
    return outputs.stat().st_mtime >= max(path.stat().st_mtime for path in export.iterdir())


# -- the other processes --------------------------------------------------------------------------


class TorchEngine:
    """The same net in PyTorch, in three steps as :class:`~gluon_attn.export.backends.StagedEngine`.

    Channels are innermost; compiled for each batch size by itself, and with CUDA graphs on a GPU.
    """

    def __init__(
        self, folder: str, model: str, ctx: str, *, precision: str, compiled: bool
    ) -> None:
        from tools.bench import torch_nets

        torch = engines.import_library("torch")
        path = Path(folder, f"{model}.pt")
        if not path.exists():
            raise ValueError(
                f"{path} is missing: a net that is not written for PyTorch, or this was not "
                f"installed when {path.stem}.npz was made: delete that"
            )
        on_gpu = ctx.startswith("gpu")
        self._device = ctx.replace("gpu", "cuda")
        self._wait = torch.cuda.synchronize if on_gpu else lambda: None
        self._torch, torch.backends.cudnn.benchmark = torch, True
        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        self._form = {"dtype": dtype, "memory_format": torch.channels_last}
        net = torch_nets.build(**read_json(Path(folder, f"{model}-torch.json")))
        net.load_state_dict(torch.load(str(path), weights_only=True))
        net = net.eval().to(self._device).to(**self._form)
        mode = "reduce-overhead" if on_gpu else "default"
        self._net = torch.compile(net, dynamic=False, mode=mode) if compiled else net

    def put(self, batch: np.ndarray) -> None:
        self._images = self._torch.from_numpy(batch).to(self._device).to(**self._form)
        self._wait()

    def compute(self) -> None:
        with self._torch.inference_mode():
            outputs = self._net(self._images)
            self._logits = (outputs[0] if isinstance(outputs, tuple) else outputs).float()
        self._wait()

    def fetch(self) -> list[np.ndarray]:
        return [self._logits.cpu().numpy()]


def open_item(item: Item, settings: Settings) -> Any:
    if item.library == "torch":
        how = {"precision": item.precision, "compiled": "compile" in item.engine}
        return TorchEngine(settings.folder, item.model, settings.ctx, **how)
    from gluon_attn.export.backends import BACKENDS

    return BACKENDS[item.engine].make(Path(settings.folder, item.model), ctx=settings.ctx)


def open_worker(items: Sequence[Item], settings: Settings, results: str) -> tuple[Callable, None]:
    """Return a function that measures the next item and adds it to a file of JSON lines."""
    before, todo = memory_mb(settings.ctx), iter(items)

    def call() -> None:
        item = next(todo, None)
        if item is None:
            return
        found: dict[str, Any] = {"model": item.model, "engine": item.engine}
        try:
            measure(item, settings, before, found)
        # Whatever an engine raises, the others go on; the reason is shown.
        except Exception as error:
            found["error"] = first_line(error)
        gc.collect()
        if item.library == "torch" and settings.ctx != "cpu":
            sys.modules["torch"].cuda.empty_cache()
        with open(results, "a", encoding="utf-8") as file:
            file.write(json_text(found, None))

    return call, None


def measure(item: Item, settings: Settings, before: float, found: dict[str, Any]) -> None:
    """Compare and time one item; enter ``difference`` and ``speeds``, a row per batch size.

    ``memory_mb`` is what the process holds of the device after that batch, the libraries' own
    share included; both kinds of engine keep what they took, so it is the peak of all so far.
    """
    with np.load(Path(settings.folder, f"{item.model}.npz")) as arrays:
        images, *expected = arrays.values()
    engine, side = open_item(item, settings), images.shape[-1]

    def run(batch: np.ndarray) -> list[np.ndarray]:
        engine.put(batch)
        engine.compute()
        return list(engine.fetch())

    if "tensorrt" in item.engine:  # it builds again for each batch outside of what it has seen
        for count in (max(settings.batches), 1):
            run(engines.random_images(count, side))
    scaled = [
        np.abs(ours - right) / np.maximum(1, np.abs(right))
        for ours, right in zip(run(images), expected)
    ]
    found.update(difference=float(np.max([values.max() for values in scaled])), speeds=[])
    for count in settings.batches:
        if time.time() > settings.deadline:
            found["error"] = f"no time from batch {count} on"
            break
        batch = engines.random_images(count, side)
        with_copies = rate(lambda batch=batch: run(batch), count, settings.seconds)
        row = {"batch": count, "with_copies": with_copies}
        row["images_per_s"] = rate(engine.compute, count, settings.seconds)
        row["memory_mb"] = memory_mb(settings.ctx) - before
        found["speeds"].append(row)


def rate(call: Callable[[], Any], count: int, seconds: float) -> float:
    """Return images per second, by the median time of a call after two that are not counted."""
    call()
    call()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return count / statistics.median(times)


def memory_mb(ctx: str) -> float:
    """Return the used memory of a GPU, by all processes, or the peak of this process, in MB."""
    if ctx == "cpu":
        return turns.peak_memory_mb()
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    index = gpu_of(ctx).index
    done = subprocess.run([*query, "-i", str(index)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def gpu_of(ctx: str) -> Any:
    """Return the :class:`gluon_attn.env.gpu.Gpu` of a context; a ValueError if it is not there."""
    from gluon_attn.env.gpu import list_gpus, visible
    from gluon_attn.export.backends import parse_device

    found, number = visible(list_gpus() or []), parse_device(ctx)[1]
    if number >= len(found):
        raise ValueError(f"{ctx}: {len(found)} GPUs here; --ctx cpu tries the script without one")
    return found[number]


# -- this process ---------------------------------------------------------------------------------


def measure_all(items: Sequence[Item], settings: Settings) -> Iterator[dict]:
    """Yield what :func:`measure` found, or an ``error``, of every item.

    Items of one library in a row share a process. If that dies, the next item gets a new one.
    """
    for _, group in itertools.groupby(items, key=lambda item: item.library):
        todo = list(group)
        while todo and time.time() < settings.deadline:
            with tempfile.TemporaryDirectory() as folder:
                results, seen = Path(folder, "results"), 0
                results.touch()
                job = turns.Job(
                    todo[0].library, "", open_worker, (tuple(todo), settings, str(results))
                )
                with turns.Process(job) as process:
                    while todo and process.failure is None and time.time() < settings.deadline:
                        process.turn(TINY)
                        records = read_json_lines(str(results))
                        for record in records[seen:]:
                            todo.pop(0)
                            yield record
                        seen = len(records)
                    if process.failure is not None and todo:
                        yield {**todo.pop(0)._asdict(), "error": process.failure}
        for item in todo:
            yield {**item._asdict(), "error": "no time was left; give --minutes"}


def is_right(entry: dict[str, Any]) -> bool:
    """Return whether the outputs of :func:`measure` are the CPU's, as far as it got to know."""
    item = Item(entry["model"], entry["engine"])
    return entry.get("difference", 0.0) <= LIMITS[item.precision]  # NaN is not


def rows_of(found: Sequence[dict]) -> list[dict]:
    """Return a row per net, engine and batch size, with its ratio to compiled PyTorch."""
    rows = []
    for entry in found:
        item = Item(entry["model"], entry["engine"])
        for speed in entry.get("speeds", ()):
            rows.append({**item._asdict(), "precision": item.precision, **speed})
            rows[-1].update(difference=entry["difference"], right=is_right(entry))
    for row in rows:
        rival = f"torch-compile-{row['precision']}"
        place = (row["model"], rival, row["batch"])
        others = [r for r in rows if (r["model"], r["engine"], r["batch"]) == place]
        row["ratio"] = row["images_per_s"] / others[0]["images_per_s"] if others else None
    return rows


def table(rows: Sequence[dict]) -> str:
    """Return rows as a Markdown table."""
    from tabulate import tabulate

    heads = ("model", "engine", "batch", "images/s", "with copies", "x torch-compile",
             "memory MB", "difference")  # fmt: skip
    lines = [
        (r["model"], r["engine"], r["batch"], f"{r['images_per_s']:.1f}", f"{r['with_copies']:.1f}",
         "-" if r["ratio"] is None else f"{r['ratio']:.2f}", f"{r['memory_mb']:.0f}",
         f"{r['difference']:.1e}{'' if r['right'] else ' WRONG'}")
        for r in rows
    ]  # fmt: skip
    return tabulate(lines, heads, tablefmt="github", disable_numparse=True)


def report(line: str) -> None:
    """Show progress."""
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare, measure, print and write; exit code 1 if a number is wrong."""
    args = cli.parse(flags(), arguments)
    device = "cpu" if args.ctx == "cpu" or args.prepare else str(gpu_of(args.ctx))
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as temporary:
        folder = args.exports or temporary
        Path(folder).mkdir(parents=True, exist_ok=True)
        unusable = {}
        for model in args.models:
            if is_prepared(model, folder):
                continue
            report(f"preparing {model}")
            with turns.Process(turns.Job(model, "", prepare, (model, folder, args.size))) as made:
                if made.failure is not None:
                    unusable[model] = made.failure
                    report(f"{model} left out: {made.failure}")
                elif made.facts:
                    report(f"{model} without PyTorch: {made.facts}")
        models = [model for model in args.models if model not in unusable]
        started = time.time()
        settings = Settings(
            folder, args.ctx, tuple(args.batch_size), args.seconds, started + 60 * args.minutes
        )
        found = []
        for entry in measure_all([] if args.prepare or not models else plan(models), settings):
            found.append(entry)
            report(f"{entry['model']} {entry['engine']}: {entry.get('error', 'measured')}")
    seconds, rows = time.time() - started, rows_of(found)
    left_out = {**unusable, **{f"{e['model']} {e['engine']}": e["error"]
                               for e in found if "error" in e}}  # fmt: skip
    result = {"device": device, "seconds": seconds, "rows": rows, "left_out": left_out}
    wrong = sorted({e["engine"] for e in found if not is_right(e)})
    try:
        if args.json:
            write_json(args.json, dict(result, machine=turns.machine()))
    finally:  # what took long to measure is shown even where it cannot be written
        if rows:
            print(f"{device}, {seconds:.0f} s\n\n{table(rows)}")
    if wrong or (not rows and not args.prepare) or (args.prepare and unusable):
        raise SystemExit(f"wrong numbers: {', '.join(wrong)}" if wrong else "nothing was measured")


if __name__ == "__main__":
    cli.run(main)
