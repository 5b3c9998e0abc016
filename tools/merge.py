"""Merge shards: gluon_attn.cli.merge."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.cli import common as cli  # noqa: E402
from gluon_attn.cli.merge import main  # noqa: E402

if __name__ == "__main__":
    cli.run(main)
