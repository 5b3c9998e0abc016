"""What ``prepare_data.py --check`` finds: missing parts, broken images, other counts."""

from __future__ import annotations

import os
from typing import Any, Sequence

from gluon_attn.data.counts import CountReport
from gluon_attn.data.images import BadImageError, NoOverlapError
from gluon_attn.data.layout import Located, PathLike
from gluon_attn.data.scan import shortened


class Check:
    """Everything about a data set that ``--check`` tells; ``text()`` begins with the summary.

    Args:
        kind: Name of the reader, for the summary.
        missing: A line per part that is missing.
        report: CountReport of the splits that could be opened, or None.
        datasets: Those of which all images are to be read.
        progress: Whether to show a bar on a terminal.

    Attributes:
        lost: Sample ids whose image does not exist.
        broken: ``[(sample id, reason)]`` of images that cannot be read.
        total: How many images were looked for.
    """

    def __init__(
        self,
        kind: str,
        missing: Sequence[str],
        report: CountReport | None,
        datasets: Sequence[Any] = (),
        *,
        progress: bool = True,
    ) -> None:
        self.kind, self.missing, self.report = kind, list(missing), report
        self.lost: list[str] = []
        self.broken: list[tuple[str, str]] = []
        self.total = 0
        for dataset in datasets:
            self._read(dataset, progress)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self._faults()

    def text(self) -> str:
        """Return the summary, a line per fault (the first of many), and the report."""
        faults = self._faults()
        if not faults:
            lines = [f"{self.kind}: complete; {self.total:,} images read, 0 cannot be read"]
        else:
            lines = [f"{self.kind}: not as it should be: {', '.join(faults)}"]
            lines += [f"  {line}" for line in self.missing]
            if len(self.lost) < self.total:
                lines += shortened([f"{name}: does not exist" for name in self.lost])
            lines += shortened([f"{name}: {reason}" for name, reason in self.broken])
        return "\n".join(lines) + (f"\n\n{self.report.text()}" if self.report else "")

    def _faults(self) -> list[str]:
        """Return what is wrong, in a few words each."""
        differences = len(self.report.differences()) if self.report else 0
        missing, lost, broken = len(self.missing), len(self.lost), len(self.broken)
        example = f", such as {self.lost[0]}" if lost == self.total and lost else ""
        faults = [
            f"{missing} part{' is' if missing == 1 else 's are'} missing" if missing else "",
            f"{lost:,} of {self.total:,} images are missing{example}" if lost else "",
            f"{broken:,} image{'' if broken == 1 else 's'} cannot be read" if broken else "",
            f"{differences:,} count{' differs' if differences == 1 else 's differ'}"
            if differences else "",
        ]  # fmt: skip
        return [fault for fault in faults if fault]

    def _read(self, dataset: Any, progress: bool) -> None:
        """Read every image of a data set; one that several samples show counts once."""
        from tqdm import tqdm

        seen: dict[str, int] = {}
        positions = range(len(dataset))
        for i in tqdm(positions, f"check {dataset.split}", disable=None if progress else True):
            name = dataset.sample_ids[i]
            try:
                path = str(dataset.path(i))
            except NotImplementedError:  # all images are in one file
                path = name
            first = path not in seen
            seen[path] = i
            try:
                dataset.read(i)
            except NoOverlapError:
                continue
            except BadImageError as error:
                if first and not os.path.exists(error.path):
                    self.lost.append(name)
                elif first:
                    self.broken.append((name, error.reason))
        self.total += len(seen)


def missing_parts(
    reader: type[Located], root: PathLike, splits: Sequence[str], **options: Any
) -> list[str]:
    """Return a line per part of a data set that is missing, with the splits that need it.

    Raises:
        ValueError: A part is in two places that are equally near.
    """
    needed: dict[str, list[str]] = {}
    places = {}
    for split in splits:
        found = reader.locate(root, split, **options)
        for part in found.missing:
            needed.setdefault(part.name, []).append(split)
            given = options.get(part.option) if part.option else None
            places[part.name] = given or found.path(part)
    return [
        f"{name} is missing ({', '.join(who)}): looked for {places[name]}"
        for name, who in needed.items()
    ]


def check(
    kind: str,
    reader: type[Located],
    root: PathLike,
    splits: Sequence[str],
    *,
    progress: bool = True,
    **options: Any,
) -> Check:
    """Check a data set.

    Args:
        kind: Name of the reader.
        reader: The reader.
        root: Folder of the data set.
        splits: Those that should be there.
        progress: Whether to show bars on a terminal.
        options: The reader's settings.

    Raises:
        FileNotFoundError: Nothing of it is there.
        ValueError: A file is malformed, or a setting is not valid.
    """
    if not any(reader.locate(root, split, **options).paths for split in splits):
        raise FileNotFoundError(f"no data set of kind '{kind}' in {root}: {reader.looks_for}")
    missing = missing_parts(reader, root, splits, **options)
    opened, reports = [], []
    for split in splits:
        if not reader.has_split(root, split, **options):
            continue
        complete = not reader.locate(root, split, **options).missing
        try:
            dataset = reader(root, split, on_bad_image="skip", **options)
        except FileNotFoundError as error:  # not a part, but one of several ways to give a list
            missing += [str(error)] if complete else []
            continue
        reports.append(dataset.report)
        opened += [dataset] if complete else []
    return Check(
        kind, missing, CountReport.join(reports) if reports else None, opened, progress=progress
    )
