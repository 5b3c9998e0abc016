"""What the data generators share: a safe output folder, whole files, parallel drawing."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2

from gluon_attn.core.files import write_json
from gluon_attn.core.text import read_json

MARKER = "GENERATING.json"  # present from the first to the last moment of a run
log = logging.getLogger(__name__)


def write_image(path, rgb, quality):
    """Write an RGB uint8 picture ``(H, W, 3)`` as JPEG, creating its folder."""
    done, code = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    if not done:
        raise OSError(f"{path}: OpenCV could not encode a JPEG of shape {rgb.shape}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:  # no fsync: pictures count only once the annotations, written last, name them
        temporary.write_bytes(code.tobytes())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def claim_folder(root, generator, outputs, summary, overwrite):
    """Make ``root`` ready for a run of ``generator``, refusing to harm what it did not make.

    An interrupted run leaves ``GENERATING.json`` and no annotations; the next call starts it over.

    Args:
        root: Folder of the data set, created if needed.
        generator: Name of the generator.
        outputs: Names inside ``root`` that the generator writes.
        summary: The one of ``outputs`` that marks a finished data set of this generator.
        overwrite: Whether a finished data set *of this generator* may be replaced.

    Raises:
        FileExistsError: If a data set is there and may not be replaced.
        ValueError: If ``root`` is a file.
    """
    root = Path(root)
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file; give the folder the data set is to be written to")
    present = [name for name in outputs if (root / name).exists()]
    interrupted = _owner(root / MARKER) == generator
    mine = interrupted or _owner(root / summary) == generator
    if present and not mine:
        raise FileExistsError(
            f"{root} holds {', '.join(present)} that the {generator} generator did not write; "
            "nothing was touched. Give another folder"
        )
    if present and not interrupted and not overwrite:
        raise FileExistsError(
            f"{root} holds a finished {generator} data set; "
            "pass overwrite=True to replace it, or give another folder"
        )
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / MARKER, {"generator": generator})
    for name in present:
        target = root / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()


def release_folder(root):
    """Declare the run finished."""
    (Path(root) / MARKER).unlink()


def _owner(path):
    try:
        return read_json(path).get("generator")
    except (OSError, ValueError, AttributeError):
        return None


def draw_all(draw, jobs, workers, progress, title):
    """Yield ``draw(job)`` for every job, in order, from ``workers`` processes.

    Args:
        draw: A function of an importable module.
        jobs: List of arguments.
        workers: Number of processes; ``None`` takes one per usable core, 1 draws in this process.
        progress: Whether to show a bar (only ever shown on a terminal).
        title: Text of the bar.

    Raises:
        ValueError: If ``workers`` is not positive.
    """
    from tqdm import tqdm

    if workers is None:
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
        workers = len(cores) or os.cpu_count() or 1
    if workers < 1:
        raise ValueError(f"workers={workers}: at least 1 is needed")
    workers = min(workers, max(1, len(jobs) // 16))  # starting a process costs about 16 pictures
    quiet = not progress or not sys.stderr.isatty()
    with tqdm(total=len(jobs), desc=title, unit="img", disable=quiet) as bar:
        for result in _results(draw, jobs, workers):
            bar.update()
            yield result


def _results(draw, jobs, workers):
    if workers == 1:
        yield from map(draw, jobs)
        return
    # "spawn": forking a process in which MXNet has started its threads can hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            yield from pool.map(draw, jobs, chunksize=8)
        except BaseException:
            pool.shutdown(wait=False)
            raise


def _start_worker():
    cv2.setNumThreads(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent():
    """A killed parent leaves its workers waiting for ever, unless they watch it."""
    multiprocessing.parent_process().join()
    os._exit(1)
