"""The generic multi-label data set: your own pictures, your own attributes, plain text.

    names.txt                        one attribute name per line
    train.txt, val.txt, test.txt     path<TAB>1,0,-1,...    one image per line
    (pictures)                       wherever the paths say, relative to the folder

The values stand in the order of names.txt. Here **1 is positive, 0 negative, -1 unspecified**, the
customary coding of such lists; ``coding='wider'`` reads 1 positive, -1 negative, 0 unspecified.
Blank lines and lines that begin with ``#`` are ignored. Blanks may stand for the tab, and paths may
have the back-slashes of Windows.

The two codings use the same numbers, so a list cannot tell which one it is in. What gives a
mistake away is a split without any negative: it is refused, with the remedy.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Sequence

import numpy as np

from gluon_attn.core.registry import unknown_name
from gluon_attn.core.text import read_lines
from gluon_attn.data.base import DATASETS, AttributeDataset
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts
from gluon_attn.data.layout import Part, file_part
from gluon_attn.data.scan import files, stored_name

CODINGS = {
    "list": {"1": 1, "+1": 1, "0": -1, "-1": 0},
    "wider": {"1": 1, "+1": 1, "0": 0, "-1": -1},
}
# A path, blanks, and values up to the end of the line, where an editor has replaced the tab.
BLANKS = re.compile(r"(.*?\S)\s+([+-]?\d(?:\s*,\s*[+-]?\d)*)")


@DATASETS.register("list")
class ListDataset(AttributeDataset):
    """Pictures and labels from ``<split>.txt`` and ``names.txt``.

    Args:
        root: Folder that holds both, and that relative paths start from.
        split: 'train' reads train.txt; any name works that has its file. 'trainval' reads
            train.txt and val.txt unless there is a trainval.txt.
        policy, on_bad_image: See :class:`AttributeDataset`.
        coding: 'list' (1, 0, -1 = positive, negative, unspecified) or 'wider' (1, -1, 0).

    Attributes:
        report: CountReport; nothing to compare with unless the folder has a SYNTHETIC.json.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If one is malformed; the message names file and line.
    """

    looks_for = "names.txt beside train.txt, val.txt or test.txt"

    def __init__(self, root, split, policy=None, on_bad_image="error", coding="list"):
        if coding not in CODINGS:
            raise ValueError(unknown_name("coding", coding, CODINGS))
        self.root = self.home(root, split)
        names = read_names(self.root / "names.txt")
        rows = {}
        for path in self._files(split):
            read_list(path, names, CODINGS[coding], rows, self.root)
        listed = ", ".join(str(path) for path in self._files(split))
        if not rows:
            raise ValueError(f"{listed}: split '{split}' is empty: no line names a picture")
        raw = np.array([labels for labels, _ in rows.values()], np.int8)
        if (raw == 1).any() and not (raw == -1).any():
            other, means = ("wider", "-1") if coding == "list" else ("list", "0")
            raise ValueError(
                f"{listed}: no label is negative in coding '{coding}'; if {means} means negative "
                f"in this list, use coding='{other}'"
            )
        super().__init__(names, split, raw, list(rows), policy, on_bad_image)
        expected, source = expected_counts(self.root)
        count = SplitCount(split, len(self), len(self))
        self.report = CountReport([count], expected, source)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        return file_part(f"{split}.txt"), file_part("names.txt")

    @classmethod
    def is_home(cls, folder: Path, *others: str) -> bool:
        return (folder / "names.txt").is_file() and super().is_home(folder, *others)

    def path(self, i):
        """Return the file that holds sample ``i``."""
        return self.root / self.sample_ids[i]

    def _files(self, split):
        path = self.root / f"{split}.txt"
        if path.is_file():
            return [path]
        parts = [self.root / "train.txt", self.root / "val.txt"]
        if split == "trainval" and all(part.is_file() for part in parts):
            return parts
        found = [p.stem for p in files(self.root, ".txt") if p.name != "names.txt"]
        raise FileNotFoundError(
            f"{path} is missing; splits in this folder: {', '.join(found) or '(none)'}"
        )


def read_names(path: Path) -> tuple[str, ...]:
    """Return the attribute names of a names.txt.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is empty or a name comes twice.
    """
    seen: dict[str, int] = {}
    for number, name in _lines(path):
        if name in seen:
            raise ValueError(f"{path}:{number}: '{name}' is in line {seen[name]} already")
        seen[name] = number
    if not seen:
        raise ValueError(f"{path}: no attribute name; one per line is needed")
    return tuple(seen)


def read_list(
    path: Path,
    names: Sequence[str],
    codes: dict[str, int],
    rows: dict[str, tuple[list[int], str]],
    folder: Path,
) -> None:
    """Add ``{image: ([labels], 'file:line')}`` of one list to ``rows``.

    Args:
        path: The list.
        names: The attribute names.
        codes: ``{text of a label: 1, -1 or 0}``.
        rows: The dict to fill.
        folder: What paths are relative to.

    Raises:
        ValueError: Naming the file and the line.
    """
    for number, line in _lines(path):
        where = f"{path}:{number}"
        image, tab, text = line.rpartition("\t")
        if not tab:
            match = BLANKS.fullmatch(line)
            image, text = match.groups() if match else ("", "")
        image = image.strip()
        if not image:
            raise ValueError(f"{where}: expected path<TAB>{','.join(['0'] * len(names))}: {line!r}")
        words = [word.strip() for word in text.split(",")]
        if len(words) != len(names):
            raise ValueError(f"{where}: {len(words)} labels for the {len(names)} of names.txt")
        for name, word in zip(names, words):
            if word not in codes:
                raise ValueError(f"{where}: label {word!r} of '{name}'; valid are 1, 0 and -1")
        image = stored_name(folder, image)
        if image in rows:
            raise ValueError(f"{where}: '{image}' is in {rows[image][1]} already")
        rows[image] = ([codes[word] for word in words], where)


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return ``(line number, line)`` of the lines that are neither blank nor comments."""
    lines = read_lines(path, f"looked for {ListDataset.looks_for}")
    return [(number, line) for number, line in lines if not line.startswith("#")]
