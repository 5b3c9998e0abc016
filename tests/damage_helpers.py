"""Damaging files on purpose, and what may come of reading them.

A damaged file may be read as what it was, or be refused by one ValueError or OSError that names it:
within 5 seconds of processor time, and within four times the file's size and 64 MB of memory. As a
script, the cases run under that limit in a process of their own, so that one that ends the process
is seen:

    python tests/damage_helpers.py KIND FIRST COUNT FOLDER KINDS

Cases are numbered; a number is the seed of its damage. KINDS is the module that has the kinds.
"""

from __future__ import annotations

import importlib
import os
import re
import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
from process_helpers import run

SLACK = 64 << 20  # bytes beyond four times the file
SECONDS = 5.0
NUMBERS = (0, 1, 3, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1)
GOOD = ("equal", "other", "refused")


def damage(whole, seed):
    """Return a file's bytes with the damage of a number."""
    rng = np.random.RandomState(seed)
    data, kind = bytearray(whole), rng.randint(8)
    # Half of the places lie in the first kilobyte, where headers are.
    places = [
        int(rng.randint(min(len(data), 1024) if rng.rand() < 0.5 else len(data)))
        for _ in range(rng.randint(1, 4))
    ]
    if kind == 0:
        return bytes(data[: places[0]])
    if kind == 1:
        return bytes(data) + rng.bytes(places[0] + 1)
    if kind == 2:
        del data[places[0] : places[0] + rng.randint(1, 64)]
        return bytes(data)
    if kind == 3:
        data[places[0] : places[0]] = rng.bytes(rng.randint(1, 64))
        return bytes(data)
    for place in places:
        if kind == 4:
            data[place] ^= 1 << rng.randint(8)
        elif kind == 5:
            data[place] = rng.randint(256)
        else:  # a length becomes another one
            form = "<I" if kind == 6 else "<Q"
            place = place // 4 * 4 + rng.randint(2)
            if place + struct.calcsize(form) > len(data):
                continue
            (old,) = struct.unpack_from(form, data, place)
            choice = rng.randint(len(NUMBERS) + 3)
            new = NUMBERS[choice] if choice < len(NUMBERS) else old + rng.randint(-9, 10)
            struct.pack_into(form, data, place, new % (1 << 8 * struct.calcsize(form)))
    return bytes(data)


def outcome(read, path, wanted, checked):
    """Read a file; return one of ``GOOD``, or what is wrong in words.

    Args:
        read: Reader, ``path`` to arrays by name.
        path: The file, damaged.
        wanted: What it held before.
        checked: Whether checksums cover it, so that nothing else may come of it.
    """
    start = sum(os.times()[:2])  # of this process, whatever else the machine does
    try:
        found = read(path)
        # A file that was cut between two of its parts holds fewer of them.
        same = all(name in wanted and equal(found[name], wanted[name]) for name in found)
        word = "equal" if same else "other than what was written" if checked else "other"
    except (ValueError, OSError) as error:
        text = str(error)
        named = os.path.basename(path) in text and "\n" not in text
        word = "refused" if named else f"unnamed: {error!r}"
    except Exception as error:
        word = f"raised {error!r}"
    seconds = sum(os.times()[:2]) - start
    return word if seconds <= SECONDS else f"{seconds:.0f} seconds, {word}"


def equal(one, other):
    """Compare arrays by their bits."""
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


def run_here(kind, numbers, folder):
    """Run cases here; return ``{number: outcome}``; the memory of Python and NumPy is counted."""
    read, whole, wanted, path, checked = prepare(kind, folder)
    found = {}
    for number in numbers:
        data = damage(whole, number)
        path.write_bytes(data)
        tracemalloc.start()
        word = outcome(read, str(path), wanted, checked)
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        much = taken > 4 * len(data) + SLACK
        found[number] = f"{taken >> 20} MB, {word}" if much else word
    return found


def run_child(kind, first, count, folder, kinds="damage_kinds"):
    """Run cases in a process of their own; return ``{number: outcome}``.

    A case that ends the process is ``'died'``; those behind it go on in another process.
    """
    found = {}
    while len(found) < count:
        number = first + len(found)
        command = [sys.executable, __file__, kind, number, count - len(found), folder, kinds]
        code, out, err = run(command, env=dict(os.environ, OMP_NUM_THREADS="1"))
        lines = [line.split(" ", 1) for line in out.splitlines() if line[:1].isdigit()]
        found.update((int(seed), word) for seed, word in lines)
        if code:
            assert "cases" in out, err[-2000:]
            found[first + len(found)] = f"died ({code})"
    return found


def prepare(kind, folder, kinds="damage_kinds"):
    """Write a file of a kind; return how to read it, its bytes, its contents, where, and more."""
    write, read, checked, suffix = importlib.import_module(kinds).KINDS[kind]
    path = Path(folder) / f"{kind}{suffix}"
    write(path)
    return read, path.read_bytes(), read(str(path)), path, checked


def main(kind, first, count, folder, kinds):
    """Run the cases of the command line and print a line for each."""
    sys.path[:0] = [str(Path(__file__).resolve().parent.parent), folder]
    import resource

    read, whole, wanted, path, checked = prepare(kind, folder, kinds)
    print("cases", flush=True)
    used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
    for number in range(int(first), int(first) + int(count)):
        data = damage(whole, number)
        path.write_bytes(data)
        limit = used + 4 * len(data) + SLACK
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        word = outcome(read, str(path), wanted, checked)
        print(number, word.replace("\n", " "), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
