"""What the command-line tools share: flags, overrides, errors as one line."""

from __future__ import annotations

import argparse
import os
import sys

EXPECTED = (ValueError, TypeError, FileNotFoundError, FileExistsError, OSError, ImportError)

# GluonCV's flag names, and the recipe keys they stand for
RECIPE_FLAGS = {
    "batch-size": "batch_size", "num-epochs": "epochs", "epochs": "epochs", "lr": "lr",
    "momentum": "momentum", "wd": "wd", "seed": "seed", "log-interval": "log_interval",
    "amp": "amp",
}  # fmt: skip


def run(main):
    """Call ``main()`` and exit with its status; expected errors become one line and status 2."""
    try:
        sys.exit(main() or 0)
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except EXPECTED as error:
        if os.environ.get("GLUON_ATTN_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def parser(description, epilog=""):
    """Return an argument parser that keeps the layout of its texts."""
    return argparse.ArgumentParser(
        description=description, epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def add_data_flags(flags):
    """Add the flags of everything that reads a data set."""
    flags.add_argument(
        "--data-dir", required=True, metavar="DIR",
        help="official data set tree, packed folder (tools/prepare_data.py) or list folder",
    )  # fmt: skip
    flags.add_argument(
        "-j", "--num-workers", type=int, default=os.cpu_count(), metavar="N",
        help="data-loading threads (default: %(default)s)",
    )  # fmt: skip
    flags.add_argument(
        "--on-bad-image", choices=("error", "skip"), default="error",
        help="what to do with a missing or broken image (default: error)",
    )  # fmt: skip


def add_device_flags(flags):
    """Add ``--gpus`` and ``--device``."""
    group = flags.add_mutually_exclusive_group()
    group.add_argument("--gpus", metavar="0,1", help="GPU numbers; a batch is split over them")
    group.add_argument(
        "--device", default="cpu", metavar="SPEC",
        help="cpu (default), cpu:2 for two CPU contexts, or gpu:0,1",
    )  # fmt: skip


def add_source_flags(parser, export):
    """Add where a trained net comes from: ``--run``, ``--model`` with its weights, ``--export``.

    Args:
        parser: Argument parser.
        export: Help text of ``--export``.
    """
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="DIR", help="folder of a training run (best epoch)")
    source.add_argument("--model", metavar="NAME", help="zoo model, with --params or --pretrained")
    source.add_argument("--export", metavar="DIR", help=export)
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--params", metavar="FILE", help="weights of --model")
    weights.add_argument("--pretrained", action="store_true", help="published weights of --model")
    parser.add_argument("--names", metavar="FILE", help="attribute names of --model, one a line")


def parse_source(parser):
    """Return the parsed flags; those of ``--model`` beside another source end the program."""
    args = parser.parse_args()
    stray = [f"--{name}" for name in ("params", "pretrained", "names") if getattr(args, name)]
    if stray and not args.model:
        parser.error(f"{', '.join(stray)}: only with --model")
    return args


def device_of(args):
    """Return the device specification that the flags give."""
    return f"gpu:{args.gpus}" if args.gpus else args.device


def training_parser(description, default_recipe=None):
    """Return the parser of the training tools."""
    flags = parser(
        description,
        "Every value of the recipe can be overridden: lr=0.01 epochs=20 gamma=0.5 "
        "model=vaa_resnet50_wider\nModel arguments: model_options.taps=stage4_activation2,",
    )
    flags.add_argument(
        "--recipe", default=default_recipe, required=default_recipe is None, metavar="NAME|FILE",
        help="recipe from tools/recipes, or a file" + (" (default: %(default)s)" if default_recipe
                                                      else ""),
    )  # fmt: skip
    add_data_flags(flags)
    flags.add_argument("--save-dir", required=True, metavar="DIR", help="where the run goes")
    flags.add_argument(
        "--base-params", metavar="FILE",
        help="backbone weights: Gluon zoo file, own run, or exported params",
    )  # fmt: skip
    add_device_flags(flags)
    flags.add_argument("--resume", action="store_true", help="continue from SAVE_DIR/last.ckpt")
    flags.add_argument(
        "--cache", action="store_true", help="keep resized training images in memory"
    )
    flags.add_argument("--tensorboard", action="store_true", help="also write TensorBoard events")
    flags.add_argument(
        "--no-test", action="store_true", help="do not evaluate the best epoch on the test split"
    )
    for flag, key in RECIPE_FLAGS.items():
        flags.add_argument(f"--{flag}", metavar="VALUE", help=f"same as {key}=VALUE")
    flags.add_argument("overrides", nargs="*", metavar="key=value", help="recipe overrides")
    return flags


def overrides_of(args):
    """Return all overrides, flags and ``key=value`` alike, as ``key=value`` strings."""
    given = vars(args)
    pairs = [
        f"{key}={given[flag.replace('-', '_')]}"
        for flag, key in RECIPE_FLAGS.items()
        if given.get(flag.replace("-", "_")) is not None
    ]
    return pairs + args.overrides


def recipe_folder():
    """Return ``tools/recipes`` of the source tree that the running script belongs to."""
    return os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "recipes")


def train_from_flags(args):
    """Train what the flags of :func:`training_parser` say."""
    from gluon_attn.workflows.build import load_recipe
    from gluon_attn.workflows.scores import text_of
    from gluon_attn.workflows.train import Settings, train

    recipe = load_recipe(args.recipe, overrides_of(args), recipe_folder())
    settings = Settings(
        args.data_dir, args.save_dir, device_of(args), args.base_params, args.resume,
        args.num_workers, args.cache, args.on_bad_image, args.tensorboard, not args.no_test,
    )  # fmt: skip
    result = train(recipe, settings)
    if result["test"]:
        print(text_of(result["test"]))
    print(f"\nweights: {os.path.join(args.save_dir, 'best.params')}")
    print(f"next:    python tools/export.py --run {args.save_dir} --out EXPORT")
