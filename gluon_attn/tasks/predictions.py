"""Predictions of many image files: written as they come, continued, in shards, merged.

Records go into a file of JSON lines: a header, then records, and behind every chunk of images
``{"done": images so far, "crc32": of its lines}``. Memory holds the images of one batch and the
records of one chunk. After an interruption whole chunks are kept and the rest is predicted again.
No batch reaches over the end of a chunk, so which images share one depends neither on interruptions
nor on shards, and the numbers are equal to the last bit.

Table, JSON and CSV are made from that file at the end. A shard is such a file,
``NAME-00002-of-00004.jsonl``; :func:`merge` makes JSON and CSV of all.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import logging
import os
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any, Iterable, Iterator, NamedTuple, Sequence

from tqdm import tqdm

from gluon_attn.core import errors
from gluon_attn.core.errors import naming
from gluon_attn.core.files import atomic_path, json_text, naming_write, publish, sha256_of_bytes
from gluon_attn.core.shards import Shard, all_shards
from gluon_attn.core.text import PathLike
from gluon_attn.task import TASKS, Exported, Predicting, Task

FORMAT = "gluon_attn predictions, version 1"
CHUNK = 128  # images, at least
SHOWN = 1000  # of more images, and in shards, a line stands for the table
SUFFIX, UNFINISHED = ".jsonl", ".unfinished"
_MARK = b'{"done": '  # with which records do not begin
logger = logging.getLogger(__name__)


class Found(NamedTuple):
    """What is whole in a file of records; ``end`` is where that ends, in bytes."""

    header: dict[str, Any]
    end: int
    done: int = 0
    records: int = 0
    errors: int = 0


class Records:
    """The records of files, one behind the other, read again at every iteration."""

    def __init__(self, paths: Sequence[PathLike]) -> None:
        self.paths = paths

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for path in self.paths:
            with open(path, "rb") as file:
                file.readline()
                yield from (json.loads(line) for line in file if not line.startswith(_MARK))


# -- predicting --------------------------------------------------------------------------------
def run(source: Exported, options: Any) -> None:
    """Predict, write the files and print; ``options`` are the flags of the command.

    ValueError or OSError: besides what the task raises, a file of records is of something else.
    """
    wanted = {kind: path for kind in ("json", "csv") if (path := getattr(options, kind))}
    shard: Shard | None = options.shard
    target = _target(shard, wanted, options) if shard else ""
    task = source.task
    predicting = task.predict(source, options)
    _spare_inputs(wanted, predicting, source.directory)
    batch = max(1, options.batch_size)
    chunk = -(-CHUNK // batch) * batch
    header = _header(source, predicting, chunk)
    if shard:
        header["shard"] = {**shard._asdict(), "images": len(predicting.images)}
        header["outputs"] = {kind: os.path.basename(path) for kind, path in wanted.items()}
    if target and os.path.exists(target) and not options.overwrite:
        _same(target, scan(target).header, "this call", header)
        print(f"{target}: predicted already, kept (--overwrite predicts it again)")
        return
    kept = (path for path in wanted.values() if path != "-" and _is_plain(path))
    with _journal(target or next(kept, None), header, options) as path:
        span = _span(header)
        found = write(path, predicting, header, span, strict=options.on_bad_image == "error")
        if target:
            publish(path, target)
        else:
            _show(task, path, found, wanted)


def _spare_inputs(wanted: dict[str, str], predicting: Predicting, directory: str) -> None:
    """Refuse to write over an image that is predicted, or over a file of the export."""
    inputs = {os.path.realpath(image) for image in predicting.images}
    export = os.path.realpath(directory)
    for kind, path in wanted.items():
        real = os.path.realpath(path)
        of_export = os.path.exists(real) and real.startswith(export + os.sep)
        if path != "-" and (real in inputs or of_export):
            raise ValueError(f"--{kind} {path} is a file that is read: give another")


def write(
    path: PathLike, predicting: Predicting, header: dict[str, Any], span: range, *, strict: bool
) -> Found:
    """Add to a file what it lacks of the records of some images; return what it holds then."""
    chunk = header["chunk"]
    found = scan(path, strict) if os.path.getsize(path) else Found(header, 0)
    os.truncate(path, found.end if found.done else 0)
    if not found.done:
        found = Found(header, _append(path, [_line(header)]))
    begun, began = found.done, time.perf_counter()
    with tqdm(total=len(span), initial=begun, unit="img", disable=None) as progress:
        for start in range(span.start + begun, span.stop, chunk):
            some = range(start, min(start + chunk, span.stop))
            crc = 0 if found.done else zlib.crc32(_line(header))
            seen, bad, lines = None, 0, []
            for record in predicting.find(some, found.records):
                lines.append(_line(record))
                crc = zlib.crc32(lines[-1], crc)
                bad += record["error"] is not None
                if record["image"] != seen:
                    seen = record["image"]
                    progress.update()
            done, count = some.stop - span.start, found.records + len(lines)
            end = _append(path, [*lines, _line({"done": done, "crc32": crc})])
            progress.update(done - progress.n)  # a box file may list an image without boxes
            found = Found(header, end, done, count, found.errors + bad)
    seconds, new = max(time.perf_counter() - began, 1e-9), found.done - begun
    level = logging.INFO if "shard" in header or len(span) > SHOWN else logging.DEBUG
    logger.log(
        level, "%s images, %s records, %s of them errors; %s images in %.1f s: %.1f images/s",
        *(f"{n:,}" for n in (found.done, found.records, found.errors, new)), seconds, new / seconds,
    )  # fmt: skip
    return found


def scan(path: PathLike, strict: bool = False) -> Found:
    """Return what is whole in a file of records; ``strict``: only up to a chunk with an error.

    ValueError: it is no such file.
    """
    with open(path, "rb") as file:
        line = file.readline()
        header = _parsed(line)
        if header is None or header.get("format") != FORMAT:
            raise ValueError(f"{path}: not of the format '{FORMAT}'")
        found = Found(header, len(line))
        end, crc, count, bad = found.end, zlib.crc32(line), 0, 0
        for line in file:
            end += len(line)
            record = _parsed(line)
            if record is None:
                break
            if not line.startswith(_MARK):
                crc, count = zlib.crc32(line, crc), count + 1
                bad += record.get("error") is not None
            elif record.get("crc32") != crc or (strict and bad):
                break
            else:
                done, records = record["done"], found.records + count
                found = Found(header, end, done, records, found.errors + bad)
                crc, count, bad = 0, 0, 0
    return found


# -- merging -----------------------------------------------------------------------------------
def merge(
    folder: PathLike, stem: str, out: PathLike | None = None, overwrite: bool = False
) -> list[Path]:
    """Write the JSON and CSV that all shards were asked for; return the paths.

    They go into ``out``, by default beside the shards, which stay. ValueError or FileNotFoundError
    names the shard that is missing, damaged or of something else.
    """
    paths: list[Path] = []
    first: dict[str, Any] = {}
    for shard in all_shards(folder, stem, SUFFIX, SUFFIX + UNFINISHED):
        path = Path(folder, shard.named(stem) + SUFFIX)
        with naming(path, "{path}: damaged ({why}); copy it again, or predict it again"):
            found = scan(path)
            paths.append(path)
            first = first or found.header
            own = found.header.get("shard") or {}
            if (own.get("number"), own.get("of")) != shard:
                held = Shard(own.get("number", 0), own.get("of", 0))
                raise ValueError(
                    f"{path} holds shard {held}: renamed, or a copy of {held.named(stem)}{SUFFIX}; "
                    f"predict --shard {shard} again"
                )
            _same(path, found.header, paths[0].name, first)
            if found.done != len(_span(found.header)) or found.end != path.stat().st_size:
                raise ValueError(
                    f"{path}: damaged or cut off behind image {found.done:,} of "
                    f"{len(_span(found.header)):,}; copy it again, or predict --shard {shard} again"
                )
    written = {k: Path(folder if out is None else out, n) for k, n in first["outputs"].items()}
    for result in written.values():
        if result.exists() and not overwrite:
            raise FileExistsError(f"{result} exists; overwrite it explicitly")
    task = TASKS.get(first["task"])
    for kind, result in written.items():
        _write(result, _text(kind, task, first["head"], Records(paths)))
    return list(written.values())


# -- texts -------------------------------------------------------------------------------------
def json_pieces(
    head: dict[str, Any], listed: str, records: Iterable[dict[str, Any]]
) -> Iterator[str]:
    """Yield the pieces of the text ``json_text({**head, listed: [*records]})``."""
    start, end = json_text({**head, listed: [0]}).rsplit("0", 1)
    before = start
    for record in records:
        yield before + json_text(record).rstrip("\n").replace("\n", "\n  ")
        before = ",\n  "
    yield end if before != start else json_text({**head, listed: []})


def csv_pieces(rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Yield the lines of a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow(row)
        yield text.getvalue()
        text.seek(0)
        text.truncate()


def _text(
    kind: str, task: Task, head: dict[str, Any], records: Iterable[dict[str, Any]]
) -> Iterator[str]:
    if kind == "json":
        return json_pieces(head, task.listed, records)
    return csv_pieces(task.csv(head, records))


def _show(task: Task, path: PathLike, found: Found, wanted: dict[str, str]) -> None:
    """Write files, then print: what ``-`` stands for, else the table, unless it is too long."""
    head, records = found.header["head"], Records([path])
    for kind, place in wanted.items():
        if place != "-":
            _write(place, _text(kind, task, head, records))
    printed = [kind for kind, place in wanted.items() if place == "-"]
    for kind in printed:
        for piece in _text(kind, task, head, records):
            errors.print_data(piece)
    if not printed and (not wanted or found.done <= SHOWN):
        print(task.table(head, list(records)))


def _write(path: PathLike, pieces: Iterable[str]) -> None:
    with atomic_path(path) as temporary, open(
        temporary, "w", encoding="utf-8", errors="backslashreplace", newline=""
    ) as file:
        file.writelines(pieces)


# -- files of records --------------------------------------------------------------------------
def _target(shard: Shard, wanted: dict[str, str], options: Any) -> str:
    """Return the path of a shard's file; ValueError for flags that say nothing of shards."""
    for flag in ("heatmaps", "draw"):
        if getattr(options, flag):
            raise ValueError(f"--{flag}: not with --shard; name the images that are to be drawn")
    found = {os.path.splitext(path)[0] for path in wanted.values()}
    if len(found) != 1 or "-" in wanted.values():
        raise ValueError("--shard needs --json FILE, --csv FILE, or both with the same name")
    return shard.named(found.pop()) + SUFFIX


def _header(source: Exported, predicting: Predicting, chunk: int) -> dict[str, Any]:
    """Return what decides about the records, and what is written before them."""
    digest = hashlib.sha256()
    boxes = predicting.boxes or [None] * len(predicting.images)
    for row in zip(predicting.images, boxes):
        digest.update(json.dumps(row).encode())
    return {
        "format": FORMAT, "task": source.task.name,
        "export": sha256_of_bytes(json_text(source.sidecar).encode("utf-8", "backslashreplace")),
        "images": digest.hexdigest(), "count": len(predicting.images), "chunk": chunk,
        "head": predicting.head,
    }  # fmt: skip


def _span(header: dict[str, Any]) -> range:
    """Return which images the file with this header is for: whole chunks, but for the last."""
    count, chunk, shard = header["count"], header["chunk"], header.get("shard")
    if shard is None:
        return range(count)
    chunks = Shard(shard["number"], shard["of"]).span(-(-count // chunk))
    return range(min(chunks.start * chunk, count), min(chunks.stop * chunk, count))


def _same(path: PathLike, header: dict[str, Any], name: str, other: dict[str, Any]) -> None:
    """Raise a ValueError unless two headers are of one job."""
    ours, theirs = ({**h, **h["head"], "head": None, "shard": None} for h in (header, other))
    ours, theirs = (json.loads(json.dumps(h)) for h in (ours, theirs))
    different = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    if different:
        raise ValueError(
            f"{path} and {name} differ in {', '.join(different)}: not of one job; remove what is "
            "not, or predict it again with --overwrite"
        )


@contextlib.contextmanager
def _journal(target: str | None, header: dict[str, Any], options: Any) -> Iterator[str]:
    """Give the body the path of a file of records, as far as an earlier call has come with it.

    What an earlier call began with other settings is refused for a shard, else begun again.
    """
    if target is None:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "records")
            open(path, "wb").close()
            yield path
        return
    path = target + UNFINISHED
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with naming_write(path):
        file = open(path, "a+b")  # noqa: SIM115 (whose body's errors are not about it)
    with file:
        _lock(file, path)
        file.seek(0)
        first = file.readline()
        if not first.endswith(b"\n") or options.overwrite:
            file.truncate(0)
        elif (_parsed(first) or {}).get("format") != FORMAT:
            raise ValueError(f"{path}: not of the format '{FORMAT}'; remove it")
        else:
            try:
                _same(path, scan(path).header, "this call", header)
            except ValueError:
                if options.shard:
                    raise
                file.truncate(0)
        try:
            yield path
        except BaseException:
            if os.path.exists(path):
                if not os.path.getsize(path) or not scan(path).done:
                    os.unlink(path)
                else:
                    logger.warning("%s keeps what is done; the same command continues", path)
            raise
        if os.path.exists(path):
            os.unlink(path)


def _append(path: PathLike, lines: Sequence[bytes]) -> int:
    """Add lines to a file, on disk when this returns; return its size."""
    with naming_write(path), open(path, "ab") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _lock(file: Any, path: str) -> None:
    """Keep a file for this process; OSError if another one has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    busy = f"{path}: another process is writing it; let it end, or end it"
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(busy) from error
    except OSError:  # a file system without locks
        return
    if not os.path.exists(path) or not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
        raise OSError(busy)  # which has just ended


def _line(value: dict[str, Any]) -> bytes:
    return json_text(value, None).encode("utf-8", "backslashreplace")


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return the object in a whole line, else None."""
    try:
        value = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _is_plain(path: str) -> bool:
    return not os.path.exists(path) or os.path.isfile(path)
