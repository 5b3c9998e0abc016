"""Files of arrays: the values that MXNet and NumPy read, and no length believed."""

from __future__ import annotations

import errno
import json
import struct
import zipfile

import mxnet as mx
import numpy as np
import pytest
from damage_kinds import write_legacy, write_sparse

from gluon_attn.core.errors import DAMAGED, DamagedError, naming, one_line
from gluon_attn.core.files import save_arrays
from gluon_attn.core.reading import allowance, load_params, read_npz, read_params
from gluon_attn.train import load_checkpoint
from gluon_attn.train.checkpoint import FORMAT

BFLOAT16 = np.dtype([("bfloat16", np.uint16)])
FLOAT32, DENSE = 0, 0


def array(shape=(2, 3), kind=DENSE, magic=0xF993FAC9, flag=FLOAT32, data=None):
    """Return an NDArray as MXNet writes it, or with a lie in it."""
    head = struct.pack("<Ii", magic, kind) + struct.pack(f"<i{len(shape)}q", len(shape), *shape)
    count = int(np.prod(shape)) if data is None else 0
    return head + struct.pack("<3i", 1, 0, flag) + (bytes(4 * count) if data is None else data)


def params(*parts, names=("w",), count=None, lengths=None):
    """Return a file of NDArrays."""
    data = struct.pack("<3Q", 0x112, 0, len(parts) if count is None else count) + b"".join(parts)
    data += struct.pack("<Q", len(names))
    for name, length in zip(names, lengths or map(len, names)):
        data += struct.pack("<Q", length) + name.encode()
    return data


# ------------------------------------------------------------------------------------ .params


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int8", "int32",
                                   "int64", "bool", BFLOAT16])  # fmt: skip
def test_every_number_format_is_read_as_mxnet_reads_it(tmp_path, dtype):
    path, values = str(tmp_path / "a.params"), mx.nd.array([[1, 0, 2.5], [3, 4, 100]])
    mx.nd.save(path, {"w": values.astype(dtype), "": values[0].astype(dtype)})
    ours, theirs = load_params(path), mx.nd.load(path)
    assert list(ours) == list(theirs)
    for name, found in ours.items():
        assert found.dtype == theirs[name].dtype and found.shape == theirs[name].shape
        assert found.asnumpy().tobytes() == theirs[name].asnumpy().tobytes()
    assert (
        read_params(open(path, "rb").read(), "here")["w"].tobytes() == ours["w"].asnumpy().tobytes()
    )


def test_lists_old_and_sparse_files_are_read_as_mxnet_reads_them(tmp_path):
    path = tmp_path / "a.params"
    mx.nd.save(str(path), [mx.nd.ones((2,)), mx.nd.zeros((1, 3))])
    assert [a.tolist() for a in read_params(path)] == [[1, 1], [[0, 0, 0]]]
    mx.nd.save(str(path), {})
    assert read_params(path) == {}
    for write in (write_legacy, write_sparse):
        write(path)
        ours, theirs = load_params(path), mx.nd.load(str(path))
        assert {n: a.asnumpy().tolist() for n, a in ours.items()} == {
            n: a.asnumpy().tolist() for n, a in theirs.items()
        }


def test_files_of_numpys_shapes_are_read(tmp_path):
    path = str(tmp_path / "a.params")
    with mx.util.np_shape(True):
        mx.nd.save(
            path, {"s": mx.np.array(3.0).as_nd_ndarray(), "e": mx.np.zeros((0, 3)).as_nd_ndarray()}
        )
    found = read_params(path)
    assert found["s"].shape == () and found["s"] == 3 and found["e"].shape == (0, 3)
    with pytest.raises(mx.base.MXNetError):  # which only does so when told before
        mx.nd.load(path)


def sparse(rows=6, aux=((0,), "q")):
    """Return a row-sparse array of one stored row, 4 numbers wide, with a place of that row."""
    places, form = aux
    data = struct.pack("<Ii", 0xF993FAC9, 1) + struct.pack("<i2q", 2, 0, 4)
    data += struct.pack("<i2q", 2, rows, 4) + struct.pack("<3i", 1, 0, 0)
    data += struct.pack("<iiq", 6, 1, len(places)) + bytes(16 * len(places))
    return data + struct.pack(f"<{len(places)}{form}", *places)


@pytest.mark.parametrize(
    "data, message",
    [
        (params(array(), lengths=[1 << 40]), r"needs 1099511627776 bytes at byte \d+, has 1"),
        (params(array(), lengths=[0]), "1 bytes follow its end"),
        (params(array(), count=1 << 60), r"1152921504606846976 arrays in \d+ bytes"),
        (params(array(), names=("a", "b")), "2 names for 1 arrays"),
        (params(array(), array(), names=("a", "a")), "one name for two arrays"),
        (params(array()) + b"x", "1 bytes follow its end"),
        (params(array((1 << 31, 1 << 31), data=b"")), "needs 18446744073709551616 bytes"),
        (params(array((-1, 3), data=b"")), r"of the shape \(-1, 3\)"),
        (params(array((0, 3))), r"of the shape \(0, 3\)"),
        (params(array(())), "an array without a shape"),
        (params(array((2,) * 33, data=b"")), "an array of 33 axes"),
        (params(array(flag=9)), "unknown number format 9"),
        (params(array(kind=7)), "unknown kind 7"),
        (params(struct.pack("<I", 1 << 31) + bytes(64)), "an array of 2147483648 axes"),
        (params(sparse(aux=((6,), "q"))), "a row beyond its end"),
        (params(sparse(aux=((-1,), "q"))), "a row beyond its end"),
        (params(sparse(rows=1 << 40)), "too large for a dense one"),
        (b"\x12\x01" + b"\xff" * 40, "does not begin as a file of NDArrays"),
        (b"\x12\x01", "needs 16 bytes at byte 0, has 2"),
    ],
)
def test_what_a_file_says_of_itself_is_not_believed(tmp_path, data, message):
    path = tmp_path / "a.params"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.params: truncated or damaged \(.*{message}"):
        load_params(path)
    with pytest.raises(ValueError, match=f"the file: truncated or damaged .*{message}"):
        load_params(data, "the file")


# -------------------------------------------------------------------------------------- .npz


def npz(path, header, data=b"", version=1, **options):
    """Write an archive of one array with a given description."""
    header = header if isinstance(header, bytes) else repr(header).encode()
    head = b"\x93NUMPY" + bytes([version, 0])
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("w.npy", head + length + header + data)


def test_archives_of_numpy_are_read_as_numpy_reads_them(tmp_path):
    path, wanted = tmp_path / "a.npz", {
        "a/b": np.arange(6.0).reshape(2, 3), "t": np.asfortranarray(np.eye(3)[:2]),
        "s": np.float32(3), "e": np.zeros((0, 4)), "u": np.array(["x", "yz"]), "z": np.ones(1) * 1j,
        "r": np.zeros(2, [("a", "<i4"), ("b", "<f8")]), "h": np.zeros(3, BFLOAT16),
    }  # fmt: skip
    for compress in (False, True):
        save_arrays(path, wanted, compress)
        found = read_npz(path)
        with np.load(path) as theirs:
            assert set(found) == set(theirs.files) == set(wanted)
            for name in wanted:
                assert found[name].tobytes() == theirs[name].tobytes()
                assert found[name].dtype == theirs[name].dtype
                assert found[name].shape == theirs[name].shape and found[name].flags.writeable
    np.savez(path, *wanted.values())
    assert len(read_npz(path)) == len(wanted)


GOOD = {"descr": "<f4", "fortran_order": False, "shape": (2,)}


@pytest.mark.parametrize(
    "header, message",
    [
        (b"{'descr': '<f4', 'fortran_order'", "SyntaxError"),
        (b"(" * 9000, "(SyntaxError|MemoryError|RecursionError)"),
        (b" " * 20_000, "a header of 20000 bytes"),
        (b"\xff\xfe", "UnicodeDecodeError"),
        ({**GOOD, "shape": (1 << 40,)}, r"\(1099511627776,\) has 8 bytes"),
        ({**GOOD, "shape": (3,)}, r"\(3,\) has 8 bytes"),
        ({**GOOD, "shape": (-2,)}, "has no shape"),
        ({**GOOD, "shape": (True, 2)}, "has no shape"),
        ({**GOOD, "shape": (1,) * 40}, "has no shape"),
        ({**GOOD, "shape": "ab"}, "has no shape"),
        ({**GOOD, "descr": "|O"}, "holds Python objects"),
        ({**GOOD, "descr": [("a", "|O")]}, "holds Python objects"),
        ({**GOOD, "descr": "<q17"}, "TypeError"),
        ({"descr": "<f4"}, "KeyError"),
        (b"[]", "TypeError"),
    ],
)
def test_headers_of_arrays_that_are_none(tmp_path, header, message):
    for version in (1, 2):
        npz(tmp_path / "a.npz", header, bytes(8), version)
        with pytest.raises(ValueError, match=rf"a\.npz: truncated or damaged \(.*{message}"):
            read_npz(tmp_path / "a.npz")


def test_archives_that_would_fill_the_memory(tmp_path):
    path = tmp_path / "a.npz"
    zeros = {**GOOD, "descr": "|u1", "shape": (allowance(1 << 20),)}
    npz(path, zeros, bytes(allowance(1 << 20)), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match=r"a\.npz: .*\d+ bytes would expand to \d+"):
        read_npz(path)
    for packing in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        npz(path, GOOD, bytes(8), compression=packing)
        with pytest.raises(ValueError, match=f"w.npy is packed by method {packing}"):
            read_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", b"text")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("w.npy", b"text")
    with pytest.raises(ValueError, match="a name occurs twice"):
        read_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", b"text")
    with pytest.raises(ValueError, match="not all of it are arrays"):
        read_npz(path)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({}, "it holds no record of a run"),
        ({"meta": b"{"}, "JSONDecodeError"),
        ({"meta": b"[1]"}, "its record is none of a run"),
        ({"meta": b'{"format": "1"}'}, "its record is none of a run"),
        ({"meta": b"[" * 100_000}, "RecursionError"),
    ],
)
def test_checkpoints_whose_record_is_none(tmp_path, arrays, message):
    saved = {name: np.frombuffer(text, np.uint8) for name, text in arrays.items()}
    save_arrays(tmp_path / "last.ckpt", saved)
    with pytest.raises(ValueError, match=rf"last\.ckpt is damaged \(.*{message}.*an older one"):
        load_checkpoint(tmp_path / "last.ckpt")


def test_checkpoints_of_another_program_and_of_tomorrow(tmp_path):
    path = tmp_path / "last.ckpt"
    npz(path, b"{'descr': '<f4', 'fortran_order'", bytes(8))
    with pytest.raises(ValueError, match=r"^checkpoint .*last\.ckpt is damaged \(SyntaxError"):
        load_checkpoint(path)
    meta = json.dumps({"format": FORMAT + 1}).encode()
    save_arrays(path, {"meta": np.frombuffer(meta, np.uint8)})
    with pytest.raises(ValueError, match=rf"last\.ckpt has format {FORMAT + 1}, this is {FORMAT}"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_checkpoint(tmp_path / "gone.ckpt")


# ------------------------------------------------------------------------------------- naming


@pytest.mark.parametrize(
    "error, wanted",
    [
        (DamagedError("two\nlines\x07"), r"^f: truncated or damaged \(two lines\?\); copy"),
        (KeyError("x"), r"^f: truncated or damaged \(KeyError: 'x'\)"),
        (MemoryError(), r"^f: truncated or damaged \(MemoryError: \)"),
        (RecursionError("deep"), "RecursionError: deep"),
        (ValueError("f: says what it is"), "^f: says what it is$"),
        (OSError(errno.EINVAL, "Invalid argument"), "^f: truncated or damaged"),
    ],
)
def test_whatever_goes_wrong_becomes_one_line_with_the_file(error, wanted):
    with pytest.raises(ValueError, match=wanted) as caught, naming("f", DAMAGED):
        raise error
    assert "\n" not in str(caught.value)


def test_errors_of_the_system_stay_and_name_the_file():
    with pytest.raises(OSError, match="cannot read f: Input/outpu") as caught, naming("f", DAMAGED):
        raise OSError(errno.EIO, "Input/output error")
    assert caught.value.errno == errno.EIO
    with pytest.raises(FileNotFoundError, match="gone"), naming("f", DAMAGED):
        open("gone")
    with pytest.raises(KeyboardInterrupt), naming("f", DAMAGED):
        raise KeyboardInterrupt
    assert one_line("a" * 1000) == "a" * 300
