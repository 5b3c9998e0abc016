"""Controlled experiments on drawn data: a method, its variants and its baseline, over seeds.

Net, data, schedule and budget of epochs are the same for all arms of an experiment; an arm is the
experiment's recipe with a few settings changed. Every run chooses its epoch on the validation split
and looks at the test split once. What an interrupted call left unfinished is continued.
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from gluon_attn import runtime
from gluon_attn.data import open_dataset, pack
from gluon_attn.data.digits import write_digits
from gluon_attn.data.digits_single import write_digits_single
from gluon_attn.data.synthetic import write_synthetic
from gluon_attn.engine import read_json_lines
from gluon_attn.files import write_text
from gluon_attn.metrics.layout import mean_and_spread
from gluon_attn.workflows import load
from gluon_attn.workflows.analysis import Settings as AnalysisSettings
from gluon_attn.workflows.analysis_maps import attention_overlap
from gluon_attn.workflows.benchmark import machine
from gluon_attn.workflows.build import open_split
from gluon_attn.workflows.train import Settings, train

BASELINE = "baseline"
ICASC_ARMS = {
    BASELINE: ("method=baseline",),
    "Grad-CAM, constant": ("attention=grad_cam", "gradient=constant"),
    "Grad-CAM, exact": ("attention=grad_cam", "gradient=exact"),
    "A_ch, constant": ("attention=channel_weighted", "gradient=constant"),
    "A_ch, exact": ("attention=channel_weighted", "gradient=exact"),
}
DREAL_ARMS = {
    BASELINE: ("method=baseline",),
    "all stages": (),
    **{name: (f"stages={name}",) for name in ("conv2_x", "conv3_x", "conv4_x", "conv5_x")},
}


class Preset(NamedTuple):
    """One experiment.

    Attributes:
        recipe: Name of the recipe.
        data: Key of ``DATA``.
        arms: ``{title: overrides}``, the baseline first.
        score: Test score that is compared.
        common: Overrides of all arms.
        overlap: Map whose overlap of true and confusing class is compared as well, or None.
        critic: Whether the last epoch's squared error of the critic is shown.
    """

    recipe: str
    data: str
    arms: dict
    score: str
    common: tuple = ()
    overlap: str = None
    critic: bool = False


# Digits of half to two thirds of a 36-pixel page, and maps of 16 x 16 and 8 x 8: with less, the net
# learns its training scenes by heart (see docs/results.md).
DIGIT = (
    "model_options.width=8", "input_size=32", "resize=36", "crop_min=32", "crop_max=36",
    "eval_crop=34", "epochs=12", "score=top1",
)  # fmt: skip
PRESETS = {
    "icasc-digit": Preset(
        "icasc_digits_resnet18", "digit", ICASC_ARMS, "top1",
        ("model=cifar_resnet20_cifar10", *DIGIT), "channel_weighted",
    ),
    "icasc-digits": Preset(
        "icasc_digits_resnet18", "digits", ICASC_ARMS, "mAP", (), "channel_weighted"
    ),
    "icasc-people": Preset(
        "icasc_synthetic_resnet18", "people", ICASC_ARMS, "mAP", (), "channel_weighted"
    ),
    "dreal-digit": Preset(
        "dreal_digits_resnet18", "digit", dict(list(DREAL_ARMS.items())[:-1]), "top1",
        ("model=se_resnet20_cifar10", *DIGIT), critic=True,
    ),
    "dreal-people": Preset(
        "dreal_synthetic_resnet18", "people", DREAL_ARMS, "mAP", (), critic=True
    ),
}  # fmt: skip
IMAGES = {
    "digit": {"train": 2000, "val": 400, "test": 1000},
    "digits": {"train": 2000, "val": 400, "test": 600},
    "people": {"train": 150, "val": 120, "test": 300},
}


def make_data(kind, folder, images=None, workers=2):
    """Draw the data of an experiment from seed 0, unless they are there; return the folder.

    Args:
        kind: ``'digit'`` (one handwritten digit a scene, single-label), ``'digits'`` (several,
            multi-label) or ``'people'`` (synthetic pedestrians, 14 attributes).
        folder: Where they go.
        images: Scenes per split; by default ``IMAGES``.
        workers: Processes.

    Raises:
        FileExistsError: The folder holds other data.
    """
    images = dict(IMAGES[kind] if images is None else images)
    settings, note = {"kind": kind, "images": images}, os.path.join(folder, "controlled.json")
    place = os.path.join(folder, "data")
    if os.path.exists(note):
        with open(note, encoding="utf-8") as file:
            if json.load(file) != settings:
                raise FileExistsError(f"{folder} holds other data; choose another folder")
        return place
    common = {"images": images, "seed": 0, "workers": workers, "overwrite": True}
    if kind == "digit":
        write_digits_single(place, side=36, **common)
    elif kind == "digits":
        write_digits(place, **common)
    else:
        scenes = os.path.join(folder, "scenes")
        write_synthetic(scenes, **common)
        for split in ("train", "val", "test"):
            people = open_dataset(scenes, split, kind="wider")
            pack(people, os.path.join(place, split), size=128, train_size=112, overwrite=True)
    write_text(note, json.dumps(settings, indent=1) + "\n")
    return place


def run_preset(preset, make_recipe, seeds, out, workers=2, images=None, say=print):
    """Run all arms of an experiment with every seed.

    Args:
        preset: A :class:`Preset`.
        make_recipe: Function ``overrides -> Recipe`` of the preset's recipe.
        seeds: Integers: initialisation, order and augmentation. The data stay the same.
        out: Folder; runs go to ``out/<arm>-<seed>``.
        workers: Threads that load, processes that draw.
        images: Scenes per split, for trying things out.
        say: Called with lines for the reader.

    Returns:
        The tables as Markdown; also in ``out/results.md``, with all numbers in ``results.json``.
    """
    data = make_data(preset.data, os.path.join(out, "data"), images, workers)
    rows = {arm: [] for arm in preset.arms}
    for seed in seeds:
        for arm, changes in preset.arms.items():
            recipe = make_recipe([*preset.common, *changes, f"seed={seed}"])
            folder = os.path.join(out, f"{_slug(arm)}-{seed}")
            rows[arm].append(_run(preset, recipe, data, folder, workers))
            shown = ", ".join(f"{k} {v:.4f}" for k, v in rows[arm][-1].items())
            say(f"{arm}, seed {seed}: {shown}")
    text = describe(preset, rows)
    write_text(os.path.join(out, "results.md"), text)
    record = {
        "seeds": list(seeds), "rows": rows, "recipe": make_recipe([*preset.common]).to_dict(),
        "arms": preset.arms, "machine": machine(),
    }  # fmt: skip
    write_text(os.path.join(out, "results.json"), json.dumps(record, indent=1) + "\n")
    return text


def describe(preset, rows):
    """Return the tables of an experiment: means, and differences to the baseline by seed.

    Args:
        preset: A :class:`Preset`.
        rows: ``{arm: [numbers of each seed by name]}``.
    """
    names = [n for n in next(iter(rows.values()))[0] if n != "seconds"]
    names += [n for found in rows.values() for n in found[0] if n not in (*names, "seconds")]
    names = list(dict.fromkeys(names))
    table, differences = [], []
    base = rows[BASELINE]
    for arm, found in rows.items():
        columns = {n: [row[n] for row in found if n in row] for n in (*names, "seconds")}
        table.append([arm, *(_cell(columns[n]) for n in (*names, "seconds"))])
        if arm != BASELINE:
            pairs = [
                _cell([a[n] - b[n] for a, b in zip(found, base) if n in a and n in b], "+")
                for n in names
            ]
            differences.append([arm, *pairs])
    options = {"tablefmt": "github", "disable_numparse": True}
    return "\n\n".join([
        f"Test split, mean ± standard deviation over {len(base)} seed(s):",
        tabulate(table, ["arm", *names, "seconds"], **options),
        "Difference to the baseline, seed by seed:",
        tabulate(differences, ["arm", *names], **options),
    ]) + "\n"  # fmt: skip


def _run(preset, recipe, data, folder, workers):
    """Train and measure one arm with one seed, or read what was measured before."""
    path = os.path.join(folder, "controlled.json")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    settings = Settings(data, folder, resume=True, workers=workers, cache=True, console=False)
    train(recipe, settings)
    with open(os.path.join(folder, "test.json"), encoding="utf-8") as file:
        found = {f"{preset.score} %": 100 * json.load(file)["overall"][preset.score]}
    log = read_json_lines(os.path.join(folder, "log.jsonl"))
    if preset.overlap:
        found.update(_overlap(preset.overlap, recipe, data, folder, workers))
    if preset.critic and "critic_error" in log[-1]:
        errors = [e for e in log[-1]["critic_error"].values() if e is not None]
        found["critic error"] = float(np.mean(errors))
    found["seconds"] = sum(record["seconds"] for record in log)
    write_text(path, json.dumps(found, indent=1) + "\n")
    return found


def _overlap(kind, recipe, data, folder, workers):
    ctx = runtime.contexts("cpu")
    trained = load.from_run(folder, ctx)
    settings = AnalysisSettings(folder, "test", ctx[0], recipe.batch_size, workers)
    found = attention_overlap(trained, open_split(recipe, data, "test"), settings)[kind]
    return {
        f"{name}, {layer}": found[layer][key]["mean"]
        for layer in ("last", "inner") for name, key in (("L_AS", "separation"), ("IoU", "iou"))
    }  # fmt: skip


def _cell(values, sign=""):
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    mean, spread = mean_and_spread(values)
    digits = 1 if abs(mean) >= 20 else 2 if abs(mean) >= 1 else 3
    text = f"{mean:{sign}.{digits}f}"
    return text if spread is None or np.isnan(spread) else f"{text} ± {spread:.{digits}f}"


def _slug(arm):
    return arm.replace(",", "").replace(" ", "-")
