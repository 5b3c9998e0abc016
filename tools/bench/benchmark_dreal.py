"""What a DREAL step costs against the plain step of the same net, in time and memory."""

from __future__ import annotations

import statistics

import numpy as np

from tools.bench.bench_turns import Job, default_threads, take_turns, thread_variables
from tools.bench.benchmark import machine, ratio_by_turns, spread_text

VARIANTS = {
    "plain": "the net and its classification loss, no DREAL",
    "all": "DREAL, rewards of all modules in every step",
    "sampled": "DREAL, rewards of sample=N modules in every step",
    "naive": "DREAL, a whole forward pass for the reward of each module",
}


def benchmark_dreal(
    model="se_resnet50", size=224, batch=8, rounds=5, sample=1, threads=None, only=None,
    seconds=4.0, report=lambda line: None,
):  # fmt: skip
    """Measure training steps of every variant in turns, a process each.

    Args:
        model: Zoo name of a net with attention modules.
        size: Input side in pixels.
        batch: Images per step.
        rounds: Turns of each; a turn is as many steps as fit into ``seconds``, at least one. The
            steps of ``sampled`` differ in cost: there, a turn is every module's turn.
        sample: Modules per step of ``sampled``.
        threads: Compute threads; None means one per core.
        only: Names of variants; ``plain`` is measured in any case.
        seconds: Length of a turn.
        report: Called with a line of text now and then.

    Returns:
        ``{"variants": {name: {what, seconds, peak_memory_mb, ratio: {median, lowest, highest}}},
        "left_out": {name: reason}, "model": …, "machine": …}``; a ratio is that of the mean steps
        of the variant and of ``plain``, round by round.

    Raises:
        ValueError: Unknown variant.
        OSError: The plain step does not run.
    """
    for name in only or ():
        if name not in VARIANTS:
            raise ValueError(f"variant {name!r}: valid are {', '.join(VARIANTS)}")
    names = [n for n in VARIANTS if n == "plain" or not only or n in only]
    threads = threads or default_threads()
    jobs = [Job(name, "", _open, (name, model, size, batch, sample)) for name in names]
    with thread_variables(threads):
        measured, left_out = take_turns(jobs, rounds, seconds, model, report)
    variants = {}
    for item in measured:
        turns = [statistics.mean(turn) / item.facts["steps"] for turn in item.turns]
        against = [statistics.mean(turn) for turn in item.against]
        variants[item.job.engine] = {
            "what": VARIANTS[item.job.engine], "seconds": statistics.median(turns),
            "peak_memory_mb": item.peak_mb,
            "ratio": ratio_by_turns(turns, against),
        }  # fmt: skip
    return {
        "variants": variants, "left_out": left_out, "model": model, "size": size, "batch": batch,
        "sample": sample, "rounds": rounds, "threads": threads, "machine": machine(),
    }  # fmt: skip


def cost_table(result):
    """Return the figures as a Markdown table."""
    from tabulate import tabulate

    rows = []
    for name, values in result["variants"].items():
        spread = spread_text(values["ratio"])
        rows.append([
            name, f"{values['seconds']:.3f}", "1" if name == "plain" else spread,
            f"{values['peak_memory_mb']:.0f}",
        ])  # fmt: skip
    head = ["step", "seconds (median)", "times plain", "peak memory MB"]
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)


def _open(variant, model, size, batch, sample):
    """Open a variant in this process and make a call; return ``(call, {'steps': of a call})``."""
    import mxnet as mx

    method, data = make_method(variant, model, size, batch, sample)
    count = 1
    if variant == "sampled":
        # Steps differ in cost; the modules take turns, so that every call has all of them.
        count = len(method.names)
        method.sampled = lambda step: sorted(((step + k) % count,) for k in range(sample))

    def call():
        for _ in range(count):
            method.train_step(data)
        mx.nd.waitall()

    call()
    return call, {"steps": count}


def make_method(variant, model, size, batch, sample=1):
    """Return the method of a variant and a fixed random batch for it.

    Raises:
        ValueError: The model has no attention modules, or too few for ``sample``.
    """
    import mxnet as mx

    import gluon_attn  # noqa: F401  (prepares the environment before MXNet loads)
    from gluon_attn.core.batch import Batch
    from gluon_attn.core.schema import Attribute, Schema
    from gluon_attn.method import METHODS, Optimization, Task
    from gluon_attn.nets.init import xavier
    from gluon_attn.papers.dreal import method as dreal
    from gluon_attn.runtime import seed_everything
    from gluon_attn.train import use_static_graph
    from model_zoo import get_model

    seed_everything(0)
    net = get_model(model, input_size=size)
    net.initialize(xavier())
    use_static_graph(net)
    rng = np.random.default_rng(0)
    label = np.eye(net.classes)[rng.integers(0, net.classes, batch)]
    image = rng.normal(size=(batch, 3, size, size))
    arrays = (mx.nd.array(a) for a in (image, label, np.ones_like(label)))
    schema = Schema([Attribute("class", "multiclass", tuple(map(str, range(net.classes))))])
    task = Task(schema.columns, batch, np.full(net.classes, 1 / net.classes), schema)
    optimization = Optimization("sgd", {"momentum": 0.9, "wd": 1e-4, "learning_rate": 1e-3})
    options = {"sample": sample} if variant == "sampled" else {}
    name = "baseline" if variant == "plain" else "dreal"
    method = METHODS.get(name)(net, [mx.cpu()], task, optimization, options=options)
    if variant == "naive":
        gates = [tuple(gate for _, gate in block.gates) for _, block in dreal.chosen_modules(net)]
        method.counterfactuals = OneByOne(net, gates, method.counterfactuals)
    method.begin_epoch(0)
    return method, Batch(*arrays, np.arange(batch))


class OneByOne:
    """Counterfactuals as the definition has them: a whole forward pass for each module.

    Batch-norm uses its running statistics, as in evaluation, which costs what constants of the
    batch would cost.

    Args:
        net: Net.
        modules: For each module the tuple of its gates.
        ours: ``papers.dreal.counterfactuals.Counterfactuals``, for the training pass.
    """

    def __init__(self, net, modules, ours):
        from gluon_attn.nets.graph import cut
        from gluon_attn.papers.dreal.counterfactuals import Trace

        self.view, self.states, self._blocks = self, ours.states, []
        trace, self._view = Trace.of(net, modules), ours.view
        given = {"data": trace.graph.variable("data")}
        wanted = {"logits": trace.outputs["logits"]}
        for gates in trace.modules:
            maps = {number for _, (number, _) in gates}

            def change(target, number, node, inputs, maps=maps):
                if node.op == "BatchNorm":
                    return target.copy(node.changed(use_global_stats=True), inputs)
                if number not in maps:
                    return None
                map_ = target.copy(node, inputs)
                mean = target.add("mean", map_, axis=0, exclude=True, keepdims=True)
                return target.add("broadcast_like", mean, map_)

            params = net.collect_params()
            self._blocks.append(cut(trace.graph, given, wanted, params, change=change))

    def run(self, values):
        """Return what the training pass shows, and the image."""
        return dict(self._view.run(values), data=values["data"])

    def logits(self, group, seen):
        """Return the logits without each module, and those with all of them."""
        found = [self._blocks[module].run(seen)["logits"] for module in group]
        return found, seen["logits"].detach()
