"""The commands that compare: tools/experiment.py and reproduce.py."""

from __future__ import annotations

from pathlib import Path

from gluon_attn.cli import common as cli

EXPERIMENT = """Compare recipes on the same data over several seeds: mean and standard deviation.

python tools/experiment.py --recipes baseline_synthetic_resnet18 vaa_synthetic_resnet18 \\
    --seeds 0 1 2 --data-dir runs/demo/data --out runs/experiment

An interrupted experiment continues where it stopped.
"""

REPRODUCE = """Run the controlled experiments: every method against its baseline, over seeds.

python tools/reproduce.py all --out runs/reproduce --quick        minutes: does everything run?
python tools/reproduce.py icasc-digit dreal-digit --out runs/reproduce
python tools/reproduce.py synthetic --out runs/reproduce --page docs/results_synthetic.md
python tools/reproduce.py vaa-clothing --data-dir CCP --out runs/reproduce

Synthetic data are made first, from a fixed seed; photographs are yours (--data-dir; docs/data.md
says where they are published). What an interrupted call left unfinished is continued. Two calls
with other experiments or seeds may run side by side; call again with all seeds for the tables.
"""


def experiment():
    """Run the experiment and print its table."""
    parser = cli.parser(EXPERIMENT)
    parser.add_argument("--recipes", nargs="+", required=True, metavar="NAME", help="two or more")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the runs go")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="key=value", help="overrides for all recipes"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="same as --set")
    cli.add_data_flags(parser)
    args = cli.parse(parser)
    from gluon_attn.train.build import load_recipe
    from tools.experiments.runner import run_experiment

    def maker(name):
        return lambda seed: load_recipe(name, [*args.set, *args.overrides, f"seed={seed}"])

    # A recipe may be given as a file; its runs are named after it and stay in --out.
    makers = {Path(name.rpartition(":")[2]).stem: maker(name) for name in args.recipes}
    if len(makers) < len(args.recipes):
        parser.error("--recipes: two of the same name")
    done = run_experiment(makers, args.seeds, args.data_dir, args.out, workers=args.num_workers)
    print("\n" + done.table)


def reproduce_flags():
    """Return the command-line parser."""
    parser = cli.parser(REPRODUCE)
    parser.add_argument(
        "experiments", nargs="*", metavar="NAME",
        help="experiments, or synthetic for all on synthetic data; none: list them",
    )  # fmt: skip
    parser.add_argument("--data-dir", metavar="DIR", help="photographs, for experiments on them")
    parser.add_argument(
        "--out", metavar="DIR", help="where data and runs go: DIR/NAME, or DIR/quick/NAME"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, metavar="N", help="default: 0 1 2 3 4; with --quick 0 1"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few images, two epochs, two arms; not for results"
    )
    parser.add_argument(
        "--page", metavar="FILE", help="Markdown page whose blocks of these results are replaced"
    )
    parser.add_argument("-j", "--num-workers", type=int, default=2, help="threads; default: 2")
    return parser


def reproduce():
    """Run the experiments and print the summary."""
    parser = reproduce_flags()
    args = parser.parse_args()
    from tools.experiments.photographs import NAMES
    from tools.experiments.presets import EXPERIMENTS
    from tools.experiments.reproduce import QUICK_SEEDS, SEEDS, reproduce
    from tools.experiments.runner import Request

    if not args.experiments:
        for name, experiment in EXPERIMENTS.items():
            print(f"{name:<14} {experiment.paper}: {experiment.data}")
        return
    if not args.out:
        parser.error("--out DIR is needed")
    synthetic = [name for name in EXPERIMENTS if name not in NAMES]
    lists = [synthetic if name in ("all", "synthetic") else [name] for name in args.experiments]
    names = list(dict.fromkeys(name for names in lists for name in names))
    seeds = tuple(args.seeds or (QUICK_SEEDS if args.quick else SEEDS))
    request = Request(
        args.out, seeds, args.num_workers, args.quick,
        lambda line: print(line, flush=True), args.data_dir,
    )  # fmt: skip
    print("\n" + reproduce(EXPERIMENTS, names, request, args.page))
