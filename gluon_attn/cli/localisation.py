"""Whether maps look where the attribute is: the maps of nets against masks, over a split.

For every image with masks and every attribute it is known to have, each kind of map of that
attribute's logit is compared with the attribute's mask. The mask goes through the image's own
resizing and cropping, so both are what the net sees.
"""

from __future__ import annotations

from typing import Any, Collection, Iterator

import cv2
import numpy as np

from gluon_attn.cli.analysis_features import Models, Settings, batches, shown_name
from gluon_attn.cli.analysis_maps import open_samples, varied_samples
from gluon_attn.cli.maps import TITLES, Explained
from gluon_attn.data import DATASETS, EvalTransform
from gluon_attn.data.base import AttributeDataset
from gluon_attn.data.views import Subset
from gluon_attn.figures.curves import iou_curves
from gluon_attn.figures.heatmaps import overlay, side_by_side
from gluon_attn.metrics.localisation import LOCALISATION, Localised
from gluon_attn.metrics.tables import notes_text
from gluon_attn.task import Result, Trained

SHOWN = 6  # images whose maps are drawn
OUTLINE = (0, 255, 255)  # not in the colour map
ANOTHER = " of another attribute"  # behind the title of a kind of map


def seen_regions(
    trained: Trained, dataset: Any, i: int, present: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield ``(attribute, mask)`` of those ``present`` in sample ``i`` and in what the net sees.

    ``present`` is ``(A,)``, not 0 where the attribute is known to be there. Masks are ``(S, S)``
    bool: a pixel counts if half of it or more is in the region.
    """
    view = EvalTransform(**trained.preprocess).view
    regions = dataset.regions(i)
    for a in np.flatnonzero(present):
        mask = view(255 * regions[a].astype(np.uint8)) >= 128
        if mask.any():
            yield int(a), mask


def title_of(kind: str) -> str:
    """Return what a kind of map is called in tables and figures."""
    return TITLES.get(kind, kind.replace("_", " "))


def localise(
    models: Models, dataset: Any, settings: Settings, without: Collection[str] = ()
) -> Localised:
    """Measure all kinds of map of all nets on every image with masks, each once per net.

    The baselines are measured on the masks as the last net sees them. A net's own attention is also
    measured with the map of another attribute of the same image, one after the other from image to
    image: where that is as good, nothing ties the maps to their attributes. ``without`` names kinds
    of map that are left out, or :data:`ANOTHER`.
    """
    positions = np.asarray(dataset.with_regions)
    total = len(dataset.names)
    found = Localised(len(positions), [shown_name(dataset, a) for a in range(total)])
    chosen = Subset(dataset, positions)
    for number, (name, trained) in enumerate(models.items(), 1):
        explained, prefix = Explained(trained.net, settings.ctx), f"{name}: " * (len(models) > 1)
        kinds = [(kind, "") for kind in explained.kinds if kind not in without]
        if total > 1 and ANOTHER not in without:
            kinds += [(kind, ANOTHER) for kind in explained.own]
        for batch, rows in batches(trained, chosen, settings, f"{name}: localisation"):
            look = explained.look(batch.image)
            index = batch.index[rows]
            present = (batch.label * batch.mask).asnumpy()[rows]
            todo = [
                list(seen_regions(trained, dataset, i, row))
                for i, row in zip(positions[index].tolist(), present)
            ]
            if number == len(models):
                for n, pairs in zip(index, todo):
                    for pair in pairs:
                        found.update_baselines(n, *pair)
            for turn in range(max(map(len, todo))):  # one attribute of every image at a time
                columns = np.full(len(batch.index), -1)
                now = [(k, *pairs[turn]) for k, pairs in enumerate(todo) if turn < len(pairs)]
                for k, a, _ in now:
                    columns[k] = a
                another = (columns + 1 + batch.index % max(1, total - 1)) % total
                for kind, whose in kinds:
                    maps = look.maps(kind, another if whose else columns)
                    for k, a, mask in now:
                        found.update(prefix + title_of(kind) + whose, index[k], a, maps[k], mask)
    return found


def analyse_localisation(models: Models, dataset: Any, settings: Settings) -> Result:
    """Write measures, IoU curves, and the maps of some images with the mask's outline."""
    if not len(dataset.with_regions):
        kinds = ((kind, DATASETS.get(kind)) for kind in DATASETS.names())
        none = (None, AttributeDataset.regions)
        have = [kind for kind, found in kinds if getattr(found, "regions", None) not in none]
        raise ValueError(
            f"localisation: split '{dataset.split}' has no image with masks of its attributes; "
            f"data sets that have some: {', '.join(have)}"
        )
    measured = localise(models, dataset, settings)
    if not measured.present.any():
        raise ValueError(
            f"localisation: the net sees no masked attribute in split '{dataset.split}': the masks "
            "of what the images have are empty, or outside the crop"
        )
    result = measured.result()
    files = LOCALISATION.write(result, settings.out, f"{settings.split}_localisation")
    curves = {kind: found["curve"] for kind, found in result["maps"].items()}
    path = settings.path("localisation.png")
    iou_curves(result["thresholds"], curves, path)
    drawn = draw_maps(models, dataset, settings)
    tables, notes = LOCALISATION.tables(result)[:2], LOCALISATION.notes(result)
    text = [*(table.text("console") for table in tables), notes_text(notes, "console")]
    return Result("\n\n".join(text), result, [*map(str, files.values()), path, *drawn])


def draw_maps(models: Models, dataset: Any, settings: Settings) -> list[str]:
    """Draw every kind of map of some images, each for its rarest attribute, the mask outlined."""
    chosen = settings.samples or varied_samples(dataset, SHOWN, among=dataset.with_regions)
    total = dataset.counts()[:, 0]
    inputs: list[np.ndarray] = []
    labels: list[str] = []
    groups: dict[str, dict[str, list[np.ndarray]]] = {}
    for name, trained in models.items():
        seen = open_samples(trained, dataset, chosen, settings.ctx)
        regions = [dict(seen_regions(trained, dataset, i, seen.label[n]))
                   for n, i in enumerate(chosen)]  # fmt: skip
        kept = [n for n, found in enumerate(regions) if found]
        if not kept:
            return []
        columns = np.array([min(found, key=lambda a: total[a], default=0) for found in regions])
        inputs = [_outlined(seen.views[n], regions[n][columns[n]]) for n in kept]
        labels = [shown_name(dataset, columns[n]) for n in kept]
        maps = {k: seen.look.maps(k, columns) for k in seen.look.explained.kinds}
        groups[name] = {
            title_of(kind): [overlay(inputs[place], found[n]) for place, n in enumerate(kept)]
            for kind, found in maps.items()
        }
    path = settings.path("localisation_maps.png")
    side_by_side(inputs, labels, groups, path)
    return [path]


def _outlined(view: np.ndarray, mask: np.ndarray) -> np.ndarray:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(view.copy(), contours, -1, OUTLINE, 1))
