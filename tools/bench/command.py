"""Measure speed and memory as ratios in one run.

python tools/benchmark.py infer --model vaa_resnet101_wider --batch-size 8   MXNet, other engines
python tools/benchmark.py step --model vaa_resnet101_wider    training step, against PyTorch
python tools/benchmark.py train           VAA training step; awmt, icasc, dreal, search: theirs
python tools/benchmark.py data --data-dir PACKED              the loader against OpenCV alone
python tools/benchmark.py web EXPORT       the page of an export against ONNX Runtime
python tools/benchmark.py distributed      one and two workers; more of them as a projection
"""

from __future__ import annotations

import sys

from gluon_attn.cli import common as cli
from gluon_attn.core.files import write_json

TITLES = {"infer": "Inference", "step": "Training step"}
STEPS = {
    "train": ("vaa_resnet101", 224, 8, "one training step, three ways"),
    "awmt": ("awmt_resnet50", 224, 20, "a step with adaptive weights against fixed ones"),
    "icasc": ("resnet18_v1", 224, 8, "an ICASC step against the plain one"),
    "dreal": ("se_resnet50", 224, 8, "a DREAL step against the plain one"),
    "search": ("autola_search_resnet20", 32, 32, "a search step, against PyTorch"),
}


def flags():
    """Return the command's flags."""
    parser = cli.parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    infer = commands.add_parser("infer", help="inference, against other engines")
    infer.add_argument("--model", required=True, metavar="NAME", help="zoo model")
    infer.add_argument("--batch-size", type=int, nargs="+", default=[8], help="default: 8")
    infer.add_argument("--export", metavar="DIR", help="for weights, int8, …; made if not there")
    step = commands.add_parser("step", help="one training step, against PyTorch")
    step.add_argument("--model", default="vaa_resnet101_wider", help="default: %(default)s")
    step.add_argument("--batch-size", type=int, default=8, metavar="B", help="default: 8")
    for command in (infer, step):
        command.add_argument("--size", type=int, help="input side in pixels; default: the model's")
        command.add_argument("--rounds", type=int, default=5, help="turns of each; default: 5")
        command.add_argument("--seconds", type=float, default=2.0, help="of a turn; default: 2")
        command.add_argument("--threads", type=int, metavar="N", help="default: one per core")
        command.add_argument("--engines", nargs="+", metavar="E", help="only these: torch, …")
        command.add_argument("--out", metavar="DIR", help="write results.md, .json and .png")
    for name, (model, size, batch, what) in STEPS.items():
        own = commands.add_parser(name, help=what)
        own.add_argument("--model", default=model, help="default: %(default)s")
        own.add_argument("--size", type=int, default=size, help="pixels; default: %(default)s")
        own.add_argument("--batch-size", type=int, default=batch, help="default: %(default)s")
        own.add_argument("--rounds", type=int, default=5, help="turns of each; default: 5")
    data = commands.add_parser("data", help="data loading")
    data.add_argument("--data-dir", required=True, help="packed folder (tools/prepare_data.py)")
    data.add_argument("--split", default="train", help="default: train")
    data.add_argument("-j", "--num-workers", type=int, default=2, help="threads; default: 2")
    data.add_argument("--rounds", type=int, default=5, help="default: 5")
    several = commands.add_parser("distributed", help="training with several workers")
    several.add_argument("--model", default="resnet50_v1", help="default: %(default)s")
    several.add_argument("--size", type=int, default=224, help="pixels; default: %(default)s")
    several.add_argument("--batch-size", type=int, default=8, help="per worker; default: 8")
    several.add_argument("--rounds", type=int, default=10, help="steps of each; default: 10")
    page = commands.add_parser("web", help="an image in the page of an export, in Chromium")
    page.add_argument("exports", nargs="+", metavar="EXPORT", help="with --onnx --web --runtime")
    page.add_argument("--modules", default="node_modules", help="with puppeteer-core of npm")
    page.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    page.add_argument("--rounds", type=int, default=7, help="images of each; default: 7")
    for command in commands.choices.values():
        command.add_argument("--json", metavar="FILE", help="also write all figures here")
    return parser


def report(line):
    """Show progress."""
    print(line, file=sys.stderr, flush=True)


def name_left_out(found):
    """Say what could not be measured, and why."""
    for label, reason in found.items():
        report(f"left out: {label}: {reason}")


def compare(args):
    """Measure engines against each other; return the rows and the text for the console."""
    from tools.bench import infer

    more = {"only": args.engines, "seconds": args.seconds, "report": report}
    more.update(rounds=args.rounds, threads=args.threads)
    if args.command == "infer":
        result = infer.benchmark_inference(
            args.model, args.size, args.batch_size, export=args.export, **more
        )
    else:
        result = infer.benchmark_step(args.model, args.size, args.batch_size, **more)
    name_left_out(result["left_out"])
    if args.out:
        for path in infer.write_results(result, args.out, TITLES[args.command]):
            report(f"wrote {path}")
    return result["rows"], f"{infer.describe(result)}\n\n{infer.table(result['rows'])}"


def main():
    """Measure and print."""
    args = flags().parse_args()
    if args.command in TITLES:
        result, text = compare(args)
    elif args.command in STEPS:
        from tools.bench import steps

        common = {"rounds": args.rounds, "report": report}
        result = steps.measure(args.command, args.model, args.size, args.batch_size, **common)
        name_left_out(result["left_out"])
        text = steps.table(args.command, result)
    elif args.command == "web":
        from tools.bench import web

        common = {"threads": args.threads, "rounds": args.rounds, "report": report}
        result = web.measure(args.exports, args.modules, **common)
        text = web.table(result)
    elif args.command == "distributed":
        from tools.bench import distributed

        common = {"steps": args.rounds, "report": report}
        result = distributed.measure(args.model, args.size, args.batch_size, **common)
        text = distributed.table(result)
    else:
        from gluon_attn.data import open_dataset
        from tools.bench.loading import data_table, loader_rate

        dataset = open_dataset(args.data_dir, args.split, kind="packed")
        result = loader_rate(dataset, workers=args.num_workers, rounds=args.rounds)
        text = data_table(result)
    try:
        if args.json:
            write_json(args.json, result)
    finally:  # what took long to measure is shown even where it cannot be written
        print(text)
