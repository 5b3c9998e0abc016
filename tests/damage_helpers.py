"""Damaging files on purpose, and what may come of reading them.

A damaged file may be read as what it was, or be refused by one ValueError or OSError that names it:
within 5 seconds, and within four times the file's size and 64 MB of memory. As a script, the cases
run under that limit in a process of their own, so that one that ends the process is seen:

    python tests/damage_helpers.py KIND FIRST COUNT FOLDER

Cases are numbered; a number is the seed of its damage.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SLACK = 64 << 20  # bytes beyond four times the file
SECONDS = 5.0
NUMBERS = (0, 1, 3, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1)


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


def outcome(read, path, equal=None):
    """Read a file; return ``'equal'``, ``'other'``, ``'refused'``, or what is wrong in words."""
    start = time.perf_counter()
    try:
        value = read(path)
        word = "other" if equal is None or not equal(value) else "equal"
    except (ValueError, OSError) as error:
        text = str(error)
        named = os.path.basename(path) in text
        word = "refused" if named and "\n" not in text else f"unnamed: {error!r}"
    except Exception as error:  # noqa: BLE001
        word = f"raised {error!r}"
    seconds = time.perf_counter() - start
    return word if seconds <= SECONDS else f"{seconds:.0f} seconds, {word}"


def same_arrays(found, wanted):
    """Compare dicts of arrays by their bits."""
    return set(found) == set(wanted) and all(
        np.array_equal(found[name], wanted[name]) and found[name].dtype == wanted[name].dtype
        for name in wanted
    )


def run_child(kind, first, count, folder, timeout=600):
    """Run cases in a process of their own; return ``{number: outcome}``.

    A case that ends the process is ``'died'``; the cases behind it go on in another process.
    """
    found = {}
    while len(found) < count:
        number = first + len(found)
        command = [sys.executable, __file__, kind, number, count - len(found), folder]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=timeout,
            env=dict(os.environ, OMP_NUM_THREADS="1"),
        )  # fmt: skip
        lines = [line.split(" ", 1) for line in done.stdout.splitlines() if line[:1].isdigit()]
        found.update((int(seed), word) for seed, word in lines)
        if done.returncode:
            assert lines or "case" in done.stdout, done.stderr[-2000:]
            found[first + len(found)] = f"died ({done.returncode})"
    return found


def main(kind, first, count, folder):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import resource

    import damage_kinds

    write, read, checked = damage_kinds.KINDS[kind]
    path = Path(folder) / f"{kind}{damage_kinds.SUFFIXES.get(kind, '.bin')}"
    write(path)
    whole = path.read_bytes()
    wanted = read(path)
    print("cases", flush=True)
    used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
    for number in range(int(first), int(first) + int(count)):
        data = damage(whole, number)
        path.write_bytes(data)
        limit = used + 4 * len(data) + SLACK
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        word = outcome(read, str(path), lambda value: same_arrays(value, wanted))
        if word == "other" and checked:
            word = "other than what was written"
        print(number, json.dumps(word)[1:-1], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
