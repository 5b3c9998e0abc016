"""Train with several workers, on this machine or on the hosts of a file.

python tools/launch.py -n 2 -- train --recipe vaa_synthetic_resnet18 --data-dir DATA --save-dir RUN

Starts MXNet's scheduler, its parameter servers and the workers. Ends all of them as soon as one
fails, and leaves none behind. Hosts are reached by ssh without a password, and have the same
folders: this Python, the data, and --save-dir.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from typing import Any, NamedTuple, Sequence

from gluon_attn.cli import common as cli
from gluon_attn.core.text import read_lines

LOCAL = "127.0.0.1"
PATIENCE = 60.0  # seconds until the scheduler must listen
AFTER = 20.0  # seconds that scheduler and servers have once all workers have finished
LAUNCHED = ("train", "search")


class Member(NamedTuple):
    """A process of the group, such as ``worker 1``; over ssh it is the client's."""

    title: str
    process: subprocess.Popen


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the group; return the exit status of the first process that fails, or 0."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    cut = words.index("--") if "--" in words else len(words)
    parser = _flags()
    args, command = parser.parse_args(words[:cut]), words[cut + 1 :]
    if not command or command[0] not in LAUNCHED:
        parser.error(f"give the command behind --: {' or '.join(LAUNCHED)}, and its flags")
    if args.workers < 1 or args.servers < 1:
        parser.error(f"-n {args.workers} -s {args.servers}: at least one of each")
    hosts = read_hosts(args.hosts) if args.hosts else []
    kinds = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    kinds.add_argument("--kvstore")
    kind = kinds.parse_known_args(command)[0].kvstore
    if kind == "horovod":
        return subprocess.call(_horovod(args.workers, hosts, command))
    if kind is None:
        command[1:1] = ["--kvstore", "dist_sync"]
    return launch(["gluon_attn", *command], args.workers, args.servers, hosts=hosts, port=args.port)


def _flags() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__)
    parser.usage = f"{parser.prog} [-n N] [-s N] [--hosts FILE] -- train ..."
    parser.add_argument(
        "-n", "--workers", type=int, default=2, metavar="N",
        help="workers, each with its share of every batch (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "-s", "--servers", type=int, default=1, metavar="N",
        help="parameter servers, which add gradients up; best one per host (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--hosts", metavar="FILE",
        help="host names or addresses, one a line, used in turn; the scheduler is on the first",
    )  # fmt: skip
    parser.add_argument(
        "--port", type=int, metavar="N",
        help="port of the scheduler (default: a free one here, 9091 on other hosts)",
    )  # fmt: skip
    return parser


def read_hosts(path: str) -> list[str]:
    """Return the hosts that a file names; empty lines and what follows # are left out."""
    hosts = [host for _, line in read_lines(path) if (host := line.partition("#")[0].strip())]
    for host in hosts:
        if host.startswith("-") or len(host.split()) > 1:
            raise ValueError(f"{path}: {host!r} is no host name; give one per line")
    if not hosts:
        raise ValueError(f"{path} names no host; give one per line")
    return hosts


def _horovod(workers: int, hosts: Sequence[str], command: Sequence[str]) -> list[str]:
    """Return the command of Horovod's own launcher, which knows no scheduler and no servers."""
    if not shutil.which("horovodrun"):
        raise ImportError("--kvstore horovod needs Horovod, whose horovodrun is not on the PATH")
    each = -(-workers // len(hosts)) if hosts else 0
    given = ["-H", ",".join(f"{host}:{each}" for host in hosts)] if hosts else []
    words = ["horovodrun", "-np", str(workers), *given]
    return [*words, sys.executable, "-m", "gluon_attn", *command]


def launch(
    command: Sequence[str], workers: int, servers: int = 1, *, hosts: Sequence[str] = (),
    port: int | None = None,
) -> int:  # fmt: skip
    """Run ``python -m MODULE …``, given without ``python -m``, in every worker; return the status.

    The scheduler must listen before anything else starts: a node that took its port would be
    asked in its place. From then on MXNet waits by itself until all have come.
    """
    places = list(hosts) or [LOCAL]
    root = places[0]
    port = port or (9091 if hosts else _free_port())
    common = {
        "DMLC_PS_ROOT_URI": _address(root), "DMLC_PS_ROOT_PORT": port,
        "DMLC_NUM_WORKER": workers, "DMLC_NUM_SERVER": servers,
    }  # fmt: skip
    if "OMP_NUM_THREADS" in os.environ:
        common["OMP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"]
    elif not hosts:  # workers that share the processors must not each want all of them
        common["OMP_NUM_THREADS"] = max((os.cpu_count() or 1) // workers, 1)
    group: list[Member] = []

    def start(role: str, number: int) -> None:
        host = places[number % len(places)]
        values = {**common, "DMLC_ROLE": role, "DMLC_NODE_HOST": _address(host)}
        title = f"{role} {number}" + (f" on {host}" if hosts else "")
        group.append(Member(title, _start(host if hosts else None, values, command)))

    try:
        start("scheduler", 0)
        _wait_until_listening(group[0], _address(root), port)
        for number in range(servers):
            start("server", number)
        for number in range(workers):
            start("worker", number)
        return _watch(group, workers)
    finally:
        _end(group)


def _address(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise OSError(f"host {host}: no address is known for it ({error})") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return int(probe.getsockname()[1])


def _start(host: str | None, values: dict[str, Any], command: Sequence[str]) -> subprocess.Popen:
    """Start a member that ends when its standard input does, here or on a host."""
    words = [sys.executable, "-m", "gluon_attn.cli.launch", *command]
    environment = {name: str(value) for name, value in values.items()}
    if host is not None:
        given = [f"{name}={value}" for name, value in environment.items()]
        remote = " ".join(map(shlex.quote, ["env", *given, *words]))
        words = ["ssh", "-o", "BatchMode=yes", host, f"cd {shlex.quote(os.getcwd())} && {remote}"]
    return subprocess.Popen(
        words, stdin=subprocess.PIPE, env={**os.environ, **environment}, start_new_session=True
    )


def _wait_until_listening(scheduler: Member, address: str, port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while scheduler.process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((address, port)) == 0:
                return
        time.sleep(0.05)
    raise OSError(
        f"the scheduler does not listen on {address}:{port} (its exit status is "
        f"{scheduler.process.poll()}); choose a free --port that the hosts may reach"
    )


def _watch(group: list[Member], workers: int) -> int:
    """Return when all have ended, or one has failed."""
    deadline = None
    while True:
        states = [member.process.poll() for member in group]
        for member, state in zip(group, states):
            if state:
                how = f"signal {signal.Signals(-state).name}" if state < 0 else f"status {state}"
                print(f"{member.title} ended with {how}; ending all", file=sys.stderr)
                return state if state > 0 else 128 - state
        if None not in states:
            return 0
        if all(state == 0 for state in states[-workers:]):
            deadline = deadline or time.monotonic() + AFTER
            if time.monotonic() > deadline:
                return 0
        time.sleep(0.05)


def _end(group: list[Member]) -> None:
    """End what still runs: a member whose input is closed kills itself, wherever it is."""
    for member in group:
        if member.process.stdin:
            member.process.stdin.close()
    for member in group:
        try:
            member.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            member.process.kill()
            member.process.wait()


# -- in each process of the group ------------------------------------------------------------------
def member() -> None:
    """Be a scheduler, a server or a worker, as the environment says, until standard input ends."""
    _end_with_input()
    if os.environ["DMLC_ROLE"] != "worker":
        import mxnet  # noqa: F401  (serves, and exits)
    sys.argv = sys.argv[1:]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if not end.code:
            raise
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    else:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # an ordinary end would wait in MXNet for workers that wait for this one


def _end_with_input() -> None:
    """Have this process killed at the end of its standard input, which is its launcher's.

    On Linux the kernel does so: a worker that has finished waits in MXNet for the others when no
    thread of Python runs any more. The thread sees an end that came before.
    """
    with contextlib.suppress(ImportError, AttributeError):
        import fcntl

        fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    member()
