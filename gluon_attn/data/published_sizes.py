"""Comparing what was read with what was published: images, boxes, identities, positive rates.

The published numbers stand in the readers. ``SYNTHETIC.json`` in a folder replaces them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

from gluon_attn.core.text import read_json
from gluon_attn.data.scan import shortened

KEYS = ("images", "boxes", "identities")  # what is compared
Expected = Mapping[Any, Mapping[str, int]]


def split_counts(kind: str, **counts: int) -> Expected:
    """Return published numbers of one of ``KEYS`` per split, ``{split: {kind: n}}``."""
    return {split: {kind: count} for split, count in counts.items()}


@dataclass
class SplitCount:
    """What one split's annotation holds.

    Attributes:
        images: Images with at least one entry; None where a format does not tell.
        boxes: Annotated boxes, those left out included; None where a sample is a whole image.
        clipped: Boxes that reach beyond their image and were cut at its border.
        dropped: ``[(sample id, reason), ...]``: boxes without area inside their image.
        identities: Persons shown; None where a format does not tell.
    """

    split: str
    images: int | None
    boxes: int | None = None
    clipped: int = 0
    dropped: list = field(default_factory=list)
    identities: int | None = None


@dataclass
class CountReport:
    """Counts per split beside the expected ones.

    ``expected`` is ``{split: {'images': n, 'boxes': n, 'identities': n}}``, every key optional,
    from ``source``; ``faults`` are lines about classes without images.
    """

    counts: list[SplitCount]
    expected: Expected = field(default_factory=dict)
    source: str | None = None
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def join(cls, reports: Iterable[CountReport]) -> CountReport:
        """Return one report over the splits of several (with their sum, for train and val).

        What all of them say, about the data set as a whole, is said once.
        """
        reports = list(reports)
        parts = (slice(1), slice(1, None))  # splits first, then what else is counted
        by_name = {c.split: c for part in parts for r in reports for c in r.counts[part]}
        counts = list(by_name.values())
        if "trainval" not in by_name and {"train", "val"} <= set(by_name):
            a, b = by_name["train"], by_name["val"]
            # Unknown if a part is. (Parts of one training set share no person.)
            pairs = {key: (getattr(a, key), getattr(b, key)) for key in KEYS}
            sums: dict[str, Any] = {k: None if None in p else sum(p) for k, p in pairs.items()}
            total = SplitCount("trainval", clipped=a.clipped + b.clipped, **sums)
            total.dropped = a.dropped + b.dropped
            counts.insert(1 + max(counts.index(a), counts.index(b)), total)
        notes = dict.fromkeys(note for report in reports for note in report.notes)
        faults = dict.fromkeys(fault for report in reports for fault in report.faults)
        expected, source = reports[0].expected, reports[0].source
        return cls(counts, expected, source, list(notes), list(faults))

    def differences(self) -> list[str]:
        """Return one line per number that is not as expected."""
        lines = []
        for count in self.counts:
            for key, expected in sorted(self.expected.get(count.split, {}).items()):
                found = getattr(count, key)
                if found is not None and found != expected:
                    told = f"{count.split}: {found:,} {key}, {self.source} {expected:,}"
                    lines.append(f"{told} ({found - expected:+,})")
        return lines

    @property
    def ok(self) -> bool:
        """Whether every number that can be compared is as expected, and every class has images."""
        return not (self.faults or self.differences())

    def table(self) -> str:
        """Return the counts as a plain-text table."""
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
                difference = None if None in (found, expected) else found - expected
                row += [_number(found), _number(expected), _number(difference, "+,")]
            cut = [_number(count.clipped), _number(len(count.dropped))] if has["boxes"] else []
            rows.append(row + cut)
        return _plain_table(rows, header)

    def text(self) -> str:
        """Return table, verdict, the boxes left out and the notes."""
        lines = [self.table(), "", *self._verdict()]
        alone = len(self.counts) == 1
        parts = [count for count in self.counts if alone or count.split != "trainval"]
        dropped = [f"{name}: {reason}" for count in parts for name, reason in count.dropped]
        lines += ["left out:", *shortened(dropped)] if dropped else []
        return "\n".join(lines + self.notes)

    def _verdict(self) -> list[str]:
        """Return lines that say whether the numbers are as expected, and which are not there."""
        if not self.ok:
            return ["differences:", *shortened([*self.faults, *self.differences()])]
        if not self.expected:
            return ["no published counts to compare with"]
        present = {count.split for count in self.counts}
        absent = [split for split in self.expected if split not in present]
        if not absent:
            return [f"all counts are as {self.source}"]
        compared = [split for split in self.expected if split in present]
        told = f"the counts of {', '.join(compared)} are as {self.source}; " if compared else ""
        return [f"{told}not compared: {', '.join(absent)}"]


def expected_counts(root: Any, published: Expected | None = None) -> tuple[Expected, str | None]:
    """Return ``(expected, source)`` for a data set in ``root``.

    ``SYNTHETIC.json`` in it, ``{"expected": {split: {"images": n, "boxes": n}}}``, replaces the
    published numbers, which are about other images then. ValueError: it is malformed.
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
    kept = {s: {k: n for k, n in kinds.items() if k in KEYS} for s, kinds in numbers.items()}
    return kept, "generated"


def label_note(
    dataset: Any, reference: Mapping[str, float] | None = None, source: str = "published"
) -> str:
    """Return a table of positive, negative and unspecified labels per attribute.

    ``reference``, ``{name: positive rate}``, is printed beside, headed ``source``.
    """
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
    return f"\nlabels of '{dataset.split}':\n{_plain_table(rows, header)}"


def rate_note(dataset: Any, weights: Mapping[str, float]) -> str:
    """Return a table of positive rates beside those that the class weights of VAA's code imply.

    The weights are 1 / rate - 1. Whether unspecified labels counted in the denominator is not
    stated, so both readings are shown. An attribute without a weight has a rate of at least 50 %.
    """
    rows = []
    for name, (positive, negative, unspecified) in zip(dataset.names, dataset.counts()):
        known, total = positive + negative, positive + negative + unspecified
        implied = f"{100 / (1 + weights[name]):.1f}" if name in weights else ">= 50"
        of_known = f"{100 * positive / known:.1f}" if known else "-"
        rows.append([name, implied, f"{100 * positive / total:.1f}", of_known])
    header = ["positive, %", "VAA weights", "of all boxes", "of specified"]
    return f"\npositive rates of '{dataset.split}':\n{_plain_table(rows, header)}"


def _plain_table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    from tabulate import tabulate

    align = ["left"] + ["right"] * (len(header) - 1)
    return tabulate(rows, header, disable_numparse=True, colalign=align)


def _number(value: int | None, form: str = ",") -> str:
    return "-" if value is None else format(value, form)
