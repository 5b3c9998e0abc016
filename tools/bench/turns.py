"""Jobs that are measured against each other: a process each, taking turns.

A round is one turn of each, so that a busy moment of the machine hits all, and a ratio is taken
round by round. Those that wait are stopped (SIGSTOP): no thread pool can spin beside the one that
computes. Where not all fit into memory they come in groups, each together with the first job, the
reference, which is what ratios refer to.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import multiprocessing
import os
import platform
import signal
import statistics
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Iterator, NamedTuple, Sequence

from gluon_attn.core.errors import first_line

TIMEOUT = 1800  # seconds without an answer after which a job is given up
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Job(NamedTuple):
    """What one process does: ``opener(*arguments) -> (call, facts)``; a turn repeats ``call()``."""

    engine: str
    precision: str
    opener: Callable[..., Any]
    arguments: tuple

    @property
    def label(self) -> str:
        """Engine and precision."""
        return f"{self.engine} {self.precision}".strip()


class Measured:
    """What came out of a job.

    Attributes:
        job: The job.
        facts: What its opener said.
        turns: Latencies in seconds, a list per turn.
        against: The reference's turns of the same rounds.
        peak_mb: Largest resident size of its process.
    """

    def __init__(self, job: Job, facts: Any) -> None:
        self.job, self.facts, self.peak_mb = job, facts, float("nan")
        self.turns: list[list[float]] = []
        self.against: list[list[float]] = []


def take_turns(
    jobs: Sequence[Job], rounds: int, seconds: float, title: str, report: Callable[[str], Any]
) -> tuple[list[Measured], dict[str, str]]:
    """Measure jobs against each other; ``jobs[0]`` is the reference.

    Returns:
        ``(measured, left_out)``: a :class:`Measured` per job that ran, the reference first, and
        ``{'engine precision': reason}`` of the others.

    Raises:
        OSError: The reference does not run.
    """
    waiting = collections.deque(jobs)
    left_out: dict[str, str] = {}
    measured: list[Measured] = []

    def start(job: Job) -> Process:
        report(f"{title}: starting {job.label}")
        return Process(job)

    def turn(process: Process, item: Measured) -> str:
        latencies = process.turn(seconds)
        if not latencies:
            return ""
        item.turns.append(latencies)
        return f"{process.label} {len(latencies) / sum(latencies):.3g}"

    with contextlib.ExitStack() as stack:
        reference = stack.enter_context(start(waiting.popleft()))
        if reference.failure is not None:
            raise OSError(f"{reference.label} does not run: {reference.failure}")
        base = Measured(reference.job, reference.facts)
        while waiting or not base.turns:
            with contextlib.ExitStack() as group:
                crew: dict[Process, Measured] = {}
                while waiting and (not crew or _has_room([reference, *crew])):
                    process = group.enter_context(start(waiting.popleft()))
                    crew[process] = Measured(process.job, process.facts)
                for number in range(rounds):
                    shown = [turn(reference, base)]
                    if reference.failure is not None:
                        raise OSError(f"{reference.label} has failed: {reference.failure}")
                    for process, item in crew.items():
                        if process.failure is None:
                            shown.append(turn(process, item))
                            if shown[-1]:
                                item.against.append(base.turns[-1])
                    speeds = ", ".join(filter(None, shown))
                    report(f"{title}, round {number + 1}/{rounds}: {speeds} calls/s")
                for process, item in crew.items():
                    item.peak_mb = process.finish()
                    if process.failure is None:
                        measured.append(item)
                    else:
                        left_out[process.label] = process.failure
        base.peak_mb = reference.finish()
    base.against = base.turns
    return [base, *measured], left_out


class Process:
    """A process that opens a job and then waits, stopped, until it is its turn.

    Attributes:
        facts: What the opener said, None if it failed.
        failure: Why the job cannot run or has ended, or None.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.label, self.peak_mb = job, job.label, 0.0
        self.failure: str | None = None
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, job), daemon=True)
        self._process.start()
        theirs.close()
        self.facts: Any = self._receive()
        self._stop()

    def turn(self, seconds: float) -> list[float]:
        """Return the latencies of one turn in seconds; an empty list if the job has failed."""
        latencies = self._ask(seconds)
        self._stop()
        return latencies or []

    def finish(self) -> float:
        """End the process; return its peak memory in MB."""
        if self.failure is None:
            self._ask(None)
            self._process.join(10)  # let it tidy up
        return self.peak_mb

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()  # SIGKILL ends a stopped process too
        self._process.join()
        self._pipe.close()

    def _ask(self, message: float | None) -> Any:
        try:
            os.kill(self._process.pid, signal.SIGCONT)
            self._pipe.send(message)
        except OSError:
            pass  # it was killed while it waited: receiving tells
        return self._receive()

    def _receive(self) -> Any:
        try:
            if not self._pipe.poll(TIMEOUT):
                raise EOFError(f"no answer for {TIMEOUT} s")
            kind, value, self.peak_mb = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(5)
            code = self._process.exitcode
            died = f"its process has died (exit code {code}; -9 is mostly lack of memory)"
            self.failure = str(error) or died
            return None
        if kind == "failed":
            self.failure = value
            return None
        return value

    def _stop(self) -> None:
        if self.failure is None and self._process.is_alive():
            os.kill(self._process.pid, signal.SIGSTOP)


def _serve(pipe: Any, job: Job) -> None:
    """Run in the other process: open the job, then repeat it for as many seconds as asked for."""
    _die_with_parent()
    os.dup2(2, 1)  # libraries that print must not spoil the table on standard output
    try:
        call, facts = job.opener(*job.arguments)
        pipe.send(("ready", facts, peak_memory_mb()))
        longest = 0.0
        for seconds in iter(pipe.recv, None):
            if longest < seconds / 4:
                call()  # caches are the others' by now
            latencies = []
            while sum(latencies) < seconds:
                started = time.perf_counter()
                call()
                latencies.append(time.perf_counter() - started)
            longest = max(latencies)
            pipe.send(("turn", latencies, peak_memory_mb()))
        pipe.send(("end", None, peak_memory_mb()))
    # Whatever an engine raises, the others go on; the reason is shown.
    except Exception as error:
        pipe.send(("failed", f"{first_line(error)}", peak_memory_mb()))


def _die_with_parent() -> None:
    """Ask Linux to end this process with its parent: a stopped one would stay for ever."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def peak_memory_mb() -> float:
    """Return the largest resident size of this process so far, in MB (2**20 bytes)."""
    try:  # getrusage would count what the parent had before exec as well
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _has_room(processes: Sequence[Process]) -> bool:
    """Return whether another process like the largest of these fits into memory."""
    free = free_memory_mb()
    return free is None or free > 1.5 * max(process.peak_mb for process in processes)


def free_memory_mb() -> float | None:
    """Return how much memory is free for new processes, in MB, or None where it is not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = int(next(x for x in lines if x.startswith("MemAvailable:")).split()[1]) / 1024
    except (OSError, StopIteration, ValueError):
        return None
    try:  # a container's limit
        limit, used = (
            int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii"))
            for name in ("memory.max", "memory.current")
        )
        return min(free, (limit - used) / 2**20)
    except (OSError, ValueError):
        return free


def default_threads() -> int:
    """Return ``OMP_NUM_THREADS``, which importing gluon_attn sets to the number of cores."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else os.cpu_count() or 1


@contextlib.contextmanager
def thread_variables(threads: int) -> Iterator[None]:
    """Set the number of threads for the processes started inside."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    # torch.compile would keep a pool of compilers, which is neither stopped nor counted.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ----------------------------------------------------------------------------------- results


def machine() -> dict:
    """Return what the figures depend on."""
    from gluon_attn.runtime import versions

    found = versions()
    return {
        "processor": found.get("processor", platform.processor()),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "versions": found,
    }


def ratio_by_turns(values: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Return ``{median, lowest, highest}`` of the ratios of two series, turn by turn."""
    ratios = [a / b for a, b in zip(values, others)]
    return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def spread_text(ratio: dict[str, float]) -> str:
    """Return what :func:`ratio_by_turns` found as text."""
    return f"{ratio['median']:.2f} ({ratio['lowest']:.2f}–{ratio['highest']:.2f})"
