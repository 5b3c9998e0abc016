"""Evaluate a trained run, an export or a zoo model: tables, CSV, JSON, Markdown, figures.

python tools/evaluate.py --run runs/vaa --data-dir WIDER
python tools/evaluate.py --run runs/icasc --compare runs/plain --data-dir CUB --attention
python tools/evaluate.py --run runs/vaa --data-dir CCP --split val --localisation
python tools/evaluate.py --export exports/vaa --data-dir WIDER --backend mxnet-int8
python tools/evaluate.py --model vaa_resnet101_wider --params FILE --data-dir WIDER
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Sequence

from gluon_attn.cli import common as cli

if TYPE_CHECKING:
    from gluon_attn.task import Exported, Trained


def flags() -> argparse.ArgumentParser:
    """Return the command's flags."""
    parser = cli.parser(__doc__)
    cli.add_source_flags(parser, export="export directory")
    cli.add_data_flags(parser)
    parser.add_argument("--split", help="default: the one that the run is tested on, or test")
    parser.add_argument("--dataset", metavar="KIND", help="read the data as this kind (default: "
                        "as the run's recipe says)")  # fmt: skip
    parser.add_argument(
        "--out", metavar="DIR", help="where files go (default: RUN_evaluation or "
        "EXPORT_evaluation, beside it; of --model, in the working folder)",
    )  # fmt: skip
    parser.add_argument("--boxes", metavar="FILE", help="people for keypoints: COCO results")
    parser.add_argument("--threshold", type=float, default=0.5, help="default: 0.5")
    parser.add_argument("--unspecified", choices=("masked", "negative"), default="masked",
        help="unspecified labels: left out (default) or counted as negative")  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=32, help="default: 32")
    parser.add_argument("--no-figures", action="store_true", help="tables only")
    parser.add_argument(
        "--analyse", nargs="+", default=[], metavar="KIND",
        help="instead of the tables: attention, overlap, selectivity, tsne, gradcam, gates, "
             "critic, localisation",
    )  # fmt: skip
    parser.add_argument("--attention", action="store_true",
                        help="same as --analyse attention overlap")  # fmt: skip
    parser.add_argument("--localisation", action="store_true", help="same as --analyse "
                        "localisation: maps against the masks of the data set")  # fmt: skip
    parser.add_argument(
        "--compare", nargs="+", default=[], metavar="RUN",
        help="analyse also these, as baselines: run folders, zoo names with published weights, "
             "or ZOO_NAME=WEIGHTS",
    )  # fmt: skip
    cli.add_backend_flag(parser)
    cli.add_device_flags(parser)
    return parser


def output_folder(args: argparse.Namespace) -> str:
    """Return where files go: never into the run or the export that is evaluated.

    A weight file may lie in a folder that others share, so nothing is written beside it. Two
    called best.params are told apart by their folders.
    """
    folder, file = os.path.split(os.path.abspath(args.params)) if args.params else ("", "")
    name = os.path.splitext(file)[0]
    if name == "best":
        name = f"{os.path.basename(folder)}_best"
    source = args.run or args.export or name or args.model
    return args.out or f"{source.rstrip(os.sep)}_evaluation"


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict the split, print the table and write the files."""
    args = cli.parse_source(flags(), arguments)
    from gluon_attn.runtime import contexts
    from gluon_attn.task import Exported
    from gluon_attn.train import trained as load

    if args.backend != "mxnet" and not args.export:
        raise ValueError(f"--backend {args.backend}: only an --export has it")
    ctx = contexts(cli.device_of(args))
    source = load.from_flags(args, ctx) or Exported.open(args.export, args.backend)
    print(evaluate(args, source, ctx, output_folder(args)))


def evaluate(args: argparse.Namespace, source: Trained | Exported, ctx: list, out: str) -> str:
    """Evaluate a net or an export as the flags say; return the text for the console."""
    from gluon_attn.task import Asked, Trained
    from gluon_attn.tasks.data import open_for, reading_of, tell_other_data

    task = source.task
    reading = reading_of(source.extra.get("recipe"), args.dataset)
    dataset = open_for(
        source, args.data_dir, args.split, reading=reading, on_bad_image=args.on_bad_image,
        unspecified=args.unspecified,
    )  # fmt: skip
    args.split = dataset.split
    if isinstance(source, Trained) and not args.dataset:
        tell_other_data(source, dataset, args.data_dir)
    if args.analyse or args.attention or args.localisation or args.compare:
        from gluon_attn.cli.analysis import analyse_from_flags

        return analyse_from_flags(args, source, dataset, ctx=ctx, out=out)
    done = task.evaluate(source, dataset, Asked(
        out, args.split, ctx[0], batch_size=args.batch_size, workers=args.num_workers,
        threshold=args.threshold, figures=not args.no_figures, boxes=args.boxes,
    ))  # fmt: skip
    lines = [done.text]
    if args.export:
        lines += ["", f"run by {args.backend}"]
    if dataset.skipped:
        lines.append(
            f"{len(dataset.skipped)} unreadable images skipped: {list(dataset.skipped)[:10]}"
        )
    return "\n".join([*lines, "", *(f"wrote {path}" for path in done.files)])
