"""MATLAB files: the values of scipy, and an answer in words where it ends the process."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from damage_kinds import mat_variables, write_mat
from kinds_helpers import refuses
from scipy.io import loadmat, savemat
from scipy.sparse import csc_matrix

from gluon_attn.core.reading import allowance
from gluon_attn.data.matfile import MAX_DEPTH, NO_V73, Unread, load_mat, read_mat

HEAD = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
DOUBLE, CHAR, CELL, STRUCT = 6, 4, 1, 2


def element(kind, data, count=None):
    """Return an element; ``count`` may be a lie."""
    padded = data + bytes(-len(data) % 8)
    return struct.pack("<2I", kind, len(data) if count is None else count) + padded


def matrix(*parts, form=DOUBLE, shape=(1, 2), name=b"v", flags=0):
    """Return an array of a class with a shape; ``parts`` follow."""
    head = element(6, struct.pack("<2I", form | flags, 0))
    head += element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name)
    return element(14, head + b"".join(parts))


def numbers(*values):
    return element(9, np.array(values, "<f8").tobytes())


def packed(data):
    data = zlib.compress(data)
    return struct.pack("<2I", 15, len(data)) + data


def same(one, other):
    """Compare values as loadmat returns them, types and shapes included."""
    assert type(one) is type(other)
    assert one.dtype == other.dtype and one.shape == other.shape
    parts = one.dtype.names or ()
    if not parts and one.dtype != object:
        return np.testing.assert_array_equal(one, other)
    for a, b in zip(one.ravel(), other.ravel()):
        for x, y in [(a[name], b[name]) for name in parts] or [(a, b)]:
            same(x, y)
    return None


def value(rng, depth=0):
    """Return a random value of any kind that attribute files hold."""
    kind = rng.randint(9 if depth < 3 else 6)
    if kind == 0:
        return rng.rand(*rng.randint(0, 4, rng.randint(0, 4)))
    if kind == 1:
        kinds = ["int8", "uint8", "int16", "uint32", "int64", "float32"]
        return rng.randint(0, 99, (rng.randint(4), 3)).astype(rng.choice(kinds))
    if kind == 2:
        return "".join(rng.choice(list("abcäß漢"), rng.randint(5)))
    if kind == 3:
        return np.array(["abc", "x"][: rng.randint(1, 3)])
    if kind == 4:
        return rng.rand(2, 2) * 1j
    if kind == 5:
        return rng.rand(3, 2) > 0.5
    if kind == 6:
        return {f"field{k}": value(rng, depth + 1) for k in range(rng.randint(1, 4))}
    array = np.empty(rng.randint(0, 3, 2), object if kind == 7 else [("a", object), ("b", object)])
    for place in np.ndindex(array.shape):
        made = [value(rng, depth + 1) for _ in range(2)]
        array[place] = made[0] if kind == 7 else tuple(made)
    return array


@pytest.mark.parametrize("form, compress", [("5", False), ("5", True), ("4", False)])
def test_random_files_hold_what_scipy_says(tmp_path, form, compress):
    rng, path, compared = np.random.RandomState(0), tmp_path / "a.mat", 0
    while compared < 60:
        variables = {f"v{k}": value(rng, 3 if form == "4" else 0) for k in range(rng.randint(1, 4))}
        file = io.BytesIO()
        try:
            savemat(file, variables, format=form, do_compression=compress, oned_as="row")
        except (TypeError, ValueError):  # version 4 has matrices and texts only
            continue
        path.write_bytes(file.getvalue())
        theirs = {k: v for k, v in loadmat(file).items() if not k.startswith("__")}
        ours = read_mat(path)
        assert list(ours) == list(theirs)
        for name in ours:
            same(ours[name], theirs[name])
        compared += 1


def test_big_endian_files(tmp_path):
    path, swapped = tmp_path / "a.mat", bytearray(HEAD[:124] + b"\1\0MI")
    body = matrix(numbers(1, -2.5), form=DOUBLE)
    for at in range(0, len(body), 4):
        swapped += body[at : at + 4][::-1]
    number = len(swapped) - 16
    swapped[number:] = np.array([1, -2.5], ">f8").tobytes()
    name = bytes(swapped).index(b"\0\0\0v")
    swapped[name : name + 4] = b"v\0\0\0"
    path.write_bytes(bytes(swapped))
    assert loadmat(io.BytesIO(bytes(swapped)))["v"].tolist() == [[1, -2.5]]
    assert read_mat(path)["v"].tolist() == [[1, -2.5]]


def test_what_is_not_read_is_said_where_it_is_asked_for(tmp_path):
    path = tmp_path / "a.mat"
    write_mat(path, variables={"sparse": csc_matrix(np.eye(3)), **mat_variables()})
    assert isinstance(read_mat(path)["sparse"], Unread)
    assert load_mat(path, "labels").matrix().sum() == np.arange(60).sum()
    with pytest.raises(ValueError, match="a.mat: sparse: expected a matrix.*found a sparse matrix"):
        load_mat(path, "sparse").matrix()
    function = element(14, element(6, struct.pack("<2I", 17, 0)) + element(1, b"anything"))
    path.write_bytes(HEAD + function + matrix(numbers(1, 2)))
    assert list(read_mat(path)) == ["v"]


@pytest.mark.parametrize("order", ["<", ">"])
def test_version_7_3_is_called_by_its_name(tmp_path, order):
    path = tmp_path / "a.mat"
    head = HEAD[:124] + struct.pack(f"{order}H", 0x0200) + (b"IM" if order == "<" else b"MI")
    for data in (head, head.ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n"):
        path.write_bytes(data)
        with pytest.raises(ValueError) as caught:
            read_mat(path)
        assert str(caught.value) == f"{path}: {NO_V73}"


def nested(depth):
    data = matrix(numbers(1, 2), name=b"")
    for _ in range(depth):
        data = matrix(data, form=CELL, shape=(1, 1), name=b"")
    return data


def names(*texts, length=4):
    field = struct.pack("<HHi", 5, 4, length)
    return field + element(1, b"".join(text.ljust(length, b"\0") for text in texts))


@pytest.mark.parametrize("body, message", [
    (matrix(numbers(1)), r"8 bytes for an array \(1, 2\) of float64"),
    (matrix(numbers(1, 2), shape=(1 << 16, 1 << 16)), "16 bytes for an array"),
    (matrix(numbers(1, 2), shape=(-1, -2)), r"of the shape \(-1, -2\)"),
    (matrix(numbers(1, 2), shape=(2,)), "an array without a shape"),
    (matrix(numbers(1, 2), form=99), "unknown class 99"),
    (matrix(numbers(1, 2), flags=0x800), "breaks off"),
    (matrix(element(9, b"", 1 << 31)), "longer than what holds it"),
    (matrix(struct.pack("<HH4x", 9, 7)), "7 bytes in 4"),
    (matrix(element(99, b"12345678")), "unknown type 99"),
    (matrix(form=CELL, shape=(1 << 15, 1 << 15)), "1073741824 cells in 0 bytes"),
    (matrix(numbers(1, 2), form=CELL, shape=(1, 1)), "type 9 in a cell"),
    (matrix(names(b"a"), form=STRUCT, shape=(1 << 15, 1 << 15)), "1073741824 cells in 0"),
    (matrix(names(b"a", length=0), form=STRUCT), "names have 0 letters"),
    (matrix(names(b"a", b"a"), form=STRUCT), "no name, or another one's"),
    (matrix(names(), form=STRUCT), "no name, or another one's"),
    (matrix(element(16, b"abc"), form=CHAR, shape=(2, 2)), r"3 letters for a char array"),
    (matrix(element(16, b"\xff\xfe"), form=CHAR), "UnicodeDecodeError"),
    (matrix(element(9, b"abc"), form=CHAR), "a text of the unknown type 9"),
    (nested(MAX_DEPTH + 2), f"more than {MAX_DEPTH} cells in one another"),
    (nested(5000), f"more than {MAX_DEPTH} cells in one another"),
    (matrix(numbers(1, 2)) * 2, "variable 'v' occurs twice"),
    (matrix(numbers(1, 2))[:-3], "longer than what holds it"),
    (b"\0\0\0", "breaks off at byte 128"),
    (numbers(1, 2), "an element of type 9 where a variable should be"),
    (packed(numbers(1, 2)), "an element of type 9 where a variable should be"),
    (packed(matrix(numbers(1, 2)))[:-6], "longer than what holds it"),
    (struct.pack("<2I", 15, 9) + zlib.compress(bytes(99))[:9], "a packed variable breaks off"),
    (struct.pack("<2I", 15, 8) + b"no zlib!", "error: Error -3"),
])  # fmt: skip
def test_what_a_file_says_of_itself_is_not_believed(tmp_path, body, message):
    path = tmp_path / "a.mat"
    path.write_bytes(HEAD + body)
    refuses(rf"a\.mat: cannot be read .*\(.*{message}.*damaged or", path, by=read_mat)


def test_packed_files_that_would_fill_the_memory(tmp_path):
    path, size = tmp_path / "a.mat", allowance(1 << 17)
    zeros = element(9, bytes(size // 8 * 8))
    empty = matrix(form=CELL, shape=(1, 300_000), name=b"c")[8:] + element(14, b"") * 300_000
    for body in (matrix(zeros, shape=(1, size // 8)), element(14, empty)):
        path.write_bytes(HEAD + packed(body))
        assert path.stat().st_size < 1 << 17
        refuses(r"a\.mat: .*expands to far more than its size.*-v6", path, by=read_mat)


@pytest.mark.parametrize("change, message", [
    ({"kind": 5000}, "no head of a variable"),
    ({"kind": 60}, "no head of a variable"),
    ({"kind": 3}, "no head of a variable"),
    ({"rows": -1}, "no head of a variable"),
    ({"rows": 1 << 30}, "a matrix 1073741824 x 2 in 16 bytes"),
    ({"imaginary": 1}, "a matrix 1 x 2 in 16 bytes"),
    ({"length": 0}, "no head of a variable"),
    ({"length": 1 << 30}, "a matrix 1 x 2 in"),
    ({"kind": 1}, "'v' is no text"),
])  # fmt: skip
def test_damaged_files_of_version_4(tmp_path, change, message):
    head = {"kind": 0, "rows": 1, "columns": 2, "imaginary": 0, "length": 2, **change}
    path, data = tmp_path / "a.mat", np.array([-1, 2.5]).tobytes()
    path.write_bytes(struct.pack("<5i", *head.values()) + b"v\0" + data)
    refuses(rf"a\.mat: cannot be read .*\(.*{message}", path, by=read_mat)
