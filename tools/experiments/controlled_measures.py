"""What a controlled experiment measures of a trained net beside its score.

A measure takes a finished run and returns ``{name: number}``, or a list of numbers for what has a
value per epoch; ``{}`` where the run has nothing of the kind (a baseline has no critic).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gluon_attn import runtime
from gluon_attn.cli.analysis_features import Settings, channel_statistics, read_critic
from gluon_attn.cli.analysis_maps import attention_overlap
from gluon_attn.tasks.data import open_split
from gluon_attn.train import trained as load

MAP_TITLES = {"grad_cam": "Grad-CAM", "channel_weighted": "A_ch"}


class Run(NamedTuple):
    """A finished run.

    Attributes:
        folder: Where it is.
        recipe: Its recipe.
        data: Folder of its data.
        workers: Data-loading threads.
    """

    folder: str
    recipe: object
    data: str
    workers: int

    def open(self):
        """Return the trained net, the test split and settings for an analysis."""
        ctx = runtime.contexts("cpu")
        settings = Settings(self.folder, "test", ctx[0], self.recipe.batch_size, self.workers)
        dataset = open_split(self.recipe, self.data, "test")
        return load.from_run(self.folder, ctx), dataset, settings


def overlap(run):
    """Return how much the maps of true and confusing class overlap (ICASC).

    Both kinds of map, whichever the run was trained with, at both feature layers.
    """
    found = attention_overlap(*run.open())
    return {
        f"{title} {name}, {layer}": found[kind][layer][key]["mean"]
        for kind, title in MAP_TITLES.items()
        for layer in ("last", "inner")
        for name, key in (("L_AS", "separation"), ("IoU", "iou"))
    }


def critic(run):
    """Return the critic's squared error, mean over the modules, of every epoch (DREAL)."""
    try:
        _, series = read_critic(run.folder)
    except ValueError:  # a baseline
        return {}
    rows = np.nanmean(np.array(list(series["critic_error"].values()), dtype=float), axis=0)
    return {"critic error, first epoch": float(rows[0]), "critic error, last": float(rows[-1]),
            "critic error by epoch": rows.tolist()}  # fmt: skip


def diversity(run):
    """Return how much the channel attention differs in the last stage (supplement of DREAL).

    Between the channels of an image, and between images; means over the stage's gates.
    """
    trained, dataset, settings = run.open()
    found = channel_statistics(trained, dataset, settings)
    last = max((gate.partition("_")[0] for gate in found), default=None)
    values = [s.summary() for gate, s in found.items() if gate.startswith(f"{last}_")]
    if not values:
        return {}
    return {
        "diversity over channels": float(np.mean([v["diversity"] for v in values])),
        "deviation over images": float(np.mean([v["image_deviation"] for v in values])),
    }


MEASURES = {"overlap": overlap, "critic": critic, "diversity": diversity}
