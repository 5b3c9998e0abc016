"""Show trained nets side by side: a static HTML page with scores, attention maps and curves.

python tools/gallery.py plain=runs/demo/plain VAA=runs/demo/vaa --data-dir runs/demo/data \\
    --out gallery
python tools/gallery.py plain=resnet18_w16_synthetic VAA=vaa_resnet18_w16_synthetic \\
    --data-dir runs/demo/data --out gallery        nets whose weights come with the package

The folder of a search (tools/search.py) adds its curves and its genotype, but no net. Open
gallery/index.html in a browser; no server is needed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.cli import common as cli  # noqa: E402


def flags():
    """Return the command-line parser."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="[TITLE=]RUN",
        help="folders of training runs, or names of zoo models with weights; baseline first",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where the page goes")
    parser.add_argument("--split", help="default: the one that the first run is tested on")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="default: 8")
    cli.add_data_flags(parser)
    cli.add_device_flags(parser)
    return parser


def titled(texts):
    """Return ``{title: run}`` of ``TITLE=RUN`` or ``RUN`` texts, RUN a folder or a zoo name.

    A text that is a folder is taken as one, as folders may be called ``lr=0.1``.

    Raises:
        ValueError: Two runs have the same title, or one has none.
        FileNotFoundError: There is no such folder, nor a model of that name with weights.
    """
    from model_zoo import store

    found = {}
    for text in texts:
        title, equals, folder = text.partition("=")
        if os.path.isdir(text) or not equals:
            title, folder = os.path.basename(os.path.abspath(text)), text
        if not title.strip():
            raise ValueError(f"'{text}' has no title; give TITLE=RUN, or RUN alone")
        known = os.path.isdir(folder) or store.builtin(folder.lower())
        if not known and folder.lower() not in store.entries():  # which may ask a mirror
            raise FileNotFoundError(
                f"'{text}': there is no folder '{folder}', nor weights of a model of that name"
            )
        if title in found:
            raise ValueError(f"two runs are called '{title}'; name them: TITLE=RUN")
        found[title] = folder
    return found


def main():
    """Write the gallery and print where it is."""
    args = cli.parse(flags())
    from gluon_attn.runtime import contexts
    from tools.site.gallery import make_gallery

    ctx = contexts(cli.device_of(args))[0]
    common = {"images": args.images, "ctx": ctx, "workers": args.num_workers}
    page = make_gallery(titled(args.runs), args.data_dir, args.out, args.split, **common)
    print(f"wrote {page}")


if __name__ == "__main__":
    cli.run(main)
