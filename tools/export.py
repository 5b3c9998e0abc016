"""Export a trained run or a zoo model as symbol, params and a JSON sidecar for plain MXNet.

    python tools/export.py --run runs/vaa --out exports/vaa --with-maps
    python tools/export.py --model vaa_resnet101_wider --params FILE --out exports/vaa

The export is reloaded in a separate process without this package and its numbers are compared.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.workflows import cli  # noqa: E402


def flags():
    """Return the command's flags."""
    parser = cli.parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", metavar="DIR", help="folder of a training run (best epoch)")
    source.add_argument("--model", metavar="NAME", help="zoo model, with --params or --pretrained")
    parser.add_argument("--params", metavar="FILE", help="weights of --model")
    parser.add_argument("--pretrained", action="store_true", help="published weights of --model")
    parser.add_argument("--names", metavar="FILE", help="attribute names of --model, one a line")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to create")
    parser.add_argument("--name", help="name of the files (default: the model's)")
    parser.add_argument("--with-maps", action="store_true", help="export the attention maps too")
    parser.add_argument("--threshold", type=float, default=0.5, help="stored in the sidecar")
    parser.add_argument("--overwrite", action="store_true", help="replace an older export")
    return parser


def main():
    """Load the net, export it and report the parity figure."""
    args = flags().parse_args()
    from gluon_attn.data.lists import read_names
    from gluon_attn.export import export_model
    from gluon_attn.export.sidecar import read_sidecar
    from gluon_attn.runtime import contexts
    from gluon_attn.workflows import load

    ctx = contexts("cpu")
    if args.run:
        trained = load.from_run(args.run, ctx)
    else:
        classes = read_names(Path(args.names)) if args.names else None
        trained = load.from_zoo(args.model, args.params, ctx, classes, args.pretrained)
    directory = export_model(
        trained.net, args.out, args.name or trained.name, trained.classes,
        trained.input_size, trained.export_preprocess, args.threshold, args.with_maps,
        trained.extra, args.overwrite,
    )  # fmt: skip
    sidecar = read_sidecar(directory)
    for entry in sidecar["files"].values():
        print(f"{entry['bytes'] / 1e6:9.2f} MB  {directory / entry['file']}")
    parity = sidecar["parity"]
    print(f"parity with plain MXNet: largest difference {parity['max_abs_diff']:.2e}")
    print(f"next: python tools/predict.py {directory} IMAGE_OR_FOLDER")


if __name__ == "__main__":
    cli.run(main)
