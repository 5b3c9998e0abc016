"""Train VAA (or another recipe) on WIDER-Attribute.

    python tools/train_wider.py --data-dir WIDER --save-dir runs/vaa \\
        --base-params resnet101_v1-d988c13d.params
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.cli import common as cli  # noqa: E402


def main():
    """Parse the flags and train."""
    flags = cli.training_parser(__doc__, default_recipe="vaa_wider_resnet101")
    return cli.train_from_flags(cli.parse(flags))


if __name__ == "__main__":
    cli.run(main)
