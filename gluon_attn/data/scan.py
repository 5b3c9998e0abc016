"""What lies in real folders: which files are images, which names are hidden, what is passed over.

Every place that lists a folder of images asks here, so that all of them agree.

* **Images** are files whose name ends in one of ``SUFFIXES``, in any case. OpenCV decodes them and
  Pillow reads their headers; a test encodes one of each.
* **Hidden** are names that systems and tools leave behind: those that begin with a dot and
  ``HIDDEN``. They are never images, classes, errors or counted.
* **Passed over** is everything else. It is counted by kind and named once, see :class:`Passed`.

Symbolic links are followed. A broken one counts as the image that it is called, so that reading it
is an error that names it.
"""

from __future__ import annotations

import collections
import logging
import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, Union

logger = logging.getLogger(__name__)

SUFFIXES = (
    ".bmp", ".dib", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
    ".ppm", ".ras", ".sr", ".tif", ".tiff", ".webp",
)  # fmt: skip
HIDDEN = {
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "#recycle",
    "$recycle.bin", "system volume information", "lost+found", "__pycache__",
}  # fmt: skip
SHOWN = 10  # how many of a list's items a message names
PathLike = Union[str, "os.PathLike[str]"]


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is none of the user's."""
    return name.startswith(".") or name.lower() in HIDDEN


def is_image_name(name: str) -> bool:
    """Return whether a name ends as an image's."""
    return name.lower().endswith(SUFFIXES)


@dataclass
class Passed:
    """What a listing passed over, counted by kind: ``3 files passed over: 2 HEIC, 1 GIF``."""

    where: object = ""
    kinds: dict[str, int] = field(default_factory=collections.Counter)

    def add(self, name: str, kind: str | None = None) -> None:
        """Count a file; its kind is the suffix unless it is given."""
        suffix = Path(name).suffix.lstrip(".").upper()
        self.kinds[kind or suffix or "without suffix"] += 1

    def text(self) -> str:
        """Return the line that names them, empty if there are none."""
        if not self.kinds:
            return ""
        total = sum(self.kinds.values())
        parts = sorted(self.kinds.items(), key=lambda item: (-item[1], item[0]))
        listed = ", ".join(f"{count:,} {kind}" for kind, count in parts)
        return f"{total:,} {'file' if total == 1 else 'files'} passed over: {listed}"

    def log(self) -> None:
        """Write that line to the log, once for all; nothing if there are none."""
        if self.kinds:
            logger.warning("%s: %s", self.where, self.text())


def entries(folder: PathLike) -> list[os.DirEntry[str]]:
    """Return what is in a folder and not hidden, sorted by name; nothing if it is no folder."""
    return sorted(_visible(folder), key=lambda entry: entry.name)


def subfolders(folder: PathLike) -> list[str]:
    """Return the names of the folders in a folder, sorted; none if it does not exist."""
    return [entry.name for entry in entries(folder) if entry.is_dir()]


def files(folder: PathLike, suffix: str = "") -> list[Path]:
    """Return the paths of the files in a folder whose names end in ``suffix``, sorted."""
    found = (e for e in entries(folder) if not e.is_dir())
    return [Path(folder, e.name) for e in found if e.name.lower().endswith(suffix)]


def list_images(folder: PathLike, passed: Passed | None = None, deep: bool = True) -> list[str]:
    """Return the images in a folder as paths relative to it, with ``/``, sorted.

    Without the folder there are none. What is passed over is counted in ``passed``; unless ``deep``
    that includes sub-folders. OSError: a folder cannot be listed.
    """
    found = []
    passed = Passed() if passed is None else passed
    for name, entry in _walk(folder, deep):
        is_image = is_image_name(entry.name)
        if is_image and (entry.is_file() or _is_broken_link(entry)):
            found.append(name)
        elif entry.is_dir():
            passed.add(name, "folder")
        else:  # a pipe that is called like an image would be waited for
            passed.add(name, "special file" if is_image else None)
    return sorted(found, key=lambda name: name.split("/")) if deep else sorted(found)


def has_images(folder: PathLike) -> bool:
    """Return whether there is an image in a folder or its sub-folders; stops at the first."""
    return any(is_image_name(e.name) and not e.is_dir() for _, e in _walk(folder, deep=True))


def _walk(
    folder: PathLike, deep: bool, start: str = "", above: tuple[str, ...] = ()
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield ``(path relative to the first folder, entry)`` of what is not hidden.

    With ``deep`` folders are entered instead of yielded; links that lead back up are not followed.
    """
    above = (*above, os.path.realpath(folder))
    for entry in _visible(folder):
        if not (deep and entry.is_dir()):
            yield start + entry.name, entry
        elif not (entry.is_symlink() and os.path.realpath(entry.path) in above):
            yield from _walk(entry.path, deep, f"{start}{entry.name}/", above)


def _visible(folder: PathLike) -> list[os.DirEntry[str]]:
    """Return what is in a folder and not hidden, in any order; nothing if it is no folder."""
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not is_hidden(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_broken_link(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def stored_name(folder: PathLike, name: str) -> str:
    """Return the name that a file of a list has on disk, relative to ``folder``.

    Lists that were made on Windows have back-slashes, those of macOS decomposed accents. A name is
    only changed if the file is not there as it is written and there under the other one.
    """
    if name.isascii() and "\\" not in name:
        return name  # nothing to try: no file is looked for
    slashes = name.replace("\\", "/")
    forms = [unicodedata.normalize(form, slashes) for form in ("NFC", "NFD")]
    others = (other for other in (name, slashes, *forms) if os.path.exists(Path(folder, other)))
    return next(others, name)


class ImageFolder:
    """A folder of images that a list names, perhaps stored in another format than the list says.

    CelebA's lists say ``000001.jpg`` of ``000001.png``, too. If the first image is missing under
    its own name and there with another of ``SUFFIXES``, all names get that one (``suffix``).
    """

    def __init__(self, path: PathLike, first: str) -> None:
        self.path, self.suffix = Path(path), None
        if not os.path.lexists(self.path / first):
            stem = (self.path / first).with_suffix("")
            others = (s for end in SUFFIXES for s in (end, end.upper()))
            self.suffix = next((s for s in others if os.path.exists(f"{stem}{s}")), None)

    def __truediv__(self, name: str) -> Path:
        path = self.path / name
        return path.with_suffix(self.suffix) if self.suffix else path


def shortened(items: list[str], indent: str = "  ") -> list[str]:
    """Return lines of a list that a message may show: the first ``SHOWN``, and how many follow."""
    lines = [f"{indent}{item}" for item in items[:SHOWN]]
    rest = len(items) - SHOWN
    return lines + ([f"{indent}… and {rest:,} more"] if rest > 0 else [])
