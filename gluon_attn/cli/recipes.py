"""List the recipes, or show one: its text and all of its values."""

from __future__ import annotations

from typing import Sequence

from gluon_attn.cli import common as cli
from gluon_attn.core import recipe


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the names that ``--recipe`` takes, or what one of them says."""
    parser = cli.parser(__doc__)
    parser.add_argument("name", nargs="?", metavar="NAME|FILE", help="the recipe to show")
    args = parser.parse_args(arguments)
    if args.name:
        values = recipe.Recipe.load(args.name).to_dict()
        print(recipe.find(args.name).text, end="\n\n")
        print("\n".join(f"{key} = {value!r}" for key, value in values.items()))
        return
    for name in recipe.names():
        text = recipe.catalogue()[name].text.partition("\n")[0]
        print(f"{name:<32} {text}")
