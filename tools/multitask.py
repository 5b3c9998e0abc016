"""AWMT against the basic model and separate models, on synthetic people with unequal tasks.

python tools/multitask.py --out runs/multitask

Draws the data, trains everything with five seeds, prints tables of accuracy per task. An
interrupted experiment continues where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.workflows import cli  # noqa: E402


def main():
    """Run the experiment and print its tables."""
    parser = cli.parser(__doc__)
    parser.add_argument("--out", required=True, metavar="DIR", help="where data and runs go")
    parser.add_argument(
        "--recipe", default="awmt_synthetic_resnet18", metavar="NAME", help="default: %(default)s"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4"
    )
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="key=value", help="overrides for all runs"
    )
    parser.add_argument(
        "-j", "--num-workers", type=int, default=2, metavar="N", help="threads (default: 2)"
    )
    args = parser.parse_args()
    from gluon_attn.workflows.build import load_recipe
    from gluon_attn.workflows.multitask import run_multitask

    def make_recipe(overrides):
        return load_recipe(args.recipe, [*args.set, *overrides], cli.recipe_folder())

    done = run_multitask(make_recipe, args.seeds, args.out, args.num_workers)
    print("\n" + done.text)


if __name__ == "__main__":
    cli.run(main)
