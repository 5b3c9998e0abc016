"""The commands that show and publish: tools/demo.py, gallery.py and publish.py."""

from __future__ import annotations

import os
from pathlib import Path

from gluon_attn.cli import common as cli

DEMO = """Show the whole way in minutes, without any data of your own.

Makes synthetic pedestrians, trains a plain backbone and a small VAA, compares them, exports VAA,
predicts from the export, draws figures and writes a summary page.

    python tools/demo.py                 into runs/demo
    python tools/demo.py --fresh         from the beginning again
    python tools/demo.py --data-dir CCP  on photographs: Clothing Co-Parsing, with localisation
"""

GALLERY = """Show trained nets side by side: a static page with scores, attention maps and curves.

python tools/gallery.py plain=runs/demo/plain VAA=runs/demo/vaa --data-dir runs/demo/data \\
    --out gallery
python tools/gallery.py plain=resnet18_w16_synthetic VAA=vaa_resnet18_w16_synthetic \\
    --data-dir runs/demo/data --out gallery        nets whose weights come with the package

The folder of a search (tools/search.py) adds its curves and its genotype, but no net. Open
gallery/index.html in a browser; no server is needed.
"""

PUBLISH = """Put the weights of a finished run into the package, with their entry and model card.

python tools/publish.py icasc_resnet20_w8_digits --run runs/reproduce/icasc-digit/A_ch-constant-0 \\
    --data-dir runs/reproduce/icasc-digit/data/data --made-with "…" --trained-with "…"

For maintainers, from a checkout whose code is committed. Own weights need none of this: --params
FILE takes any.
"""


def demo():
    """Run the demo."""
    parser = cli.parser(DEMO)
    parser.add_argument("--data-dir", metavar="DIR", help="Clothing Co-Parsing, as published: its "
                        "photographs instead of synthetic people")  # fmt: skip
    parser.add_argument("--out", metavar="DIR",
                        help="default: runs/demo, or runs/demo_photographs")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--fresh", action="store_true", help="remove an earlier demo first")
    parser.add_argument("overrides", nargs="*", metavar="key=value",
                        help="recipe overrides for both models, such as epochs=2")  # fmt: skip
    args = cli.parse(parser)
    from tools.site import demo

    out = args.out or os.path.join("runs", "demo_photographs" if args.data_dir else "demo")
    plain, vaa = demo.recipes([f"seed={args.seed}", *args.overrides], bool(args.data_dir))
    if args.fresh:  # only now: a wrong override must not cost the earlier demo
        demo.forget(out, plain, vaa)
    demo.run_demo(out, plain, vaa, args.seed, photographs=args.data_dir)


def gallery_flags():
    """Return the command-line parser."""
    parser = cli.parser(GALLERY)
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


def gallery():
    """Write the gallery and print where it is."""
    args = cli.parse(gallery_flags())
    from gluon_attn.runtime import contexts
    from tools.site.gallery import make_gallery

    ctx = contexts(cli.device_of(args))[0]
    common = {"images": args.images, "ctx": ctx, "workers": args.num_workers}
    page = make_gallery(titled(args.runs), args.data_dir, args.out, args.split, **common)
    print(f"wrote {page}")


def publish():
    """Publish and print the score."""
    parser = cli.parser(PUBLISH)
    parser.add_argument("name", help="zoo name of the weights")
    parser.add_argument("--run", required=True, metavar="DIR", help="training run")
    parser.add_argument("--data-dir", required=True, metavar="DIR", help="data of the score")
    parser.add_argument("--made-with", required=True, metavar="COMMAND",
        help="makes the data of the score: tools/prepare_data.py …")  # fmt: skip
    parser.add_argument("--packed-with", default="", metavar="COMMAND",
        help="packs them for training, if they were")  # fmt: skip
    parser.add_argument("--trained-with", required=True, metavar="COMMAND", help="makes the run")
    parser.add_argument("--baseline", metavar="NAME", help="zoo name of the baseline")
    parser.add_argument("--summary", default="", metavar="TEXT", help="one sentence for the card")
    parser.add_argument("--stored", choices=["half", "int8"], default="",
        help="precision in which weights are stored; default: as they are")  # fmt: skip
    parser.add_argument("--page", metavar="FILE", help="page whose table of weights is renewed")
    args = parser.parse_args()
    from tools.site.publish import Source, publish, renew

    if args.page and not Path(args.page).is_file():
        raise FileNotFoundError(f"--page {args.page}: there is no such page")
    source = Source(**{name: getattr(args, name) for name in Source._fields})
    entry = publish(args.name, source)
    if args.page:
        renew(args.page)
    print(f"{entry['file']}: {entry['score']}")
