"""Data sets packed into RecordIO: what the three files of a split hold, and reading them.

A record is ``mx.recordio.pack(IRHeader(2A, labels, id, id2), jpeg)``:

    labels  float32 (2A,): A labels in {0, 1}, then A masks in {0, 1} (0 = unspecified, label 0)
    id      position of the sample in the data set it was packed from
    id2     CRC-32 of the JPEG bytes

so it can be understood without the JSON, and ``mx.io.ImageRecordIter(label_width=2 * A)`` reads it.
(Do not let that iterator make scaled crops of records that have the output size already: they come
out wrong, apache/mxnet #16925.) The JPEG has restart markers, see ``images``. Single-label data
have the class number as their only label, in the header, as ``im2rec`` writes it.

The JSON adds names, schema (absent in older packs: binary attributes), sample ids, raw labels
(``raw``, or class numbers in ``targets``), the samples left out and the fingerprint. It is written
last: without it a packed split is unfinished.

A split may lie in shards, ``<split>-00002-of-00004.rec``, ``.idx`` and ``.json``: packs of a part
of the samples, whose JSON says which (``shard``). All together they are read as one.
"""

from __future__ import annotations

import bisect
import itertools
import os
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, List, NamedTuple, Tuple

import numpy as np

from gluon_attn.core.batch import LabelPolicy
from gluon_attn.core.errors import naming
from gluon_attn.core.schema import Schema
from gluon_attn.core.shards import Shard, all_shards, stem_of, stems
from gluon_attn.core.text import read_json, read_lines
from gluon_attn.data.base import DATASETS, AttributeDataset, OneHot
from gluon_attn.data.images import BadImageError, decode_own, window
from gluon_attn.data.layout import Part, PathLike
from gluon_attn.data.published_sizes import CountReport, SplitCount
from gluon_attn.data.scan import files, subfolders

FORMAT = "gluon_attn packed images, version 1"
KEPT_SHARE = 0.1  # of physical memory: how large a file may be to be kept there
_MAGIC = 0xCED7230A
_FRAME = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")  # as mx.recordio.IRHeader: flag, label, id, id2
UNFINISHED = ".rec.parts"  # what packing keeps until it ends
# What differs between the shards of a split.
_OWN = ("shard", "count", "rec_bytes", "skipped", "fingerprint", "sample_ids", "raw", "targets")


class _Piece(NamedTuple):
    """One record file: its descriptor, where its records begin and end, its first sample."""

    path: Path
    file: BinaryIO
    offsets: list[int]
    first: int


@DATASETS.register("packed")
class PackedDataset(AttributeDataset):
    """A split packed by :func:`gluon_attn.data.packing.pack`.

    Reading is thread-safe: records are fetched by ``os.pread`` from one descriptor per file, as an
    ``MXRecordIO`` handle has one position and one buffer for all threads. Their compressed bytes
    stay in memory (0.5 GB for WIDER-Attribute's training split at 256 pixels) if the file is
    smaller than a tenth of the machine's memory: each read lets go of Python's lock and waits for
    it, which slows several threads down more than the read itself.

    ``size`` is the side of the square images, ``info`` the JSON, ``left_out`` ``[(sample id,
    reason), ...]``. FileNotFoundError: the split is not there or not finished; ValueError: the
    files do not fit together.
    """

    looks_for = "<split>.rec, <split>.idx and <split>.json, or all shards of them"
    detection = 0

    def __init__(
        self,
        root: PathLike,
        split: str,
        policy: LabelPolicy | None = None,
        on_bad_image: str = "error",
    ) -> None:
        self.root = self.home(root, split)
        self.info, shards = load_pack(self.root, split)
        path = self.root / f"{split}.json"
        with naming(path, "{path}: malformed: {why}"):
            schema, rows = read_table(self.info, path)
            super().__init__(
                self.info["names"],
                split,
                rows,
                self.info["sample_ids"],
                policy=policy,
                on_bad_image=on_bad_image,
                schema=schema,
            )
            self.size = self.info["size"]
            self.left_out = [(item["id"], item["reason"]) for item in self.info["skipped"]]
            missing = {item["index"] for item in self.info["skipped"]}
        if len(shards) > 1:
            self.info["fingerprint"] = self.fingerprint()
        start = span_of(self.info).start if "shard" in self.info else 0
        total = len(self) + len(missing)
        self._source = [k for k in range(start, start + total) if k not in missing]
        self._pieces: list[_Piece] = []
        first = 0
        for prefix, info in shards:
            offsets, rec = read_index(prefix, info), Path(f"{prefix}.rec")
            # Open as long as the data set lives.
            self._pieces.append(_Piece(rec, open(rec, "rb"), offsets, first))  # noqa: SIM115
            first += len(offsets) - 1
        self._firsts = [piece.first for piece in self._pieces]
        self._keeps = self.info["rec_bytes"] <= KEPT_SHARE * physical_memory()
        self._kept: list[Any] = [None] * len(self)
        self.report = CountReport([SplitCount(split, len(self))])

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        names = (f"{split}.{kind}" for kind in ("rec", "idx", "json"))
        fits = (_is_ours, _is_ours, Path.is_file)
        return tuple(Part(n, (n,), partial(_or_shards, fit)) for n, fit in zip(names, fits))

    @classmethod
    def is_home(cls, folder: Path, *others: str) -> bool:
        unfinished = (name.endswith(UNFINISHED) for name in subfolders(folder))
        return any(unfinished) or any(map(_is_ours, files(folder, ".rec")))

    @classmethod
    def detect(cls, root: PathLike, depth: int = 0) -> bool:
        return cls.is_home(cls.home(root) if depth else Path(root))

    def read(self, i: int) -> np.ndarray:
        return decode_own(self.record(i)[0], self._place(i)[0].path, self.sample_ids[i])

    def get_window(self, i: int, box: tuple[int, int, int, int]) -> tuple[Any, ...]:
        """Return ``(image, label, mask, corner)`` of sample ``i``, like ``dataset[i]``, but of the
        image only the part from ``corner``, ``(x, y)``, to at least the end of ``box``, ``(left,
        top, right, bottom)``; None for the black image that stands for one that is skipped.
        """
        try:
            jpeg, corner = window(self.record(i)[0], box)
            image = decode_own(jpeg, self._place(i)[0].path, self.sample_ids[i])
            return image, self.label[i], self.mask[i], corner
        except BadImageError as error:
            return (*self._replace(i, error)[:3], None)

    def record(self, i: int) -> tuple[memoryview, np.ndarray]:
        """Return ``(jpeg, labels)`` of sample ``i``: a memoryview, and float32 ``(2A,)``, or
        ``(1,)``, the class number, of single-label data. BadImageError: it is not what was written.
        """
        if self._kept[i] is not None:
            return self._kept[i]
        payload = self._payload(i)
        flag, number, position, checksum = _HEADER.unpack_from(payload)
        if flag != (0 if self._one_hot else 2 * len(self.names)) or position != self._source[i]:
            raise self._bad(i, f"belongs to sample {position} with {flag} label values")
        jpeg = payload[_HEADER.size + 4 * flag :]
        if zlib.crc32(jpeg) != checksum:
            raise self._bad(i, "is damaged: its checksum differs")
        labels = np.frombuffer(payload, np.float32, flag, _HEADER.size)
        record = jpeg, (labels if flag else np.array([number], np.float32))
        if self._keeps:
            self._kept[i] = record
        return record

    def verify(self) -> None:
        """Compare every record with the JSON; BadImageError at the first that differs."""
        for i in range(len(self)):
            wanted = self.raw.targets[i] if self._one_hot else record_labels(self.raw[i])
            if not np.array_equal(self.record(i)[1], np.atleast_1d(wanted)):
                raise self._bad(i, "has other labels than the JSON")
            self.read(i)

    def _place(self, i: int) -> tuple[_Piece, int]:
        """Return the record file of sample ``i``, and which of its records it is."""
        piece = self._pieces[bisect.bisect_right(self._firsts, i) - 1]
        return piece, i - piece.first

    def _payload(self, i: int) -> memoryview:
        """Return the bytes of record ``i``.

        RecordIO: magic word, then 3 bits "which part" and 29 bits length, then the bytes, padded to
        four. Where the bytes contain the magic word the writer splits the record in its place.
        """
        piece, record = self._place(i)
        start, end = piece.offsets[record : record + 2]
        block = memoryview(os.pread(piece.file.fileno(), end - start, start))
        parts: list[memoryview] = []
        at = 0
        while at + 8 <= len(block):
            magic, word = _FRAME.unpack_from(block, at)
            kind, length = word >> 29, word & 0x1FFFFFFF
            if magic != _MAGIC or at + 8 + length > len(block):
                break
            parts.append(block[at + 8 : at + 8 + length])
            at += 8 + (length + 3) // 4 * 4
            if kind in (0, 3) and len(parts[0]) >= _HEADER.size:
                joint = struct.pack("<I", _MAGIC)
                return parts[0] if len(parts) == 1 else memoryview(joint.join(parts))
        raise self._bad(i, f"is truncated or damaged at byte {start + at:,}")

    def _bad(self, i: int, reason: str) -> BadImageError:
        piece, record = self._place(i)
        return BadImageError(piece.path, self.sample_ids[i], f"record {record} {reason}")

    def __del__(self) -> None:
        for piece in getattr(self, "_pieces", ()):
            piece.file.close()


def read_index(prefix: PathLike, info: dict[str, Any]) -> list[int]:
    """Return where the records of ``<prefix>.rec`` begin and, last, its size.

    ValueError: index, records and JSON (``info``) do not fit together.
    """
    path, rec, count = Path(f"{prefix}.idx"), Path(f"{prefix}.rec"), len(info["sample_ids"])
    size = rec.stat().st_size
    try:
        offsets = [int(line.split()[1]) for _, line in read_lines(path)]
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: malformed: {error}") from error
    if len(offsets) != count:
        raise ValueError(f"{path}: {len(offsets)} records, {count} in the JSON")
    wrong = [k for k, (a, b) in enumerate(zip([-1, *offsets], offsets)) if not a < b]
    if wrong:
        where = f"{path}: malformed: record {wrong[0]}"
        raise ValueError(f"{where} begins before the one before it")
    expected, sizes = info["rec_bytes"], f"{rec}: {size:,} bytes"
    if size != expected:
        broken = sum(offset + 8 <= size for offset in offsets) - 1 if size < expected else None
        lost = "" if broken is None else f"; it breaks off in or after record {max(broken, 0)}"
        raise ValueError(f"{sizes}, expected {expected:,}{lost}; copy or pack it again")
    if offsets and offsets[-1] >= size:
        where = f"{path}: malformed: the last record"
        raise ValueError(f"{where} begins behind the end of the file")
    return [*offsets, size]


def read_table(info: dict[str, Any], path: Path) -> tuple[Schema | None, Any]:
    """Return schema (None where the JSON has none) and raw labels of a packed split."""
    schema, rows, field = None, info.get("raw"), "schema"
    try:
        if field in info:
            schema = Schema.from_json(info[field])
        field = "targets"
        if field in info:
            rows = OneHot(info[field], len(info["names"]))
    except ValueError as error:
        raise ValueError(f"{path}: field '{field}': {error}") from error
    if schema is not None and list(schema.columns) != list(info["names"]):
        raise ValueError(f"{path}: field 'schema' has other columns than 'names'")
    return schema, rows


def table_of(info: dict[str, Any], path: Path) -> AttributeDataset:
    """Return names, labels and sample ids of a packed split; ValueError: they do not fit."""
    with naming(path, "{path}: malformed: {why}"):
        schema, rows = read_table(info, path)
        return AttributeDataset(
            info["names"], info["split"], rows, info["sample_ids"], schema=schema
        )


def physical_memory() -> int:
    """Return the machine's memory in bytes; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def record_labels(raw: Any) -> np.ndarray:
    """Return the ``(2A,)`` float32 label vector of a record: labels, then masks."""
    raw = np.asarray(raw)
    return np.concatenate([raw == 1, raw != 0]).astype(np.float32)


Pieces = List[Tuple[Path, Dict[str, Any]]]  # paths without suffix, and their JSON


def load_pack(root: PathLike, split: str) -> tuple[dict[str, Any], Pieces]:
    """Return the JSON of a split and what it lies in: one piece, or all of its shards.

    Of shards, the JSON is that of the whole. Errors as of :func:`load_info`.
    """
    if not Path(root, f"{split}.json").is_file() and split in stems(root, ".json"):
        return load_shards(root, split)
    info = load_info(root, split)
    return info, [(Path(root, split), info)]


def load_shards(root: PathLike, split: str) -> tuple[dict[str, Any], Pieces]:
    """Return what :func:`load_pack` does, from the shards of a split.

    The fingerprint is not that of the whole. ValueError names the shard that is none of them.
    """
    pieces: Pieces = []
    for shard in all_shards(root, split, ".json", UNFINISHED):
        name = shard.named(split)
        path, info = Path(root, f"{name}.json"), load_info(root, name)
        with naming(path, "{path}: malformed: {why}"):
            own = Shard(info["shard"]["number"], info["shard"]["of"])
            span = span_of(info)
        if own != shard:
            raise ValueError(
                f"{path} holds shard {own}: renamed, or a copy of {own.named(split)}.json; pack "
                f"--shard {shard} again"
            )
        count = len(info["sample_ids"])
        if count + len(info["skipped"]) != len(span) or info.get("count") != count:
            raise ValueError(f"{path}: not the {len(span)} samples of shard {own}")
        if count:
            table_of(info, path)
        pieces.append((Path(root, name), info))
        whole = pieces[0][1]
        same = [*(key for key in {**whole, **info} if key not in _OWN)]
        other = [key for key in same if whole.get(key) != info.get(key)]
        other += ["samples"] if whole["shard"]["samples"] != info["shard"]["samples"] else []
        if other:
            raise ValueError(
                f"{path} and {pieces[0][0].name}.json differ in {', '.join(other)}: not of one job"
            )
    infos = [info for _, info in pieces]
    info = {key: value for key, value in infos[0].items() if key != "shard"}
    for key in set(info) & {*_OWN} - {"fingerprint"}:
        parts = [own[key] for own in infos]
        info[key] = [*itertools.chain(*parts)] if isinstance(parts[0], list) else sum(parts)
    return info, pieces


def span_of(info: dict[str, Any]) -> range:
    """Return which samples the shard with this JSON has."""
    shard = info["shard"]
    return Shard(shard["number"], shard["of"]).span(shard["samples"])


def load_info(root: PathLike, split: str) -> dict[str, Any]:
    """Return the contents of ``<split>.json`` of a packed folder.

    FileNotFoundError: the split is missing or unfinished; ValueError: it is malformed.
    """
    path = Path(root) / f"{split}.json"
    if not path.is_file():
        missing, records = f"{path} is missing", path.with_suffix(".rec")
        begun = Path(root, split + UNFINISHED).exists() or split in stems(root, UNFINISHED)
        if begun:
            raise FileNotFoundError(
                f"{missing}: packing of split '{split}' is unfinished; run the command that packs "
                "it again, it continues where it stopped"
            )
        if records.exists() and _has_checksum(records):
            raise FileNotFoundError(f"{missing}: copy it, too, or pack the images again")
        if records.exists():
            raise FileNotFoundError(explain_records(records))
        found = [stem_of(p.stem) for p in files(root, ".rec") if p.with_suffix(".json").exists()]
        listed = ", ".join(dict.fromkeys(found)) or "(none)"
        raise FileNotFoundError(f"{missing}; packed splits in this folder: {listed}")
    info = read_json(path)
    known = isinstance(info, dict) and info.get("format") == FORMAT
    rows = "targets" if known and "targets" in info else "raw"
    kinds = {"names": list, "sample_ids": list, rows: list, "size": int, "skipped": list,
             "rec_bytes": int, "fingerprint": str}  # fmt: skip
    if not known or any(not isinstance(info.get(key), kind) for key, kind in kinds.items()):
        raise ValueError(f"{path}: not of the format '{FORMAT}' with {', '.join(kinds)}")
    labels, ids = len(info[rows]), len(info["sample_ids"])
    if labels != ids:
        raise ValueError(f"{path}: {labels} label rows, {ids} sample ids")
    return info


def explain_records(path: Path) -> str:
    """Return a line that says what im2rec's files are, and how to get ours."""
    return (
        f"{path} was written by MXNet's im2rec or the like, not by this package: such files do not "
        "say what their labels mean. Pack the images they were made of: tools/prepare_data.py "
        "folders (one folder per class) or list (a list of attributes) --root IMAGES --out DIR"
    )


def records_of_others(root: Path) -> Path | None:
    """Return a record file or list of im2rec's in a folder, or None."""
    return next(iter([*files(root, ".rec"), *files(root, ".lst")]), None)


def _or_shards(fits: Callable[[Path], bool], path: Path) -> bool:
    return fits(path) or path.stem in stems(path.parent, ".json")


def _is_ours(path: Path) -> bool:
    """Return whether this package packed a file's split; MXNet's tools use the same names."""
    records, has_json = path.with_suffix(".rec"), path.with_suffix(".json").is_file()
    return path.is_file() and (has_json or records.is_file() and _has_checksum(records))


def _has_checksum(path: Path) -> bool:
    """Return whether the first record has the checksum that only our packing gives it."""
    with open(path, "rb") as file:
        start = file.read(_FRAME.size + _HEADER.size)
        if len(start) < _FRAME.size + _HEADER.size:
            return False
        (magic, word), header = _FRAME.unpack_from(start), _HEADER.unpack_from(start, _FRAME.size)
        flag, _, _, checksum = header
        length = (word & 0x1FFFFFFF) - _HEADER.size - 4 * flag
        if magic != _MAGIC or length < 0:
            return False
        file.seek(4 * flag, os.SEEK_CUR)
        return zlib.crc32(file.read(length)) == checksum
