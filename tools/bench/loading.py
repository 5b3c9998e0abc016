"""How fast batches come, beside what OpenCV alone could do on the same cores."""

from __future__ import annotations

import functools
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Sequence

import cv2
import numpy as np

from gluon_attn.data.loader import Loader
from gluon_attn.data.transforms import TrainTransform


def loader_rate(
    dataset: Any,
    batch_size: int = 32,
    workers: int = 2,
    *,
    batches: int = 60,
    rounds: int = 5,
    transform: Any = None,
    seed: int = 0,
) -> dict:
    """Measure Loader against bare OpenCV, in turns, on the same crops and as many threads.

    Bare OpenCV: threads that decode JPEG bytes held in memory, cut the crops the loader cuts, and
    resize them; no file, no checksum, no mirror, no normalisation, no batch.

    Args:
        dataset: PackedDataset whose size is the transform's ``resize``.
        batch_size, workers, transform, seed: As for Loader; None means TrainTransform().
        batches: Batches per round; at most one epoch.
        rounds: How many times each is measured.

    Returns:
        ``{'loader': [...], 'opencv': [...], 'ratio': median, 'spread': (lowest, highest),
        'cpu_ratio': median, 'workers': n, 'batch_size': B, 'images': per round}``: rates in images
        per second, ratios of neighbouring rounds. ``cpu_ratio`` compares processor time in place of
        elapsed time, which other processes on the machine disturb less.
    """
    transform = TrainTransform() if transform is None else transform
    loader = Loader(
        dataset, transform, batch_size, shuffle=True, seed=seed, workers=workers, last="discard"
    )
    batches = min(batches, len(loader))
    draws = loader.draws(0)
    end = len(loader) * batch_size
    indices = loader.order(0)[end - batches * batch_size : end]
    records = [(bytes(dataset.record(i)[0]), transform.draw(draws[i])) for i in indices]
    work = (
        functools.partial(_run_loader, loader, batches),
        functools.partial(_run_opencv, records, transform.size, workers),
    )
    # (rounds, loader | OpenCV, elapsed | processor): the first round only warms up
    seconds = np.array([[_seconds(run) for run in work] for _ in range(rounds + 1)])[1:]
    rates = len(indices) / seconds[:, :, 0]
    ratios, cpu_ratios = (seconds[:, 1] / seconds[:, 0]).T
    return {
        "loader": rates[:, 0].tolist(),
        "opencv": rates[:, 1].tolist(),
        "ratio": float(np.median(ratios)),
        "spread": (float(ratios.min()), float(ratios.max())),
        "cpu_ratio": float(np.median(cpu_ratios)),
        "workers": workers,
        "batch_size": batch_size,
        "images": len(indices),
    }


def data_table(result: dict) -> str:
    """Return the loading figures as a Markdown table."""
    from tabulate import tabulate

    rows = [[name, f"{statistics.median(result[name]):.0f}"] for name in ("opencv", "loader")]
    low, high = result["spread"]
    rows.append(["loader / opencv", f"{result['ratio']:.2f} ({low:.2f}–{high:.2f})"])
    return tabulate(rows, ["what", "img/s"], tablefmt="github", disable_numparse=True)


def _seconds(run: Callable[[], None]) -> tuple[float, float]:
    """Return elapsed and processor time of a call."""
    started = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def _run_loader(loader: Loader, batches: int) -> None:
    loader.set_epoch(0, start=len(loader) - batches)  # to the end: nothing is made in vain
    for batch in loader:
        batch.image.wait_to_read()


def _run_opencv(records: Sequence[tuple], size: int, workers: int) -> None:
    cv2.setNumThreads(0)

    def work(part: Sequence[tuple]) -> None:
        for jpeg, (x, y, side, _) in part:
            image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            cv2.resize(image[y : y + side, x : x + side], (size, size))

    with ThreadPoolExecutor(max(1, workers)) as pool:
        list(pool.map(work, [records[k :: max(1, workers)] for k in range(max(1, workers))]))
