"""Anti-aliased painting with OpenCV, and what the generators share: folders, parallel drawing.

All colours are RGB in 0..255, all coordinates are pixels ``(x, y)``.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import shutil
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import cv2
import numpy as np

from gluon_attn.core.files import naming_write, write_json
from gluon_attn.core.text import read_json

MARKER = "GENERATING.json"  # present from the first to the last moment of a run
SPLITS = ("train", "val", "test")
WHITE = (255,)  # of a mask


def write_image(path: Any, rgb: np.ndarray, quality: Any) -> None:
    """Write an RGB uint8 image ``(H, W, 3)`` as JPEG, creating its folder."""
    done, code = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    if not done:
        raise OSError(f"{path}: OpenCV could not encode a JPEG of shape {rgb.shape}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:  # no fsync: images count only once the annotations, written last, name them
        with naming_write(path):
            temporary.write_bytes(code.tobytes())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_images(images: Any, seed: int) -> dict[str, int]:
    """Return images per split as plain numbers, refusing what no data set can be made of."""
    if sorted(images) != sorted(SPLITS):
        raise ValueError(f"images has the splits {sorted(images)}; it needs exactly {SPLITS}")
    for split, count in images.items():
        if not isinstance(count, (int, np.integer)) or count < 1:
            raise ValueError(f"images[{split!r}]={count!r}: a whole number >= 1 is needed")
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed={seed!r}: a whole number >= 0 is needed")
    return {split: int(images[split]) for split in SPLITS}


@contextlib.contextmanager
def generated(
    root: Any, generator: str, outputs: Sequence[str], note: str, *, overwrite: bool
) -> Iterator[dict[str, Any]]:
    """Make ``root`` ready for a run of ``generator``, refusing to harm what it did not make.

    The body writes the data set and fills the summary, ``{'generator': ...}``, which is written to
    the file ``note`` last; then it gets ``root`` and ``seconds``. An interrupted run leaves
    ``GENERATING.json`` and no annotations; the next call starts it over. ``outputs`` are the other
    names inside ``root`` that the generator writes. ``overwrite`` allows a finished data set to be
    replaced (FileExistsError otherwise).
    """
    root, started = Path(root), time.perf_counter()
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file; give the folder the data set is to be written to")
    present = [name for name in (*outputs, note) if (root / name).exists()]
    interrupted = _owner(root / MARKER) == generator
    mine = interrupted or _owner(root / note) == generator
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
    summary: dict[str, Any] = {"generator": generator}
    yield summary
    write_json(root / note, summary, indent=2)
    (root / MARKER).unlink()
    summary.update(root=str(root), seconds=time.perf_counter() - started)


def _owner(path: Any) -> Any:
    try:
        return read_json(path).get("generator")
    except (OSError, ValueError, AttributeError):
        return None


def draw_all(
    draw: Callable[[Any], Any],
    jobs: Sequence[Any],
    workers: int | None,
    progress: bool,
    *,
    title: str,
) -> Iterator[Any]:
    """Yield ``draw(job)`` for every job, in order, from ``workers`` processes.

    ``workers`` None takes one per usable core, 1 stays in this process; a bar titled ``title`` is
    only ever shown on a terminal. A ValueError says that ``workers`` is not positive.
    """
    from tqdm import tqdm

    if workers is None:
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
        workers = len(cores) or os.cpu_count() or 1
    if workers < 1:
        raise ValueError(f"workers={workers}: at least 1 is needed")
    workers = min(workers, max(1, len(jobs) // 16))  # starting a process costs about 16 images
    quiet = not progress or not sys.stderr.isatty()
    with tqdm(total=len(jobs), desc=title, unit="img", disable=quiet) as bar:
        for result in _results(draw, jobs, workers):
            bar.update()
            yield result


def _results(draw: Callable[[Any], Any], jobs: Sequence[Any], workers: int | None) -> Iterator[Any]:
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


def _start_worker() -> None:
    cv2.setNumThreads(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A killed parent leaves its workers waiting for ever, unless they watch it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


EMBLEMS = ("star", "ring", "triangle", "bolt", "bars", "letters", "heart")
WORDS = ("NYC", "GO", "A1", "TEAM", "23", "7", "RUN", "K", "ZED", "88")


def rect(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Return the four corners of an axis-aligned rectangle, ``(4, 2)``."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)


def ellipse(
    cx: float,
    cy: float,
    rx: float,
    ry: float,
    *,
    angle: float = 0.0,
    start: float = 0.0,
    stop: float = 2 * np.pi,
    points: Any = 28,
) -> np.ndarray:
    """Return ``points`` points on an arc of an ellipse turned by ``angle`` radians."""
    unit = _arc(start, stop, points)
    if angle == 0.0:
        return (unit * (rx, ry) + (cx, cy)).astype(np.float32)
    c, s = math.cos(angle), math.sin(angle)
    return (unit @ ((rx * c, rx * s), (-ry * s, ry * c)) + (cx, cy)).astype(np.float32)


@lru_cache(maxsize=64)
def _arc(start: float, stop: float, points: Any) -> np.ndarray:
    t = np.linspace(start, stop, points)
    return np.stack([np.cos(t), np.sin(t)], 1)


def capsule(a: Any, b: Any, ra: float, rb: float, *, flat_end: bool = False) -> np.ndarray:
    """Return the outline of a limb: a tapered bar from ``a`` to ``b`` with round ends."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    angle = math.atan2(b[1] - a[1], b[0] - a[0])
    tail = ellipse(a[0], a[1], ra, ra, angle=angle, start=np.pi / 2, stop=3 * np.pi / 2, points=10)
    if flat_end:
        side = np.array([math.sin(angle), -math.cos(angle)], np.float32) * rb
        return np.concatenate([tail, [b + side, b - side]]).astype(np.float32)
    end = ellipse(b[0], b[1], rb, rb, angle=angle, start=-np.pi / 2, stop=np.pi / 2, points=10)
    return np.concatenate([tail, end])


_T = np.arange(6, dtype=np.float32)[:, None] / 6
_BASIS = 0.5 * np.hstack([
    -_T + 2 * _T**2 - _T**3, 2 - 5 * _T**2 + 3 * _T**3, _T + 4 * _T**2 - 3 * _T**3, -(_T**2) + _T**3
])  # fmt: skip


def spline(points: Any) -> np.ndarray:
    """Return a smooth closed curve (Catmull-Rom) through ``points`` ``(N, 2)``."""
    p = np.asarray(points, np.float32)
    knots = np.stack([np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0)], 1)
    return np.einsum("sk,nkd->nsd", _BASIS, knots).reshape(-1, 2)


class Canvas:
    """A float image with transparency; ``rgb`` ``(3, H, W)`` is premultiplied by ``alpha``.

    Channels come first because NumPy blends planes several times faster than pixels. ``light`` is
    the direction towards the light ``(x, y)``; ``y`` negative is from above. ``relief`` is the
    width in pixels of the shaded rim of a shape.
    """

    def __init__(
        self, height: int, width: int, light: Sequence[float] = (-0.5, -0.8), relief: float = 4.0
    ) -> None:
        self.rgb = np.zeros((3, height, width), np.float32)
        self.alpha = np.zeros((height, width), np.float32)
        self.light, self.relief = light, relief

    def paint(
        self,
        shapes: Sequence[Any],
        colour: Any,
        shade: float = 0.0,
        texture: Any = None,
        *,
        opacity: float = 1.0,
    ) -> None:
        """Fill the union of ``shapes``, ``(N, 2)`` outlines, with ``colour``, RGB 0..255.

        Args:
            shade: Strength of the relief: 0 flat, 0.5 strongly rounded.
            texture: ``f(x, y, fill) -> fill`` with pixel grids ``x`` ``(1, W)``, ``y`` ``(H, 1)``
                and ``fill`` broadcastable to ``(3, H, W)``.
            opacity: 0..1.
        """
        spot = self._spot(np.concatenate(shapes)) if shapes else None
        if spot is None:
            return
        x0, y0, x1, y1 = spot
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        for shape in shapes:
            corners = np.round((shape - (x0, y0)) * 16).astype(np.int32)
            cv2.fillPoly(mask, [corners], WHITE, cv2.LINE_AA, 4)
        self._blend(spot, mask, colour, shade, texture=texture, opacity=opacity)

    def image(self) -> np.ndarray:
        """Return ``(H, W, 3)`` float32, premultiplied."""
        return cv2.merge(list(self.rgb))

    def stroke(
        self, points: Any, colour: Any, width: float, closed: bool = False, *, opacity: float = 1.0
    ) -> None:
        """Draw a line ``width`` pixels wide through ``points``."""
        points = np.asarray(points, np.float32)
        spot = self._spot(points, int(width) + 2)
        if spot is None:
            return
        x0, y0, x1, y1 = spot
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        line = [np.round((points - (x0, y0)) * 16).astype(np.int32)]
        cv2.polylines(mask, line, closed, WHITE, max(1, int(round(width))), cv2.LINE_AA, 4)
        opacity *= min(1.0, max(width, 0.4))
        self._blend(spot, mask, colour, 0.0, texture=None, opacity=opacity)

    def text(self, centre: Any, word: str, height: float, colour: Any) -> None:
        """Write ``word``, its capitals ``height`` pixels high, around ``centre``."""
        thick = max(1, int(round(height * 0.22)))
        font = cv2.FONT_HERSHEY_SIMPLEX
        (w, h), _ = cv2.getTextSize(word, font, height / 21.0, thick)
        corner = np.array([centre[0] - w / 2, centre[1] - h / 2], np.float32)
        spot = self._spot(np.stack([corner, corner + (w, h)]), thick + 1)
        if spot is None:
            return
        mask = np.zeros((spot[3] - spot[1], spot[2] - spot[0]), np.uint8)
        org = (int(corner[0]) - spot[0], int(corner[1]) + h - spot[1])
        cv2.putText(mask, word, org, font, height / 21.0, WHITE, thick, cv2.LINE_AA)
        self._blend(spot, mask, colour, 0.0, texture=None, opacity=1.0)

    def _spot(self, points: Any, margin: int = 2) -> Any:
        height, width = self.alpha.shape
        x0, y0 = np.floor(points.min(0)).astype(int) - margin
        x1, y1 = np.ceil(points.max(0)).astype(int) + margin + 1
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

    def _blend(
        self,
        spot: Any,
        mask: np.ndarray,
        colour: Any,
        shade: float,
        *,
        texture: Any,
        opacity: float,
    ) -> None:
        x0, y0, x1, y1 = spot
        m = mask.astype(np.float32) * (opacity / 255.0)
        fill = np.asarray(colour, np.float32).reshape(3, 1, 1)
        if texture is not None:
            x = np.arange(x0, x1, dtype=np.float32)[None]
            fill = texture(x, np.arange(y0, y1, dtype=np.float32)[:, None], fill)
        if shade:
            fill = fill * self._relief(m, shade)
        keep, rgb, alpha = 1.0 - m, self.rgb[:, y0:y1, x0:x1], self.alpha[y0:y1, x0:x1]
        rgb *= keep
        rgb += fill * m
        alpha *= keep
        alpha += m

    def _relief(self, m: np.ndarray, shade: float) -> np.ndarray:
        """Rim lighting: the blurred mask is taken as a height field and lit from one side."""
        soft = cv2.GaussianBlur(m, (0, 0), self.relief, borderType=cv2.BORDER_CONSTANT)
        gx = cv2.Sobel(soft, cv2.CV_32F, 1, 0, ksize=1)
        gy = cv2.Sobel(soft, cv2.CV_32F, 0, 1, ksize=1)
        tilt = (gx * -self.light[0] + gy * -self.light[1]) * self.relief * 1.3
        return np.maximum(0.72 + 0.28 * soft + shade * tilt, 0.3)


def emblem(
    canvas: Canvas, centre: Any, size: Any, colour: Any, *, kind: str, word: str = "GO"
) -> None:
    """Paint a small printed sign: ``kind`` is one of ``EMBLEMS``; ``size`` is its radius."""
    x, y = centre
    if kind == "letters":
        canvas.text(centre, word, size * (1.9 if len(word) == 1 else 1.35), colour)
    elif kind == "ring":
        ring = ellipse(x, y, size * 0.8, size * 0.8)
        canvas.stroke(ring, colour, max(1.0, size * 0.35), True)
        canvas.paint([ellipse(x, y, size * 0.3, size * 0.3)], colour)
    elif kind == "star":
        outer = ellipse(x, y, size, size, angle=-np.pi / 2, points=6)[:5]
        inner = ellipse(x, y, size * 0.42, size * 0.42, angle=-np.pi / 2 + np.pi / 5, points=6)[:5]
        canvas.paint([np.stack([outer, inner], 1).reshape(-1, 2)], colour)
    elif kind == "triangle":
        canvas.paint([ellipse(x, y, size, size, angle=-np.pi / 2, points=4)[:3]], colour)
    elif kind == "bolt":
        zigzag = [(0.1, -1), (-0.6, 0.2), (-0.05, 0.1), (-0.2, 1), (0.6, -0.3), (0.05, -0.2)]
        canvas.paint([np.array(zigzag, np.float32) * size + (x, y)], colour)
    elif kind == "bars":
        for i in (-1, 0, 1):
            left, right = x + (0.6 * i - 0.2) * size, x + (0.6 * i + 0.2) * size
            top = y - size * (0.3 + 0.25 * (i + 1))
            canvas.paint([rect(left, top, right, y + size * 0.7)], colour)
    else:  # heart
        wide, high, middle = size * 0.48, size * 0.45, y - size * 0.3
        lobes = [ellipse(x + s * size * 0.4, middle, wide, high) for s in (-1, 1)]
        reach, top = size * 0.85, y - 0.1 * size
        tip = np.array([[x - reach, top], [x + reach, top], [x, y + size]])
        canvas.paint(lobes + [tip.astype(np.float32)], colour)


def stripes(
    period: float, angle: float, other: Any, duty: float = 0.5
) -> Callable[..., np.ndarray]:
    """Return a texture of bars of colour ``other``, ``period`` pixels apart."""
    other = np.asarray(other, np.float32).reshape(3, 1, 1)

    def texture(x: Any, y: Any, fill: Any) -> np.ndarray:
        phase = (x * np.cos(angle) + y * np.sin(angle)) / period
        return np.where(phase - np.floor(phase) < duty, other, fill)

    return texture


def patch(plane: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the part of ``plane`` ``(H, W)`` on a texture's grids ``x`` and ``y``."""
    y0, x0 = int(y[0, 0]), int(x[0, 0])
    return plane[y0 : y0 + y.shape[0], x0 : x0 + x.shape[1]]


def random_colour(
    rng: np.random.Generator, low: float = 30, high: float = 235, vivid: float = 1.0
) -> np.ndarray:
    """Return a random RGB colour; ``vivid`` 0 makes it grey."""
    colour = rng.uniform(low, high, 3)
    return (colour.mean() + (colour - colour.mean()) * vivid).astype(np.float32)
