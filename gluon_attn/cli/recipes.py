"""List the recipes."""

from __future__ import annotations

from typing import Sequence

from gluon_attn.cli import common as cli
from gluon_attn.core import recipe


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the names that ``--recipe`` takes, each with its first line."""
    cli.parser(__doc__).parse_args(arguments)
    for name, text in recipe.summaries(cli.recipe_folder()).items():
        print(f"{name:<38} {text}")
