"""Writing files so that a half-written one is never seen.

Everything is written beside its destination, flushed to disk and renamed into place. A process that
dies in between leaves the previous file as it was; what it wrote is removed when the same file is
next written on that machine. This module does not import MXNet until parameters are saved.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import socket
import stat
import uuid
import zipfile
from typing import Any, Iterator

import numpy as np

from gluon_attn.core.errors import first_line
from gluon_attn.core.reading import read_params
from gluon_attn.core.text import PathLike

DISK_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
# What file systems answer that cannot flush a folder, or for one that may be written, not read.
_NO_FOLDER_FLUSH = (errno.EINVAL, errno.EACCES, errno.EPERM, getattr(errno, "ENOTSUP", 0))
_unfinished: set[str] = set()  # temporary files of this process


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[str]:
    """Give the body a temporary path beside ``path``; rename it into place if the body succeeds.

    A symbolic link stays one: the file that it names is replaced. A new file gets the permissions
    that the umask allows, a replaced one keeps its own. Devices and pipes are given as they are.
    The folder is created. An OSError names ``path`` and, when the disk is full, says so; then the
    temporary file is removed and an older ``path`` is untouched.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        yield os.fspath(path)
        return
    target = os.path.realpath(path)
    try:
        temporary, mode = _start(target)
    except OSError as error:
        raise describe_os_error(error, path) from error
    try:
        yield temporary
        if mode is not None:
            os.chmod(temporary, mode)
        publish(temporary, target)
    except OSError as error:
        described = describe_os_error(error, path)
        elsewhere = error.filename is not None and str(error.filename) not in (temporary, target)
        if elsewhere or described is error:  # the body failed to read or write another file
            raise
        raise described from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        _unfinished.discard(temporary)


def publish(temporary: PathLike, path: PathLike) -> None:
    """Give a complete file its final name, such that no crash leaves a partial one there."""
    flush(temporary)
    os.replace(temporary, path)
    flush(os.path.dirname(os.path.abspath(path)))  # only then is the new name durable


def flush(path: PathLike) -> None:
    """Wait until a file, or the list of names in a folder where that can be flushed, is on disk."""
    folder = os.path.isdir(path)
    if folder and os.name != "posix":
        return
    try:
        # Windows flushes only what is open for writing, other systems never ask for that.
        handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if not folder or error.errno not in _NO_FOLDER_FLUSH:
            raise


def write_bytes(path: PathLike, content: bytes) -> None:
    """Write ``content``, atomically; see :func:`atomic_path`."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def write_text(path: PathLike, text: str) -> None:
    """Write ``text`` as UTF-8, atomically; see :func:`atomic_path`.

    Bytes of file names that are no UTF-8 are written as ``\\udcXX``, which JSON reads back.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: PathLike, value: Any, indent: int | None = 1) -> None:
    """Write ``value`` as :func:`json_text`, atomically; see :func:`atomic_path`."""
    write_text(path, json_text(value, indent))


def json_text(value: Any, indent: int | None = 1, **options: Any) -> str:
    """Return ``value`` as JSON with a line end; NaN and infinite numbers become ``null``.

    JSON has no such numbers: files with the tokens that Python writes are refused by other readers.
    """
    options = {"ensure_ascii": False, **options, "indent": indent, "allow_nan": False}
    try:
        return json.dumps(value, **options) + "\n"
    except ValueError:
        return json.dumps(finite(value), **options) + "\n"


def finite(value: Any) -> Any:
    """Return nested dicts and lists with None in the place of NaN and infinite numbers."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def or_nan(value: float | None) -> float:
    """Return a number that was read from JSON: NaN for ``null``."""
    return math.nan if value is None else value


def save_arrays(path: PathLike, arrays: dict[str, Any], compress: bool = False) -> None:
    """Write NumPy arrays as an ``.npz`` archive, atomically and without pickles."""
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    # np.savez would leave its archive open when the disk is full, and complain much later.
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", kind) as archive:
        for name, array in arrays.items():
            with archive.open(name + ".npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(  # type: ignore[no-untyped-call]  # NumPy's
                    file, np.asanyarray(array), allow_pickle=False
                )


def save_parameters(block: Any, path: PathLike) -> None:
    """Save parameters for ``block.load_parameters``, atomically, and read them back.

    ``block`` is an initialised Gluon block, or a dict of name to NDArray. Raises a ValueError if
    there is nothing to save or a parameter is not initialised; after an OSError an older file is
    untouched.
    """
    import mxnet as mx

    mx.nd.waitall()  # running statistics read straight after a static step can be stale
    arrays = _arrays_of(block, path)
    with atomic_path(path) as temporary:
        try:
            mx.nd.save(temporary, arrays)
            # MXNet ignores an error of the last flush: on a full disk the file is just shorter.
            written = read_params(temporary)
        except (mx.base.MXNetError, ValueError) as error:
            raise OSError(errno.EIO, f"MXNet reports {first_line(error)}") from error
        if not _same(arrays, written):
            raise OSError(errno.EIO, "what was written does not read back the same")


@contextlib.contextmanager
def naming_write(path: PathLike) -> Iterator[None]:
    """Let an OSError of the body that is about ``path``, or names no file, name it."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and str(error.filename) != os.fspath(path):
            raise
        raise describe_os_error(error, path) from error


def describe_os_error(error: OSError, path: PathLike) -> OSError:
    """Return an OSError of the same kind that names ``path`` and the remedy, once."""
    reason = error.strerror or first_line(error)
    if reason.startswith("cannot write "):
        return error
    text = f"cannot write {path}: {reason}"
    if error.errno in (*DISK_FULL, errno.EIO):
        free: object = "unknown"
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
        text += (
            "; free some space or choose another folder, then run the same command again (disk "
            f"full, quota or file size limit? {free} bytes free). An older file is untouched"
        )
    return OSError(text) if error.errno is None else OSError(error.errno, text)


def digest_of(path: PathLike, algorithm: str = "sha256") -> str:
    """Return the digest of a file, in hexadecimal digits."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def sha256_of(path: PathLike) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    return digest_of(path)


def sha256_of_bytes(content: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def is_running(pid: int) -> bool:
    """Return whether a process of this machine is running, or may be."""
    if os.name != "posix":  # Windows has no signal 0: os.kill would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _start(path: str) -> tuple[str, int | None]:
    """Create the temporary file; return its path and the permissions to take over, or None."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    mode = None
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if os.path.exists(path):
        effective = os.access in os.supports_effective_ids
        if not os.access(path, os.W_OK, effective_ids=effective):  # which renaming would ignore
            raise PermissionError(errno.EACCES, "the file there is write-protected")
        mode = stat.S_IMODE(os.stat(path).st_mode)
    start = f".{name[:40]}.{socket.gethostname()}-"  # short, since names are limited to 255 bytes
    _remove_left_over(folder, start)
    temporary = os.path.join(folder, f"{start}{os.getpid()}-{uuid.uuid4().hex[:12]}.tmp")
    _unfinished.add(temporary)
    # Created in this way the umask is obeyed; asking for it would change it for all threads.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary, mode


def _remove_left_over(folder: str, start: str) -> None:
    pattern = re.compile(re.escape(start) + r"(\d+)-[0-9a-f]{12}\.tmp")
    with contextlib.suppress(OSError):  # the folder may be closed to reading
        for name in os.listdir(folder):
            match, left = pattern.fullmatch(name), os.path.join(folder, name)
            if match is None or left in _unfinished:
                continue
            pid = int(match.group(1))
            # The main process of a restarted container has the number of its predecessor.
            if pid == os.getpid() or not is_running(pid):
                with contextlib.suppress(OSError):
                    os.unlink(left)


def _arrays_of(block: Any, path: PathLike) -> dict[str, Any]:
    import mxnet as mx

    if isinstance(block, mx.gluon.Block):
        try:
            # As Block.save_parameters does: of a net on several devices, the mean.
            found = {n: p._reduce() for n, p in block._collect_params_with_prefix().items()}
        except RuntimeError as error:
            deferred = isinstance(error, mx.gluon.parameter.DeferredInitializationError)
            if isinstance(error, mx.base.MXNetError) and not deferred:
                raise
            raise ValueError(
                f"cannot save {path}: a parameter has no values; initialise the net and run the "
                f"net once first ({first_line(error).split('. ')[0]})"
            ) from error
    elif isinstance(block, dict):
        found = block
        odd = [str(name) for name, data in found.items() if not isinstance(data, mx.nd.NDArray)]
        if odd:
            raise TypeError(f"cannot save {path}: not NDArrays: {', '.join(odd[:4])}")
    else:
        kind = type(block).__name__
        raise TypeError(f"cannot save {path}: expected a block or a dict, got {kind}")
    if not found:
        raise ValueError(f"cannot save {path}: there are no parameters")
    return found


def _same(arrays: dict[str, Any], others: Any) -> bool:
    """Compare NDArrays with NumPy arrays by name bit by bit, so that NaN equals itself."""
    if not isinstance(others, dict) or set(arrays) != set(others):
        return False
    pairs = ((array.asnumpy(), others[name]) for name, array in arrays.items())
    return all((a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()) for a, b in pairs)
