"""The generic multi-label data set: your own pictures, your own attributes, plain text.

    names.txt                        one attribute name per line
    train.txt, val.txt, test.txt     path<TAB>1,0,-1,...    one picture per line
    (pictures)                       wherever the paths say, relative to the folder

The values stand in the order of names.txt. Here **1 is positive, 0 negative, -1 unspecified**, the
customary coding of such lists; ``coding='wider'`` reads 1 positive, -1 negative, 0 unspecified.
Blank lines and lines that begin with ``#`` are ignored.

The two codings use the same numbers, so a list cannot tell which one it is in. What gives a
mistake away is a split without any negative: it is refused, with the remedy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gluon_attn.data.base import DATASETS, AttributeDataset
from gluon_attn.data.counts import CountReport, SplitCount, expected_counts
from gluon_attn.registry import unknown_name

CODINGS = {
    "list": {"1": 1, "+1": 1, "0": -1, "-1": 0},
    "wider": {"1": 1, "+1": 1, "0": 0, "-1": -1},
}


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
        self.root = Path(root)
        names = read_names(self.root / "names.txt")
        rows = {}
        for path in self._files(split):
            read_list(path, names, CODINGS[coding], rows)
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
    def has_split(cls, root, split):
        return all((Path(root) / f"{name}.txt").is_file() for name in (split, "names"))

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
        found = sorted(p.stem for p in self.root.glob("*.txt") if p.name != "names.txt")
        raise FileNotFoundError(
            f"{path} is missing; splits in this folder: {', '.join(found) or '(none)'}"
        )


def read_names(path):
    """Return the attribute names of a names.txt, a tuple.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is empty or a name comes twice.
    """
    seen = {}
    for number, line in _lines(path):
        name = line.strip()
        if name in seen:
            raise ValueError(f"{path}:{number}: '{name}' is in line {seen[name]} already")
        seen[name] = number
    if not seen:
        raise ValueError(f"{path}: no attribute name; one per line is needed")
    return tuple(seen)


def read_list(path, names, codes, rows):
    """Add ``{picture: ([labels], 'file:line')}`` of one list to ``rows``.

    Args:
        path: The list.
        names: The attribute names.
        codes: ``{text of a label: 1, -1 or 0}``.
        rows: The dict to fill.

    Raises:
        ValueError: Naming the file and the line.
    """
    for number, line in _lines(path):
        where = f"{path}:{number}"
        picture, tab, text = line.rstrip("\r\n").rpartition("\t")
        picture = picture.strip()
        if not tab or not picture:
            raise ValueError(f"{where}: expected path<TAB>{','.join(['0'] * len(names))}: {line!r}")
        words = [word.strip() for word in text.split(",")]
        if len(words) != len(names):
            raise ValueError(f"{where}: {len(words)} labels for the {len(names)} of names.txt")
        for name, word in zip(names, words):
            if word not in codes:
                raise ValueError(f"{where}: label {word!r} of '{name}'; valid are 1, 0 and -1")
        if picture in rows:
            raise ValueError(f"{where}: '{picture}' is in {rows[picture][1]} already")
        rows[picture] = ([codes[word] for word in words], where)


def _lines(path):
    """Yield ``(line number, line)`` of the lines that are neither blank nor comments."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; looked for {ListDataset.looks_for}")
    try:
        with open(path, encoding="utf-8-sig") as file:  # editors on Windows add a mark
            for number, line in enumerate(file, 1):
                if line.strip() and not line.lstrip().startswith("#"):
                    yield number, line
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: {error}") from error
