"""Show the whole way in minutes, without any data of your own.

Draws synthetic pedestrians, trains a plain backbone and a small VAA, compares them, exports VAA,
predicts from the export, draws figures and writes a summary page.

    python tools/demo.py                 into runs/demo
    python tools/demo.py --fresh         from the beginning again
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.cli import common as cli  # noqa: E402


def main():
    """Run the demo."""
    parser = cli.parser(__doc__)
    parser.add_argument("--out", default=os.path.join("runs", "demo"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--fresh", action="store_true", help="remove an earlier demo first")
    parser.add_argument("overrides", nargs="*", metavar="key=value",
                        help="recipe overrides for both models, such as epochs=2")  # fmt: skip
    args = cli.parse(parser)
    from gluon_attn.train.build import load_recipe
    from tools.site import demo

    plain, vaa = (
        load_recipe(f"{name}_synthetic_resnet18", [f"seed={args.seed}", *args.overrides])
        for name in ("baseline", "vaa")
    )  # fmt: skip
    if args.fresh:  # only now: a wrong override must not cost the earlier demo
        demo.forget(args.out, plain, vaa)
    demo.run_demo(args.out, plain, vaa, args.seed)


if __name__ == "__main__":
    cli.run(main)
