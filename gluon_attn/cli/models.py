"""List the models of the zoo."""

from __future__ import annotations

from typing import Sequence

from gluon_attn.cli import common as cli


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the names that ``get_model`` takes."""
    parser = cli.parser(__doc__)
    parser.add_argument("--pretrained", action="store_true", help="only those with weights")
    args = parser.parse_args(arguments)
    from model_zoo import list_models

    print("\n".join(list_models(pretrained=args.pretrained)))
