"""What the command-line tools share: flags, overrides, errors as one line."""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
from typing import Any, Callable, Match, Sequence

from gluon_attn.core import errors
from gluon_attn.core.errors import describe
from gluon_attn.core.images import RESAMPLING
from gluon_attn.core.shards import Shard

EXPECTED = (ValueError, OSError, ImportError)
TRACEBACK = "GLUON_ATTN_TRACEBACK"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OURS = tuple(os.path.join(ROOT, name, "") for name in ("gluon_attn", "model_zoo", "tools"))
PROGRAMS = ("gluon-attn", "python -m gluon_attn")
COMMANDS = {
    "train": "train a recipe on a data set",
    "evaluate": "score and analyse a run, an export or a zoo model",
    "export": "write a net as files for plain MXNet, ONNX, int8 and bfloat16",
    "predict": "predict from an export",
    "serve": "show an export's page in a browser of this machine",
    "launch": "train with several workers, here or on other hosts",
    "search": "search an attention block (AutoLA)",
    "prepare": "check, pack and generate data sets",
    "merge": "join what `prepare` and `predict` made in shards",
    "convert": "convert weight files",
    "models": "list the models of the zoo",
    "recipes": "list the recipes",
    "doctor": "check the environment",
}
OF_MODEL = (
    "params", "pretrained", "mean", "std", "resize", "crop", "interpolation", "classes",
    "single_label",
)  # fmt: skip
SCRIPT = re.compile(r"(python )?\btools/(\w+)\.py")
ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")
OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")


def run(main: Callable[[], int | None]) -> None:
    """Call ``main()`` and exit with the status that :func:`status_of` gives."""
    sys.exit(status_of(main))


def status_of(main: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """Call ``main()`` and return the exit status.

    Whatever goes wrong becomes one line and status 2; Ctrl-C says ``interrupted``, status 130. A
    console that lacks characters and a pipe that is closed early are no errors.
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
        print(f"error: {as_called(_one_line(error))}", file=sys.stderr)
        return 2


def _one_line(error: Exception) -> str:
    """Return an error in one line; an unexpected one with the files given and our line of code."""
    text = " ".join(describe(error).split())
    if isinstance(error, EXPECTED):
        return text
    given = [word.partition("=")[2] or word for word in sys.argv[1:]]
    given = [word for word in given if os.path.exists(word) and word not in text]
    text += f", with {', '.join(given)}" if given else ""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(OURS)] or frames
    place = os.path.relpath(ours[-1].filename, ROOT)
    return f"{text} ({place}, line {ours[-1].lineno}; {TRACEBACK}=1 shows how it came to that)"


def parser(description: str | None, epilog: str = "") -> argparse.ArgumentParser:
    """Return an argument parser that keeps the layout of its texts."""
    return argparse.ArgumentParser(
        description=as_called(plain(description or "")), epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def plain(text: str) -> str:
    """Return a docstring as a help text, without roles and double backticks."""
    return ROLE.sub(r"\1", text).replace("``", "")


def add_data_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags of everything that reads a data set."""
    flags.add_argument(
        "--data-dir", required=True, metavar="DIR",
        help=f"official data set tree, packed folder ({called('prepare')}) or list folder",
    )  # fmt: skip
    flags.add_argument(
        "-j", "--num-workers", type=int, default=os.cpu_count(), metavar="N",
        help="data-loading threads (default: %(default)s)",
    )  # fmt: skip
    flags.add_argument(
        "--on-bad-image", choices=("error", "skip"), default="error",
        help="what to do with a missing or broken image (default: error)",
    )  # fmt: skip


def add_shard_flag(flags: argparse.ArgumentParser, text: str) -> None:
    """Add ``--shard``; ``text`` says what one does."""
    flags.add_argument(
        "--shard", type=_shard, metavar="i/n",
        help=f"{text}, 1/n to n/n, each a command of its own; {called('merge')} joins them",
    )  # fmt: skip


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_device_flags(flags: argparse.ArgumentParser) -> None:
    """Add ``--gpus`` and ``--device``."""
    group = flags.add_mutually_exclusive_group()
    group.add_argument("--gpus", metavar="0,1", help="GPU numbers; a batch is split over them")
    group.add_argument(
        "--device", default="cpu", metavar="SPEC",
        help="cpu (default), cpu:2 for two CPU contexts, or gpu:0,1",
    )  # fmt: skip


def add_backend_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--backend``, which runs an export."""
    parser.add_argument(
        "--backend", default="mxnet", metavar="NAME",
        help="what runs the export: mxnet (default), mxnet-fused, mxnet-int8, mxnet-bf16, "
        "mxnet-fp16, onnxruntime, onnxruntime-fp16, tensorrt, tensorrt-fp16, openvino; "
        "fastest: measure once and remember; auto: what is remembered",
    )  # fmt: skip


def add_source_flags(parser: argparse.ArgumentParser, export: str) -> None:
    """Add where a net comes from: ``--run``, ``--model``, ``--export`` with this help text."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="DIR", help="folder of a training run (best epoch)")
    source.add_argument("--model", metavar="NAME", help="zoo model, with --params or --pretrained")
    source.add_argument("--export", metavar="DIR", help=export)
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--params", metavar="FILE", help="weights of --model")
    weights.add_argument("--pretrained", action="store_true", help="published weights of --model")
    add_outside_flags(parser)


def add_outside_flags(parser: argparse.ArgumentParser) -> None:
    """Add what a weight file from outside does not say of itself."""
    group = parser.add_argument_group(
        "weights from outside", "how their net was fed and what its outputs are; `convert` stores "
        "it beside the weights, in NAME.json, from where the other commands take it",
    )  # fmt: skip
    units = "three numbers or one, in units of 0 to 1 if std is below 1, else of 0 to 255"
    group.add_argument("--mean", type=_three, metavar="R,G,B", help=units)
    group.add_argument("--std", type=_three, metavar="R,G,B", help="likewise")
    group.add_argument(
        "--resize", type=_square, metavar="N|NxN",
        help="bring the shorter side to N pixels, or the whole image to N x N",
    )  # fmt: skip
    group.add_argument(
        "--crop", type=int, metavar="N",
        help="side of the centre crop (default: behind --resize N the net's input size)",
    )  # fmt: skip
    group.add_argument(
        "--interpolation", choices=RESAMPLING,
        help="Pillow's filters, as torchvision and timm use them; auto (default): area if both "
        "sides shrink, else bilinear",
    )  # fmt: skip
    group.add_argument(
        "--classes", "--names", metavar="FILE",
        help="names of the outputs in their order, one a line; colour=red, colour=blue are one "
        "attribute; or JSON with a schema, such as that of an export",
    )  # fmt: skip
    group.add_argument(
        "--single-label", action="store_true", help="every image is of one of the --classes"
    )


def _three(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3):
        raise argparse.ArgumentTypeError(f"{text!r}: give one number, or three: R,G,B")
    return values * 3 if len(values) == 1 else values


def _square(text: str) -> dict[str, Any]:
    sides = text.lower().split("x")
    if len(set(sides)) != 1 or len(sides) > 2 or not sides[0].isdecimal() or int(sides[0]) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give N, the length of the shorter side, or NxN, both sides"
        )
    return {"resize": int(sides[0]), "keep_aspect": len(sides) == 1}


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
    moved: list[str] = []
    kept: list[str] = []
    flag = None
    for word in words:
        flag = word if word.startswith("-") else flag
        overrides = flag in several and OVERRIDE.match(word)
        (moved if overrides else kept).append(word)
    return parser.parse_intermixed_args([*moved, *kept])


def parse_source(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """Return the parsed flags; those of ``--model`` beside another source end the program."""
    args = parser.parse_args(arguments)
    stray = [f"--{name.replace('_', '-')}" for name in OF_MODEL if getattr(args, name)]
    if stray and not args.model:
        parser.error(f"{', '.join(stray)}: only with --model")
    return args


def device_of(args: argparse.Namespace) -> str:
    """Return the device specification that the flags give."""
    return f"gpu:{args.gpus}" if args.gpus else args.device


def called(command: str) -> str:
    """Return how the user calls a command: as a script of a checkout, or of ``gluon-attn``.

    `gluon_attn.cli.main` puts program and command into ``sys.argv[0]``.
    """
    program, _, _ = sys.argv[0].rpartition(" ")
    if program in PROGRAMS:
        return f"{program} {command}"
    return f"python tools/{'prepare_data' if command == 'prepare' else command}.py"


def as_called(text: str) -> str:
    """Return a text that names scripts of a checkout with the commands that the user calls."""

    def replace(match: Match[str]) -> str:
        name = {"prepare_data": "prepare", "train_wider": "train"}.get(match[2], match[2])
        return called(name) if name in COMMANDS else match[0]

    return text if called("").endswith(".py") else SCRIPT.sub(replace, text)
