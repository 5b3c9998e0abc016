"""WIDER-Attribute as the SRN crop lists, which VAA and most later papers used.

    wider_att/wider_att_{train,test}_imglist.txt   one crop per line, quoted or otherwise decorated
    wider_att/wider_att_{train,test}_label.txt     14 labels per line, separated by blanks
    Image_cropped/                                 the crops

Validation rows are those of the train list whose path has a folder ``val``. SRN's lists hold 5
boxes fewer in train and val and 2 fewer in test than the annotation; which, and why, was not
published, so this reader is the way to work on exactly their samples.
"""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath

from gluon_attn.core.text import read_lines
from gluon_attn.data.base import DATASETS, AttributeDataset
from gluon_attn.data.counts import (
    PUBLISHED_SRN,
    CountReport,
    SplitCount,
    expected_counts,
    rate_note,
)
from gluon_attn.data.layout import Part, file_part, folder_part
from gluon_attn.data.scan import stored_name
from gluon_attn.data.wider import ATTRIBUTES

logger = logging.getLogger(__name__)

SPLITS = {"train": "train", "val": "train", "trainval": "train", "test": "test"}
DECORATION = "'\"`[](){},; \t\r\n"


@DATASETS.register("wider_srn")
class WiderCrops(AttributeDataset):
    """Person crops of WIDER-Attribute as SRN cut them.

    Args:
        root: Folder that holds ``wider_att/`` and ``Image_cropped/``.
        split: 'train', 'val', 'trainval' or 'test'.
        policy, on_bad_image: See :class:`AttributeDataset`.

    Raises:
        FileNotFoundError: If a list is not there.
        ValueError: If a list is malformed; the message names file and line.
    """

    looks_for = "wider_att/wider_att_{train,test}_{imglist,label}.txt beside Image_cropped/"
    valid = tuple(SPLITS)

    def __init__(self, root, split, policy=None, on_bad_image="error"):
        if split not in SPLITS:
            raise ValueError(f"unknown split '{split}'; valid: {', '.join(SPLITS)}")
        found = self.require(root, split)
        self.root = found.home
        image_list, label_list, self._folder = (found.path(part) for part in self.parts(split))
        names, rows = _read_names(image_list, self._folder), _read_labels(label_list)
        if len(names) != len(rows):
            raise ValueError(f"{image_list} has {len(names)} crops, {label_list} {len(rows)} rows")
        pairs = [(n, r) for n, r in zip(names, rows) if _belongs(n, split)]
        if not pairs:
            raise ValueError(f"{image_list}: split '{split}' is empty: no row belongs to it")
        self._files = [name for name, _ in pairs]
        raw = [row for _, row in pairs]
        super().__init__(ATTRIBUTES, split, raw, self._files, policy, on_bad_image)
        expected, source = expected_counts(self.root, PUBLISHED_SRN)
        notes = [rate_note(self)] if source == "published" and split == "train" else []
        self.report = CountReport([SplitCount(split, None, len(self))], expected, source, notes)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        stem = f"wider_att_{SPLITS[split]}"
        names = (f"{stem}_imglist.txt", f"{stem}_label.txt")
        lists = (file_part(f"wider_att/{name}") for name in names)
        return (*lists, folder_part("Image_cropped", apart=True, images=True))

    def path(self, i):
        """Return the file that holds sample ``i``."""
        return self._folder / self._files[i]


def _belongs(name, split):
    if split in ("test", "trainval"):
        return True
    return ("val" in PurePosixPath(name).parts[:-1]) == (split == "val")


def _read_names(path: Path, folder: Path) -> list[str]:
    """Return the paths below ``Image_cropped/`` that a list names."""
    names, seen = [], {}
    for number, line in _lines(path):
        name = line.strip(DECORATION).replace("\\", "/").lstrip("/.")
        name = name.split("Image_cropped/", 1)[-1]
        if "." not in PurePosixPath(name).name:
            raise ValueError(f"{path}:{number}: {line!r} names no image")
        name = stored_name(folder, name)
        if name in seen:
            raise ValueError(f"{path}:{number}: '{name}' is in line {seen[name]} already")
        seen[name] = number
        names.append(name)
    return names


def _read_labels(path):
    """Return the label rows, each a list of 14 values in {1, -1, 0}."""
    rows = []
    for number, line in _lines(path):
        words = line.replace(",", " ").split()
        if len(words) != len(ATTRIBUTES):
            raise ValueError(f"{path}:{number}: {len(words)} labels, expected {len(ATTRIBUTES)}")
        for name, word in zip(ATTRIBUTES, words):
            if word not in ("1", "+1", "-1", "0"):
                raise ValueError(
                    f"{path}:{number}: label {word!r} (about {name}); valid are 1, -1 and 0"
                )
        rows.append([int(word) for word in words])
    if rows and not any(-1 in row for row in rows):
        # Without a single -1 the zeros cannot mean "unspecified": nothing would be negative.
        logger.warning("%s: no label is -1; its zeros are read as negative", path)
        rows = [[value or -1 for value in row] for row in rows]
    return rows


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return ``(line number, line)`` of the lines that are not blank."""
    lines = read_lines(path, f"looked for {WiderCrops.looks_for}")
    return [(number, line) for number, line in lines if line.strip(DECORATION)]
