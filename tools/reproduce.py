"""Run the controlled experiments: every method against its baseline, over seeds.

python tools/reproduce.py all --out runs/reproduce --quick        minutes: does everything run?
python tools/reproduce.py icasc-digit dreal-digit --out runs/reproduce
python tools/reproduce.py all --out runs/reproduce --page docs/results.md

Data are drawn first, from a fixed seed. What an interrupted call left unfinished is continued.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.cli import common as cli  # noqa: E402


def flags():
    """Return the command-line parser."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "experiments", nargs="*", metavar="NAME", help="experiments, or all; none: list them"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where data and runs go: DIR/NAME, or DIR/quick/NAME"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, metavar="N", help="default: 0 1 2 3 4; with --quick 0 1"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few pictures, two epochs, two arms; not for results"
    )
    parser.add_argument(
        "--page", metavar="FILE", help="Markdown page whose blocks of these results are replaced"
    )
    parser.add_argument("-j", "--num-workers", type=int, default=2, help="threads; default: 2")
    return parser


def main():
    """Run the experiments and print the summary."""
    parser = flags()
    args = parser.parse_args()
    from tools.experiments.presets import EXPERIMENTS
    from tools.experiments.reproduce import QUICK_SEEDS, SEEDS, reproduce
    from tools.experiments.runner import Request

    if not args.experiments:
        for name, experiment in EXPERIMENTS.items():
            print(f"{name:<14} {experiment.paper}: {experiment.data}")
        return
    if not args.out:
        parser.error("--out DIR is needed")
    lists = [list(EXPERIMENTS) if name == "all" else [name] for name in args.experiments]
    names = list(dict.fromkeys(name for names in lists for name in names))
    seeds = tuple(args.seeds or (QUICK_SEEDS if args.quick else SEEDS))
    request = Request(
        args.out, seeds, args.num_workers, args.quick,
        lambda line: print(line, flush=True),
    )  # fmt: skip
    print("\n" + reproduce(EXPERIMENTS, names, request, args.page))


if __name__ == "__main__":
    cli.run(main)
