"""Search an attention block, or compare searches: gluon_attn.cli.search."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.cli import common as cli  # noqa: E402
from gluon_attn.cli import search  # noqa: E402

if __name__ == "__main__":
    cli.run(lambda: search.main(None, "tools.experiments.search_compare"))
