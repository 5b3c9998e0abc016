"""Putting the weights of a training run into the package: file, entry of weights.json, model card.

For the maintainers of this package: users' own weights need none of it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from typing import NamedTuple

import mxnet as mx

from gluon_attn.files import atomic_path, sha256_of, write_json, write_text
from gluon_attn.workflows import evaluate as evaluation
from gluon_attn.workflows import load
from gluon_attn.workflows.reproduce import replace_block
from model_zoo import MODELS, store
from model_zoo.params_io import load_into

LARGEST = 4 << 20  # bytes of a file that is shipped
MEASURES = ("mAP", "mA", "accuracy", "top1")  # of a test result, those that there are


class Source(NamedTuple):
    """Where published weights come from.

    Attributes:
        run: Folder of the training run.
        data_dir: Data it was trained and is tested on.
        made_with: Command that draws these data.
        trained_with: Command that makes the run.
        baseline: Zoo name of the baseline with weights, or None.
        summary: One sentence on what the model is.
        half: Whether weights are stored in half precision; the score is that of the stored ones.
    """

    run: str
    data_dir: str
    made_with: str
    trained_with: str
    baseline: str = None
    summary: str = ""
    half: bool = False


def publish(name, source, folder=None, split="test"):
    """Write the weights of a run into the zoo, with everything needed to check them.

    Args:
        name: Zoo name under which ``get_model(name, pretrained=True)`` gives them.
        source: :class:`Source`.
        folder: The ``model_zoo`` folder; by default that of this package.
        split: Split of the score.

    Returns:
        The entry, as in ``weights.json``.

    Raises:
        ValueError: No such model, or a file larger than 4 MB.
    """
    MODELS.get(name)  # an unknown name is refused here
    folder = folder or os.path.dirname(store.BUILTIN)
    trained = load.from_run(source.run, [mx.cpu()])
    dataset = evaluation.open_for_evaluation(
        source.data_dir, split, trained.classes,
        data_options=trained.extra["recipe"].get("data_options"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        path = os.path.join(source.run, "best.params")
        if source.half:
            path = _halved(path, os.path.join(temporary, "half.params"))
            load_into(trained.net, path)
        size, digest = os.path.getsize(path), sha256_of(path)
        if size > LARGEST:
            raise ValueError(f"{path} has {size} bytes; at most {LARGEST} are shipped")
        data = dict(trained.extra["data"], **{split: dataset.fingerprint()})
        entry = {
            "file": f"{name}-{digest[:8]}.params", "sha256": digest, "size": size,
            "classes": list(trained.classes), "schema": trained.extra.get("schema"),
            "recipe": trained.extra["recipe"], "seed": trained.extra["recipe"]["seed"],
            "commit": _commit(), "trained_with": source.trained_with,
            "baseline": source.baseline,
            "data": {"made_with": source.made_with, "sha256": data},
            "score": dict(split=split, samples=len(dataset), **measure(trained, dataset)),
            "summary": source.summary, **({"half": True} if source.half else {}),
        }  # fmt: skip
        _write(folder, name, entry, path)
    return entry


def _halved(path, target):
    """Write a parameter file with its matrices and kernels as float16; return its path."""
    arrays = mx.nd.load(path)
    mx.nd.save(target, {k: a.astype("float16") if a.ndim > 1 else a for k, a in arrays.items()})
    return target


def measure(trained, dataset, ctx=None):
    """Return the measures of a net on a split, ``{name: value in 0..1}``."""
    found = evaluation.predict_dataset(trained, dataset, ctx or mx.cpu())
    overall = evaluation.result_of(found, dataset)["overall"]
    return {name: float(overall[name]) for name in MEASURES if name in overall}


def _write(folder, name, entry, path):
    weights, index = os.path.join(folder, "weights"), os.path.join(folder, "weights.json")
    os.makedirs(weights, exist_ok=True)
    with atomic_path(os.path.join(weights, entry["file"])) as temporary:
        shutil.copyfile(path, temporary)
    with open(index, encoding="utf-8") as file:
        table = json.load(file)
    old = table["weights"].get(name, entry)["file"]
    table["weights"] = dict(sorted({**table["weights"], name: entry}.items()))
    write_json(index, table)
    if old != entry["file"]:
        os.remove(os.path.join(weights, old))
    os.makedirs(os.path.join(folder, "cards"), exist_ok=True)
    write_text(os.path.join(folder, "cards", f"{name}.md"), card(name, entry, table["weights"]))


def card(name, entry, known):
    """Return the model card as Markdown.

    Args:
        name: Zoo name.
        entry: Its entry of ``weights.json``.
        known: All entries, for the baseline's score.
    """
    recipe, score = entry["recipe"], entry["score"]
    rows = [f"| {m} | {100 * score[m]:.1f} % |" for m in MEASURES if m in score]
    half = ", weights in half precision" if entry.get("half") else ""
    people = "people" in entry["data"]["made_with"] or "synthetic" in name
    baseline = entry["baseline"]
    beside = ""
    if baseline in known:
        main = next(m for m in MEASURES if m in score)
        theirs = known[baseline]["score"].get(main)
        beside = (
            f"\nIts baseline `{baseline}`, same data, budget and seed: {main} "
            f"{100 * theirs:.1f} %. One seed each; docs/results.md compares over several.\n"
        )
    return f"""# {name}

{entry["summary"]}

```python
from model_zoo import get_model

net = get_model("{name}", pretrained=True)
```

| {score["split"]} split, {score["samples"]} samples | |
|---|---|
{chr(10).join(rows)}
{beside}
* **Method** `{_method(recipe)}`, input {recipe["input_size"]} px, {recipe["epochs"]} epochs from
  scratch, seed {entry["seed"]}; the whole recipe in `weights.json`.
* **Made with** `{entry["trained_with"]}` at commit `{entry["commit"]}`.
* **Data** `{entry["data"]["made_with"]}`; sha256 of every split in `weights.json`.
* **File** `{entry["file"]}`, {entry["size"]:,} bytes{half}, sha256 `{entry["sha256"]}`.
* **Classes** {", ".join(c.partition("=")[2] or c for c in entry["classes"])}.

## Check it

```sh
python tools/evaluate.py --model {name} --pretrained --data-dir DATA
```

## Intended use, limits

{_PEOPLE if people else _DIGITS}
"""


def _method(recipe):
    """Return the method's name; a searched genotype is AutoLA's, though it is trained plainly."""
    attention = str((recipe.get("model_options") or {}).get("attention"))
    return "autola" if attention.startswith("hoga:") else recipe["method"]


def table(known):
    """Return the weights that come with the package as a Markdown table.

    Args:
        known: All entries of ``weights.json``.
    """
    from tabulate import tabulate

    rows = []
    for name, entry in known.items():
        score = entry["score"]
        main = next(m for m in MEASURES if m in score)
        method, baseline = _method(entry["recipe"]), entry["baseline"]
        beside = "-" if baseline is None else f"`{baseline}`"
        card = f"[card](../model_zoo/cards/{name}.md)"
        size = f"{entry['size'] / 1e6:.1f} MB"
        rows.append([f"`{name}`", method, f"{main} {100 * score[main]:.1f} %", beside, size, card])
    heads = ["name", "method", "test score", "baseline", "file", "what it is"]
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


def renew(page):
    """Write :func:`table` of this package's weights between the marks ``weights`` of a page."""
    with open(store.BUILTIN, encoding="utf-8") as file:
        replace_block(page, "weights", table(json.load(file)["weights"]))


# As on docs/responsible_use.md.
_PEOPLE = """**Intended use.** Research on methods of attribute recognition, and tests of this
software.

**Must not be used** for surveillance, for identifying or tracking persons, in law enforcement or
border control, for decisions about employment, education, credit, insurance, housing or access, or
to infer sex or gender, ethnicity, age, religion, health, orientation or any other sensitive trait
of real people.

**Limits.** Trained on generated pictures: scores say nothing about photographs. Labels are those of
the generator. Rare attributes are recognised badly, probabilities are not calibrated, and
performance for groups of real people is unknown.

Licence: that of this package, whose generator draws the data."""
_DIGITS = """For trying out this package: loading, attention maps, export, tests. It has seen
nothing but scikit-learn's `digits` in drawn scenes.

Licence: that of this package, whose generator draws the data from scikit-learn's digits (UCI, CC BY
4.0)."""


def _commit():
    """Return the checkout's commit, with a mark where files differ from it."""
    here = os.path.dirname(os.path.abspath(__file__))
    found = subprocess.run(
        ["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=10"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return found.stdout.strip() or "unknown"
