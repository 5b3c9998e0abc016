"""Where the files and folders of a data set are, and which of them are missing.

A reader says once what it is made of, as :class:`Part` objects per split. The folder that a user
names is often not quite the one that holds the data: archives unpack into a folder of their own,
the annotation comes in a second download. So a data set is looked for in the folder itself, then in
its sub-folders, then in theirs; the nearest that holds it is its home. Two are an error.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

from gluon_attn.core.registry import unknown_name
from gluon_attn.data.scan import PathLike, subfolders

DEPTH = 2  # levels of sub-folders that are searched
MOST = 64  # a folder with more sub-folders is data, not what unpacking left


class Part(NamedTuple):
    """A file or folder that a split is read from.

    Attributes:
        name: As published; that of a folder ends in ``/``.
        places: Where it may be in the data set's folder: paths, tried in turn.
        fits: Whether what is there is the part.
        apart: Whether it comes in a download of its own, so that it may lie beside the home.
        images: Whether it holds nothing but images: the split can be opened without it.
        option: The reader's setting that names it elsewhere, if there is one.
    """

    name: str
    places: tuple[str, ...]
    fits: Callable[[Path], bool] = Path.exists
    apart: bool = False
    images: bool = False
    option: str | None = None


def folder_part(name: str, *places: str, **options: Any) -> Part:
    """Return the part that is a folder; its places are its name unless they are given."""
    return Part(f"{name}/", places or (name,), Path.is_dir, **options)


def file_part(name: str, *places: str, **options: Any) -> Part:
    """Return the part that is a file; its places are its name unless they are given."""
    return Part(name, places or (name,), Path.is_file, **options)


class Found(NamedTuple):
    """What :meth:`Located.locate` found: ``paths`` are ``{name of a part: its path}``."""

    home: Path
    paths: dict
    missing: list
    parts: tuple[Part, ...]
    root: Path

    def path(self, part: Part) -> Path:
        """Return where a part is; of one that is missing, where it should be."""
        return self.paths.get(part.name, self.home / part.places[0])

    def each(self) -> list[Path]:
        """Return where all parts are, in the order in which the reader names them."""
        return [self.path(part) for part in self.parts]


class Located:
    """What all readers have: their parts, and from them where a data set is."""

    looks_for = "(nothing: abstract)"
    splits: tuple[str, ...] = ("train", "val", "test")  # what tools check and pack if it is there
    optional: tuple[str, ...] = ()  # those of ``splits`` that not every complete copy has
    valid: tuple[str, ...] | None = None  # all splits that can be opened; None: any name
    # Place in the order in which kinds are recognised; None: only read when it is asked for.
    detection: float | None = None
    settings: tuple[str, ...] = ()  # those that the command line offers

    @classmethod
    def parts(cls, split: str) -> tuple[Part, ...]:
        """Return what a split is read from; the first part tells where home is."""
        return ()

    @classmethod
    def expected_splits(cls, root: PathLike) -> tuple[str, ...]:
        """Return the splits that a complete copy in a folder has."""
        return tuple(split for split in cls.splits if split not in cls.optional)

    @classmethod
    def is_home(cls, folder: Path, *others: str) -> bool:
        """Return whether the first part of any split (``others`` too) is right in a folder."""
        splits = [s for s in (*cls.splits, *others) if cls.valid is None or s in cls.valid]
        firsts = {parts[0] for parts in map(cls.parts, splits) if parts}
        return any(_find(folder, part) is not None for part in firsts)

    @classmethod
    def home(cls, root: PathLike, *others: str) -> Path:
        """Return the nearest folder, from ``root`` on down, that is a home; else ``root``."""
        found = nearest(root, lambda folder: cls.is_home(folder, *others) or None)
        return next(iter(found), Path(root))

    @classmethod
    def locate(cls, root: PathLike, split: str, depth: int = DEPTH, **options: Any) -> Found:
        """Return where the parts of a split are, with home at most ``depth`` levels below ``root``.

        Of ``options``, the reader's settings, those of ``Part.option`` count. ValueError: something
        is in two places that are equally near, or there is no such split.
        """
        if cls.valid is not None and split not in cls.valid:
            raise ValueError(unknown_name("split", split, cls.valid))
        home = cls.home(root, split) if depth else Path(root)
        is_home = cls.is_home(home, split)
        paths: dict[str, Path] = {}
        missing, parts = [], cls.parts(split)
        for part in parts:
            given = options.get(part.option) if part.option else None
            found = search(root, home, part) if is_home else _find(home, part)
            path = Path(given) if given else found
            if path is not None and part.fits(path):
                paths[part.name] = path
            else:
                missing.append(part)
        return Found(home, paths, missing, parts, root=Path(root))

    @classmethod
    def require(cls, root: PathLike, split: str, **options: Any) -> Found:
        """Return what :meth:`locate` finds; FileNotFoundError if more than images is missing."""
        found = cls.locate(root, split, **options)
        for part in found.missing:
            if not part.images:
                given = options.get(part.option) if part.option else None
                place = Path(given or found.path(part))
                raise FileNotFoundError(f"{place} {lacking(place)}; looked for {cls.looks_for}")
        return found

    @classmethod
    def has_split(cls, root: PathLike, split: str, depth: int = DEPTH, **options: Any) -> bool:
        """Return whether all that describes a split is there; its images may be missing."""
        if cls.valid is not None and split not in cls.valid:
            return False
        found = cls.locate(root, split, depth, **options)
        return bool(found.paths) and all(part.images for part in found.missing)

    @classmethod
    def detect(cls, root: PathLike, depth: int = 0) -> bool:
        """Return whether a folder is one of this kind; with ``depth`` also those below it."""
        return any(cls.has_split(root, split, depth) for split in cls.splits)


def lacking(place: PathLike) -> str:
    """Return what is wrong with a part that was not found where it should be."""
    return "is not what it should be" if Path(place).exists() else "is missing"


def search(root: PathLike, home: Path, part: Part) -> Path | None:
    """Return where a part is at home or, if it may be apart, below ``root``; None if nowhere."""
    path = _find(home, part)
    if path is None and part.apart:
        path = next(iter(nearest(root, lambda folder: _find(folder, part)).values()), None)
    return path


def nearest(root: PathLike, test: Callable[[Path], Any]) -> dict[Path, Any]:
    """Return ``{folder: result}`` of the nearest folder for which ``test`` is not None; or {}.

    ValueError: there are two at the same distance.
    """
    for level in levels(root):
        results = {folder: test(folder) for folder in level}
        found = {folder: result for folder, result in results.items() if result is not None}
        if len(found) > 1:
            names = ", ".join(str(folder) for folder in found)
            raise ValueError(f"{root} holds several that fit: {names}; give the one that you mean")
        if found:
            return found
    return {}


def levels(root: PathLike) -> Iterator[list[Path]]:
    """Yield the folder itself, then its sub-folders, then theirs; closed ones are passed over."""
    level = [Path(root)]
    for _ in range(DEPTH + 1):
        yield level
        inside = [(folder, subfolders(folder)) for folder in level]
        level = [folder / n for folder, names in inside if len(names) <= MOST for n in names]
        level = [folder for folder in level if os.access(folder, os.R_OK | os.X_OK)]


def _find(folder: Path, part: Part) -> Path | None:
    """Return where a part is in a folder, or None."""
    paths = (folder / place for place in part.places)
    return next((path for path in paths if part.fits(path)), None)
