"""Comparing what was read with what was published: images, boxes and positive rates.

Sources of WIDER-Attribute's numbers: 13,789 images and 57,524 boxes in all (the paper's page); the
split into 5,509 / 1,362 / 6,918 images and into 28,345 / 29,179 boxes is repeated in many papers
and adds up, but is not in the annotation's own documentation. The SRN crop lists hold
22,958 / 5,382 / 29,177 crops (a user's log, VAA repository, issue 11). The other data sets' numbers
stand in their readers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gluon_attn.core.text import read_json
from gluon_attn.data.scan import shortened

PUBLISHED = {
    "train": {"images": 5509},
    "val": {"images": 1362},
    "trainval": {"images": 6871, "boxes": 28345},
    "test": {"images": 6918, "boxes": 29179},
}
PUBLISHED_SRN = {
    "train": {"boxes": 22958},
    "val": {"boxes": 5382},
    "trainval": {"boxes": 28340},
    "test": {"boxes": 29177},
}
# Class weights in VAA's released code: (1 - rate) / rate of the training split, or 1 from 50 % on.
VAA_WEIGHTS = {
    "longHair": 3.4595959, "sunglass": 18.472435, "Hat": 3.3854823, "Tshirt": 3.5971165,
    "longSleeve": 1.1370194, "formal": 12.584616, "shorts": 5.7822747, "jeans": 10.827924,
    "longPants": 1.7478157, "skirt": 8.8111115, "faceMask": 28.433332, "logo": 2.7568319,
    "stripe": 18.020712,
}  # fmt: skip

KEYS = ("images", "boxes", "identities")  # what is compared


@dataclass
class SplitCount:
    """What one split's annotation holds.

    Attributes:
        split: Its name.
        images: Pictures with at least one entry; None where a format does not tell.
        boxes: Annotated boxes, those left out included; None where a sample is a whole picture.
        clipped: Boxes that reach beyond their picture and were cut at its border.
        dropped: ``[(sample id, reason), ...]``: boxes without area inside their picture.
        identities: Persons shown; None where a format does not tell.
    """

    split: str
    images: int
    boxes: int = None
    clipped: int = 0
    dropped: list = field(default_factory=list)
    identities: int = None


class CountReport:
    """Counts per split beside the expected ones.

    Args:
        counts: SplitCount objects.
        expected: ``{split: {'images': n, 'boxes': n, 'identities': n}}``, every key optional.
        source: Where the expected numbers come from, for the heading; None if there are none.
        notes: Further lines of text, printed below the table.
        faults: Lines about what is wrong with the data beside numbers.
    """

    def __init__(self, counts, expected=None, source=None, notes=(), faults=()):
        self.counts, self.expected = list(counts), dict(expected or {})
        self.source, self.notes, self.faults = source, list(notes), list(faults)

    @classmethod
    def join(cls, reports):
        """Return one report over the splits of several (with their sum, for train and val)."""
        reports = list(reports)
        counts = [count for report in reports for count in report.counts]
        by_name = {count.split: count for count in counts}
        if "trainval" not in by_name and {"train", "val"} <= set(by_name):
            a, b = by_name["train"], by_name["val"]
            sums = {key: _sum(getattr(a, key), getattr(b, key)) for key in KEYS}
            total = SplitCount("trainval", clipped=a.clipped + b.clipped, **sums)
            total.dropped = a.dropped + b.dropped
            counts.insert(1 + max(counts.index(a), counts.index(b)), total)
        notes = [note for report in reports for note in report.notes]
        faults = [fault for report in reports for fault in report.faults]
        return cls(counts, reports[0].expected, reports[0].source, notes, faults)

    def differences(self):
        """Return one line per number that is not as expected, and per other fault."""
        lines = list(self.faults)
        for count in self.counts:
            for key, expected in sorted(self.expected.get(count.split, {}).items()):
                found = getattr(count, key)
                if found is not None and found != expected:
                    lines.append(
                        f"{count.split}: {found:,} {key}, {self.source} {expected:,} "
                        f"({found - expected:+,})"
                    )
        return lines

    @property
    def ok(self):
        """Whether every number that can be compared is as expected."""
        return not self.differences()

    def table(self):
        """Return the counts as a plain-text table."""
        from tabulate import tabulate

        source = self.source or "expected"
        has = {key: any(getattr(c, key) is not None for c in self.counts) for key in KEYS}
        shown = [key for key in KEYS if key == "images" or has[key]]
        header = ["split"] + [word for key in shown for word in (key, source, "diff")]
        header += ["clipped", "left out"] if has["boxes"] else []
        rows = []
        for count in self.counts:
            row = [count.split]
            for key in shown:
                found, expected = getattr(count, key), self.expected.get(count.split, {}).get(key)
                both = found is not None and expected is not None
                difference = f"{found - expected:+,}" if both else "-"
                row += [_number(found), _number(expected), difference]
            cut = [_number(count.clipped), _number(len(count.dropped))] if has["boxes"] else []
            rows.append(row + cut)
        right = ["right"] * (len(header) - 1)
        return tabulate(rows, header, disable_numparse=True, colalign=["left"] + right)

    def text(self):
        """Return table, verdict, the boxes left out and the notes."""
        lines = [self.table(), "", *self._verdict()]
        dropped = [item for count in self.counts if count.split != "trainval" or
                   len(self.counts) == 1 for item in count.dropped]  # fmt: skip
        if dropped:
            lines += ["left out:", *shortened([f"{name}: {reason}" for name, reason in dropped])]
        return "\n".join(lines + self.notes)

    def _verdict(self):
        """Return lines that say whether the numbers are as expected, and which are not there."""
        if not self.ok:
            return ["differences:", *shortened(self.differences())]
        if not self.expected:
            return ["no published counts to compare with"]
        present = {count.split for count in self.counts}
        absent = [split for split in self.expected if split not in present]
        if not absent:
            return [f"all counts are as {self.source}"]
        compared = [split for split in self.expected if split in present]
        told = f"the counts of {', '.join(compared)} are as {self.source}; " if compared else ""
        return [f"{told}not compared: {', '.join(absent)}"]


def expected_counts(root, published=None):
    """Return ``(expected, source)`` for a data set in ``root``.

    ``SYNTHETIC.json`` in it, ``{"expected": {split: {"images": n, "boxes": n}}}``, replaces the
    published numbers, which are about other pictures then.

    Raises:
        ValueError: If that file is malformed.
    """
    path = Path(root) / "SYNTHETIC.json"
    if not path.exists():
        return (published or {}), ("published" if published else None)
    try:
        expected = read_json(path)["expected"]
        numbers = {s: {k: int(n) for k, n in kinds.items()} for s, kinds in expected.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path}: needs {{"expected": {{split: {{"images": n, "boxes": n}}}}}}: {error!r}'
        ) from error
    return {s: {k: n for k, n in kinds.items() if k in KEYS}
            for s, kinds in numbers.items()}, "generated"  # fmt: skip


def rate_note(dataset):
    """Return a table of positive rates beside those that VAA's class weights imply.

    The weights are 1 / rate - 1. Whether unspecified labels counted in the denominator is not
    stated, so both readings are shown. "Male" has weight 1: its rate is at least 50 %.
    """
    from tabulate import tabulate

    rows = []
    for name, (positive, negative, unspecified) in zip(dataset.names, dataset.counts()):
        known, total = positive + negative, positive + negative + unspecified
        vaa = 100 / (1 + VAA_WEIGHTS[name]) if name in VAA_WEIGHTS else None
        of_known = f"{100 * positive / known:.1f}" if known else "-"
        vaa = ">= 50" if vaa is None else f"{vaa:.1f}"
        rows.append([name, vaa, f"{100 * positive / total:.1f}", of_known])
    header = ["positive, %", "VAA weights", "of all boxes", "of specified"]
    table = tabulate(rows, header, disable_numparse=True, colalign=["left"] + ["right"] * 3)
    return f"\npositive rates of '{dataset.split}':\n{table}"


def label_note(dataset, reference=None, source="published"):
    """Return a table of positive, negative and unspecified labels per attribute.

    Args:
        dataset: AttributeDataset.
        reference: ``{name: positive rate}`` to print beside, or None.
        source: Heading of that column.
    """
    from tabulate import tabulate

    rows = []
    for name, (positive, negative, unspecified) in zip(dataset.names, dataset.counts()):
        known = positive + negative
        row = [name, *(f"{n:,}" for n in (positive, negative, unspecified))]
        row.append(f"{100 * positive / known:.1f}" if known else "-")
        if reference:
            row.append(f"{100 * reference[name]:.0f}" if name in reference else "-")
        rows.append(row)
    header = ["attribute", "positive", "negative", "unspecified", "positive, %"]
    header += [f"{source}, %"] if reference else []
    right = ["right"] * (len(header) - 1)
    table = tabulate(rows, header, disable_numparse=True, colalign=["left"] + right)
    return f"\nlabels of '{dataset.split}':\n{table}"


def _sum(a, b):
    """Return the sum; None if a part is not known. (Parts of one training set share nobody.)"""
    return None if a is None or b is None else a + b


def _number(value):
    return "-" if value is None else f"{value:,}"
