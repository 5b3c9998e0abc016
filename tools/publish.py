"""Put the weights of a finished run into the package, with their entry and model card.

python tools/publish.py icasc_resnet20_w8_digits --run runs/reproduce/icasc-digit/A_ch-constant-0 \\
    --data-dir runs/reproduce/icasc-digit/data/data --made-with "…" --trained-with "…"

For maintainers, from a checkout whose code is committed. Own weights need none of this: --params
FILE takes any.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.cli import common as cli  # noqa: E402


def main():
    """Publish and print the score."""
    parser = cli.parser(__doc__)
    parser.add_argument("name", help="zoo name of the weights")
    parser.add_argument("--run", required=True, metavar="DIR", help="training run")
    parser.add_argument("--data-dir", required=True, metavar="DIR", help="data of the score")
    parser.add_argument("--made-with", required=True, metavar="COMMAND",
        help="draws the data of the score: tools/prepare_data.py …")  # fmt: skip
    parser.add_argument("--packed-with", default="", metavar="COMMAND",
        help="packs them for training, if they were")  # fmt: skip
    parser.add_argument("--trained-with", required=True, metavar="COMMAND", help="makes the run")
    parser.add_argument("--baseline", metavar="NAME", help="zoo name of the baseline")
    parser.add_argument("--summary", default="", metavar="TEXT", help="one sentence for the card")
    parser.add_argument("--half", action="store_true", help="store weights in half precision")
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


if __name__ == "__main__":
    cli.run(main)
