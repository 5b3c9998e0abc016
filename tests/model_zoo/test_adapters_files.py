"""Foreign weight files: right numbers of sound ones; unsafe and damaged ones are refused, unrun."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import pickletools
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from adapters_helpers import Stored, fake_torch, pickled, write_stream, write_tar, write_zip

from model_zoo.adapters import read_arrays
from model_zoo.adapters.read import reader_of
from model_zoo.adapters.safetensors import read_safetensors, write_safetensors
from model_zoo.adapters.torch import read_torch
from model_zoo.adapters.torch_write import write_torch

WRITERS = {"zip": write_zip, "stream": write_stream}


def arrays():
    rng = np.random.RandomState(0)
    return {
        "conv1.weight": rng.randn(4, 3, 2, 2).astype("float32"),
        "bn1.running_var": rng.rand(4).astype("float32"),
        "bn1.num_batches_tracked": np.array(7),
        "fc.bias": rng.randn(5).astype("float32"),
    }


def equal(found, wanted):
    return list(found) == list(wanted) and all(
        np.array_equal(found[n], wanted[n]) and found[n].shape == wanted[n].shape for n in wanted
    )


# --------------------------------------------------------------------------------- sound PyTorch


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_state_dict_of_either_format(tmp_path, kind, protocol):
    state = collections.OrderedDict((n, Stored(a)) for n, a in arrays().items())
    state._metadata = collections.OrderedDict([("", {"version": 1})])
    WRITERS[kind](tmp_path / "a.pth", state, protocol)
    assert equal(read_torch(tmp_path / "a.pth"), arrays())


@pytest.mark.parametrize("parameters", [True, False])
def test_tar_of_the_first_torchvision_files(tmp_path, parameters):
    wanted = {n: a for n, a in arrays().items() if a.dtype == "float32"}
    write_tar(tmp_path / "resnet18-5c106cde.pth", wanted, parameters=parameters)
    assert equal(read_torch(tmp_path / "resnet18-5c106cde.pth"), wanted)


@pytest.mark.parametrize("kind", sorted(WRITERS))
@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_checkpoint_around_a_state_dict(tmp_path, kind, key):
    state = {n: Stored(a) for n, a in arrays().items()}
    optimizer = {"state": {0: {"momentum": Stored(np.ones(3, "f4"))}}, "groups": [{"lr": 0.1}]}
    value = {"epoch": 3, key: state, "optimizer": optimizer, "best": None, "done": True}
    WRITERS[kind](tmp_path / "a.pth", value)
    assert equal(read_torch(tmp_path / "a.pth"), arrays())


@pytest.mark.parametrize("key", ["state_dict", "net"])
def test_tensors_beside_a_state_dict_do_not_hide_it(tmp_path, key):
    """PyTorch's ImageNet example saves the best accuracy as a tensor."""
    state = {n: Stored(a) for n, a in arrays().items()}
    best = {"best_acc1": Stored(np.array([71.2], "f4")), "loss": Stored(np.array(0.5, "f4"))}
    for value in ({"epoch": 3, key: state, **best}, {**best, key: state}, {**state, key: best}):
        write_zip(tmp_path / "a.pth", value)
        assert equal(read_torch(tmp_path / "a.pth"), arrays())


def test_which_of_several_state_dicts_is_meant_is_not_guessed(tmp_path):
    state, other = ({n: Stored(a) for n, a in arrays().items()} for _ in range(2))
    write_zip(tmp_path / "a.pth", {"state_dict": state, "model": state})
    assert equal(read_torch(tmp_path / "a.pth"), arrays())  # one, under two names
    averaged = {n: t for n, t in other.items() if "tracked" not in n}
    strangers = {f"other.{n}": t for n, t in other.items()}
    for rival in (other, averaged, strangers):
        write_zip(tmp_path / "a.pth", {"state_dict": state, "model": rival})
        with pytest.raises(ValueError, match=r"a\.pth: .*dicts \(state_dict, model\)"):
            read_torch(tmp_path / "a.pth")
        write_zip(tmp_path / "a.pth", {**state, "net": rival})
        with pytest.raises(ValueError, match=r"a\.pth: .*dicts \(top level, net\)"):
            read_torch(tmp_path / "a.pth")


def test_views_of_one_storage(tmp_path):
    base = np.arange(24, dtype="float32")
    state = {
        "whole": Stored(base, size=(4, 6), key="s"),
        "turned": Stored(base, size=(6, 4), stride=(1, 6), key="s"),
        "part": Stored(base, size=(3,), stride=(2,), offset=5, key="s"),
        "scalar": Stored(base, size=(), stride=(), offset=9, key="s"),
        "empty": Stored(base, size=(0, 3), stride=(3, 1), key="s"),
    }
    write_zip(tmp_path / "a.pth", state)
    found = read_torch(tmp_path / "a.pth")
    square = base.reshape(4, 6)
    wanted = {"whole": square, "turned": square.T, "part": base[[5, 7, 9]], "scalar": base[9],
              "empty": base[:0].reshape(0, 3)}  # fmt: skip
    assert all(np.array_equal(found[n], a) and found[n].shape == a.shape for n, a in wanted.items())


BFLOAT16 = {0x3F80: 1.0, 0xC020: -2.5, 0x0000: 0.0, 0x8000: -0.0, 0x7F7F: 3.3895314e38,
            0x0001: 9.1835496e-41, 0x4049: 3.140625}  # fmt: skip


def test_half_precisions_are_widened_exactly(tmp_path):
    bits = np.array(list(BFLOAT16), "uint16")
    halves = np.array([1.5, -65504, 6e-8], "float16")
    state = {
        "b": Stored(bits, "bfloat16"), "h": Stored(halves), "d": Stored(np.array([0.1, -3e38])),
    }  # fmt: skip
    write_zip(tmp_path / "a.pth", state)
    found = read_torch(tmp_path / "a.pth")
    assert all(a.dtype == np.float32 for a in found.values())
    assert np.array_equal(found["b"], np.array(list(BFLOAT16.values()), "float32"))
    assert np.array_equal(found["h"], halves.astype("float32"))
    assert np.array_equal(found["d"], np.array([0.1, -3e38], "float32"))
    widened = {}
    for name, kind, data in (("b", "BF16", bits), ("h", "F16", halves)):
        widened[name] = (kind, data)
    write_raw(tmp_path / "a.safetensors", widened)
    again = read_safetensors(tmp_path / "a.safetensors")
    assert all(np.array_equal(again[n], found[n]) for n in widened)


def test_big_endian_archives(tmp_path):
    array = np.array([1.5, -2.25, 1e-3], "float32")
    swapped = Stored(array.astype(">f4"), "float32")
    write_zip(tmp_path / "a.pth", {"w": swapped}, extra=[("byteorder", b"big")])
    assert np.array_equal(read_torch(tmp_path / "a.pth")["w"], array)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_what_is_not_finite_in_float32_is_refused(tmp_path, value):
    write_zip(tmp_path / "a.pth", {"fine": Stored(np.ones(2)), "bad": Stored(np.array([value]))})
    with pytest.raises(ValueError, match=r"a\.pth: NaN or infinite values in bad\."):
        read_arrays(tmp_path / "a.pth")


# -------------------------------------------------------------------------------- unsafe PyTorch


class Evil:
    """What a hostile pickle is: an instruction to call a function."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write_any(kind, path, program):
    if kind == "tar":
        write_tar(path, {"w": np.ones(2, "float32")}, program)
    elif kind == "bare":
        path.write_bytes(program)
    else:
        WRITERS[kind](path, program=program)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", ["zip", "stream", "tar", "bare"])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, kind, protocol):
    trap = tmp_path / "trap"
    program = pickle.dumps({"w": 1, "x": Evil(trap)}, protocol)
    write_any(kind, tmp_path / "a.pth", program)
    with pytest.raises(ValueError, match=r"a\.pth: refused.*posix\.mkdir; nothing was executed"):
        read_torch(tmp_path / "a.pth")
    assert not trap.exists()
    pickle.loads(program)
    assert trap.exists()  # the pickle was a working one


PROGRAMS = {
    "builtins.eval": b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
    "torch.load": b"\x80\x02ctorch\nload\n.",
    "torch.storage._load_from_bytes": b"\x80\x02ctorch.storage\n_load_from_bytes\n)R.",
    "os.system": b"\x80\x02(ios\nsystem\n.",
    "subprocess.Popen": b"\x80\x04\x8c\nsubprocess\x8c\x05Popen\x93.",
    "os.path.join": b"\x80\x04\x8c\x02os\x8c\x09path.join\x93.",
    "torch.hub.load": b"\x80\x02ctorch.hub\nload\n.",
    "instruction EXT1": b"\x80\x02\x82\x01.",
    "instruction PERSID": b"\x80\x02Pstorage\n.",
    "instruction NEXT_BUFFER": b"\x80\x05\x97.",
    "calls something that is no name": b"\x80\x02X\x01\x00\x00\x00f)R.",
}


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_what_acts_on_the_system_is_refused_by_name(tmp_path, name):
    write_zip(tmp_path / "a.pth", program=PROGRAMS[name])
    with pytest.raises(ValueError, match=f"refused.*{name.replace('.', '[.]')}.*state_dict"):
        read_torch(tmp_path / "a.pth")


def tensor(size, stride, length=4, offset=0):
    """Return a state dict with one float32 tensor whose description may be a lie."""
    array = np.ones(length, "float32")
    return {"w": Stored(array, size=size, stride=stride, offset=offset)}


@pytest.mark.parametrize(
    "value, message",
    [
        (tensor((1 << 40,), (0,)), "more than"),
        (tensor((5,), (0,)), "reaches beyond"),
        (tensor((2, 2), (4, 1)), "reaches beyond"),
        (tensor((4,), (1,), offset=1), "reaches beyond"),
        (tensor((4,), (-1,), offset=3), "whole numbers from 0"),
        (tensor((2,) * 40, (0,) * 40), "short list"),
        (tensor((0, 1 << 31), (1, 1)), "'w' has 2 axes, or sides too long"),
        (tensor((0, 1 << 70), (1, 1)), "'w' has 2 axes, or sides too long"),
        (tensor((2, 2), (1,)), "differ in length"),
        ({}, "holds no state dict"),
        ([1, 2], "holds no state dict but 0 1, 1 2"),
        ({"epoch": 3, "state_dict": {}}, "no state dict but epoch 3, state_dict an empty dict"),
    ],
)
def test_absurd_tensors_are_refused(tmp_path, value, message):
    for write in (write_zip, write_stream):
        write(tmp_path / "a.pth", value)
        with pytest.raises(ValueError, match=rf"a\.pth: .*{message}"):
            read_torch(tmp_path / "a.pth")


def bomb(name):
    copies = b"ccollections\nOrderedDict\nq\x00" + b"(" + b"K\x01K\x01\x86" * 5000 + b"lq\x010"
    # A deep key would overflow the stack of whoever takes its hash.
    return {
        "memo": b"\x80\x02]r\xff\xff\xff\x7f.",  # a memo of two thousand million places
        "length": b"\x80\x02X\xff\xff\xff\x7fabc",
        "depth": b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"K\x01s.",
        "line": b"\x80\x02c" + b"a" * 5000 + b"\nb\n.",
        "copies": b"\x80\x02" + copies + b"h\x00h\x01\x85R0" * 20_000 + b"N.",
    }[name]


@pytest.mark.parametrize("name", ["memo", "length", "depth", "line", "copies"])
def test_pickles_that_would_fill_the_memory_or_end_the_process(tmp_path, name):
    write_zip(tmp_path / "a.pth", program=bomb(name))
    with pytest.raises(ValueError, match=r"a\.pth"):
        read_torch(tmp_path / "a.pth")


def test_deep_keys_of_storages_do_not_end_the_process(tmp_path):
    deep = b"\x80\x02)" + b"\x85" * 100_000
    write_stream(tmp_path / "whole.pth", {"w": Stored(np.ones(2, "float32"))})
    data = (tmp_path / "whole.pth").read_bytes()
    keys = pickle.dumps(["0"], 2)
    (tmp_path / "a.pth").write_bytes(data.replace(keys, b"\x80\x02]" + deep[2:] + b"a."))
    write_tar(tmp_path / "b.pth", {}, hostile=deep + b"Nctorch\nFloatStorage\n\x87." + bytes(8))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(ValueError, match="key of a storage is neither text nor number"):
            read_torch(tmp_path / name)


def test_archives_that_are_no_state_dict(tmp_path):
    path = tmp_path / "a.pth"
    state = {"w": Stored(np.zeros(4000, "float32"))}
    write_zip(path, state, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed, which PyTorch never does"):
        read_torch(path)
    write_zip(path, state, extra=[("constants.pkl", b""), ("code/a.py", b"import os")])
    with pytest.raises(ValueError, match=r"TorchScript.*torch\.save\(model\.state_dict"):
        read_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "text")
    with pytest.raises(ValueError, match=r"none of PyTorch's: it lacks data\.pkl"):
        read_torch(path)
    path.write_bytes(pickle.dumps({"w": 1}, 2))
    with pytest.raises(ValueError, match="not one of PyTorch's state dicts"):
        read_torch(path)


def test_members_that_lie_in_one_another_are_refused(tmp_path):
    """An archive may name the same bytes many times, so that a short file reads as a long one."""
    count, payload, infos = 8, np.ones(1000, "float32").tobytes(), []
    for number in reversed(range(count)):
        info = zipfile.ZipInfo(f"archive/data/{number}")
        info.CRC, info.file_size, info.compress_size = zlib.crc32(payload), *[len(payload)] * 2
        info.create_system = info.external_attr = 0
        payload = info.FileHeader() + payload  # which is what the member before holds
        infos.append((info, len(payload)))
    lengths = {int(info.filename.rpartition("/")[2]): info.file_size // 4 for info, _ in infos}
    state = {
        f"w{n}": Stored(np.ones(length, "float32"), key=str(n)) for n, length in lengths.items()
    }  # fmt: skip
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickled(state)[0])
        end = archive.fp.tell() + len(payload)
        archive.fp.write(payload)
        for info, length in infos:
            info.header_offset = end - length
            archive.filelist.append(info)
            archive.NameToInfo[info.filename] = info
        archive.start_dir = archive.fp.tell()
    with pytest.raises(ValueError, match="longer than the file|Overlapped"):
        read_torch(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "header, message",
    [
        ({"type": tarfile.DIRTYPE, "size": 0}, "no plain file"),
        ({"type": tarfile.CHRTYPE, "size": 0}, "no plain file"),
        ({"type": tarfile.SYMTYPE, "size": 0, "linkname": "tensors"}, "no plain file"),
        ({"type": tarfile.LNKTYPE, "size": 0, "linkname": "tensors"}, "no plain file"),
        # Both would read as ever more zeros.
        ({"pax_headers": {"GNU.sparse.map": "0,99", "GNU.sparse.size": f"{1 << 40}"}}, "no plain"),
        ({"pax_headers": {"GNU.sparse.realsize": f"{1 << 40}"}}, "'storages' is longer than the"),
        ({"pax_headers": {"GNU.sparse.realsize": "-1"}}, "'storages' is longer than the file"),
    ],
)
def test_members_of_a_tar_that_are_no_plain_files(tmp_path, header, message):
    write_tar(tmp_path / "a.pth", {"w": np.ones(2, "float32")}, storages=header)
    with pytest.raises(ValueError, match=rf"a\.pth: .*{message}"):
        read_torch(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "kind, size, extended", [(tarfile.XHDTYPE, 1 << 60, 0), (tarfile.GNUTYPE_SPARSE, 0, 1)]
)
def test_headers_of_a_tar_that_python_itself_falls_over(tmp_path, kind, size, extended):
    """A header of more bytes than there is memory; a list of blocks without an end."""
    info = tarfile.TarInfo("storages")
    info.type, info.size = kind, size
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[482] = extended
    head[148:155] = b"%06o\0" % tarfile.calc_chksums(bytes(head))[0]
    (tmp_path / "a.pth").write_bytes(head)
    with pytest.raises(ValueError, match=r"a\.pth: truncated or damaged"):
        read_torch(tmp_path / "a.pth")


# ----------------------------------------------------------------------------------- damaged files


def small_file(kind, folder):
    path = folder / "whole.pth"
    state = {"a.weight": np.arange(6, dtype="float32").reshape(2, 3), "b": np.ones(2, "float32")}
    if kind == "tar":
        write_tar(path, state)
    elif kind == "safetensors":
        write_safetensors(state, path)
    else:
        WRITERS[kind](path, {n: Stored(a) for n, a in state.items()})
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["zip", "stream", "tar", "safetensors"])
def test_every_truncation_is_an_error_of_ours(tmp_path, kind):
    whole = small_file(kind, tmp_path)
    path = tmp_path / "cut.pth"
    needed = len(whole.rstrip(b"\0")) if kind == "tar" else len(whole)  # tar ends in zeros
    for length in range(0, needed, 1 if needed < 900 else 17):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.pth"):
            read_arrays(path)


# ------------------------------------------------------------------------------------ safetensors


def write_raw(path, entries, header=None, tail=b""):
    """Write a safetensors file: ``{name: (type, array)}``, or a given header."""
    data, table = b"", {}
    for name, (kind, array) in entries.items():
        begin, data = len(data), data + array.tobytes()
        table[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [begin, len(data)],
        }
    text = json.dumps(table).encode() if header is None else header
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data + tail)


def test_safetensors_of_every_type(tmp_path):
    entries = {
        "f": ("F32", np.array([[1.5], [2]], "f4")), "d": ("F64", np.array([0.1])),
        "i": ("I64", np.array([-5, 1 << 40])), "u": ("U8", np.array([250], "u1")),
        "s": ("F32", np.array(3, "f4")), "e": ("F32", np.zeros((0, 4), "f4")),
        "t": ("BOOL", np.array([True, False])),
    }  # fmt: skip
    write_raw(tmp_path / "a.safetensors", entries)
    found = read_safetensors(tmp_path / "a.safetensors")
    assert list(found) == list(entries)
    for name, (_, array) in entries.items():
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array.astype("f4") if array.dtype == "f8" else array)


def test_safetensors_round_trip_is_reproducible(tmp_path):
    wanted = arrays()
    for name in ("a", "b"):
        write_safetensors(wanted, tmp_path / f"{name}.safetensors")
    assert equal(read_safetensors(tmp_path / "a.safetensors"), wanted)
    data = (tmp_path / "a.safetensors").read_bytes()
    assert data == (tmp_path / "b.safetensors").read_bytes()
    assert (8 + struct.unpack("<Q", data[:8])[0]) % 8 == 0  # numbers are aligned
    assert json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]


@pytest.mark.parametrize("length", [640, 896, 632, 640 + 65536])
def test_a_header_whose_length_looks_like_a_pickle(tmp_path, length):
    """640 is 80 02 in hexadecimal, how a pickle of protocol 2 begins."""
    write_raw(tmp_path / "a.bin", {}, entry().ljust(length), np.ones(2, "f4").tobytes())
    assert np.array_equal(read_arrays(tmp_path / "a.bin")["w"].asnumpy(), [1, 1])
    data = (tmp_path / "a.bin").read_bytes()
    (tmp_path / "cut.bin").write_bytes(data[:100])
    with pytest.raises(ValueError, match=f"not a sound safetensors file: a header of {length}"):
        read_arrays(tmp_path / "cut.bin")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_never_taken_for_safetensors(tmp_path, protocol):
    path = tmp_path / "a.safetensors"  # not even under this name
    write_stream(path, {"{": Stored(np.ones(2, "float32"))}, protocol)
    assert reader_of(str(path)) is read_torch
    assert list(read_torch(path)) == ["{"]
    for value in ({"{": 1}, ["{"], "{", {}, 640, Evil(tmp_path)):
        path.write_bytes(pickle.dumps(value, protocol))
        assert reader_of(str(path)) is read_torch


def entry(kind="F32", shape=(2,), offsets=(0, 8)):
    return json.dumps({"w": {"dtype": kind, "shape": shape, "data_offsets": offsets}}).encode()


@pytest.mark.parametrize(
    "header, tail, message",
    [
        (entry(), b"1234567", "does not begin|bytes belong|predecessor"),
        (entry(), b"123456789", "1 bytes belong to no array"),
        (entry(shape=(3,)), b"12345678", "do not go together"),
        (entry(shape=(True, 2)), b"12345678", "do not go together"),
        (entry(offsets=(0, 8, 9)), b"12345678", "do not go together"),
        (entry(offsets=(4, 12)), b"0" * 12, "predecessor ends"),
        (entry()[:-1] + b", " + entry().replace(b"w", b"v")[1:], b"12345678", "predecessor ends"),
        (entry(shape=(1 << 29,), offsets=(0, 1 << 31)), b"", "predecessor ends"),
        (entry(shape=(1 << 62, 4), offsets=(0, 1 << 66)), b"", "'w' has 2 axes, or sides too long"),
        (entry(shape=(0, 1 << 70), offsets=(0, 0)), b"", "'w' has 2 axes, or sides too long"),
        (entry(shape=(1,) * 40, offsets=(0, 4)), b"1234", "'w' has 40 axes"),
        (entry(["F32"]), b"12345678", "'w' has the number format"),
        (entry("F8_E4M3", (8,)), b"12345678", "number format 'F8_E4M3'"),
        (b'{"w": 3}', b"", "number format None"),
        (b'{"w": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "w": 1}', b"", "twice"),
        (b"[1, 2]" + b" " * 20, b"", "no table"),
        (b"{" + b"[" * 100_000, b"", "damaged safetensors header: nothing but brackets"),
        (b'{"a":' + b"[" * 99 + b" " * 9999, b"", "damaged safetensors header: "),
        (b"{" + b" " * ((5 << 20) - 1), b"", "a header of 5242880 bytes"),
    ],
)
def test_damaged_safetensors(tmp_path, header, tail, message):
    write_raw(tmp_path / "a.safetensors", {}, header, tail)
    with pytest.raises(ValueError, match=rf"a\.safetensors: .*({message})"):
        read_safetensors(tmp_path / "a.safetensors")


@pytest.mark.parity
def test_safetensors_against_its_own_library(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    wanted = arrays()
    library.save_file(wanted, str(tmp_path / "theirs.safetensors"))
    found = read_safetensors(tmp_path / "theirs.safetensors")
    assert all(np.array_equal(found[n], a) for n, a in wanted.items())
    write_safetensors(wanted, tmp_path / "ours.safetensors")
    found = library.load_file(str(tmp_path / "ours.safetensors"))
    assert all(np.array_equal(found[n], a) for n, a in wanted.items())


# ------------------------------------------------------------------------------ writing PyTorch's


def test_written_state_dict_is_read_back_and_is_reproducible(tmp_path):
    wanted = dict(arrays(), scalar=np.array(2.5, "float32"), empty=np.zeros((0, 3), "float32"))
    for name in ("a", "b"):
        write_torch(wanted, tmp_path / f"{name}.pth")
    assert equal(read_torch(tmp_path / "a.pth"), wanted)
    data = (tmp_path / "a.pth").read_bytes()
    assert data == (tmp_path / "b.pth").read_bytes()
    assert data.index(wanted["conv1.weight"].tobytes()) % 64 == 0


def test_written_pickle_is_what_python_reads(tmp_path):
    """The standard unpickler, given stand-ins for PyTorch's names, finds the same tensors."""
    wanted = {"a.weight": np.ones((2, 3), "float32"), "ö": np.arange(4)}
    write_torch(wanted, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        program = archive.read("archive/data.pkl")
        assert archive.testzip() is None and archive.read("archive/version") == b"3\n"
    pickletools.dis(program, io.StringIO())

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, pid):
            return pid

        def find_class(self, module, name):
            known = {"OrderedDict": collections.OrderedDict, "_rebuild_tensor_v2": lambda *a: a}
            return known.get(name, f"{module}.{name}")

    with fake_torch():
        found = Unpickler(io.BytesIO(program)).load()
    assert list(found) == list(wanted)
    storage = ("storage", "torch.FloatStorage", "0", "cpu", 6)
    no_hooks = collections.OrderedDict()
    assert found["a.weight"] == (storage, 0, (2, 3), (3, 1), False, no_hooks)
    assert found["ö"][0][1:3] == ("torch.LongStorage", "1")


def test_types_without_a_storage_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'w' is complex64; valid are float32"):
        write_torch({"w": np.ones(2, "complex64")}, tmp_path / "a.pth")
    for kind in ("bool", "complex64"):
        with pytest.raises(ValueError, match=f"a.safetensors: 'w' is {kind}; valid are float64"):
            write_safetensors({"w": np.ones(2, kind)}, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
