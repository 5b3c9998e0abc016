"""A worker for the tests of the launcher: says where it is, and waits for one that never comes."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from pathlib import Path

from gluon_attn.workers import join

if __name__ == "__main__":
    group = join("dist_sync")
    Path(sys.argv[1], f"worker{group.rank}").write_text(str(os.getpid()))
    if len(sys.argv) > 2 and not group.is_first:
        atexit.register(Path(sys.argv[1], "end").touch)
        sys.exit(int(sys.argv[2]))  # fails alone, or with 0 waits in MXNet for the other's end
    if group.is_first:
        group.wait()
    threading.Event().wait()
