"""Which backend runs an export fastest here: measured once, remembered beside it.

``NAME-speed.json`` in the export directory holds what was measured, one record per processor,
threads, batch size, device and versions. It is a note, not a part of the export: no checksum covers
it, it may be deleted, and one that cannot be read or written costs a warning only.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import time
from pathlib import Path

import mxnet as mx
import numpy as np
from tqdm import tqdm

from gluon_attn.core.errors import first_line
from gluon_attn.core.files import write_json
from gluon_attn.core.text import read_json
from gluon_attn.export.backends import (
    BACKENDS,
    NEEDS,
    default_threads,
    obstacle,
    parse_device,
    require,
)
from gluon_attn.export.sidecar import ExportError
from gluon_attn.runtime import has_vnni, versions

AUTO, FASTEST, DEFAULT = "auto", "fastest", "mxnet"
CHOICES = (*BACKENDS, AUTO, FASTEST)
FORMAT = "gluon_attn speeds"
KEPT = 100  # records in a file
SECONDS = 2.0  # of runs per backend, at least
ENOUGH = 10.0  # seconds after which less than three runs will do

logger = logging.getLogger(__name__)


def choose(backend, directory, sidecar, ctx=None, batch_size=32, threads=None):
    """Return the name of the backend to use.

    Args:
        backend: A key of ``BACKENDS``; ``'fastest'``: the fastest of those that the export and this
            machine allow, measured unless it is remembered; ``'auto'``: the one remembered, else
            ``'mxnet'``; it never measures.
        directory: The export directory.
        sidecar: Contents of its sidecar.
        ctx: Context or its name.
        batch_size: Rows of a run.
        threads: Compute threads; None as many as MXNet starts with.

    Raises:
        ImportError: The package of the named backend is not installed.
        ValueError: Unknown name, or a backend that cannot run this export here.
    """
    if backend not in CHOICES:
        raise ValueError(f"backend {backend!r}: valid are {', '.join(CHOICES)}")
    if backend in BACKENDS:
        require(backend, sidecar, ctx)
        return backend
    key = situation(sidecar, ctx, batch_size, threads)
    path = speed_file(directory, sidecar)
    record = _find(_read(path), key)
    if record is None and backend == FASTEST:
        record = {**key, "images_per_s": measure(directory, sidecar, ctx, batch_size, threads)}
        _remember(path, record)
    if record is None:
        return _announce(DEFAULT, "nothing was measured here for this batch size and threads")
    allowed = candidates(sidecar, ctx)
    usable = {name: speed for name, speed in record["images_per_s"].items() if name in allowed}
    if not usable:
        return DEFAULT
    name = max(usable, key=usable.get)
    return _announce(name, ", ".join(f"{n} {s:.1f}" for n, s in usable.items()) + " images/s")


def measure(directory, sidecar, ctx=None, batch_size=32, threads=None):
    """Return images per second of all backends that can run an export here.

    A backend that fails is left out with a warning; see also :func:`candidates`.

    Returns:
        Dict from backend name to images per second.

    Raises:
        FileNotFoundError: A file of the export is missing.
        ValueError: A file of the export is damaged, or no backend can run it.
    """
    shape = (batch_size, *sidecar["input"]["shape"][1:])
    batch = np.random.RandomState(0).normal(size=shape).astype(np.float32)
    names = candidates(sidecar, ctx)
    speeds, failures = {}, [str(obstacle(name, sidecar, ctx)) for name in BACKENDS if not names]
    for name in tqdm(names, desc="measuring backends", disable=None, leave=False):
        try:
            engine = BACKENDS[name](directory, ctx=ctx, threads=threads)
            speeds[name] = images_per_second(engine, batch)
        except (ExportError, FileNotFoundError):
            raise  # the export is not what it says: no reason to try the next engine
        # An engine may fail in any way of its own; the others still run.
        except Exception as error:
            failures.append(f"{name}: {first_line(error)}")
            logger.warning("backend %s left out: %s", name, first_line(error))
    if not speeds:
        raise ValueError(f"{directory}: no backend can run it here: {'; '.join(failures)}")
    return speeds


def candidates(sidecar, ctx=None):
    """Return the backends that may be chosen for an export on this machine.

    These are all engines that are installed, at all precisions that the export holds: the loss of
    int8 and bf16 was measured and bounded when they were made. Where that bound does not hold, with
    int8 measured with VNNI instructions and a processor that lacks them, int8 must be asked for;
    and so must float16, whose loss nobody measured.
    """
    names = [name for name in BACKENDS if obstacle(name, sidecar, ctx) is None]
    names = [name for name in names if NEEDS[name].precision != "fp16"]
    if sidecar.get("int8", {}).get("vnni") and not has_vnni():
        names = [name for name in names if NEEDS[name].precision != "int8"]
    return names


def images_per_second(engine, batch):
    """Return the speed of a backend on ``batch``, from its best run after one that is not counted.

    The best, not the mean: other processes only ever make a run slower.
    """
    engine.run(batch)
    times = []
    while sum(times) < SECONDS or (len(times) < 3 and sum(times) < ENOUGH):
        start = time.perf_counter()
        engine.run(batch)
        times.append(time.perf_counter() - start)
    return len(batch) / min(times)


def speed_file(directory, sidecar):
    """Return the path of the file that remembers speeds."""
    return Path(directory) / f"{sidecar['name']}-speed.json"


def situation(sidecar, ctx, batch_size, threads):
    """Return what a speed depends on, as plain JSON values: a record counts where all is equal."""
    known = versions()
    packages = {"mxnet": mx.__version__}
    for distribution in ("onnxruntime", "onnxruntime-gpu", "openvino"):
        try:
            packages[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    files = sorted(entry["sha256"] for entry in sidecar["files"].values())
    return {
        "processor": known["processor"],
        "amx": known["amx"],
        "context": "{}:{}".format(*parse_device(ctx)),
        "threads": int(threads or default_threads()),
        "batch_size": int(batch_size),
        "packages": packages,
        "files": hashlib.sha256("".join(files).encode()).hexdigest(),
    }


def _announce(name, why):
    logger.info("backend %s (%s): %s", name, NEEDS[name].precision, why)
    return name


def _find(records, key):
    for record in records:
        if all(record.get(field) == value for field, value in key.items()):
            return record
    return None


def _read(path):
    """Return the records of a speed file; of one that is missing or unreadable, none."""
    if not path.exists():
        return []
    try:
        contents = read_json(path)
        if contents["format"] != FORMAT:
            raise ValueError(f"format {contents['format']!r}")
        for record in contents["measured"]:
            speeds = record["images_per_s"]
            if not speeds or not set(speeds) <= set(BACKENDS) or not min(speeds.values()) > 0:
                raise ValueError(f"speeds {speeds}")
        return contents["measured"]
    # Whatever a damaged file looks like, an index or a type will not fit.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        logger.warning("%s ignored: not a file of speeds (%s)", path, first_line(error))
        return []


def _remember(path, record):
    """Add a record, instead of an older one for the same situation."""
    key = {field: value for field, value in record.items() if field != "images_per_s"}
    others = [old for old in _read(path) if _find([old], key) is None]
    contents = {"format": FORMAT, "measured": [*others, record][-KEPT:]}
    try:
        write_json(path, contents)
    except OSError as error:
        logger.warning("the measured speeds are not remembered: %s", first_line(error))
