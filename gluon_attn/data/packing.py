"""Packing a data set into RecordIO: in parallel, resumable, never half-finished.

The samples are cut into fixed chunks. Each is written to ``<prefix>.rec.parts/`` by one thread and
counts once its own small JSON is there; a second call makes only the missing ones. When all exist
they are joined into ``<prefix>.rec`` and ``.idx``, and ``<prefix>.json`` is put beside them last.
Chunks do not depend on the number of workers or on interruptions, hence neither does the result:
it is equal to the byte. A shard is a pack of a part of the samples, made in the same way;
:func:`merge` joins all of them to the bytes of the whole.
"""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Sequence

import cv2
import mxnet as mx
from tqdm import tqdm

from gluon_attn.core.errors import first_line
from gluon_attn.core.files import atomic_path, json_text, write_text
from gluon_attn.core.shards import Shard
from gluon_attn.core.text import read_json
from gluon_attn.data.base import AttributeDataset, OneHot
from gluon_attn.data.images import BadImageError, NoOverlapError, check_policy, encode_tiles, resize
from gluon_attn.data.layout import PathLike
from gluon_attn.data.packed import (
    FORMAT,
    UNFINISHED,
    load_shards,
    read_index,
    record_labels,
    table_of,
)

CHUNK = 128


def pack(
    dataset: AttributeDataset,
    out_prefix: PathLike,
    size: int = 256,
    quality: int = 95,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    on_bad_image: str | None = None,
    progress: bool = True,
    train_size: int = 224,
    shard: Shard | None = None,
) -> dict[str, Any]:
    """Write ``<out_prefix>.rec``, ``.idx`` and ``.json`` and return the contents of the JSON.

    Args:
        out_prefix: ``folder/split``; the folder is created.
        size: Side of the square to which every image is resized.
        quality: JPEG quality, 1 to 100.
        workers: Threads; None means one per core.
        overwrite: Whether an existing packed split, or unfinished parts of another one, may go
            (FileExistsError otherwise). The old files stay until the new ones are complete.
        on_bad_image: 'error' or 'skip'; 'skip' leaves unreadable samples out and lists them. None
            means the data set's own choice. Boxes that show nothing are always left out.
        train_size: Largest crop that training will make; ``size`` must exceed it.
        shard: Pack this part of the samples only; its number is added to the names of the files.

    After an error, whichever it is, finished chunks are kept for the next call.
    """
    on_bad_image = check_policy(on_bad_image or dataset.on_bad_image)
    if size <= train_size:
        raise ValueError(
            f"size={size} must exceed the largest training crop, {train_size}: ImageRecordIter "
            "spoils scaled crops of records that have the output size (apache/mxnet #16925); "
            "pack at 256, or say which smaller crop you train with (train_size)"
        )
    if not 1 <= quality <= 100:
        raise ValueError(f"quality={quality}: valid are 1 to 100")
    prefix = Path(shard.named(out_prefix) if shard else out_prefix)
    parts = Path(f"{prefix}{UNFINISHED}")
    plan = make_plan(dataset, size, quality, shard)
    _claim(prefix, parts, plan, overwrite)
    samples = shard.span(len(dataset)) if shard else range(len(dataset))
    spans = [samples[k : k + CHUNK] for k in range(0, len(samples), CHUNK)]
    chunks = _Chunks(dataset, parts, plan, on_bad_image)
    _run(chunks, spans, workers or os.cpu_count() or 1, progress)
    info = _finish(prefix, chunks, samples, len(spans))
    shutil.rmtree(parts)
    return info


def merge(
    root: PathLike, split: str, out: PathLike | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Join the shards of a split in ``root`` to the pack that one process would have written.

    It goes into ``out``, by default beside them; they stay. Returns the contents of its JSON.
    ValueError or FileNotFoundError names the shard that is missing, damaged or of something else.
    """
    prefix = Path(root if out is None else out, split)
    info, pieces = load_shards(root, split)
    note = Path(f"{prefix}.json")
    if note.exists() and not overwrite:
        raise FileExistsError(f"{note} exists; overwrite it explicitly or choose another folder")
    if not info["count"]:
        raise ValueError(f"{root}: not one of {len(info['skipped'])} samples could be read")
    info["fingerprint"] = table_of(info, note).fingerprint()
    if not info["skipped"] and info["fingerprint"] != info["source_fingerprint"]:
        raise ValueError(f"{root}: the shards of '{split}' are not the samples that were packed")
    _join(prefix, info, [(f"{path}.rec", read_index(path, its)) for path, its in pieces])
    return info


def make_plan(
    dataset: AttributeDataset, size: int, quality: int, shard: Shard | None = None
) -> dict[str, Any]:
    """Return what decides about the bytes of a packed split, a dict of plain values."""
    part = {"shard": {**shard._asdict(), "samples": len(dataset)}} if shard else {}
    return {
        "format": FORMAT,
        "source_fingerprint": dataset.fingerprint(),
        "size": int(size),
        "quality": int(quality),
        "orientation": "upright",  # absent where EXIF orientations were once overlooked
        "encoder": f"OpenCV {cv2.__version__}",
        **part,
    }


def _claim(prefix: Path, parts: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Make sure that ``prefix`` may be written and that ``parts`` belong to ``plan``."""
    existing = [p for k in ("json", "rec", "idx") if (p := Path(f"{prefix}.{k}")).exists()]
    finished = Path(f"{prefix}.json") in existing
    if existing and not overwrite and (finished or not parts.exists()):
        raise FileExistsError(f"{existing[0]} exists; overwrite it explicitly or choose another")
    note = parts / "plan.json"  # written first: without it there is nothing yet
    if note.exists():
        try:
            same = read_json(note) == plan
        except (OSError, ValueError):
            same = False
        if same:
            return
        if not overwrite:
            raise ValueError(
                f"{parts} holds unfinished parts of other data or settings; remove the folder, or "
                "allow overwriting"
            )
        shutil.rmtree(parts)
    write_text(note, json_text(plan, None))


def _run(chunks: _Chunks, spans: Sequence[range], workers: int, progress: bool) -> None:
    cv2.setNumThreads(0)  # the threads here are the parallelism; OpenCV's own would fight them
    todo = [k for k in range(len(spans)) if not chunks.done(k)]
    total = sum(len(span) for span in spans)
    done = total - sum(len(spans[k]) for k in todo)
    bar = tqdm(total=total, initial=done, unit="img", disable=None if progress else True,
               desc=chunks.parts.name.partition(".")[0])  # fmt: skip
    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="pack")
    futures = {}
    try:
        futures = {pool.submit(chunks.write, k, spans[k]): k for k in todo}
        for future in as_completed(futures):
            future.result()
            bar.update(len(spans[futures[future]]))
    finally:
        chunks.stopped = True  # so that an error or Ctrl-C does not wait for whole chunks
        for future in futures:
            future.cancel()
        pool.shutdown()
        bar.close()


@dataclass
class _Chunks:
    """Writes the chunks of a packed split; knows which are done."""

    dataset: AttributeDataset
    parts: Path
    plan: dict[str, Any]
    on_bad_image: str
    stopped: bool = False

    def path(self, k: int, kind: str) -> Path:
        return self.parts / f"{k:05d}.{kind}"

    def done(self, k: int) -> bool:
        """Return whether chunk ``k`` is complete under the present policy about bad images.

        One that is damaged is none, and neither is that of a version without checksums.
        """
        try:
            note = read_json(self.path(k, "json"))
            whole = note.pop("crc32") == self.checksum(k, note)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return False
        lenient = self.on_bad_image == "skip"
        return whole and (lenient or not any(item["bad"] for item in note["skipped"]))

    def checksum(self, k: int, note: dict[str, Any]) -> int:
        """Return the CRC-32 of a chunk's records and of what is noted about them."""
        records = zlib.crc32(self.path(k, "rec").read_bytes())
        return zlib.crc32(json_text(note, None).encode("utf-8", "backslashreplace"), records)

    def write(self, k: int, span: range) -> None:
        records, skipped = [], []
        for i in span:
            if self.stopped:
                return
            try:
                records.append(self.encode(i))
            except BadImageError as error:
                bad = not isinstance(error, NoOverlapError)
                if bad and self.on_bad_image == "error":
                    raise
                name = self.dataset.sample_ids[i]
                skipped.append({"index": i, "id": name, "reason": error.reason, "bad": bad})
        with atomic_path(self.path(k, "rec")) as temporary:
            offsets = write_records(temporary, records)
        note = {"offsets": offsets[:-1], "bytes": offsets[-1], "skipped": skipped}
        note["crc32"] = self.checksum(k, note)
        write_text(self.path(k, "json"), json_text(note, None))

    def encode(self, i: int) -> bytes:
        """Return the record of sample ``i``."""
        image = resize(self.dataset.read(i), self.plan["size"], self.plan["size"])
        jpeg = encode_tiles(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), self.plan["quality"])
        rows = self.dataset.raw
        one_hot = isinstance(rows, OneHot)
        labels = float(rows.targets[i]) if one_hot else record_labels(rows[i])
        header = mx.recordio.IRHeader(0, labels, i, zlib.crc32(jpeg))
        return mx.recordio.pack(header, jpeg)


def write_records(path: PathLike, records: Iterable[bytes]) -> list[int]:
    """Write a RecordIO file and return where its records start, and its size; OSError if cut."""
    offsets = []
    try:
        writer = mx.recordio.MXIndexedRecordIO(os.devnull, str(path), "w")  # for its tell()
        for record in records:
            offsets.append(writer.tell())
            writer.write(record)
        offsets.append(writer.tell())
        writer.close()
    except mx.base.MXNetError as error:
        raise OSError(errno.EIO, first_line(error)) from error
    if os.path.getsize(path) != offsets[-1]:  # closing does not report a full disk
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return offsets


def _finish(prefix: Path, chunks: _Chunks, samples: range, count: int) -> dict[str, Any]:
    """Join the chunks and return the contents of the JSON."""
    dataset = chunks.dataset
    notes = [read_json(chunks.path(k, "json")) for k in range(count)]
    skipped = [item for note in notes for item in note["skipped"]]
    absent = {item["index"] for item in skipped}
    kept = [i for i in samples if i not in absent]
    if not kept and not chunks.plan.get("shard"):
        raise ValueError(f"{prefix}: not one of {len(samples)} samples could be read")
    pieces = [(chunks.path(k, "rec"), [*note["offsets"], note["bytes"]])
              for k, note in enumerate(notes)]  # fmt: skip
    info = dict(chunks.plan, split=dataset.split, count=len(kept))
    info["rec_bytes"] = sum(note["bytes"] for note in notes)
    info["names"] = list(dataset.names)
    info["schema"] = dataset.schema.to_json()
    info["skipped"] = [{k: item[k] for k in ("index", "id", "reason")} for item in skipped]
    info["fingerprint"] = dataset.fingerprint(kept)
    info["sample_ids"] = [dataset.sample_ids[i] for i in kept]
    rows, key = dataset.raw, "raw"
    if isinstance(rows, OneHot):
        rows, key = rows.targets, "targets"
    info[key] = rows[kept].tolist()
    _join(prefix, info, pieces)
    return info


def _join(prefix: Path, info: dict[str, Any], pieces: Sequence[tuple[PathLike, list[int]]]) -> None:
    """Write the three files of a pack from pieces of its records, the JSON last.

    A piece is a RecordIO file with the places where its records begin and, last, its size.
    """
    final = {kind: Path(f"{prefix}.{kind}") for kind in ("rec", "idx", "json")}
    lines, start = [], 0
    with atomic_path(final["idx"]) as idx, atomic_path(final["rec"]) as rec:
        with open(rec, "wb") as joined:
            for path, offsets in pieces:
                with open(path, "rb") as piece:
                    shutil.copyfileobj(piece, joined, 1 << 20)
                lines += [start + offset for offset in offsets[:-1]]
                start += offsets[-1]
        with open(idx, "w", encoding="ascii") as file:
            file.writelines(f"{k}\t{offset}\n" for k, offset in enumerate(lines))
        if final["json"].exists():  # while .rec and .idx change, the split counts as unfinished
            final["json"].unlink()
    write_text(final["json"], json_text(info, None, separators=(",", ":"), ensure_ascii=True))
