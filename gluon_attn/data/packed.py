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
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from gluon_attn.core.batch import LabelPolicy
from gluon_attn.core.errors import naming
from gluon_attn.core.schema import Schema
from gluon_attn.core.text import read_json, read_lines
from gluon_attn.data.base import DATASETS, AttributeDataset, OneHot
from gluon_attn.data.images import BadImageError, decode_own, window
from gluon_attn.data.layout import Part, PathLike, file_part
from gluon_attn.data.published_sizes import CountReport, SplitCount
from gluon_attn.data.scan import files, subfolders

FORMAT = "gluon_attn packed images, version 1"
KEPT_SHARE = 0.1  # of physical memory: how large a file may be to be kept there
_MAGIC = 0xCED7230A
_FRAME = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")  # as mx.recordio.IRHeader: flag, label, id, id2


@DATASETS.register("packed")
class PackedDataset(AttributeDataset):
    """A split packed by :func:`gluon_attn.data.packing.pack`.

    Reading is thread-safe: records are fetched by ``os.pread`` from one descriptor, because an
    ``MXRecordIO`` handle has one position and one buffer for all threads. Their compressed bytes
    stay in memory (0.5 GB for WIDER-Attribute's training split at 256 pixels) if the file is
    smaller than a tenth of the machine's memory: each read lets go of Python's lock and waits for
    it, which slows several threads down more than the read itself.

    ``size`` is the side of the square images, ``info`` the JSON, ``left_out`` ``[(sample id,
    reason), ...]``. FileNotFoundError: the split is not there or not finished; ValueError: the
    files do not fit together.
    """

    looks_for = "<split>.rec, <split>.idx and <split>.json"
    detection = 0

    def __init__(
        self,
        root: PathLike,
        split: str,
        policy: LabelPolicy | None = None,
        on_bad_image: str = "error",
    ) -> None:
        self.root = self.home(root, split)
        self.info = load_info(self.root, split)
        path = self.root / f"{split}.json"
        with naming(path, "{path}: malformed: {why}"):
            schema, rows = _read_table(self.info, path)
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
        total = len(self) + len(missing)
        self._source = [k for k in range(total) if k not in missing]
        self._rec = self.root / f"{split}.rec"
        self._offsets = self._read_index(self.root / f"{split}.idx")
        self._file = open(self._rec, "rb")  # noqa: SIM115 (open as long as the data set lives)
        self._keeps = self.info["rec_bytes"] <= KEPT_SHARE * physical_memory()
        self._kept: list[Any] = [None] * len(self)
        self.report = CountReport([SplitCount(split, len(self))])

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        names = (f"{split}.{kind}" for kind in ("rec", "idx"))
        return (*(Part(name, (name,), _is_ours) for name in names), file_part(f"{split}.json"))

    @classmethod
    def is_home(cls, folder: Path, *others: str) -> bool:
        unfinished = (name.endswith(".rec.parts") for name in subfolders(folder))
        return any(unfinished) or any(map(_is_ours, files(folder, ".rec")))

    @classmethod
    def detect(cls, root: PathLike, depth: int = 0) -> bool:
        return cls.is_home(cls.home(root) if depth else Path(root))

    def read(self, i: int) -> np.ndarray:
        return decode_own(self.record(i)[0], self._rec, self.sample_ids[i])

    def get_window(self, i: int, box: tuple[int, int, int, int]) -> tuple[Any, ...]:
        """Return ``(image, label, mask, corner)`` of sample ``i``, like ``dataset[i]``, but of the
        image only the part from ``corner``, ``(x, y)``, to at least the end of ``box``, ``(left,
        top, right, bottom)``; None for the black image that stands for one that is skipped.
        """
        try:
            jpeg, corner = window(self.record(i)[0], box)
            image = decode_own(jpeg, self._rec, self.sample_ids[i])
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

    def _read_index(self, path: Path) -> list[int]:
        """Return the N + 1 offsets between which the records lie."""
        size = self._rec.stat().st_size
        try:
            offsets = [int(line.split()[1]) for _, line in read_lines(path)]
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path}: malformed: {error}") from error
        if len(offsets) != len(self):
            raise ValueError(f"{path}: {len(offsets)} records, {len(self)} in the JSON")
        wrong = [k for k, (a, b) in enumerate(zip([-1, *offsets], offsets)) if not a < b]
        if wrong:
            where = f"{path}: malformed: record {wrong[0]}"
            raise ValueError(f"{where} begins before the one before it")
        expected, sizes = self.info["rec_bytes"], f"{self._rec}: {size:,} bytes"
        if size != expected:
            broken = sum(offset + 8 <= size for offset in offsets) - 1 if size < expected else None
            lost = "" if broken is None else f"; it breaks off in or after record {max(broken, 0)}"
            raise ValueError(f"{sizes}, expected {expected:,}{lost}; copy or pack it again")
        if offsets[-1] >= size:
            where = f"{path}: malformed: the last record"
            raise ValueError(f"{where} begins behind the end of the file")
        return [*offsets, size]

    def _payload(self, i: int) -> memoryview:
        """Return the bytes of record ``i``.

        RecordIO: magic word, then 3 bits "which part" and 29 bits length, then the bytes, padded to
        four. Where the bytes contain the magic word the writer splits the record in its place.
        """
        start, end = self._offsets[i], self._offsets[i + 1]
        block = memoryview(os.pread(self._file.fileno(), end - start, start))
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
        return BadImageError(self._rec, self.sample_ids[i], f"record {i} {reason}")

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def _read_table(info: dict[str, Any], path: Path) -> tuple[Schema | None, Any]:
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


def load_info(root: PathLike, split: str) -> dict[str, Any]:
    """Return the contents of ``<split>.json`` of a packed folder.

    FileNotFoundError: the split is missing or unfinished; ValueError: it is malformed.
    """
    path = Path(root) / f"{split}.json"
    if not path.is_file():
        missing, records = f"{path} is missing", path.with_suffix(".rec")
        if Path(f"{path.with_suffix('')}.rec.parts").exists():
            raise FileNotFoundError(
                f"{missing}: packing of split '{split}' is unfinished; run the command that packs "
                "it again, it continues where it stopped"
            )
        if records.exists() and _has_checksum(records):
            raise FileNotFoundError(f"{missing}: copy it, too, or pack the images again")
        if records.exists():
            raise FileNotFoundError(explain_records(records))
        found = [p.stem for p in files(root, ".rec") if p.with_suffix(".json").exists()]
        listed = ", ".join(found) or "(none)"
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
