"""What the command-line tools share: flags, overrides, errors as one line."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import traceback
from typing import Any, Callable, Sequence

from gluon_attn.core import errors
from gluon_attn.core.errors import DivergedError, describe

EXPECTED = (ValueError, OSError, ImportError)
TRACEBACK = "GLUON_ATTN_TRACEBACK"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep
OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")

# GluonCV's flag names, and the recipe keys they stand for
RECIPE_FLAGS = {
    "batch-size": "batch_size", "num-epochs": "epochs", "epochs": "epochs", "lr": "lr",
    "momentum": "momentum", "wd": "wd", "seed": "seed", "log-interval": "log_interval",
    "amp": "amp",
}  # fmt: skip


def run(main: Callable[[], int | None]) -> None:
    """Call ``main()`` and exit with the status that :func:`status_of` gives."""
    sys.exit(status_of(main))


def status_of(main: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """Call ``main()`` and return the exit status.

    Whatever goes wrong becomes one line and status 2, Ctrl-C status 130. A console that lacks
    characters and a pipe that is closed early are no errors.

    Args:
        main: Does the work; returns the exit status, or None for 0.
        interrupted: What is said after Ctrl-C.
    """
    errors.prepare_console()
    try:
        status = main() or 0
        errors.flush_console()
        return status
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2


def _one_line(error: Exception) -> str:
    """Return an error in one line.

    One that no user can expect, as libraries raise on contents that they do not expect, comes with
    the files that the command was given, and with the place in our code.
    """
    text = " ".join(describe(error).split())
    if isinstance(error, EXPECTED):
        return text
    given = [word.partition("=")[2] or word for word in sys.argv[1:]]
    given = [word for word in given if os.path.exists(word) and word not in text]
    text += f", with {', '.join(given)}" if given else ""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(ROOT)] or frames
    place = os.path.relpath(ours[-1].filename, ROOT)
    return f"{text} ({place}, line {ours[-1].lineno}; {TRACEBACK}=1 shows how it came to that)"


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


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """Return the parsed command line; ``key=value`` and other words may stand anywhere in it.

    Behind a flag with several values (``--seeds 0 1 lr=0.1``) ``key=value`` is an override, too.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    several = {
        name for action in parser._actions
        if action.nargs in ("+", "*") and action.metavar != "key=value"
        for name in action.option_strings
    }  # fmt: skip
    moved, kept, flag = [], [], None
    for word in words:
        flag = word if word.startswith("-") else flag
        overrides = flag in several and OVERRIDE.match(word)
        (moved if overrides else kept).append(word)
    return parser.parse_intermixed_args([*moved, *kept])


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
        "model=vaa_resnet50_wider\nModel arguments: model_options.taps=stage4_activation2, "
        "or all: model_options=\"{'width': 8}\"",
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
    flags.add_argument(
        "--init-from", metavar="RUN|FILE",
        help="all weights, heads included, for a new run: those of a run's best epoch, or a "
        "checkpoint (last.ckpt) or weight file",
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
    flags.set_defaults(parser=flags)
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


def train_from_flags(args: argparse.Namespace) -> int:
    """Train what the flags of :func:`training_parser` say; return the exit status.

    It is 1 if there are weights, but no epoch had a validation score to choose them by.
    """
    from gluon_attn.tasks.scores import text_of
    from gluon_attn.train.build import load_recipe
    from gluon_attn.train.run import train

    recipe = load_recipe(args.recipe, overrides_of(args), recipe_folder())
    result = run_training(train, recipe, args)
    if result["test"]:
        print(text_of(result["test"]))
    print(f"\nweights: {os.path.join(args.save_dir, 'best.params')}")
    print(f"next:    python tools/export.py --run {args.save_dir} --out EXPORT")
    score = result["best"][recipe.score]
    return 1 if recipe.keep == "best" and score != score else 0


def run_training(train: Callable, recipe: Any, args: argparse.Namespace) -> dict:
    """Return ``train(recipe, settings)`` with the settings that the flags give.

    Raises:
        DivergedError: Training has diverged; the message ends with a command that goes on.
    """
    from gluon_attn.train.run import Settings

    settings = Settings(
        args.data_dir, args.save_dir, device_of(args), args.base_params, args.resume,
        args.num_workers, args.cache, args.on_bad_image, args.tensorboard, not args.no_test,
        init_from=args.init_from,
    )  # fmt: skip
    try:
        return train(recipe, settings)
    except DivergedError as error:
        raise DivergedError(f"{error}. For example: {_again(args, recipe)}") from error


def _again(args: argparse.Namespace, recipe: Any) -> str:
    """Return the command that trains once more, with a tenth of the learning rate."""
    own = ("help", "overrides", "lr", "save_dir", "init_from", "base_params", "resume")
    words = ["python", sys.argv[0]]
    for action in args.parser._actions:
        value = getattr(args, action.dest, None)
        if action.dest in own or value is None or value == action.default:
            continue
        words.append(action.option_strings[-1])
        if action.nargs != 0:
            words += map(str, value if isinstance(value, list) else [value])
    folder = args.save_dir.rstrip("/" + os.sep)
    number = 2
    while os.path.exists(f"{folder}-{number}"):
        number += 1
    words += ["--save-dir", f"{folder}-{number}"]
    if os.path.exists(os.path.join(args.save_dir, "last.ckpt")):
        words += ["--init-from", folder]
    else:
        words += ["--init-from", args.init_from] if args.init_from else []
        words += ["--base-params", args.base_params] if args.base_params else []
    words += [pair for pair in args.overrides if not pair.startswith("lr=")]
    return " ".join(shlex.quote(word) for word in [*words, f"lr={recipe.lr / 10:g}"])
