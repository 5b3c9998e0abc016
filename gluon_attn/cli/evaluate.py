"""Evaluate a trained run, an export or a zoo model: tables, CSV, JSON, Markdown, figures.

python tools/evaluate.py --run runs/vaa --data-dir WIDER
python tools/evaluate.py --run runs/icasc --compare runs/plain --data-dir CUB --attention
python tools/evaluate.py --export exports/vaa --data-dir WIDER --split val
python tools/evaluate.py --model vaa_resnet101_wider --params FILE --data-dir WIDER
"""

from __future__ import annotations

import argparse
import os
from typing import Any, Sequence

from gluon_attn.cli import common as cli


def flags() -> argparse.ArgumentParser:
    """Return the command's flags."""
    parser = cli.parser(__doc__)
    cli.add_source_flags(parser, export="export directory")
    cli.add_data_flags(parser)
    parser.add_argument("--split", help="default: the one that the run is tested on, or test")
    parser.add_argument("--dataset", metavar="KIND", help="read the data as this kind (default: "
                        "as the run's recipe says)")  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="where files go (default: MODEL_evaluation)")
    parser.add_argument("--boxes", metavar="FILE", help="people for keypoints: COCO results")
    parser.add_argument("--threshold", type=float, default=0.5, help="default: 0.5")
    parser.add_argument("--unspecified", choices=("masked", "negative"), default="masked",
        help="unspecified labels: left out (default) or counted as negative")  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=32, help="default: 32")
    parser.add_argument("--no-figures", action="store_true", help="tables only")
    parser.add_argument(
        "--analyse", nargs="+", default=[], metavar="KIND",
        help="instead of the tables: attention, overlap, selectivity, tsne, gradcam, gates, critic",
    )  # fmt: skip
    parser.add_argument("--attention", action="store_true",
                        help="same as --analyse attention overlap")  # fmt: skip
    parser.add_argument(
        "--compare", nargs="+", default=[], metavar="RUN",
        help="analyse also these, as baselines: run folders, or ZOO_NAME=WEIGHTS",
    )  # fmt: skip
    cli.add_device_flags(parser)
    return parser


def output_folder(args: argparse.Namespace) -> str:
    """Return where files go: never into the run or the export that is evaluated."""
    source = args.run or args.export or os.path.splitext(args.params or args.model)[0]
    return args.out or f"{source.rstrip(os.sep)}_evaluation"


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict the split, print the table and write the files."""
    args = cli.parse_source(flags(), arguments)
    from gluon_attn.runtime import contexts
    from gluon_attn.tasks import reid
    from gluon_attn.tasks.base import task_of, task_of_export
    from gluon_attn.train import trained as load
    from gluon_attn.train.build import reading_of

    ctx, out = contexts(cli.device_of(args)), output_folder(args)
    trained = load.from_flags(args, ctx)
    task, sidecar = (task_of(trained.net), None) if trained else task_of_export(args.export)
    extra = trained.extra if trained else sidecar.get("extra", {})
    reading = reading_of(extra.get("recipe"), args.dataset)
    args.split = args.split or reading.splits[2]
    if task:
        print(task.run_evaluate(args, trained, ctx, out, reading=reading))
        return
    if trained and reid.gives_embedding(trained.net):
        done = reid.evaluate_reid(
            trained, args.data_dir, out, args.split, ctx[0], args.batch_size, args.num_workers,
            on_bad_image=args.on_bad_image, reading=reading,
        )  # fmt: skip
        print(done.text + "\n" + "\n".join(f"wrote {path}" for path in done.files))
        return
    evaluate_labels(args, trained, sidecar, reading, ctx, out)


def evaluate_labels(
    args: argparse.Namespace, trained: Any, sidecar: Any, reading: Any, ctx: list, out: str
) -> None:
    """Evaluate attributes or classes, of a net or of the export with this sidecar."""
    from gluon_attn.tasks import evaluate_run as work
    from gluon_attn.tasks.scores import text_of
    from gluon_attn.train.build import reports_accuracy

    recipe = trained.extra.get("recipe", {}) if trained else {}
    dataset = work.open_for_evaluation(
        args.data_dir, args.split, trained.classes if trained else tuple(sidecar["classes"]),
        args.on_bad_image, args.unspecified, recipe=reading,
    )  # fmt: skip
    if trained and not args.dataset:
        work.tell_other_data(trained, dataset, args.data_dir)
    if args.analyse or args.attention or args.compare:
        from gluon_attn.cli.analysis import analyse_from_flags

        print(analyse_from_flags(args, trained, dataset, ctx, out))
        return
    if trained:
        found = work.predict_dataset(trained, dataset, ctx[0], args.batch_size, args.num_workers)
    else:
        found = work.predict_export(args.export, dataset, ctx[0], args.batch_size)
    done = work.evaluate(
        found, dataset.names, out, args.split, args.threshold, not args.no_figures,
        dataset.schema if reports_accuracy(recipe, dataset.schema) else None,
    )  # fmt: skip
    files = list(done.files)
    if trained and not args.no_figures:
        path = os.path.join(out, f"{args.split}_attention.png")
        files += filter(None, [work.draw_attention(trained, dataset, found, path, ctx[0])])
    print(text_of(done.result, done.accuracy))
    if dataset.skipped:
        print(f"{len(dataset.skipped)} unreadable images skipped: {list(dataset.skipped)[:10]}")
    print("\n" + "\n".join(f"wrote {path}" for path in files))
