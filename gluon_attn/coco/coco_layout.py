"""Where a COCO split's files lie: in the official places, or where labelling tools put them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from gluon_attn.data.layout import Part, file_part, folder_part
from gluon_attn.data.scan import files, stored_name, subfolders

# COCO's own place, and that of Roboflow's exports.
ROBOFLOW = "_annotations.coco.json"
ANNOTATIONS = ("annotations/{kind}_{split}.json", "{split}/" + ROBOFLOW)
IMAGES = ("{split}", "images/{split}", "images")  # the second and the third as CVAT exports them


def coco_parts(kind: str, split: str) -> tuple[Part, ...]:
    """Return the annotation file and the folder of images of a split."""
    places = [name.format(kind=kind, split=split) for name in ANNOTATIONS]
    folders = [name.format(split=split) for name in IMAGES]
    return file_part(places[0], *places), folder_part(split, *folders, images=True)


def has_annotations(folder: Path, kind: str) -> bool:
    """Return whether a folder holds annotations of a kind, of any split."""
    named = (path.name.startswith(f"{kind}_") for path in files(folder / "annotations"))
    return any(named) or any((folder / name / ROBOFLOW).is_file() for name in subfolders(folder))


def available(root: Path) -> str:
    """Return the annotation files in a folder, for a message; empty if there are none."""
    found = [f"annotations/{path.name}" for path in files(root / "annotations", ".json")]
    found += [f"{n}/{ROBOFLOW}" for n in subfolders(root) if (root / n / ROBOFLOW).is_file()]
    return ", ".join(found[:8])


class ImageFinder:
    """Finds the images that a file names, also under the path of another machine.

    Args:
        root: Folder of the data set.
        split: The split.

    Raises:
        FileNotFoundError: There is no folder of images.
    """

    def __init__(self, root: Path, split: str) -> None:
        folders = [root / name.format(split=split) for name in IMAGES]
        self._folders = [folder for folder in folders if folder.is_dir()]
        if not self._folders:
            raise FileNotFoundError(
                f"{root / split} does not exist; unpack {split}.zip there, so that "
                f"{root / split}/*.jpg exist"
            )
        self._folders.append(root)
        self._owners: dict[str, str] = {}  # of file names that were found without their folders

    def __call__(self, name: str) -> Path:
        """Return the file of a ``file_name``; if there is none, the place it should be at."""
        for folder in self._folders:
            path = folder / stored_name(folder, name)
            if path.is_file():
                return path
        last = PurePosixPath(name).name
        for folder in self._folders:
            path = folder / stored_name(folder, last)
            if path.is_file() and self._owners.setdefault(last, name) == name:
                return path
        return self._folders[0] / name
