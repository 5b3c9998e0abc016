"""Export a trained run or a zoo model as symbol, params and a JSON sidecar for plain MXNet.

    python tools/export.py --run runs/vaa --out exports/vaa --with-maps
    python tools/export.py --model vaa_resnet101_wider --params FILE --out exports/vaa --onnx
    python tools/export.py --export exports/vaa --int8 --calib WIDER

The export is reloaded in a separate process without this package and its numbers are compared.
--int8, --bf16 and --onnx add further forms of the graph, to a new export or to one that is there
(--export). int8 is calibrated on --calib-split of the data and scored on --score-split; if it loses
more than --max-drop points of mAP there, nothing is written.
"""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Any, Sequence

from gluon_attn.cli import common as cli


def flags() -> argparse.ArgumentParser:
    """Return the command's flags."""
    parser = cli.parser(__doc__)
    cli.add_source_flags(parser, export="export directory to which forms are added")
    parser.add_argument("--out", metavar="DIR", help="directory to create")
    parser.add_argument("--name", help="name of the files (default: the model's)")
    parser.add_argument("--with-maps", action="store_true", help="export the attention maps too")
    parser.add_argument("--threshold", type=float, default=0.5, help="stored in the sidecar")
    parser.add_argument("--overwrite", action="store_true", help="replace an older export")
    forms = parser.add_argument_group("further forms of the graph")
    forms.add_argument("--int8", action="store_true", help="8-bit integers; needs --calib")
    forms.add_argument("--bf16", action="store_true", help="bfloat16; needs AVX-512 here")
    forms.add_argument("--onnx", action="store_true", help='ONNX; pip install "gluon_attn[onnx]"')
    forms.add_argument("--calib", metavar="DATA", help="data set to calibrate and to score with")
    forms.add_argument("--calib-split", metavar="SPLIT", help="default: the run's for training")
    forms.add_argument("--score-split", metavar="SPLIT", help="default: the run's for validation")
    forms.add_argument(
        "--calib-num", type=int, default=256, metavar="N", help="calibration images (default: 256)"
    )
    forms.add_argument(
        "--max-drop", type=float, default=0.5, metavar="POINTS",
        help="mAP points that int8 may lose (default: 0.5)",
    )  # fmt: skip
    return parser


def export(args: argparse.Namespace, forms: Any) -> Any:
    """Export a run or a zoo model; return the directory, or text for the console."""
    from gluon_attn.export import export_model
    from gluon_attn.export.sidecar import input_entry, refuse_existing
    from gluon_attn.runtime import contexts
    from gluon_attn.tasks import base as tasks
    from gluon_attn.tasks import export_run as work
    from gluon_attn.train import trained as load

    if not args.out:
        raise ValueError("give --out DIR, the directory to create")
    trained = load.from_flags(args, contexts("cpu"))
    refuse_existing(args.out, args.overwrite)
    task = tasks.task_of(trained.net)
    if task:
        return task.run_export(args, trained)
    entry = input_entry(trained.input_size, trained.export_preprocess)
    return export_model(
        trained.net, args.out, args.name or trained.name, trained.classes,
        trained.input_size, trained.export_preprocess, args.threshold, args.with_maps,
        trained.extra, args.overwrite, activation=trained.activation,
        schema=trained.extra.get("schema"),
        variants=work.make_variants(
            forms, trained.classes, entry, trained.activation, recipe=trained.extra.get("recipe")
        ),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the export or add to it, and report sizes, parity and drops."""
    args = cli.parse_source(flags(), arguments)
    from gluon_attn.tasks import export_run as work

    forms = work.Forms(**{name: getattr(args, name) for name in work.Forms._fields})
    work.check_forms(forms)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("gluon_attn.export").setLevel("INFO" if forms.wanted else "WARNING")
    if args.export:
        directory = work.extend(args.export, forms, args.out)
    else:
        directory = export(args, forms)
    lines = [directory] if isinstance(directory, str) else work.summary(directory)
    print("\n".join(lines))
    print(f"next: {cli.called('predict')} {args.out or args.export} IMAGE_OR_FOLDER")
