"""Join what `prepare` and `predict` made in shards, to what one command would have made.

  python tools/merge.py packed                 # every split in a folder
  python tools/merge.py packed/train           # one of them
  python tools/merge.py results/people.csv     # predictions: the JSON and CSV that were asked for

All shards must be there. They stay.
"""

from __future__ import annotations

import argparse
import os
from typing import Any, Callable, Iterator, Sequence

from gluon_attn.cli import common as cli
from gluon_attn.core.shards import stems

SUFFIXES = (".csv", ".json", ".jsonl", ".rec", ".idx")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("paths", metavar="DIR|NAME", nargs="+", help="folder, or what to make")
    parser.add_argument("--out", metavar="DIR", help="default: beside the shards")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> Iterator[str]:
    """Merge, and yield a line of text for everything that is there then."""
    from gluon_attn.data import packing
    from gluon_attn.tasks import predictions

    kinds: tuple[tuple[str, str, Callable[..., Any]], ...] = (
        (".json", packing.UNFINISHED, packing.merge),
        (predictions.SUFFIX, predictions.SUFFIX + predictions.UNFINISHED, predictions.merge),
    )
    for path in options.paths:
        folder, wanted = (path, None) if os.path.isdir(path) else os.path.split(path)
        if wanted and wanted.endswith(SUFFIXES):
            wanted = os.path.splitext(wanted)[0]
        count = 0
        for whole, unfinished, merge in kinds:
            for stem in sorted({*stems(folder, whole), *stems(folder, unfinished)}):
                if wanted in (None, stem):
                    merge(folder, stem, options.out, options.overwrite)
                    yield f"{os.path.join(options.out or folder, stem)}: merged"
                    count += 1
        if not count:
            raise FileNotFoundError(f"{path}: no shards (NAME-00001-of-00004.json or .jsonl)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    for line in run(parse(arguments)):
        print(line)
