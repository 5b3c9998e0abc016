"""Convert weight files: python tools/convert.py resnet50-0676ba61.pth --out resnet50_v1b.params."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import Sequence

from gluon_attn.cli import common as cli
from model_zoo import outside
from model_zoo.adapters import SCHEMES, beside, guess_net, read_arrays
from model_zoo.adapters.convert import convert

# What the authors' own weights expect: not every file with their names.
IMAGENET = (
    "ImageNet's want --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --resize 256 --crop 224"
)
CIFAR = "CIFAR's are seen whole: --resize 32, with mean and std of their training"
AUTHORS = {
    "torchvision": IMAGENET, "gluoncv": IMAGENET, "gluoncv_exported": IMAGENET,
    "vaa_released": "the authors' want --mean 104,117,123 --std 1 --resize 256x256 --crop 224",
}  # fmt: skip


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = cli.parser(
        "Convert weights between this package, torchvision, GluonCV and VAA's repository.\n"
        "Reads .pth, .pt (nothing in them is executed), .safetensors, .params, and the folder with "
        "VAA's files.",
        "Further arguments of the model: width=8 input_size=96",
    )
    add = parser.add_argument
    add("source", metavar="FILE|DIR", help="weights to read")
    add("--out", metavar="FILE|DIR",
        help="weights to write: .params, .pth, .pt or .safetensors; a folder with --to "
        "vaa_released. Without it: say what FILE holds")  # fmt: skip
    add("--model", metavar="NAME", help="net of the zoo (default: recognised by its shapes)")
    add("--scheme", default="auto", choices=("auto", *SCHEMES),
        help="whose names FILE has (default: the one that fits)")  # fmt: skip
    add("--key", help="which of several state dicts of a PyTorch checkpoint: state_dict_ema")
    add("--to", choices=SCHEMES,
        help="whose names to write (default: gluon for .params, else PyTorch's)")  # fmt: skip
    add("options", nargs="*", metavar="key=value", help="arguments of the model")
    cli.add_outside_flags(parser)
    return cli.parse(parser, arguments)


def options_of(pairs: Sequence[str]) -> dict[str, int | str]:
    """Return ``key=value`` pairs as a dict; whole numbers as such."""
    options: dict[str, int | str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair}: expected key=value, such as width=8")
        options[key] = int(value) if value.lstrip("-").isdigit() else value
    return options


def show(source: str, key: str | None) -> None:
    """Print what a file holds, and what a PyTorch checkpoint holds beside its weights."""
    arrays = read_arrays(source, key)
    guess = guess_net(arrays)
    for name, array in list(arrays.items())[:3]:
        print(f"  {name} {array.shape}")
    print(f"  … {len(arrays)} arrays, {sum(array.size for array in arrays.values()):,} numbers")
    print(f"looks like: {guess.text if guess else 'no net we know'}")
    if guess and guess.scheme:
        print(f"names:      {guess.scheme}")
    others = beside(source, key)
    if others:
        print(f"beside:     {others}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert a file, or say what it holds."""
    args = parse(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("model_zoo.adapters").setLevel(logging.INFO)
    if not args.out:
        show(args.source, args.key)
        return
    done = convert(
        args.source, args.out, args.model, args.scheme, to=args.to,
        options=options_of(args.options), key=args.key, pixels=outside.pixels_of(args),
        schema=outside.schema_of(args),
    )  # fmt: skip
    options = "".join(f" {key}={value}" for key, value in done.options.items())
    print(f"read:    {args.source}: {done.read} names, {done.model}{options}")
    size = f"{done.arrays} arrays, {done.numbers:,} numbers"
    print(f"written: {args.out}: {done.written} names, {size}")
    if done.record:
        told = ", ".join(f"{key} {value}" for key, value in done.pixels.items())
        print(f"beside:  {done.record}: {told or 'classes'}")
    kept = outside.record_path(args.out)
    if not done.record and os.path.exists(kept):
        print(f"beside:  {kept} is left as it was; it counts if it describes these weights")
        return
    if not done.named:
        print(
            "outputs: not known; evaluate and export will ask for --classes FILE (a name a line) "
            "and, if every image is of one class, --single-label, which this command stores as well"
        )
    if not done.pixels:
        wanted = CIFAR if "cifar" in done.model else AUTHORS.get(done.read)
        hint = f" ({wanted})" if wanted else ""
        print(
            "pixels:  not known; evaluate and export will ask for --mean, --std and --resize, "
            f"which this command stores beside the weights{hint}"
        )
