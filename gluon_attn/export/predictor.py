"""Predict with an export directory: the same numbers as evaluation, from images.

``Predictor`` owns everything around the network: reading, cropping, batching, probabilities. The
network itself sits behind a backend (:mod:`gluon_attn.export.backends`), so that another engine or
precision changes nothing else.
"""

from __future__ import annotations

import logging
import numbers
import os
from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence

import numpy as np
from scipy.special import expit, softmax

from gluon_attn.core.errors import naming
from gluon_attn.core.images import unit_doubt
from gluon_attn.core.text import PathLike
from gluon_attn.export.backends import BACKENDS, choose
from gluon_attn.export.images import (
    Boxes,
    Name,
    Preprocess,
    as_list,
    boxes_per_image,
    crop_box,
    name_of,
    to_pixels,
    type_hints,
)
from gluon_attn.export.sidecar import check_schema, check_thresholds, read_sidecar, trained_on

Row = Sequence[np.ndarray]  # every output of the export for one person
BAD_IMAGE_POLICIES = ("error", "skip")
logger = logging.getLogger(__name__)


class Person(NamedTuple):
    """One row of a batch: a whole image or one box of it."""

    image: Name
    box: Any  # [x, y, w, h] or None
    data: Any  # (3, H, W) float32, or None if it cannot be read
    error: Any  # why not, or None


class Predictor:
    """Attribute probabilities of images, from an export directory.

    Images are given as a list whose items are paths, the bytes of image files, PIL images or
    ``(h, w, 3)`` uint8 RGB arrays of any size, as one array ``(B, h, w, 3)`` uint8 RGB, or, already
    prepared, ``(B, 3, H, W)`` float32. A single one is a list of one. Files, bytes and PIL images
    are seen upright, as viewers show them (EXIF). Nothing can tell BGR from RGB, or prepared input
    from pixels as float32: only shapes and types are checked. May be shared by threads; images are
    read and prepared in parallel.

    Args:
        ctx: Context or its name, ``'cpu'`` or ``'gpu:0'``; the CPU by default.
        batch_size: Most rows in one run of the network. The last batch of a long list is padded to
            it; a short list runs in the next power of two, so that one image is not paid as 32.
        threads: Compute threads; None as many as MXNet starts with. Those of MXNet belong to the
            process, those of other engines to this object.
        backend: ``'mxnet'``, ``'mxnet-fused'``, ``'mxnet-int8'``, ``'mxnet-bf16'``,
            ``'mxnet-fp16'``, ``'onnxruntime'``, ``'onnxruntime-fp16'``, ``'tensorrt'``,
            ``'tensorrt-fp16'``, ``'openvino'``; or ``'fastest'``, of all that the
            export and the machine allow, whatever its precision (but float16, which must be asked
            for), measured once and remembered in the directory; or ``'auto'``, the one remembered,
            else ``'mxnet'``. The choice is in ``backend`` and ``precision``.
        warmup: Numbers of images, one or several, to run the network for once on zeros, so that the
            first real call is not the slow one.

    ``trained_on`` says in words what data the net has learnt from, as far as the export knows.

    Raises FileNotFoundError: the directory or one of its files is missing; ImportError: the
    backend's package is not installed; ValueError: damaged export, unknown backend, a variant that
    the export does not hold, no such context.
    """

    def __init__(
        self,
        directory: PathLike,
        ctx: Any = None,
        batch_size: int = 32,
        threads: int | None = None,
        backend: str = "mxnet",
        warmup: Any = (),
    ) -> None:
        warmup = tuple(warmup) if isinstance(warmup, (tuple, list)) else (warmup,)
        _check_counts([batch_size], "batch_size")
        _check_counts([] if threads is None else [threads], "threads")
        _check_counts(warmup, "warmup")
        threads = None if threads is None else int(threads)
        self.sidecar = read_sidecar(directory)
        if self.sidecar.get("task"):
            raise ValueError(
                f"{directory} is an export for {self.sidecar['task']}, which has a reader of its "
                "own: tools/predict.py finds it; docs/detection.md and docs/keypoints.md name it"
            )
        self.name, self.classes = self.sidecar["name"], tuple(self.sidecar["classes"])
        with naming(directory):
            self.schema = check_schema(self.sidecar.get("schema"), self.classes)
            self.set_thresholds(self.sidecar["thresholds"])
        self.trained_on = trained_on(self.sidecar.get("extra") or {})
        self.preprocess = Preprocess(self.sidecar["input"])
        self.output_names = tuple(out["name"] for out in self.sidecar["outputs"])
        self.attention_names = self._named("attention")
        self.batch_size = int(batch_size)
        self.backend = choose(
            backend, directory, self.sidecar, ctx, batch_size=self.batch_size, threads=threads
        )
        self.precision = BACKENDS[self.backend].precision
        self._backend = BACKENDS[self.backend].make(directory, ctx=ctx, threads=threads)
        self._doubted = False
        self._readers = min(8, os.cpu_count() or 1)
        for count in warmup:  # run as for so many images
            size = min(_padded(int(count)), self.batch_size)
            self._backend.run(np.zeros((size, 3, *self.preprocess.size), np.float32))

    def __call__(self, images: Any, on_bad_image: str = "error") -> np.ndarray:
        """Return the probabilities ``(B, A)`` float32.

        With ``on_bad_image='skip'`` an image that cannot be read gets a row of NaN and a logged
        warning, so that rows still match images; else a FileNotFoundError or ValueError names it.
        """
        return self.probabilities(self.outputs(images, on_bad_image)["logits"])

    def outputs(self, images: Any, on_bad_image: str = "error") -> dict[str, np.ndarray]:
        """Return by name: logits ``(B, A)``, embeddings ``(B, D)``, maps ``(B, A, h, w)``."""
        rows = [row for _, row in self._run(self._people(images, None, on_bad_image))]
        empty = [value[None][:0] for value in self._nothing()]
        stacked = map(np.stack, zip(*rows)) if rows else empty
        return dict(zip(self.output_names, stacked))

    def attention(self, images: Any, on_bad_image: str = "error") -> dict[str, np.ndarray]:
        """Return the attention maps ``(B, A, h, w)`` by name; ValueError if there are none."""
        self.require_maps()
        outputs = self.outputs(images, on_bad_image)
        return {name: outputs[name] for name in self.attention_names}

    def embedding(self, images: Any, on_bad_image: str = "error") -> np.ndarray:
        """Return the vectors by which images are compared, ``(B, D)`` float32.

        The smaller the Euclidean distance of two, the more alike the people (re-identification).
        """
        names = self._named("embedding")
        if not names:
            raise ValueError(f"export '{self.name}' gives no embedding; nets such as reid_… do")
        return self.outputs(images, on_bad_image)[names[0]]

    def predict(
        self, images: Any, boxes: Any = None, on_bad_image: str = "error", with_maps: bool = False
    ) -> list[dict[str, Any]]:
        """Return one record per person.

        Args:
            boxes: ``[x, y, w, h]`` lists in pixels of the upright image, one list of boxes per
                image (a list as long as ``images``, or a dict by path, or by position where there
                is no path); None, also for one image, means the whole image.
            on_bad_image: ``'skip'`` keeps the record of an unreadable image or box, with its
                ``error`` and no probabilities.
            with_maps: Add ``attention``, a dict of maps ``(A, h, w)``.

        Returns dicts: ``image`` (path, or position in ``images``), ``box``, ``probabilities`` (dict
        by class), ``positives`` (classes at or above their threshold; of a multi-class attribute
        the most probable class), ``attributes`` (only if one is multi-class: by attribute, whether
        it is there, or the name of its class), ``error``.
        """
        return list(self.stream(images, boxes, on_bad_image, with_maps))

    def stream(
        self, images: Any, boxes: Any = None, on_bad_image: str = "error", with_maps: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Yield the records of :meth:`predict` while later images are read.

        Memory holds those of a batch, however many images there are.
        """
        if with_maps:
            self.require_maps()
        people = self._people(images, boxes, on_bad_image)
        return (self._record(*found, with_maps) for found in self._run(people))

    def _record(self, person: Person, row: Row, with_maps: bool) -> dict[str, Any]:
        outputs = dict(zip(self.output_names, row))
        values = self.probabilities(outputs["logits"][None])
        chosen = self.schema.decide(values, self.thresholds)[0]
        good = person.error is None
        named = dict(zip(self.classes, map(float, values[0]))) if good else {}
        record: dict[str, Any] = {"image": person.image, "box": person.box, "probabilities": named}
        record["positives"] = [name for name, yes in zip(self.classes, chosen) if yes]
        if not self.schema.is_binary:
            record["attributes"] = self.schema.values(chosen) if good else {}
        record["error"] = person.error
        if with_maps:
            record["attention"] = {name: outputs[name] for name in self.attention_names}
        return record

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the probabilities of logits ``(B, A)``, by the export's activation."""
        if self.sidecar["activation"] == "softmax":
            return np.asarray(softmax(logits, axis=1))
        return expit(logits) if self.sidecar["activation"] == "sigmoid" else logits

    def set_thresholds(self, thresholds: Any) -> None:
        """Use other thresholds than the export's: one for all classes, or one each."""
        self.thresholds = np.array(check_thresholds(thresholds, self.classes), np.float32)

    def require_maps(self) -> None:
        if not self.attention_names:
            raise ValueError(
                f"export '{self.name}' has no attention maps; export it again with maps "
                "(tools/export.py --with-maps)"
            )

    def _named(self, kind: str) -> tuple[str, ...]:
        return tuple(out["name"] for out in self.sidecar["outputs"] if out["kind"] == kind)

    def _people(self, images: Any, boxes: Any, on_bad_image: str) -> Iterator[Person]:
        """Yield every person of ``images`` in order, prepared ahead by reader threads."""
        if on_bad_image not in BAD_IMAGE_POLICIES:
            valid = ", ".join(BAD_IMAGE_POLICIES)
            raise ValueError(f"on_bad_image {on_bad_image!r}: valid are {valid}")
        items = as_list(images)
        todo = zip(range(len(items)), items, boxes_per_image(items, boxes))
        with ThreadPoolExecutor(self._readers) as pool:
            for people in _ahead(pool, self._prepare, todo, 2 * self.batch_size):
                for person in people:
                    if person.box is not None and person.error is None and not self._doubted:
                        doubt = unit_doubt(person.box, person.image)
                        if doubt is not None:  # said once: there may be thousands
                            self._doubted = True
                            logger.warning("%s", doubt)
                    if person.error is not None:
                        if on_bad_image == "error":
                            raise person.error
                        logger.warning("skipped: %s", person.error)
                        person = person._replace(error=str(person.error))
                    yield person

    def _prepare(self, number: int, image: Any, boxes: Boxes) -> list[Person]:
        name = name_of(image, number)
        try:
            if isinstance(image, np.ndarray) and image.dtype == np.float32:
                return [Person(name, None, self._check_prepared(image, boxes), None)]
            pixels = to_pixels(image)
        except (OSError, ValueError) as error:
            return [Person(name, None, None, _named(error, name))]
        if boxes is None:
            return [Person(name, None, self.preprocess(pixels), None)]
        people = []
        for box in boxes:
            try:
                people.append(Person(name, box, self.preprocess(crop_box(pixels, box)), None))
            except ValueError as error:
                people.append(Person(name, box, None, _named(error, name)))
        return people

    def _check_prepared(self, image: np.ndarray, boxes: Boxes) -> np.ndarray:
        expected = (3, *self.preprocess.size)
        if image.shape != expected or boxes is not None:
            hints = "".join(f" ({hint})" for hint in type_hints(image)) if image.size else ""
            raise ValueError(
                f"float32 input of shape {image.shape}: it must be normalised RGB {expected} and "
                f"without boxes; give uint8 (h, w, 3) to have it prepared{hints}"
            )
        return image

    def _run(self, people: Iterable[Person]) -> Iterator[tuple[Person, Row]]:
        """Yield ``(person without data, row of every output)`` in order; bad rows are NaN."""
        waiting: list[Person] = []
        count, padded = 0, False
        for person in people:
            waiting.append(person)
            count += person.error is None
            if count == self.batch_size:
                yield from self._rows(waiting, self.batch_size)
                waiting, count, padded = [], 0, True
        if waiting:
            yield from self._rows(waiting, self.batch_size if padded else _padded(count))

    def _rows(self, people: Sequence[Person], size: int) -> Iterator[tuple[Person, Row]]:
        """Yield the same of one batch, which is padded to ``size``."""
        batch = [person.data for person in people if person.error is None]
        found: Iterator[Row] = iter(())
        if batch:
            data = np.zeros((min(size, self.batch_size), *batch[0].shape), np.float32)
            data[: len(batch)] = batch
            found = zip(*(out[: len(batch)] for out in self._backend.run(data)))
        for person in people:
            row = next(found) if person.error is None else self._nothing()
            yield person._replace(data=None), row

    def _nothing(self) -> list[np.ndarray]:
        shapes = (entry["shape"][1:] for entry in self.sidecar["outputs"])
        return [np.full(shape, np.nan, np.float32) for shape in shapes]


def _check_counts(values: Iterable[Any], name: str) -> None:
    for value in values:
        if not isinstance(value, numbers.Real) or float(value) % 1 or value < 1:
            raise ValueError(f"{name} {value!r}: valid are whole numbers from 1")


def _padded(count: int) -> int:
    """Return the next power of two."""
    return 1 << (count - 1).bit_length()


def _ahead(
    pool: Executor, function: Callable[..., Any], items: Iterable[Any], ahead: int
) -> Iterator[Any]:
    """Yield ``function(*item)`` in order, computed by the pool up to ``ahead`` items early."""
    pending: deque[Future[Any]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, *item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _named(error: Exception, name: Name) -> Exception:
    if isinstance(name, str) and name in str(error):
        return error
    return type(error)(f"image {name}: {error}")
