"""What is known of a weight file, and bringing it from a mirror: download, copy, unzip, lock.

``weights.json`` has one entry per model name; a mirror may have such a table of its own.

The final name only ever holds a file whose size and hash are the expected ones. What has arrived of
one lies beside it as ``*.part``, from which the next call goes on.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import socket
import time
import zipfile
from dataclasses import dataclass
from typing import Any, Iterable, Iterator
from urllib.parse import urlsplit
from urllib.request import url2pathname

from gluon_attn.core.errors import naming
from gluon_attn.core.files import DISK_FULL, digest_of, publish
from gluon_attn.core.text import json_of, text_of

MIRROR_VARIABLE = "MXNET_GLUON_REPO"
LOCK_TIMEOUT = 600.0  # seconds; longer than a slow download of the largest file
TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two pieces of data
RETRIES = 4
BACKOFF = 0.5  # seconds before the first retry, doubled before each further one
CHUNK = 1 << 16
MAX_UNPACKED = 1 << 30  # bytes; the largest of Gluon's ResNets has 0.25 GB
MAX_SMALL = 16 << 20  # bytes of a mirror's table
SCHEMA_VERSION = 1  # of weights.json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightEntry:
    """What is known of one weight file; None where unknown.

    Attributes:
        digest: Its hash, hexadecimal, by ``algorithm``: sha256, or sha1 of Gluon's own.
        size: Bytes.
        classes: Names of the logits, in order.
        recipe: Of the training run, with at least ``method``, ``model`` and ``input_size``.
        schema: The attributes that the classes belong to.
        data: Where the data come from.
        score: What the weights reach: ``split``, ``samples`` and measures in 0..1.
        remote: Path below the mirror.
        trained_with: Command that makes the run.
        source: The table that lists it, for messages.
        package: Name of the pip package that carries the file in its folder ``models``.
        pixels: How the net is fed, where no recipe says it; see :mod:`model_zoo.outside`.
        options: Arguments of the model, where no recipe says them.
    """

    name: str
    file: str
    digest: str
    algorithm: str = "sha256"
    size: int | None = None
    classes: tuple[str, ...] | None = None
    recipe: dict[str, Any] | None = None
    schema: list[Any] | None = None
    data: dict[str, Any] | None = None
    score: dict[str, Any] | None = None
    remote: str = ""
    trained_with: str | None = None
    source: str = ""
    package: str | None = None
    pixels: dict[str, Any] | None = None
    options: dict[str, Any] | None = None

    @property
    def where(self) -> str:
        """Table and name, with which messages about this entry begin."""
        return f"{self.source}: entry '{self.name}'"


def parse_table(text: bytes, where: str) -> dict[str, WeightEntry]:
    """Return the entries of a table by name, every field checked.

    A mirror's table comes from outside, and what the package ships is read in the same way: an
    entry that would fail later, when a net is built or fed from it, is refused here by a ValueError
    that names file or URL, entry and field.
    """
    table = json_of(text_of(text, where), where)
    weights = table.get("weights") if isinstance(table, dict) else None
    if not isinstance(weights, dict):
        raise ValueError(f"{where}: expected an object with 'version' and 'weights'")
    if table.get("version") != SCHEMA_VERSION:
        raise ValueError(
            f"{where}: version {table.get('version')!r}, this release reads {SCHEMA_VERSION}; "
            "update gluon_attn or the table"
        )
    return {name: _parse_entry(name, record, where) for name, record in weights.items()}


def _parse_entry(name: str, record: Any, where: str) -> WeightEntry:
    for good, text in _rules(name, record):
        if not good:
            raise ValueError(f"{where}: entry '{name}': {text}")
    same = ("size", "recipe", "schema", "data", "score", "trained_with")
    classes = record.get("classes")
    return WeightEntry(
        name, record["file"], record["sha256"], source=where,
        classes=None if classes is None else tuple(classes),
        remote=f"gluon_attn/models/{record['file']}", **{key: record.get(key) for key in same},
    )  # fmt: skip


def _rules(name: str, record: Any) -> Iterator[tuple[Any, str]]:
    """Yield whether a rule holds, and what to say if not; a rule relies on those before it."""
    yield re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name), "not a model name"
    yield isinstance(record, dict), "expected an object"
    digest, size = str(record.get("sha256")), record.get("size")
    hexadecimal = re.fullmatch("[0-9a-f]{64}", digest)
    yield hexadecimal, f"sha256 {digest!r} is not 64 lower-case hexadecimal digits"
    # This also keeps a mirror from naming a file outside the store's directory.
    file = f"{name}-{digest[:8]}.params"
    yield record.get("file") == file, f"file must be {file}"
    yield _whole(size), f"size {size!r} is not a positive number of bytes"
    classes, schema = record.get("classes"), record.get("schema")
    if classes is not None:
        names = isinstance(classes, list) and all(isinstance(c, str) and c.strip() for c in classes)
        yield names, "classes must be null or a list of names"
        yield classes and len(set(classes)) == len(classes), "classes must be distinct names"
    objects = isinstance(schema, list) and all(isinstance(attribute, dict) for attribute in schema)
    yield schema is None or objects, "schema must be null or a list of objects"
    for key in ("recipe", "score", "data"):
        yield isinstance(record.get(key), (dict, type(None))), f"{key} must be null or an object"
    if record.get("recipe") is not None:
        # What a net is built by; the other fields are checked where a Recipe is made of them.
        recipe = {"model_options": {}, **record["recipe"]}
        for key in ("method", "model"):
            yield isinstance(recipe.get(key), str), f"recipe: {key} {recipe.get(key)!r} is no name"
        size, options = recipe.get("input_size"), recipe["model_options"]
        yield _whole(size), f"recipe: input_size {size!r} is not a positive number of pixels"
        yield isinstance(options, dict), f"recipe: model_options {options!r} is not an object"
    for key, value in (record.get("score") or {}).items():
        if key == "split":
            yield isinstance(value, str), f"score: split {value!r} is no name"
        elif key == "samples":
            yield _whole(value), f"score: samples {value!r} is not a positive number"
        else:
            share = type(value) in (int, float) and 0 <= value <= 1
            yield share, f"score: {key} {value!r} is not a number in 0..1"
    command = record.get("trained_with")
    yield command is None or isinstance(command, str), "trained_with must be null or text"


def _whole(value: Any) -> bool:
    return type(value) is int and value > 0


def mirror_location() -> str | None:
    """Return the mirror's URL or directory without a final slash, or None if none is set."""
    value = os.environ.get(MIRROR_VARIABLE, "").strip()
    scheme = urlsplit(value).scheme if "://" in value or value.startswith("file:") else ""
    if not value or scheme in ("http", "https"):
        return value.rstrip("/") or None
    if scheme not in ("", "file"):
        raise ValueError(
            f"{MIRROR_VARIABLE}={value}: valid are an http(s) URL, a file:// URL and a directory"
        )
    path = url2pathname(urlsplit(value).path) if scheme else os.path.expanduser(value)
    if not os.path.isdir(path):
        raise FileNotFoundError(f"{MIRROR_VARIABLE}={value}: no such directory")
    return os.path.abspath(path)


def is_url(mirror: str) -> bool:
    """Tell a mirror on the network from a directory."""
    return mirror.startswith(("http://", "https://"))


def shown(text: str) -> str:
    """Return a URL without its user and password, fit for messages."""
    return re.sub(r"//[^/@]*@", "//", text)


def read_small(mirror: str, name: str) -> bytes | None:
    """Return the bytes of a small file of the mirror, or None if it has none of that name.

    Raises an OSError if the mirror cannot be reached or refuses, or for more than ``MAX_SMALL``
    bytes.
    """
    if is_url(mirror):
        import requests

        headers = {"Accept-Encoding": "identity"}
        url = f"{mirror}/{name}"
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == 404:
                return None
            response.raise_for_status()
            return _limited(response.iter_content(CHUNK), shown(url))
    path = os.path.join(mirror, name)
    if not os.path.exists(path):
        return None
    with open(path, "rb") as file:
        return _limited(iter(lambda: file.read(CHUNK), b""), path)


def _limited(blocks: Iterable[bytes], where: str) -> bytes:
    content = b""
    for block in blocks:
        content += block
        if len(content) > MAX_SMALL:
            raise OSError(errno.EFBIG, f"{where} has more than {MAX_SMALL} bytes")
    return content


def mismatch(path: str, entry: WeightEntry) -> str | None:
    """Return None if the file at ``path`` is that of ``entry``, else a sentence saying why not."""
    if not os.path.isfile(path):
        return f"{path} is not a regular file"
    size = os.path.getsize(path)
    if entry.size is not None and size != entry.size:
        return f"{path} is corrupt: expected {entry.size} bytes, found {size}"
    digest = digest_of(path, entry.algorithm)
    if digest != entry.digest:
        return f"{path} is corrupt: expected {entry.algorithm} {entry.digest}, found {digest}"
    return None


def fetch(entry: WeightEntry, mirror: str, directory: str) -> str:
    """Bring the file of an entry into ``directory``, which is created; return its path.

    Raises a ValueError if the mirror has another file, a FileNotFoundError if it has none, and an
    OSError if transfer or disk failed (TimeoutError: another process holds the lock).
    """
    path = os.path.join(directory, entry.file)
    with locked(directory, entry):
        if os.path.exists(path) and mismatch(path, entry) is None:
            return path  # another process fetched it while this one waited
        part = path + ".part"
        for last in (False, True):
            resumed, problem = _obtain(entry, mirror, part)
            if problem is None:
                break
            if last or not resumed:
                raise ValueError(f"{shown(mirror)}: {problem}; the download was deleted")
            log.warning("%s; starting afresh", problem)  # its beginning was an older download
        if os.path.exists(path):
            log.warning("%s is kept as %s.corrupt", path, entry.file)
            os.replace(path, path + ".corrupt")
        publish(part, path)
    return path


def _obtain(entry: WeightEntry, mirror: str, part: str) -> tuple[bool, str | None]:
    """Transfer to ``part``; return (whether it was resumed, None or what is wrong with it)."""
    zipped = entry.remote.endswith(".zip")
    raw = part.replace(".params.part", ".zip.part") if zipped else part
    resumed = os.path.exists(raw)
    try:
        if is_url(mirror):
            _download(f"{mirror}/{entry.remote}", raw, None if zipped else entry.size)
        else:
            _copy(os.path.join(mirror, entry.remote), raw)
        problem = _unzip(raw, entry.file, part) if zipped else None
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        for path in (raw, part):
            with contextlib.suppress(OSError):
                os.remove(path)
        free = shutil.disk_usage(os.path.dirname(part)).free
        raise OSError(
            error.errno,
            f"no room for {entry.file} ({entry.size or 'unknown'} bytes, {free} free): "
            f"{error.strerror}; free some space or pass another root",
            part,
        ) from error
    problem = problem or mismatch(part, entry)
    for path in {raw, part} if problem else {raw} - {part}:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
    return resumed, problem


def _unzip(archive: str, member: str, target: str) -> str | None:
    """Extract exactly one member to ``target``, whatever else the archive names."""
    try:
        with naming(archive, "{path} is not a sound zip file: {why}"):
            with zipfile.ZipFile(archive) as file:
                if member not in file.namelist():
                    return f"{archive} holds {', '.join(file.namelist()[:5])} but not {member}"
                info = file.getinfo(member)
                if info.file_size > MAX_UNPACKED:
                    return f"{archive}: {member} unpacks to more than {MAX_UNPACKED} bytes"
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    return f"{archive}: {member} is packed by method {info.compress_type}"
                with file.open(member) as source, open(target, "wb") as output:
                    shutil.copyfileobj(source, output)
    except ValueError as error:
        return str(error)
    return None


def _copy(source: str, part: str) -> None:
    if not os.path.isfile(source):
        raise FileNotFoundError(f"the mirror has no file {source}")
    with open(source, "rb") as file:
        blocks = iter(lambda: file.read(CHUNK), b"")
        _write(blocks, part, "wb", 0, total=os.path.getsize(source))


def _download(url: str, part: str, size: int | None) -> None:
    import requests

    for attempt in range(RETRIES + 1):
        try:
            _download_once(url, part, size)
            return
        except requests.RequestException as error:
            response = getattr(error, "response", None)
            status = 0 if response is None else response.status_code
            if status == 404:
                raise FileNotFoundError(f"the mirror has no file {shown(url)} (404)") from error
            refused = 400 <= status < 500 and status not in (408, 429)
            if refused or isinstance(error, ValueError) or attempt == RETRIES:  # or a bad URL
                kept = f"; the next call resumes {part}" if os.path.exists(part) else ""
                raise OSError(
                    f"{shown(url)}: {shown(str(error))} (attempt {attempt + 1}){kept}"
                ) from error
            log.warning("%s: %s; trying again", shown(url), shown(str(error)))
            time.sleep(BACKOFF * 2**attempt)


def _download_once(url: str, part: str, size: int | None) -> None:
    """Append to ``part`` what is missing; the caller checks the hash of the whole."""
    import requests

    have = os.path.getsize(part) if os.path.exists(part) else 0
    if size is not None and have == size:
        return
    # Compressed transfer would make byte ranges and lengths meaningless.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if have and response.status_code == 416:  # nothing lies beyond: `part` may be complete
            return
        response.raise_for_status()
        start = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status_code != 206 or not start:
            if response.status_code == 206:
                os.remove(part)
                raise requests.ConnectionError("the server sent another range than asked for")
            have = 0
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else size
        if size is not None and total != size:
            raise ValueError(f"{shown(url)}: expected {size} bytes, the mirror has {total}")
        mode = "ab" if have else "wb"
        written = _write(response.iter_content(CHUNK), part, mode, have, total=total)
        if total is not None and written < total:
            raise requests.ConnectionError(f"connection ended after {written} of {total} bytes")


def _write(blocks: Iterable[bytes], part: str, mode: str, have: int, *, total: int | None) -> int:
    """Write blocks to ``part`` with a progress bar; return the length of the file."""
    from tqdm import tqdm

    limit = MAX_UNPACKED if total is None else total
    free = shutil.disk_usage(os.path.dirname(part)).free
    if total is not None and total - have > free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), part)
    look: dict[str, Any] = {"unit": "B", "unit_scale": True, "disable": None}
    look.update(desc=os.path.basename(part), total=total, initial=have)
    with open(part, mode) as file, tqdm(**look) as bar:
        for block in blocks:
            have += len(block)
            if have > limit:
                raise ValueError(f"{part}: more than the announced {limit} bytes arrived")
            file.write(block)
            bar.update(len(block))
    return have


@contextlib.contextmanager
def locked(directory: str, entry: WeightEntry) -> Iterator[None]:
    """Hold the lock of one file; others wait, and are told for whom if it takes too long."""
    import filelock

    path = os.path.join(directory, f".{entry.file}.lock")
    lock = filelock.FileLock(path, timeout=LOCK_TIMEOUT)
    owner = path + ".owner"
    try:
        os.makedirs(directory, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        held = "another process"
        with contextlib.suppress(OSError), open(owner, encoding="utf-8") as file:
            held = file.read() or held
        raise TimeoutError(
            f"waited {LOCK_TIMEOUT:g} s for {path}, held by {held}, which may be fetching the "
            "same file. Wait for it or end it; the lock goes with the process"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise OSError(
            getattr(error, "errno", None) or errno.EIO,
            f"cannot write or lock in {directory} ({error}); pass a root= that is writable, or "
            f"set MXNET_HOME, or put {entry.file} there yourself",
        ) from error
    try:
        with contextlib.suppress(OSError), open(owner, "w", encoding="utf-8") as file:
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        with contextlib.suppress(OSError):
            os.remove(owner)
        lock.release()
