"""``gluon-attn COMMAND`` and ``python -m gluon_attn COMMAND``: find the command and run it."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Sequence

from gluon_attn import __version__
from gluon_attn.cli import common as cli
from gluon_attn.core.registry import unknown_name


def usage(program: str) -> str:
    """Return the text that lists the commands."""
    commands = "\n".join(f"  {name:<9} {text}" for name, text in cli.COMMANDS.items())
    return (
        f"usage: {program} COMMAND ...\n\n"
        "Five published visual-attention methods: train, evaluate, export, predict.\n\n"
        f"{commands}\n\n{program} COMMAND --help shows the flags of a command."
    )


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first word names; return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = os.path.basename(sys.argv[0])
    program = "python -m gluon_attn" if name == "__main__.py" else "gluon-attn"
    command = words[0] if words else "--help"
    if command in ("-h", "--help", "help"):
        print(usage(program))
        return 0
    if command == "--version":
        print(f"gluon-attn {__version__}")
        return 0
    if command not in cli.COMMANDS:
        raise ValueError(unknown_name("command", command, cli.COMMANDS))
    sys.argv = [f"{program} {command}", *words[1:]]
    if command == "doctor":
        from gluon_attn import runtime

        return runtime.main(words[1:])
    return importlib.import_module(f"gluon_attn.cli.{command}").main() or 0


def main() -> None:
    """Run the command and exit."""
    cli.run(run)
