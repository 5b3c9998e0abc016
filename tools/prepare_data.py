"""Check, pack and generate data sets: gluon_attn.cli.prepare."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from formats.tiny import write_tiny  # noqa: E402

from gluon_attn.cli import common as cli  # noqa: E402
from gluon_attn.cli import prepare  # noqa: E402


def main(arguments=None):
    """Do what the command line says."""
    return prepare.main(arguments, write_tiny)


if __name__ == "__main__":
    cli.run(main)
