"""Damaging files on purpose, and what may come of reading them.

A damaged file may be read as what it was, or be refused by one ValueError or OSError that names it:
within 5 seconds of processor time, and within four times the file's size and 64 MB of memory. As a
script, the cases run under that limit in a process of their own, so that one that ends the process
is seen:

    python tests/damage_helpers.py KIND FIRST COUNT FOLDER KINDS

Cases are numbered; a number is the seed of its damage. KINDS is the module that has the kinds.
"""

from __future__ import annotations

import collections
import importlib
import json
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
# What text and JSON files hold in the place of what belongs there.
WORDS = (
    "",
    "-1",
    "0",
    "nan",
    "1e999",
    "9" * 400,
    "../x",
    "\ufeff",
    "é",
    "#",
    '"',
    "1,",
    "x y",
    "()",
)
VALUES = (
    None,
    True,
    -1,
    0,
    1 << 70,
    0.5,
    1e300,
    "",
    "..",
    "x" * 99,
    [],
    {},
    [[]],
    {"a": 1},
    [None],
)


def damage(whole, seed):
    """Return a file's bytes with the damage of a number; of a text every second one is of words."""
    rng = np.random.RandomState(seed)
    if seed % 2 and whole and b"\0" not in whole:
        text = whole.decode("utf-8", "replace")
        changed = damage_json(text, rng) if text.lstrip()[:1] in ("{", "[") else None
        return (damage_words(text, rng) if changed is None else changed).encode("utf-8", "replace")
    return damage_bytes(whole, rng)


def damage_bytes(whole, rng):
    """Return bytes that were cut, lengthened, flipped, or have another number somewhere."""
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


def damage_json(text, rng):
    """Return JSON in which one value is another or gone; None of what is no JSON."""
    try:
        tree = json.loads(text)
    except ValueError:
        return None
    places, todo = [], [tree]
    while todo:
        part = todo.pop()
        keys = part if isinstance(part, dict) else range(len(part))
        places += [(part, key) for key in keys]
        todo += [part[key] for key in keys if isinstance(part[key], (dict, list))]
    if not places:
        return None
    part, key = places[rng.randint(len(places))]
    choice = rng.randint(len(VALUES) + 3)
    if choice < len(VALUES):
        part[key] = VALUES[choice]
    elif choice == len(VALUES):
        del part[key]
    elif isinstance(part, dict):
        part[f"{key}x"] = part.pop(key)
    else:
        part.append(part[key])
    return json.dumps(tree)


def damage_words(text, rng):
    """Return text in which a line is gone, doubled or moved, or a word is another one."""
    kind, lines = rng.randint(5), text.split("\n")
    at = rng.randint(len(lines))
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[at])
    elif kind == 2:
        lines.insert(rng.randint(len(lines)), lines.pop(at))
    else:
        words = re.split(r"([\s,;:='\"<>()\[\]/]+)", lines[at])
        words[rng.randint(len(words))] = WORDS[rng.randint(len(WORDS))] if kind == 3 else "\t"
        lines[at] = "".join(words)
    return "\n".join(lines)


def outcome(read, path, wanted, checked, names=()):
    """Read a file; return one of ``GOOD``, or what is wrong in words.

    Args:
        read: Reader, ``path`` to arrays by name.
        path: The file, damaged.
        wanted: What it held before; None of a file that is to be refused in any case.
        checked: Whether checksums cover it, so that nothing else may come of it.
        names: Further words by which an error may name it: its folder and its neighbours.
    """
    start = sum(os.times()[:2])  # of this process, whatever else the machine does
    try:
        found = read(path)
        # A file that was cut between two of its parts holds fewer of them.
        same = all(n in (wanted or {}) and equal(found[n], wanted[n]) for n in found)
        word = "equal" if same else "other than what was written" if checked else "other"
    except (ValueError, OSError) as error:
        text = str(error)
        named = any(name in text for name in (os.path.basename(path), *names))
        word = "refused" if named and "\n" not in text else f"unnamed: {error!r}"
    except Exception as error:
        word = f"raised {error!r}"
    seconds = sum(os.times()[:2]) - start
    return word if seconds <= SECONDS else f"{seconds:.0f} seconds, {word}"


def equal(one, other):
    """Compare arrays by their bits."""
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


class Cases:
    """The files of a kind, written into a folder, and what reading them once gave."""

    def __init__(self, kind, folder, kinds="damage_kinds"):
        write, self.read, self.checked, name = importlib.import_module(kinds).KINDS[kind]
        self.path = Path(folder) / (f"{kind}{name}" if name[:1] in ("", ".") else f"{kind}/{name}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Where a kind has several files, the cases go through them.
        self.files = [Path(file) for file in write(self.path) or [self.path]]
        self.whole = [file.read_bytes() for file in self.files]
        self.names = {file.name for file in self.files}
        if self.path.parent != Path(folder):
            self.names.add(str(self.path.parent))
        try:
            self.wanted = self.read(str(self.path))
        except ValueError:
            self.wanted = None
        assert (self.wanted is None) == (self.checked is None), f"{kind}: {self.wanted}"

    def damage(self, number):
        """Damage one of the files; return how many bytes they have now."""
        at = number % len(self.files)
        for file, whole in zip(self.files, self.whole):
            if file is self.files[at]:
                file.write_bytes(damage(whole, number // len(self.files)))
            elif not file.is_file() or file.stat().st_size != len(whole):
                file.write_bytes(whole)
        self.restore = at
        return sum(file.stat().st_size for file in self.files)

    def outcome(self):
        """Read; return what came of it, with the file whole again."""
        word = outcome(self.read, str(self.path), self.wanted, self.checked, self.names)
        self.files[self.restore].write_bytes(self.whole[self.restore])
        return word


def run_here(kind, numbers, folder):
    """Run cases here; return ``{number: outcome}``; the memory of Python and NumPy is counted."""
    cases, found = Cases(kind, folder), {}
    for number in numbers:
        size = cases.damage(number)
        tracemalloc.start()
        word = cases.outcome()
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        found[number] = f"{taken >> 20} MB, {word}" if taken > 4 * size + SLACK else word
    return found


def run_child(kind, first, count, folder, kinds="damage_kinds"):
    """Run cases in a process of their own; return ``{number: outcome}``.

    A case that ends the process is ``'died'``; those behind it go on in another process.
    """
    found = {}
    env = dict(os.environ, OMP_NUM_THREADS="1", MALLOC_ARENA_MAX="1",
               OPENCV_IO_MAX_IMAGE_PIXELS=str(4 << 20))  # fmt: skip
    while len(found) < count:
        number = first + len(found)
        command = [sys.executable, __file__, kind, number, count - len(found), folder, kinds]
        code, out, err = run(command, env=env)
        lines = [line.split(" ", 1) for line in out.splitlines() if line[:1].isdigit()]
        found.update((int(seed), word) for seed, word in lines)
        if code:
            assert "cases" in out, err[-2000:]
            found[first + len(found)] = f"died ({code})"
    return found


def table(results):
    """Return Markdown of ``{kind: {number: outcome}}``; ``data_voc`` counts among ``data``."""
    counts = collections.defaultdict(collections.Counter)
    for kind, found in results.items():
        words = [word if word in GOOD else "wrong" for word in found.values()]
        for row in (kind.partition("_")[0], "all"):
            counts[row].update(words)
    lines = ["| kind | cases | refused | equal | other | crashes |", "|---" + "|---:" * 5 + "|"]
    for kind in sorted(counts, key=lambda kind: (kind == "all", kind)):
        found = counts[kind]
        columns = (sum(found.values()), *(found[word] for word in ("refused", "equal", "other")))
        lines.append(f"| {kind} | {' | '.join(f'{n:,}' for n in (*columns, found['wrong']))} |")
    return "\n".join(lines)


def main(kind, first, count, folder, kinds):
    """Run the cases of the command line and print a line for each."""
    sys.path[:0] = [str(Path(__file__).resolve().parent.parent), folder]
    import resource
    import warnings

    warnings.simplefilter("ignore")
    cases = Cases(kind, folder, kinds)
    print("cases", flush=True)
    used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
    for number in range(int(first), int(first) + int(count)):
        size = cases.damage(number)
        resource.setrlimit(resource.RLIMIT_AS, (used + 4 * size + SLACK, resource.RLIM_INFINITY))
        spent = int(sum(os.times()[:2]))  # what hangs is ended
        resource.setrlimit(resource.RLIMIT_CPU, (spent + 4 * int(SECONDS), resource.RLIM_INFINITY))
        word = cases.outcome()
        print(number, word.replace("\n", " "), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
