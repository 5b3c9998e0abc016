"""Measure speed and memory as ratios in one run: tools.bench."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.cli import common as cli  # noqa: E402
from tools.bench.command import main as main  # noqa: E402

if __name__ == "__main__":
    cli.run(main)
