"""Search an attention block, or compare searches: gluon_attn.cli.search."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gluon_attn.cli import common as cli  # noqa: E402
from gluon_attn.cli import search  # noqa: E402


def compare(*arguments, **settings):
    """Compare searches; see tools.experiments."""
    from tools.experiments import search_compare

    return search_compare.compare(*arguments, **settings)


if __name__ == "__main__":
    cli.run(lambda: search.main(None, compare))
