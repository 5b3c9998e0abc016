"""Train any recipe on any data set.

python tools/train.py --recipe vaa_synthetic_resnet18 --data-dir DATA --save-dir runs/vaa
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import Any, Callable, Sequence

from gluon_attn.cli import common as cli
from gluon_attn.core.errors import DivergedError

# GluonCV's flag names, and the recipe keys they stand for
RECIPE_FLAGS = {
    "batch-size": "batch_size", "num-epochs": "epochs", "epochs": "epochs", "lr": "lr",
    "momentum": "momentum", "wd": "wd", "seed": "seed", "log-interval": "log_interval",
    "amp": "amp",
}  # fmt: skip
KVSTORES = ("dist_sync", "dist_device_sync", "horovod")  # those of gluon_attn.workers


def main(
    arguments: Sequence[str] | None = None,
    description: str | None = __doc__,
    default_recipe: str | None = None,
) -> int:
    """Parse the flags and train."""
    return train_from_flags(cli.parse(training_flags(description, default_recipe), arguments))


def training_flags(
    description: str | None, default_recipe: str | None = None
) -> argparse.ArgumentParser:
    """Return the flags of everything that trains."""
    flags = cli.parser(
        description,
        "Every value of the recipe can be overridden: lr=0.01 epochs=20 gamma=0.5 "
        "model=vaa_resnet50_wider\nModel arguments: model_options.taps=stage4_activation2, "
        "or all: model_options=\"{'width': 8}\"",
    )
    flags.add_argument(
        "--recipe", default=default_recipe, required=default_recipe is None, metavar="NAME|FILE",
        help="name of a recipe (gluon-attn recipes lists them), or a file"
        + (" (default: %(default)s)" if default_recipe else ""),
    )  # fmt: skip
    cli.add_data_flags(flags)
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
    cli.add_device_flags(flags)
    flags.add_argument("--resume", action="store_true", help="continue from SAVE_DIR/last.ckpt")
    flags.add_argument(
        "--cache", action="store_true", help="keep resized training images in memory"
    )
    flags.add_argument("--tensorboard", action="store_true", help="also write TensorBoard events")
    flags.add_argument(
        "--no-test", action="store_true", help="do not evaluate the best epoch on the test split"
    )
    flags.add_argument(
        "--kvstore", choices=KVSTORES, metavar="KIND",
        help=f"train as one of several workers ({cli.called('launch')}): dist_sync, "
        "dist_device_sync, or horovod",
    )  # fmt: skip
    for flag, key in RECIPE_FLAGS.items():
        flags.add_argument(f"--{flag}", metavar="VALUE", help=f"same as {key}=VALUE")
    flags.add_argument("overrides", nargs="*", metavar="key=value", help="recipe overrides")
    flags.set_defaults(parser=flags)
    return flags


def overrides_of(args: argparse.Namespace) -> list[str]:
    """Return all overrides, flags and ``key=value`` alike, as ``key=value`` strings.

    Of two pairs the later one counts. ValueError: a flag and another flag or a pair give a key two
    values.
    """
    from gluon_attn.core.recipe import literal

    values = {flag: getattr(args, flag.replace("-", "_"), None) for flag in RECIPE_FLAGS}
    flags = [(f"--{f} {v}", f"{RECIPE_FLAGS[f]}={v}") for f, v in values.items() if v is not None]
    given: dict[str, tuple[str, str]] = {}
    for words, pair in [*flags, *zip(args.overrides, args.overrides)]:
        key, _, value = pair.partition("=")
        other, known = given.get(key, (words, value))
        if literal(known) != literal(value):
            raise ValueError(f"{other} and {words} give two values for {key}; leave one out")
        if words != pair:  # a flag
            given[key] = words, value
    return [*(pair for _, pair in flags), *args.overrides]


def train_from_flags(args: argparse.Namespace) -> int:
    """Train what the flags of :func:`training_flags` say; return the exit status.

    It is 1 if there are weights, but no epoch had a validation score to choose them by.
    """
    from gluon_attn.train.build import load_recipe
    from gluon_attn.train.run import train
    from gluon_attn.workers import current

    recipe = load_recipe(args.recipe, overrides_of(args))
    result = run_training(train, recipe, args)
    if not current().is_first:
        return 0
    if result["test"]:
        print(result["test"].text)
    print(f"\nweights: {os.path.join(args.save_dir, 'best.params')}")
    print(f"next:    {cli.called('export')} --run {args.save_dir} --out EXPORT")
    score = result["best"][recipe.score]
    return 1 if recipe.keep == "best" and score != score else 0


def run_training(train: Callable, recipe: Any, args: argparse.Namespace) -> dict:
    """Return ``train(recipe, settings)`` with the settings that the flags give.

    The message of a DivergedError ends with a command that goes on.
    """
    from gluon_attn.train.run import Settings

    settings = Settings(
        args.data_dir, args.save_dir, cli.device_of(args), args.base_params, args.resume,
        args.num_workers, args.cache, args.on_bad_image, args.tensorboard, not args.no_test,
        init_from=args.init_from, kvstore=args.kvstore,
    )  # fmt: skip
    try:
        return train(recipe, settings)
    except DivergedError as error:
        raise DivergedError(f"{error}. For example: {_again(args, recipe)}") from error


def _again(args: argparse.Namespace, recipe: Any) -> str:
    """Return the command that trains once more, with a tenth of the learning rate."""
    own = ("help", "overrides", "lr", "save_dir", "init_from", "base_params", "resume")
    script = sys.argv[0].endswith(".py")
    words = ["python", sys.argv[0]] if script else sys.argv[0].split()
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
