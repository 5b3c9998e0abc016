"""Speed and memory of training steps against each other, as ratios measured in one run.

A comparison has variants, the first of which is the reference. Each lives in a process of its own
(peak memory is the process's), and the processes are interleaved, so that a busy moment of the
machine hits all of them. A ratio is the variant's time over the reference's, round by round.
"""

from __future__ import annotations

import statistics
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np

from tools.bench.turns import (
    Job,
    default_threads,
    machine,
    ratio_by_turns,
    spread_text,
    take_turns,
    thread_variables,
)

SAMPLE = 1  # modules per step of DREAL's variant "sampled"
ICASC = {
    "plain": {},
    "constant A_ch": {"gradient": "constant", "attention": "channel_weighted"},
    "constant Grad-CAM": {"gradient": "constant", "attention": "grad_cam"},
    "exact A_ch": {"gradient": "exact", "attention": "channel_weighted"},
    "exact Grad-CAM": {"gradient": "exact", "attention": "grad_cam"},
}
Step = Callable[[], Any]


class Comparison(NamedTuple):
    """Training steps that are measured against each other.

    Attributes:
        variants: ``{name: what it is}``, the reference first.
        open: ``(variant, model, size, batch) -> (call, steps of a call)``.
        times: Head of the column of ratios.
        check: Refuses a model or a batch size, with a ValueError.
    """

    variants: dict[str, str]
    open: Callable[[str, str, int, int], Any]
    times: str
    check: Callable[[str, int], None] = lambda model, batch: None


def measure(
    name: str,
    model: str,
    size: int,
    batch: int,
    *,
    rounds: int = 5,
    threads: int | None = None,
    only: Sequence[str] = (),
    seconds: float = 4.0,
    report: Callable[[str], Any] = lambda line: None,
) -> dict:
    """Measure the variants of a comparison in turns, a process each.

    Args:
        name: Of ``COMPARISONS``.
        model: Zoo name.
        size: Input side in pixels.
        batch: Images per step.
        rounds: Turns of each; a turn is as many calls as fit into ``seconds``, at least one.
        threads: Compute threads; None means one per core.
        only: Variants; the reference is measured in any case, all are by default.
        report: Called with a line of text now and then.

    Returns:
        ``{"variants": {name: {what, seconds, images_per_second, turns, peak_memory_mb, ratio:
        {median, lowest, highest}}}, "left_out": {name: reason}, "machine": …}`` and the arguments.

    Raises:
        ValueError: Unknown variant, or a number out of range.
        OSError: The reference does not run.
    """
    comparison = COMPARISONS[name]
    if min(size, batch, rounds) < 1 or seconds <= 0:
        raise ValueError(f"size={size}, batch={batch}, rounds={rounds}, seconds={seconds}")
    for variant in only:
        if variant not in comparison.variants:
            raise ValueError(f"variant {variant!r}: valid are {', '.join(comparison.variants)}")
    comparison.check(model, batch)
    first = next(iter(comparison.variants))
    chosen = [v for v in comparison.variants if v == first or not only or v in only]
    threads = threads or default_threads()
    jobs = [Job(v, "", _open, (name, v, model, size, batch)) for v in chosen]
    with thread_variables(threads):
        measured, left_out = take_turns(jobs, rounds, seconds, model, report)
    base, variants = measured[0].facts["steps"], {}
    for item in measured:
        turns = [statistics.mean(turn) / item.facts["steps"] for turn in item.turns]
        against = [statistics.mean(turn) / base for turn in item.against]
        variants[item.job.engine] = {
            "what": comparison.variants[item.job.engine],
            "seconds": statistics.median(turns),
            "images_per_second": batch / statistics.median(turns),
            "turns": turns,
            "peak_memory_mb": item.peak_mb,
            "ratio": ratio_by_turns(turns, against),
        }
    arguments = {"model": model, "size": size, "batch": batch, "rounds": rounds}
    return dict(arguments, variants=variants, left_out=left_out, threads=threads, machine=machine())


def table(name: str, result: dict) -> str:
    """Return the figures of a comparison as a Markdown table."""
    from tabulate import tabulate

    rows = []
    first = next(iter(result["variants"]))
    for variant, values in result["variants"].items():
        ratio = "1" if variant == first else spread_text(values["ratio"])
        speed = f"{values['seconds']:.3f}", f"{values['images_per_second']:.2f}"
        rows.append([variant, *speed, ratio, f"{values['peak_memory_mb']:.0f}"])
    times = COMPARISONS[name].times
    head = ["step", "seconds (median)", "img/s (median)", times, "peak memory MB"]
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)


def _open(name: str, variant: str, model: str, size: int, batch: int) -> tuple[Step, dict]:
    """Open a variant in its process, and make two calls."""
    call, steps = COMPARISONS[name].open(variant, model, size, batch)
    for _ in range(2):  # memory is planned in the first, momentum exists from the second on
        call()
    return call, {"steps": steps}


# ------------------------------------------------------------------------------------ pieces


def new_net(model: str, static: bool = True, **options: Any) -> Any:
    """Return an initialised zoo net."""
    import gluon_attn  # noqa: F401  (prepares the environment before MXNet loads)
    from gluon_attn.nets.init import xavier
    from gluon_attn.runtime import seed_everything
    from gluon_attn.train import use_static_graph
    from model_zoo import get_model

    seed_everything(0)
    net = get_model(model, **options)
    net.initialize(xavier())
    if static:
        use_static_graph(net)
    return net


def random_batch(
    rng: np.random.Generator, classes: int, size: int, rows: int, *, single: bool
) -> Any:
    """Return a Batch of noise, with one class an image (``single``) or 30 % of all."""
    import mxnet as mx

    from gluon_attn.core.batch import Batch

    label = np.eye(classes)[rng.integers(classes, size=rows)]
    label = label if single else rng.random((rows, classes)) < 0.3
    arrays = rng.normal(size=(rows, 3, size, size)), label, np.ones_like(label)
    image, label, mask = (mx.nd.array(np.asarray(a, np.float32)) for a in arrays)
    return Batch(image, label, mask, np.arange(rows))


def new_method(
    name: str,
    net: Any,
    single: bool,
    lr: float = 1e-4,
    *,
    options: dict | None = None,
    amp: str = "none",
) -> Any:
    """Return a training method at the beginning of its first epoch."""
    import mxnet as mx

    from gluon_attn.core.schema import Attribute, Schema
    from gluon_attn.method import METHODS, Optimization, Task

    names = tuple(f"class{k}" for k in range(net.classes))
    schema = Schema([Attribute("class", "multiclass", names)]) if single else None
    prior = np.full(len(names), 1 / len(names) if single else 0.3)
    task = Task(schema.columns if schema else names, 100, prior, schema)
    params = {"momentum": 0.9, "wd": 5e-4, "learning_rate": lr}
    optimization = Optimization("sgd", params, amp=amp)
    method = METHODS.get(name)(net, [mx.cpu()], task, optimization, options=options)
    method.begin_epoch(0)
    return method


def finished(step: Step, times: int = 1) -> Step:
    """Return a function that makes steps and waits for the device."""

    def call() -> None:
        import mxnet as mx

        for _ in range(times):
            step()
        mx.nd.waitall()

    return call


# --------------------------------------------------------------------------------- comparisons


def _open_vaa(variant: str, model: str, size: int, batch: int) -> tuple[Step, int]:
    net = new_net(model, variant == "static", input_size=size)
    data = random_batch(np.random.default_rng(0), net.classes, size, batch, single=False)
    if variant == "separate":
        return finished(_separate_step(net, data)), 1
    method = new_method("vaa", net, False, options={"phase1_epochs": 0})
    return finished(lambda: method.train_step(data)), 1


def _separate_step(net: Any, data: Any) -> Step:
    """Return one step with the structure of the released repository."""
    from mxnet import autograd, gluon

    from gluon_attn.losses.classification import MaskedBCELoss

    net.backbone.hybridize()
    modules = list(net.heads.attention)
    bce = MaskedBCELoss()
    params = {"momentum": 0.9, "wd": 5e-4, "learning_rate": 1e-4}
    parts = [net.backbone]
    for module in modules:
        parts += [module.mask, module.confidence, module.classifier]
    trainers = [gluon.Trainer(p.collect_params(), "sgd", dict(params)) for p in parts]

    def step() -> None:
        with autograd.record():
            logits, *activations = net.backbone(data.image)
            every = [logits] + [m(x)[0] for m, x in zip(modules, activations)]
            loss = sum(bce(z, data.label, data.mask) for z in every)
        loss.backward()
        for trainer in trainers:
            trainer.step(len(data.index))
        loss.mean().asscalar()
        (sum(every) / len(every)).sigmoid().asnumpy()

    return step


def _open_awmt(variant: str, model: str, size: int, batch: int) -> tuple[Step, int]:
    """Open a step in which half of the images validate (AWMT), or all train (basic).

    The weights are computed in every second step, which the paper does in every 200th, so the
    read-back from the device is counted too often rather than too seldom.
    """
    net = new_net(model, static=False, input_size=size, classes=40)
    adaptive, half = variant == "awmt", batch // 2
    options = {"adaptive": adaptive, "window": 2, "val_batch_size": half}
    # lr 0: random weights under frozen statistics would diverge; the work is the same
    method = new_method("awmt", net, False, 0.0, options=options)
    rng = np.random.default_rng(0)
    rows = [half, half] if adaptive else [batch]
    batches = [random_batch(rng, 40, size, count, single=False) for count in rows]
    return finished(lambda: method.train_step(*batches), 2), 2


def _check_awmt(model: str, batch: int) -> None:
    if batch % 2:
        raise ValueError(f"{batch} images a step: must be even, as half of them validate")


def _open_icasc(variant: str, model: str, size: int, batch: int) -> tuple[Step, int]:
    net = new_net(model, input_size=size, classes=100)
    data = random_batch(np.random.default_rng(0), 100, size, batch, single=True)
    options = ICASC[variant]
    method = new_method("icasc" if options else "baseline", net, True, options=options)
    return finished(lambda: method.train_step(data)), 1


def _open_dreal(variant: str, model: str, size: int, batch: int) -> tuple[Step, int]:
    from gluon_attn.papers.dreal import method as dreal

    net = new_net(model, input_size=size)
    data = random_batch(np.random.default_rng(0), net.classes, size, batch, single=True)
    options = {"sample": SAMPLE} if variant == "sampled" else {}
    method = new_method(
        "baseline" if variant == "plain" else "dreal", net, True, 1e-3, options=options
    )
    if variant == "naive":
        gates = [tuple(gate for _, gate in block.gates) for _, block in dreal.chosen_modules(net)]
        method.counterfactuals = OneByOne(net, gates, method.counterfactuals)
    count = 1
    if variant == "sampled":
        # Steps differ in cost; the modules alternate, so that every call has all of them.
        count = len(method.names)
        method.sampled = lambda step: sorted(((step + k) % count,) for k in range(SAMPLE))
    return finished(lambda: method.train_step(data), count), count


class OneByOne:
    """Counterfactuals as the definition has them: a whole forward pass for each module.

    Batch-norm uses its running statistics, as in evaluation, which costs what constants of the
    batch would cost.

    Args:
        net: Net.
        modules: For each module the tuple of its gates.
        ours: The method's own counterfactuals, for the training pass.
    """

    def __init__(self, net: Any, modules: Sequence[tuple], ours: Any) -> None:
        from gluon_attn.nets.graph import cut
        from gluon_attn.papers.dreal.counterfactuals import Trace

        self.view, self.states = self, ours.states
        self._blocks: list = []
        trace, self._view = Trace.of(net, modules), ours.view
        given = {"data": trace.graph.variable("data")}
        wanted = {"logits": trace.outputs["logits"]}
        for gates in trace.modules:
            maps = {number for _, (number, _) in gates}

            def change(target: Any, number: int, node: Any, inputs: Any, maps: Any = maps) -> Any:
                if node.op == "BatchNorm":
                    return target.copy(node.changed(use_global_stats=True), inputs)
                if number not in maps:
                    return None
                map_ = target.copy(node, inputs)
                mean = target.add("mean", map_, axis=0, exclude=True, keepdims=True)
                return target.add("broadcast_like", mean, map_)

            params = net.collect_params()
            self._blocks.append(cut(trace.graph, given, wanted, params, change=change))

    def run(self, values: dict) -> dict:
        """Return what the training pass shows, and the image."""
        return dict(self._view.run(values), data=values["data"])

    def logits(self, group: Sequence[int], seen: dict) -> tuple[list, Any]:
        """Return the logits without each module, and those with all of them."""
        found = [self._blocks[module].run(seen)["logits"] for module in group]
        return found, seen["logits"].detach()


def _open_search(variant: str, model: str, size: int, batch: int) -> tuple[Step, int]:
    """Open a first-order search step: alpha on one batch, weights on another."""
    if variant == "torch":
        from tools.bench import torch_search

        return torch_search.open_step(20, batch, default_threads(), size), 1
    import gluon_attn.papers.autola  # noqa: F401  (registers the method)

    net = new_net(model, input_size=size)
    rng = np.random.default_rng(0)
    batches = [random_batch(rng, net.classes, size, batch, single=True) for _ in range(2)]
    method = new_method("autola", net, True, 0.025)
    return finished(lambda: method.train_step(*batches)["loss"].asscalar()), 1


def _check_search(model: str, batch: int) -> None:
    if model != "autola_search_resnet20":
        raise ValueError(f"{model} is no super-network; valid is autola_search_resnet20")


COMPARISONS = {
    "train": Comparison(
        {
            "static": "this package: one static graph, losses included in the same trainer",
            "imperative": "the same network, not hybridized",
            "separate": "hybridized primary net; heads un-hybridized, each with its own trainer "
            "and a read-back of loss and predictions in every step, as in the released repository",
        },
        _open_vaa,
        "static is faster by",
    ),
    "awmt": Comparison(
        {
            "basic": "fixed weights: all images train",
            "awmt": "adaptive weights: half of the images validate",
        },
        _open_awmt,
        "awmt / basic",
        _check_awmt,
    ),
    "icasc": Comparison(
        {name: " ".join(options.values()) or "no ICASC" for name, options in ICASC.items()},
        _open_icasc,
        "times the plain step",
    ),
    "dreal": Comparison(
        {
            "plain": "the net and its classification loss, no DREAL",
            "all": "DREAL, rewards of all modules in every step",
            "sampled": f"DREAL, rewards of sample={SAMPLE} modules in every step",
            "naive": "DREAL, a whole forward pass for the reward of each module",
        },
        _open_dreal,
        "times plain",
    ),
    "search": Comparison(
        {"mxnet": "this package", "torch": "the same super-network in PyTorch"},
        _open_search,
        "mxnet is faster by",
        _check_search,
    ),
}
