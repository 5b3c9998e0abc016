"""Search the attention block of AutoLA.

python tools/search.py --recipe hoga_search_cifar10 --data-dir CIFAR10 --save-dir runs/search

It writes genotype.json, which trains with
python tools/train.py --recipe hoga_cifar10_resnet20 --data-dir CIFAR10 --save-dir runs/found \\
    model_options.attention=hoga:runs/search/genotype.json
"""

from __future__ import annotations

import argparse
import importlib
from typing import Sequence

from gluon_attn.cli import common as cli
from gluon_attn.cli.train import overrides_of, run_training, training_flags
from gluon_attn.core.recipe import Recipe

COMPARE = """Or compare searched genotypes with random ones:
python tools/search.py --recipe hoga_search_digits --data-dir DIGITS --save-dir runs/compare \\
    --compare-with hoga_digits_resnet8 --seeds 0 1 2 3 4
"""


def flags(compare: bool) -> argparse.ArgumentParser:
    """Return the command's flags; with ``compare`` also those of the comparison."""
    text = f"{__doc__}\n{COMPARE}" if compare else __doc__
    parser = training_flags(text, "hoga_search_cifar10")
    parser.set_defaults(compare_with=None)
    if not compare:
        return parser
    parser.add_argument(
        "--compare-with", metavar="NAME|FILE",
        help="recipe that trains searched, random and fixed genotypes alike, once per seed",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="N",
        help="of the comparison (default: 0 1 2 3 4)",
    )  # fmt: skip
    parser.add_argument(
        "--ways", nargs="*", metavar="WAY",
        help="beside searched and random: HOG-SE HOG-CBAM (default), published, SE, CBAM, none",
    )  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None, comparison: str = "") -> None:
    """Search, or compare; ``comparison`` names the module that does so, in a checkout."""
    args = cli.parse(flags(bool(comparison)), arguments)
    from gluon_attn.train.build import load_recipe

    def make_search(overrides: list[str]) -> Recipe:
        return load_recipe(args.recipe, [*overrides_of(args), *overrides])

    if args.compare_with:
        if args.init_from or args.base_params:
            raise ValueError("--init-from, --base-params: runs that are compared start from none")

        def make_training(overrides: list[str]) -> Recipe:
            return load_recipe(args.compare_with, overrides)

        done = importlib.import_module(comparison).compare(
            make_search, make_training, args.data_dir, args.seeds, out=args.save_dir,
            ways=args.ways, workers=args.num_workers,
        )  # fmt: skip
        print("\n" + done.text)
        return
    from gluon_attn.train.search import search

    found = run_training(search, make_search([]), args)
    if "genotype" in found:  # in the first of several workers
        print(f"\ngenotype: {found['genotype']}\nfile:     {found['file']}")
