"""Compare recipes on the same data over several seeds; print mean and standard deviation.

python tools/experiment.py --recipes baseline_synthetic_resnet18 vaa_synthetic_resnet18 \\
    --seeds 0 1 2 --data-dir runs/demo/data --out runs/experiment

An interrupted experiment continues where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.cli import common as cli  # noqa: E402


def main():
    """Run the experiment and print its table."""
    parser = cli.parser(__doc__)
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
    makers = {Path(name).stem: maker(name) for name in args.recipes}
    if len(makers) < len(args.recipes):
        parser.error("--recipes: two of the same name")
    done = run_experiment(makers, args.seeds, args.data_dir, args.out, workers=args.num_workers)
    print("\n" + done.table)


if __name__ == "__main__":
    cli.run(main)
