"""Check, pack and generate data sets: gluon_attn.cli.prepare."""

import functools
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / part) for part in ("", "tests")]

from gluon_attn.cli import common as cli  # noqa: E402
from gluon_attn.cli import prepare  # noqa: E402

main = functools.partial(prepare.main, tiny="formats.tiny")

if __name__ == "__main__":
    cli.run(main)
