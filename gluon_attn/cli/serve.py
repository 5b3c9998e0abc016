"""Show the page of an export (tools/export.py --onnx --web) in a browser of this machine.

    python tools/serve.py exports/people
    python tools/serve.py exports/people --port 8123

It serves the folder web of the export and nothing else, on 127.0.0.1 only; Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Sequence

from gluon_attn.cli import common as cli

HOST = "127.0.0.1"
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}


class Handler(SimpleHTTPRequestHandler):
    """Files of one folder, each with the page's policy; no lists of folders."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, **TYPES}

    def __init__(self, *args: Any, directory: str, policy: str) -> None:
        self.policy = policy
        super().__init__(*args, directory=directory)

    def end_headers(self) -> None:
        """Add what keeps the page to itself, and what gives its engine threads."""
        self.send_header("Content-Security-Policy", f"{self.policy}; frame-ancestors 'none'")
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def send_head(self) -> Any:
        """Refuse other hosts' pages (DNS rebinding), and links that lead out of the folder."""
        name = self.headers.get("Host", "").partition(":")[0]
        inside = Path(self.directory).resolve()
        path = Path(self.translate_path(self.path)).resolve()
        if name not in (HOST, "localhost") or inside not in (path, *path.parents):
            self.send_error(HTTPStatus.FORBIDDEN)
            return None
        return super().send_head()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send a file, to a browser that may have left by now."""
        with contextlib.suppress(ConnectionError):
            super().copyfile(source, outputfile)

    def list_directory(self, path: Any) -> None:
        """Show no list."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the console quiet."""


def make_server(directory: str, port: int = 0) -> ThreadingHTTPServer:
    """Return a server of an export's page; port 0: any free one.

    FileNotFoundError or ValueError: there is no such export, or it has no page. OSError: the port
    is in use, or not for this user.
    """
    from gluon_attn.export.sidecar import read_sidecar
    from gluon_attn.export.web import FOLDER, POLICY

    folder = Path(directory) / FOLDER
    if FOLDER not in read_sidecar(directory) or not (folder / "index.html").is_file():
        raise FileNotFoundError(
            f"{folder}: the export has no page; {cli.called('export')} --export {directory} "
            "--onnx --web --runtime DIR adds it"
        )
    handler = functools.partial(Handler, directory=str(folder), policy=POLICY)
    try:
        return ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        hint = "give another one, or 0 for any that is free"
        raise OSError(f"--port {port}: {error.strerror}; {hint}") from error


def flags() -> argparse.ArgumentParser:
    """Return the command's flags."""
    parser = cli.parser(__doc__)
    parser.add_argument("export", metavar="EXPORT", help="export directory")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0: any free one")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    args = flags().parse_args(arguments)
    if not 0 <= args.port < 65536:
        raise ValueError(f"--port {args.port}: valid are 0 to 65535")
    with make_server(args.export, args.port) as server:
        print(f"open http://{HOST}:{server.server_address[1]}/ (Ctrl-C ends it)", flush=True)
        server.serve_forever()
