#!/usr/bin/env python3
"""Check, pack and generate data sets: python tools/prepare_data.py wider --root DIR --out DIR."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.data import prepare  # noqa: E402


def parse(arguments):
    parser = argparse.ArgumentParser(
        description="Check, pack and generate data sets. Every command can be interrupted and run "
        "again: it continues where it stopped.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wider = commands.add_parser(
        "wider",
        help="pack person crops of WIDER-Attribute from its official files",
        description="Pack the person crops of WIDER-Attribute into RecordIO. DIR holds Image/ and "
        "the annotation (in Annotations/, Anno/, wider_attribute_annotation/ or DIR itself). The "
        "counts are compared with the published ones.",
    )
    wider.add_argument(
        "--srn",
        action="store_true",
        help="use SRN's crops and lists (Image_cropped/, wider_att/) instead of the annotation's "
        "boxes: exactly the samples of VAA and most later papers",
    )
    lists = commands.add_parser(
        "list",
        help="pack your own pictures: path<TAB>1,0,-1,... and names.txt",
        description="Pack a data set of plain lists: train.txt, val.txt, test.txt with one "
        "path<TAB>1,0,-1,... per line (positive, negative, unspecified) and names.txt.",
    )
    lists.add_argument(
        "--coding",
        choices=("list", "wider"),
        default="list",
        help="list: 1, 0, -1 are positive, negative, unspecified; wider: 1, -1, 0 (default: list)",
    )
    for command in (wider, lists):
        packing_options(command)
    synthetic = commands.add_parser(
        "synthetic", help="draw pedestrians with the 14 attributes, in WIDER's on-disk format"
    )
    digits = commands.add_parser("digits", help="compose scenes of handwritten digits, as lists")
    for command, unit in ((synthetic, "pictures"), (digits, "scenes")):
        command.add_argument("--out", required=True, metavar="DIR", help="folder to write")
        for split in ("train", "val", "test"):
            command.add_argument(
                f"--{split}", type=int, metavar="N", help=f"number of {unit} for {split}"
            )
        command.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
        command.add_argument("-j", "--workers", type=int, metavar="N", help="default: all cores")
        command.add_argument("--overwrite", action="store_true", help="replace what is there")
    return parser.parse_args(arguments)


def packing_options(command):
    add = command.add_argument
    add("--root", required=True, metavar="DIR", help="folder of the data set as published")
    add("--out", metavar="DIR", help="folder for the packed splits; not needed with --check")
    add("--splits", nargs="+", metavar="SPLIT", help="default: those that exist")
    add("--size", type=int, default=256, help="side of the packed pictures (default: 256)")
    add("--train-size", type=int, default=224, metavar="SIZE",
        help="largest crop you will train with; --size must exceed it (default: 224)")  # fmt: skip
    add("--quality", type=int, default=95, help="JPEG quality (default: 95)")
    add("-j", "--workers", type=int, metavar="N", help="threads (default: all cores)")
    add("--overwrite", action="store_true", help="pack again what is packed already")
    add("--on-bad-image", choices=("error", "skip"), default="error",
        help="a missing or truncated picture stops the command, or is left out and listed "
        "(default: error)")  # fmt: skip
    add("--check", action="store_true",
        help="read every picture and report; pack nothing; exit code 1 if anything is "
        "wrong")  # fmt: skip


def main(arguments=None):
    options = parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return prepare.run(options, print)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
