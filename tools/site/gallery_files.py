"""The files of a gallery: their names, and which of an earlier gallery are to go."""

from __future__ import annotations

import contextlib
import logging
import os

from gluon_attn.core.files import write_json
from gluon_attn.core.text import read_json

logger = logging.getLogger("gluon_attn.gallery")

LONGEST = 40  # part of a title in a file name, of which systems allow 255 bytes
LIST = "gallery.json"  # of the files that a gallery wrote


class Files:
    """The files of a gallery in its folder, where a list of them is kept.

    As a context: when the body ends, files of an earlier gallery that were not written again are
    removed. Files that no gallery wrote are left alone.

    Args:
        out: The folder.
        titles: Titles of all runs.
    """

    def __init__(self, out, titles):
        self.out = out
        # Numbered, as titles may differ in nothing but what file names cannot hold.
        self._stems = {title: f"{n}_{file_name(title)}" for n, title in enumerate(titles)}
        self._earlier, self._written = _listed(out), set()

    def stem(self, title):
        """Return what the names of a run's own files contain; every run has another."""
        return self._stems[title]

    def path(self, name):
        """Return the path of a file that is about to be written."""
        path = os.path.join(self.out, *name.split("/"))
        self.add([path])
        return path

    def add(self, paths):
        """Note files that were written."""
        found = (os.path.relpath(path, self.out) for path in paths)
        self._written.update(path.replace(os.sep, "/") for path in found)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        kept = self._written
        listed = os.path.join(self.out, LIST)
        if kind is None:
            for name in self._earlier - kept:
                _remove(self.out, name)
            write_json(listed, {"files": sorted(kept)})
            return
        with contextlib.suppress(OSError):  # what went wrong first is what is told
            # The next gallery replaces them.
            write_json(listed, {"files": sorted(kept | self._earlier)})


def _listed(out):
    """Return the files of an earlier gallery, relative to ``out``."""
    path = os.path.join(out, LIST)
    try:
        names = [os.path.normpath(name) for name in read_json(path)["files"]]
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError):
        logger.warning("%s is damaged: files of the earlier gallery are not removed", path)
        return set()
    # Whoever edited the list: nothing outside the folder is touched.
    inside = (n for n in names if not os.path.isabs(n) and n.split(os.sep)[0] != os.pardir)
    return {name.replace(os.sep, "/") for name in inside}


def _remove(out, name):
    """Remove a file, and its folders where it was the last."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(out, name))
    with contextlib.suppress(OSError):  # there is something else, or it is gone already
        folder = os.path.dirname(name)
        while folder:
            os.rmdir(os.path.join(out, folder))
            folder = os.path.dirname(folder)


def file_name(title):
    """Return a title as a part of a file name; two titles may have the same."""
    return "".join(c if c.isalnum() else "_" for c in title)[:LONGEST]
