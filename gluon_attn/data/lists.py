"""The generic multi-label data set: your own images, your own attributes, plain text.

    names.txt                        one attribute name per line
    train.txt, val.txt, test.txt     path<TAB>1,0,-1,...    one image per line
    (images)                         wherever the paths say, relative to the folder

The values stand in the order of names.txt. Here **1 is positive, 0 negative, -1 unspecified**, the
customary coding of such lists; ``coding='wider'`` reads 1 positive, -1 negative, 0 unspecified.
Blank lines and lines that begin with ``#`` are ignored. Blanks may stand for the tab, and paths may
have the back-slashes of Windows.

The two codings use the same numbers, so a list cannot tell which one it is in. What gives a
mistake away is a split without any negative: it is refused, with the remedy.

Names such as ``colour=red``, ``colour=blue``, one line after the other, are the classes of **one
attribute with several classes**: at most one is positive, none for "no colour", and -1 in all
of them for "not known". Where they are all there is, a line may also say the class:
``path<TAB>red``; if that attribute is called ``class``, it is single-label classification.
"""

from __future__ import annotations

import itertools
import logging
import re
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from gluon_attn.core.errors import naming
from gluon_attn.core.registry import unknown_name
from gluon_attn.core.schema import MULTICLASS, Attribute, Schema
from gluon_attn.core.text import read_json, read_lines
from gluon_attn.data.base import DATASETS, Reader, Samples, class_schema
from gluon_attn.data.layout import Found, Part, PathLike, file_part
from gluon_attn.data.published_sizes import SplitCount
from gluon_attn.data.scan import files, stored_name

logger = logging.getLogger(__name__)

CODINGS = {
    "list": {"1": 1, "+1": 1, "0": -1, "-1": 0},
    "wider": {"1": 1, "+1": 1, "0": 0, "-1": -1},
}
LOOKS_FOR = "names.txt beside train.txt, val.txt or test.txt"
# A path, blanks, and values up to the end of the line, where an editor has replaced the tab.
BLANKS = re.compile(r"(.*?\S)\s+([+-]?\d(?:\s*,\s*[+-]?\d)*)")
Rows = Dict[str, Tuple[List[int], str]]  # {image: (labels, 'file:line')}


@DATASETS.register("list")
class ListDataset(Reader):
    """Images and labels from ``<split>.txt`` and ``names.txt``.

    Any split works that has its file; 'trainval' reads train.txt and val.txt unless there is a
    trainval.txt. ``coding`` is 'list' (1, 0, -1: positive, negative, unspecified) or 'wider'.
    """

    title, looks_for = "list", LOOKS_FOR
    detection = 900
    settings = ("coding",)

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        return file_part(f"{split}.txt"), file_part("names.txt")

    @classmethod
    def is_home(cls, folder: Path, *others: str) -> bool:
        return (folder / "names.txt").is_file() and super().is_home(folder, *others)

    @classmethod
    def require(cls, root: PathLike, split: str, **options: object) -> Found:
        return cls.locate(root, split)  # a split may be two files; reading names what is missing

    def samples(self, found: Found, split: str, coding: str = "list") -> Samples:
        if coding not in CODINGS:
            raise ValueError(unknown_name("coding", coding, CODINGS))
        schema = schema_of(self.root / "names.txt")
        rows: Rows = {}
        paths = _lists(self.root, split)
        for path in paths:
            read_list(path, schema, CODINGS[coding], rows)
        listed = ", ".join(map(str, paths))
        if not rows:
            raise ValueError(f"{listed}: split '{split}' is empty: no line names an image")
        raw = np.array([labels for labels, _ in rows.values()], np.int8)
        if (raw == 1).any() and not (raw == -1).any():
            other, means = ("wider", "-1") if coding == "list" else ("list", "0")
            remedy = f"if {means} means negative in this list, use coding='{other}'"
            raise ValueError(f"{listed}: no label is negative in coding '{coding}'; {remedy}")
        return Samples(schema, raw, list(rows), counts=[SplitCount(split, len(rows), len(rows))])

    def path(self, i: int) -> Path:
        return self.root / self.sample_ids[i]


def _lists(root: Path, split: str) -> list[Path]:
    path = root / f"{split}.txt"
    if path.is_file():
        return [path]
    parts = [root / "train.txt", root / "val.txt"]
    if split == "trainval" and all(part.is_file() for part in parts):
        return parts
    found = ", ".join(p.stem for p in files(root, ".txt") if p.name != "names.txt")
    raise FileNotFoundError(f"{path} is missing; splits in this folder: {found or '(none)'}")


def read_names(path: Path) -> tuple[str, ...]:
    """Return the column names of a names.txt; ValueError if it is empty or one comes twice."""
    return tuple(_numbered(path))


def _numbered(path: Path) -> dict[str, int]:
    """Return the line number of each name of a names.txt."""
    seen: dict[str, int] = {}
    for number, name in _lines(path):
        name = re.sub(r"\s*=\s*", "=", name)
        if name in seen:
            told = f"{path}:{number}: '{name}' is in line {seen[name]} already"
            raise ValueError(f"{told}; every name needs to be another one, such as '{name} 2'")
        seen[name] = number
    if not seen:
        raise ValueError(f"{path}: no attribute name; one per line is needed")
    return seen


def schema_of(path: Path) -> Schema:
    """Return the schema of a names.txt; ``colour=red``, ``colour=blue`` are one attribute.

    A single ``a=b`` is a binary attribute of that name. ValueError: the classes of an attribute do
    not stand together; see also :func:`read_names`.
    """
    attributes: list[Attribute] = []
    lines = _numbered(path)
    last: dict[str, str] = {}  # name of the last class of an attribute
    spelt: dict[str, str] = {}  # by its name in lower case
    key: Callable[[str], str] = lambda name: name.partition("=")[0] if "=" in name else ""  # noqa: E731
    for attribute, columns in itertools.groupby(lines, key):
        names = list(columns)
        if attribute in last:
            where = f"{path}:{lines[names[0]]}: '{names[0]}' is apart from '{last[attribute]}' in"
            told = f"line {lines[last[attribute]]}; the classes of '{attribute}' must stand one"
            raise ValueError(f"{where} {told} below the other")
        if attribute:
            last[attribute] = names[-1]
            other = spelt.setdefault(attribute.casefold(), attribute)
            if other != attribute:
                where = f"{path}:{lines[names[0]]}: '{names[0]}'"
                raise ValueError(
                    f"{where}: the attribute is called '{other}' above; spell it alike"
                )
        if attribute and len(names) > 1:
            classes = tuple(name.partition("=")[2] for name in names)
            attributes.append(Attribute(attribute, MULTICLASS, classes))
        else:
            attributes += [Attribute(name) for name in names]
    return Schema(attributes)


def classes_of(path: Path, single_label: bool = False) -> Schema:
    """Return what the logits of a net mean: a names.txt, or a JSON file that holds a schema.

    Such are the sidecar of an export, ``best.json`` of a run, and the schema alone; or one that
    holds the names, ``["cat", …]`` or ``{"0": "cat", …}``. With ``single_label`` the names are the
    classes of which every image has one; without it, names alone leave that open: a warning.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of classes: a name a line, in their order")
    told = False
    if path.suffix == ".json":
        contents = read_json(path)
        names = _plain_names(contents)
        items = contents.get("schema") if isinstance(contents, dict) else contents
        with naming(path):
            schema = Schema.binary(names) if names else Schema.from_json(items or ())
        told = not names
    else:
        schema = schema_of(path)
    if single_label and not schema.is_single_label:
        if not schema.is_binary:
            raise ValueError(f"{path}: {len(schema)} attributes, which is not one class per image")
        return class_schema(schema.names)
    if schema.is_binary and not told:
        logger.warning(
            "%s: %d attributes, each present or absent; if every image is of one class, "
            "add --single-label", path, len(schema),
        )  # fmt: skip
    return schema


def _plain_names(contents: Any) -> list[str]:
    """Return the names of a JSON list, or of an object by number; [] if it is something else."""
    if isinstance(contents, dict) and all(key.isdigit() for key in contents):
        contents = [contents[key] for key in sorted(contents, key=int)]
    plain = isinstance(contents, list) and all(isinstance(name, str) for name in contents)
    return contents if plain else []


def read_list(path: Path, schema: Schema, codes: Mapping[str, int], rows: Rows) -> None:
    """Add the images of one list to ``rows``; ``codes`` is ``{text of a label: 1, -1 or 0}``."""
    names = schema.columns
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
        alone = len(words) == 1 < len(names)  # no codes of the classes
        if schema.is_single_label and (alone or not set(words) & set(codes)):
            word, classes = text.strip(), schema.attributes[0].classes
            if word not in classes:
                told = f"'{word}' is no class; known are {', '.join(classes)}"
                raise ValueError(f"{where}: {told}")
            labels = [1 if word == name else -1 for name in classes]
        else:
            labels = _labels(words, names, codes, where)
        for attribute, columns in zip(schema.attributes, schema.slices()):
            if attribute.width > 1:
                _check_classes(labels[columns], f"{where}: '{attribute.name}'")
        image = stored_name(path.parent, image)
        if image in rows:
            raise ValueError(f"{where}: '{image}' is in {rows[image][1]} already")
        rows[image] = labels, where


def _labels(
    words: Sequence[str], names: Sequence[str], codes: Mapping[str, int], where: str
) -> list[int]:
    if len(words) != len(names):
        told = f"{where}: {len(words)} labels for the {len(names)} of names.txt"
        if len(words) == 1 and words[0] in names:
            told += f"; if every image has one class of these, names.txt needs class={words[0]} "
            told += "and so on, one a line"
        raise ValueError(told)
    for name, word in zip(names, words):
        if word not in codes:
            raise ValueError(f"{where}: label {word!r} of '{name}'; valid are 1, 0 and -1")
    return [codes[word] for word in words]


def _check_classes(labels: Sequence[int], where: str) -> None:
    if labels.count(1) > 1:
        raise ValueError(f"{where} has {labels.count(1)} classes; at most one can be positive")
    if 0 in labels and any(labels):
        raise ValueError(f"{where} is partly unspecified; give a class, none, or all unspecified")


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return ``(line number, line)`` of the lines that are neither blank nor comments."""
    lines = read_lines(path, f"looked for {LOOKS_FOR}")
    return [(number, line) for number, line in lines if not line.startswith("#")]
