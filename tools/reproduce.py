"""Run a controlled experiment: a method and its variants against the baseline, over seeds.

python tools/reproduce.py icasc-digit --out runs/icasc-digit
python tools/reproduce.py dreal-people --out runs/dreal-people --seeds 0 1 2 3 4

The data are drawn first, from a fixed seed. An interrupted experiment continues where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.workflows import cli  # noqa: E402

NAMES = ("icasc-digit", "icasc-digits", "icasc-people", "dreal-digit", "dreal-people")


def main():
    """Run the experiment and print its tables."""
    parser = cli.parser(__doc__)
    parser.add_argument("experiment", choices=NAMES, help="what is compared on which data")
    parser.add_argument("--out", required=True, metavar="DIR", help="where data and runs go")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4"
    )
    parser.add_argument("-j", "--num-workers", type=int, default=2, help="threads; default: 2")
    parser.add_argument(
        "--images", nargs=3, type=int, metavar=("TRAIN", "VAL", "TEST"), help="scenes, to try it"
    )
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="key=value", help="overrides for all arms"
    )
    args = parser.parse_args()
    from gluon_attn.workflows.build import load_recipe
    from gluon_attn.workflows.controlled import run_preset
    from gluon_attn.workflows.controlled_presets import PRESETS

    preset = PRESETS[args.experiment]
    images = dict(zip(("train", "val", "test"), args.images)) if args.images else None

    def make_recipe(overrides):
        return load_recipe(preset.recipe, [*overrides, *args.set], cli.recipe_folder())

    text = run_preset(preset, make_recipe, args.seeds, args.out, args.num_workers, images)
    print("\n" + text)


if __name__ == "__main__":
    cli.run(main)
