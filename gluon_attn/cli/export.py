"""Export a trained run or a zoo model as symbol, params and a JSON sidecar for plain MXNet.

    python tools/export.py --run runs/vaa --out exports/vaa --with-maps
    python tools/export.py --model vaa_resnet101_wider --params FILE --out exports/vaa --onnx
    python tools/export.py --export exports/vaa --int8 --calib WIDER

The export is reloaded in a separate process without this package and its numbers are compared.
--int8, --bf16 and --onnx (with --fp16 in half precision too) add further forms of the graph, to a
new export or to one that is there (--export). int8 is calibrated on --calib-split of the data and
scored on --score-split; if it loses more than --max-drop points of mAP there, nothing is written.
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
    forms.add_argument("--fp16", action="store_true", help="with --onnx: a float16 file for GPUs")
    forms.add_argument(
        "--web", nargs="?", const="fp16", choices=("fp16", "int8"), metavar="WEIGHTS",
        help="a page for browsers, weights in fp16 (default) or int8; needs --onnx",
    )  # fmt: skip
    forms.add_argument("--runtime", metavar="DIR", help="onnxruntime-web's dist folder, for --web")
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


def export(args: argparse.Namespace, forms: Any) -> str:
    """Export a run or a zoo model as the flags say; return the directory."""
    from gluon_attn.export.sidecar import refuse_existing
    from gluon_attn.runtime import contexts
    from gluon_attn.tasks.forms import make_variants
    from gluon_attn.train import trained as load

    if not args.out:
        raise ValueError("give --out DIR, the directory to create")
    trained = load.from_flags(args, contexts("cpu"))
    if trained is None:
        raise ValueError("give --run DIR or --model NAME, the net to export")
    refuse_existing(args.out, args.overwrite)
    trained.task.check_forms(args)
    trained.task.export(
        trained, args.out, args.name or trained.name, threshold=args.threshold,
        with_maps=args.with_maps, overwrite=args.overwrite,
        variants=make_variants(forms, trained),
    )  # fmt: skip
    return args.out


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the export or add to it, and report sizes, parity and drops."""
    args = cli.parse_source(flags(), arguments)
    from gluon_attn.tasks import forms as work

    forms = work.Forms(**{name: getattr(args, name) for name in work.Forms._fields})
    work.check_forms(forms)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("gluon_attn.export").setLevel("INFO" if forms.wanted else "WARNING")
    extended = work.extend(args.export, forms, args.out) if args.export else None
    print("\n".join(work.summary(extended or export(args, forms))))
    print(f"next: {cli.called('predict')} {args.out or args.export} IMAGE_OR_FOLDER")
    if forms.web:
        print(f"page: {cli.called('serve')} {args.out or args.export}")
