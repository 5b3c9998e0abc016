"""A long job in parts that run apart: ``2/4`` on the command line, ``-00002-of-00004`` in names.

Every shard takes a contiguous span, so what they make, one behind the other, is what one job makes.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from gluon_attn.core.text import PathLike

_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})", re.DOTALL)


class Shard(NamedTuple):
    """Number ``number``, counted from 1, ``of`` so many."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``2/4``; ValueError if it is anything else."""
        match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text.strip())
        shard = cls(*map(int, match.groups())) if match else cls(0, 0)
        if not 1 <= shard.number <= shard.of:
            raise ValueError(f"shard '{text}': valid are 1/N to N/N, such as 1/4, 2/4, 3/4, 4/4")
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def named(self, stem: PathLike) -> str:
        """Return the name, or path, of this shard of ``stem``, without a suffix."""
        return f"{os.fspath(stem)}-{self.number:05d}-of-{self.of:05d}"

    def span(self, total: int) -> range:
        """Return which of ``total`` things are this shard's; spans differ by one at most."""
        return range(total * (self.number - 1) // self.of, total * self.number // self.of)


def stem_of(name: str) -> str:
    """Return what a file name without suffix is a shard of; of anything else the name itself."""
    match = _NAME.fullmatch(name)
    return match[1] if match else name


def stems(folder: PathLike, suffix: str) -> list[str]:
    """Return what there are shards of in a folder; their names end in ``suffix``."""
    names = (path.name[: -len(suffix)] for path in Path(folder).glob(f"*-?????-of-?????{suffix}"))
    return sorted({stem_of(name) for name in names if _NAME.fullmatch(name)})


def all_shards(folder: PathLike, stem: str, suffix: str, unfinished: str) -> list[Shard]:
    """Return the shards of one job in order; FileNotFoundError if some are missing.

    ``unfinished`` is the suffix of what an interrupted one leaves. ValueError: they are of several
    jobs, or of none.
    """
    found, begun = (
        [(Shard(int(m[2]), int(m[3])), m[0] + end)
         for path in sorted(Path(folder).glob(f"*{end}"))
         if (m := _NAME.fullmatch(path.name[: -len(end)])) and m[1] == stem]
        for end in (suffix, unfinished)
    )  # fmt: skip
    if not found and not begun:
        raise FileNotFoundError(f"{folder}: no shards of '{stem}' ({stem}-…-of-…{suffix})")
    first, first_name = (found or begun)[0]
    for shard, name in found:
        if shard.of != first.of:
            raise ValueError(
                f"{folder}: mixed: {first_name} is one of {first.of} shards, {name} one of "
                f"{shard.of}; remove those that do not belong to the job"
            )
        if not 1 <= shard.number <= shard.of:
            raise ValueError(f"{folder}: {name}: there is no shard {shard}")
    there = {shard for shard, _ in found}
    lost = [s for s in (Shard(k + 1, first.of) for k in range(first.of)) if s not in there]
    if lost:
        started = {shard for shard, _ in begun}
        told = [
            f"{shard.named(stem)}{suffix} ({'unfinished' if shard in started else 'missing'})"
            for shard in lost
        ]
        more = f" and {len(told) - 8} more" if len(told) > 8 else ""
        raise FileNotFoundError(
            f"{folder}: of {first.of} shards lack {', '.join(told[:8])}{more}; run their commands "
            f"again (--shard {lost[0]}): they continue where they stopped"
        )
    return sorted(there)
