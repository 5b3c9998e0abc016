"""Tables of keypoint results: the challenge's ten numbers as text, Markdown and JSON."""

from __future__ import annotations

import logging
import os

from gluon_attn.coco.metrics import evaluate_keypoints
from gluon_attn.core.files import finite, write_json, write_text
from gluon_attn.metrics.tables import decimal

logger = logging.getLogger("gluon_attn.keypoints")


def write_scores(records, dataset, folder, stem, source="annotated boxes"):
    """Evaluate records and write what was found.

    ``stem.json`` has all numbers, ``stem.md`` the table, and ``stem_keypoints.json`` the records in
    COCO's result format.

    Args:
        records: Official result records.
        dataset: :class:`gluon_attn.coco.dataset.CocoKeypoints`.
        folder: Where to write; created if needed.
        stem: Of the file names.
        source: Where the boxes of the people come from, for the tables.

    Returns:
        Dict with ``stats``, ``console`` and ``files``.

    Raises:
        OSError: A file could not be written.
    """
    found = evaluate_keypoints(dataset.coco, records)
    result = {
        "stats": finite(found.stats),
        "images": found.images,
        "people": found.records,
        "boxes": source,
    }
    ends = {"json": ".json", "md": ".md", "records": "_keypoints.json"}
    paths = {kind: os.path.join(folder, f"{stem}{end}") for kind, end in ends.items()}
    write_json(paths["json"], result)
    notes = [line for note in found.notes for line in (note, "")]
    lines = [f"# Keypoints on {dataset.split}, {found.images} pictures, {source}", "", *notes]
    lines += ["| number | value |", "|---|---|"]
    lines += [f"| {name} | {decimal(value)} |" for name, value in found.stats.items()]
    write_text(paths["md"], "\n".join(lines) + "\n")
    write_json(paths["records"], records, indent=None)
    logger.info(
        "%s: AP %s, AP50 %s over %d pictures (%s); tables in %s.{md,json}", dataset.split,
        *(decimal(found.stats[name]) for name in ("AP", "AP50")), found.images, source,
        os.path.join(folder, stem),
    )  # fmt: skip
    console = "\n".join([found.text, f"({source})", *found.notes])
    return dict(result, console=console, files=list(paths.values()))
