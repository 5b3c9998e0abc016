"""Where a COCO split's files lie: in the official places, or where labelling tools put them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

# COCO's own place, and that of Roboflow's exports.
ANNOTATIONS = ("annotations/{kind}_{split}.json", "{split}/_annotations.coco.json")
IMAGES = ("{split}", "images/{split}", "images")  # the second and the third as CVAT exports them


def find_annotation(root: Path, kind: str, split: str) -> Path:
    """Return the annotation file of a split; where there is none, its official place."""
    paths = [root / name.format(kind=kind, split=split) for name in ANNOTATIONS]
    return next((path for path in paths if path.is_file()), paths[0])


def available(root: Path) -> str:
    """Return the annotation files in a folder, for a message; empty if there are none."""
    found = [*(root / "annotations").glob("*.json"), *root.glob("*/_annotations.coco.json")]
    return ", ".join(sorted(path.relative_to(root).as_posix() for path in found)[:8])


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
            if (folder / name).is_file():
                return folder / name
        last = PurePosixPath(name).name
        for folder in self._folders:
            if (folder / last).is_file() and self._owners.setdefault(last, name) == name:
                return folder / last
        return self._folders[0] / name
