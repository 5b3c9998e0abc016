"""Train any recipe on any data set.

python tools/train.py --recipe vaa_synthetic_resnet18 --data-dir DATA --save-dir runs/vaa
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.cli import common as cli  # noqa: E402


def main():
    """Parse the flags and train."""
    flags = cli.training_parser(__doc__)
    return cli.train_from_flags(cli.parse(flags))


if __name__ == "__main__":
    cli.run(main)
