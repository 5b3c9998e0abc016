"""Check, pack and generate data sets: python tools/prepare_data.py wider --root DIR --out DIR."""

from __future__ import annotations

import argparse
import importlib
import logging
from typing import Any, Sequence

from gluon_attn.cli import common as cli
from gluon_attn.data import DATASETS, prepare


def flags(tiny: bool) -> argparse.ArgumentParser:
    """Return the command's flags; with ``tiny``, the writer of miniature trees among them."""
    parser = argparse.ArgumentParser(
        description="Check, pack and generate data sets. Every command can be interrupted and run "
        "again: it continues where it stopped."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for kind, settings in prepare.OFFICIAL.items():
        reader = DATASETS.get(kind)
        first = cli.plain(reader.__doc__.split("\n\n")[0])
        text = f"{first} Checks their counts and packs them. DIR holds {reader.looks_for}."
        command = commands.add_parser(kind, help=first, description=text.replace("%", "%%"))
        if kind == "wider":
            command.add_argument("--srn", action="store_true",
                help="use SRN's crops and lists (Image_cropped/, wider_att/) instead of the "
                "annotation's boxes: exactly the samples of VAA and most later papers")  # fmt: skip
        for name in settings:
            command.add_argument(f"--{name.replace('_', '-')}", **prepare.SETTINGS[name])
        command.set_defaults(reader_options=settings)
        packing_options(command)
    add_generators(commands, tiny)
    command = commands.add_parser("cifar10_png", help="CIFAR-10's PNG batches to binary files")
    command.add_argument("--root", required=True, metavar="DIR", help="cifar10_batch_0.png, …")
    command.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    command.add_argument("--test-batches", type=int, nargs="+", default=(), metavar="N",
        help="training batches that become test images, beside 50 to 59")  # fmt: skip
    command.add_argument("--overwrite", action="store_true", help="replace what is there")
    return parser


def add_generators(commands: Any, with_tiny: bool) -> None:
    """Add the commands that write synthetic data."""
    people = "synthetic pedestrians with the 14 attributes, in WIDER's on-disk format"
    tasks = "the same people with 5 attributes, some of them with wrong labels; packed"
    digits = "compose scenes of handwritten digits, as lists"
    single = "compose scenes of one handwritten digit among distractors, one folder per class"
    chequers = "write a few chequers in a data set's official format, to try things out"
    generators = {"synthetic": people, "tasks": tasks, "digits": digits, "digits_single": single}
    if with_tiny:
        generators["tiny"] = chequers
    for kind, text in generators.items():
        command = commands.add_parser(kind, help=text, description=text)
        if kind == "tiny":
            names = [name for name in prepare.OFFICIAL if name not in prepare.OWN]
            command.add_argument("name", choices=names)
            command.add_argument("--version", metavar="V",
                help="of RAP: 1 (default) or 2; of CIFAR: python (default) or binary; of PETA: mat "
                "(default) or folders")  # fmt: skip
        else:
            command.add_argument("-j", "--workers", type=int, metavar="N",
                help="default: all cores")  # fmt: skip
        if kind == "digits_single":
            command.add_argument("--side", type=int, default=128, metavar="PIXELS",
                help="side of the images, 16 to 128 (default: 128)")  # fmt: skip
        command.add_argument("--out", required=True, metavar="DIR", help="folder to write")
        for split in ("train", "val", "test"):
            command.add_argument(f"--{split}", type=int, metavar="N",
                help=f"number of images for {split}")  # fmt: skip
        command.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
        command.add_argument("--overwrite", action="store_true", help="replace what is there")


def packing_options(command: argparse.ArgumentParser) -> None:
    """Add the flags of checking and packing."""
    add = command.add_argument
    add("--root", metavar="DIR", help="folder of the data set as published")
    add("--out", metavar="DIR", help="folder for the packed splits; not needed with --check")
    add("--splits", nargs="+", metavar="SPLIT", help="default: those that exist")
    add("--size", type=int, default=256, help="side of the packed images (default: 256)")
    add("--train-size", type=int, default=224, metavar="SIZE",
        help="largest crop you will train with; --size must exceed it (default: 224)")  # fmt: skip
    add("--quality", type=int, default=95, help="JPEG quality (default: 95)")
    add("-j", "--workers", type=int, metavar="N", help="threads (default: all cores)")
    cli.add_shard_flag(command, "pack the i-th of n parts of each split")
    add("--overwrite", action="store_true", help="pack again what is packed already")
    add("--on-bad-image", choices=("error", "skip"), default="error",
        help="a missing or truncated image stops the command, or is left out and listed "
        "(default: error)")  # fmt: skip
    add("--check", nargs="?", const=True, default=False, metavar="DIR",
        help="read every image (of DIR, or of --root) and report; pack nothing; exit code 1 if "
        "anything is wrong")  # fmt: skip


def main(arguments: Sequence[str] | None = None, tiny: str = "") -> int:
    """Check, pack or generate; ``tiny`` names the module with ``write_tiny``, in a checkout."""
    options = flags(bool(tiny)).parse_args(arguments)
    write_tiny = importlib.import_module(tiny).write_tiny if tiny else None
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    again = "interrupted; the same command continues"
    return cli.status_of(lambda: prepare.run(options, print, write_tiny), again)
