"""Search the attention block of AutoLA, or compare searched genotypes with random ones.

python tools/search.py --recipe hoga_search_cifar10 --data-dir CIFAR10 --save-dir runs/search
python tools/search.py --recipe hoga_search_digits --data-dir DIGITS --save-dir runs/compare \\
    --compare-with hoga_digits_resnet8 --seeds 0 1 2 3 4

The first writes genotype.json, which trains with
python tools/train.py --recipe hoga_cifar10_resnet20 --data-dir CIFAR10 --save-dir runs/found \\
    model_options.attention=hoga:runs/search/genotype.json
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.cli import common as cli  # noqa: E402


def flags():
    """Return the command's flags."""
    parser = cli.training_parser(__doc__, "hoga_search_cifar10")
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


def main():
    """Search, or compare."""
    args = cli.parse(flags())
    from gluon_attn.train.build import load_recipe

    def make_search(overrides):
        return load_recipe(args.recipe, [*cli.overrides_of(args), *overrides], cli.recipe_folder())

    if args.compare_with:
        if args.init_from or args.base_params:
            raise ValueError("--init-from, --base-params: runs that are compared start from none")
        from tools.experiments.search_compare import compare

        def make_training(overrides):
            return load_recipe(args.compare_with, overrides, cli.recipe_folder())

        done = compare(
            make_search,
            make_training,
            args.data_dir,
            args.seeds,
            out=args.save_dir,
            ways=args.ways,
            workers=args.num_workers,
        )
        print("\n" + done.text)
        return
    from gluon_attn.train.search import search

    found = cli.run_training(search, make_search([]), args)
    print(f"\ngenotype: {found['genotype']}\nfile:     {found['file']}")


if __name__ == "__main__":
    cli.run(main)
