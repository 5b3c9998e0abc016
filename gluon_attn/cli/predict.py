"""Predict the attributes of people in images, from an export directory.

  python tools/predict.py runs/demo/export photo.jpg
  python tools/predict.py runs/demo/export images/ --json result.json --heatmaps maps/
  python tools/predict.py EXPORT WIDER/Image --boxes wider_attribute_test.json --csv -
  python tools/predict.py EXPORT images/ --backend fastest --threads 4
  python tools/predict.py EXPORT images/ --csv result.csv --shard 2/4

Without --boxes every image should show one person. Errors end with code 2. What is interrupted
continues when the same command with --json or --csv FILE is given again.
"""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Sequence

from gluon_attn.cli import common as cli


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("export", metavar="EXPORT", help="export directory")
    parser.add_argument("images", metavar="IMG|DIR", nargs="+", help="images and folders")
    parser.add_argument(
        "--boxes",
        metavar="FILE",
        help='persons: JSON {"path": [[x, y, w, h], …]}, CSV path,x,y,w,h or WIDER annotation',
    )
    parser.add_argument("--json", metavar="FILE|-", help="write JSON; - prints it, without table")
    parser.add_argument("--csv", metavar="FILE|-", help="write CSV; - prints it, without table")
    parser.add_argument("--heatmaps", metavar="DIR", help="draw attention maps over the persons")
    parser.add_argument("--draw", metavar="DIR", help="draw what detectors and pose nets find")
    parser.add_argument("--threshold", type=float, metavar="T", help="instead of the export's own")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N")
    parser.add_argument("--ctx", default="cpu", help="cpu (default) or gpu:0")
    cli.add_backend_flag(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="compute threads")
    parser.add_argument(
        "--on-bad-image",
        choices=("error", "skip"),
        help="stop, or go on with a row that names the error (default: error; with --shard skip)",
    )
    cli.add_shard_flag(parser, "predict the i-th of n parts of the images")
    parser.add_argument("--overwrite", action="store_true", help="predict a shard again")
    options = cli.parse(parser, arguments)
    if options.json == "-" and options.csv == "-":
        parser.error("only one of --json and --csv can go to standard output")
    options.on_bad_image = options.on_bad_image or ("skip" if options.shard else "error")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict and write what was asked for."""
    options = parse(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    for name in ("gluon_attn.export.backends", "gluon_attn.tasks.predictions"):
        logging.getLogger(name).setLevel(logging.INFO)
    from gluon_attn.task import Exported
    from gluon_attn.tasks import predictions

    predictions.run(Exported.open(options.export, options.backend), options)
