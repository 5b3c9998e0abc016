"""``python -m gluon_attn COMMAND``: the same as ``gluon-attn COMMAND``."""

from gluon_attn.cli.main import main

if __name__ == "__main__":
    main()
