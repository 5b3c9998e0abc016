"""The whole way in minutes, without any data of your own: tools.site."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.cli import common as cli  # noqa: E402
from tools.site.commands import demo as main  # noqa: E402

if __name__ == "__main__":
    cli.run(main)
