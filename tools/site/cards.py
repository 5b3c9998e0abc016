"""Model cards and the table of the weights that come with the package, from weights.json alone."""

from __future__ import annotations

import os
import shlex
from typing import Any, Dict, NamedTuple

from tabulate import tabulate

from model_zoo.store import PIP_WEIGHTS, pip_package

Entry = Dict[str, Any]  # of weights.json
Known = Dict[str, Entry]  # all of them, by name

MEASURES = ("mAP", "mA", "accuracy", "top1")  # of a test result, those that there are
STORED = {
    "": "",
    "half": ", weights in half precision",
    "int8": ", weights as int8 with a step per channel",
}
METHOD_FIELDS = ("method", "model", "model_options", "options")  # in which arms may differ

# As on docs/responsible_use.md.
_NO_PEOPLE = """**Must not be used** for surveillance, for identifying or tracking persons, in law
enforcement or border control, for decisions about employment, education, credit, insurance, housing
or access, or to infer sex or gender, ethnicity, age, religion, health, orientation or any other
sensitive trait of real people."""
_CLOTHING = f"""**Intended use.** Research on methods of attribute recognition, and tests of this
software.

{_NO_PEOPLE}

**Limits.** Trained on 1,260 street photographs of one source: rare tags are recognised badly,
other streets, years, cameras and people worse than the score says, by how much is unknown.
Of all 22 tags, always the commoner answer has an accuracy of 86.3 %, chance an mAP of 15.0 % and an
mA of 50 %. The tags are its annotators'; probabilities are not calibrated. No attribute
is a trait of a person.

**Photographs.** No photograph is part of this package. The rights of the photographers and the
consent of the people are not known: users who mind should not use these weights. Licence of the
weights: that of this package."""
_GARMENTS = f"""**Intended use.** Research on methods of attention, tests of this software, and a
start for nets that recognise clothing.

{_NO_PEOPLE}

**Limits.** Trained on about 3,000 photographs of single garments that people sent in for it:
a street photograph is something else. Probabilities are not calibrated.

Licence of the weights: that of this package; the photographs are CC0."""
_CIFAR = """For research on methods of attention, and tests of this software: images of 32 pixels.
CIFAR-10 has no licence, and the set that it was chosen from was withdrawn for its labels of people;
its own ten classes are animals and vehicles.

Licence of the weights: that of this package, which holds none of the images."""
_KIDS = """

**The flag `kids`** says that a garment is a child's, in the word of its sender. Worn, it points to
a child: treat it as sensitive. 6 % of the photographs have it; this net gives it to none of the
test at a threshold of 0.5.
The accuracy above is the mean of that of the class and of this flag, which always has 94.3 %."""
_IMAGENET = """

**Where it began.** With the weights of the pip package `{package}` (Apache-2.0),
which have learnt from ImageNet: photographs from the web, with people in many of them, who were not
asked."""
_DIGITS = """For trying out this package: loading, attention maps, export, tests. It has seen
nothing but scikit-learn's `digits` in synthetic scenes.

Licence: that of this package, whose generator makes the data from scikit-learn's digits (UCI, CC BY
4.0)."""
_CARD = """# {name}

{summary}

```python
from model_zoo import get_model

net = get_model("{name}", pretrained=True)
```

| {split} split, {samples} samples | |
|---|---|
{rows}
{beside}
* **Method** `{method}`, input {input} px, {epochs} epochs from {start}, seed {seed}; {chosen}.
* **Net** of the architecture `{net}`{options}; the whole recipe in
  [weights.json](../weights.json).
* **Made with** `{trained}`; the code when it was published: commit `{commit}`.
* **Data** {data}: {made}; sha256 of the names and labels of the {split} split
  `{hash}`, of the others in weights.json.{packed}
* **File** `{file}`, {size:,} bytes{stored}, sha256 `{sha256}`.
* **Classes** {classes}.

## Check it

```sh
python tools/evaluate.py --model {name} --pretrained --data-dir DATA
```

## Intended use, limits

{use}{began}
"""


class Kind(NamedTuple):
    """A kind of data that shipped weights may be trained on.

    Attributes:
        name: What they are, in words: what ``Predictor.trained_on`` says.
        use: Text on intended use and limits.
    """

    name: str
    use: str


_SCENES = Kind("scenes of digits", _DIGITS)
# By the recipe's data set, or by the command of tools/prepare_data.py that makes the data.
KINDS = {
    "digits": _SCENES,
    "digits_single": _SCENES,
    "cifar10_png": Kind("CIFAR-10, images of 32 pixels", _CIFAR),
    "clothing_dataset": Kind("the clothing dataset, photographs of single garments", _GARMENTS),
    "clothing_co_parsing": Kind("Clothing Co-Parsing, street photographs of people", _CLOTHING),
}


def kind_of(dataset: str, made_with: str) -> Kind:
    """Return the kind of a net's data.

    Args:
        dataset: Data set of its recipe.
        made_with: Command that makes the data, if any.

    Raises:
        ValueError: The data are none of those: nothing is known of what a net trained on them is
            for, nor whether it may be passed on.
    """
    words = shlex.split(made_with)
    tools = [k for k, word in enumerate(words[:-1]) if os.path.basename(word) == "prepare_data.py"]
    kind = dataset if dataset in KINDS else words[tools[0] + 1] if tools else None
    if kind not in KINDS:
        raise ValueError(
            f"data set '{dataset}', made with '{made_with}': weights are shipped only for data "
            f"that anybody can have: {', '.join(KINDS)}"
        )
    return KINDS[kind]


def headline(entry: Entry) -> str:
    """Return the measure by which a run's best epoch was chosen, under its name in the score.

    Raises:
        ValueError: It was not measured.
    """
    wanted, score = entry["recipe"]["score"], entry["score"]
    # On single-label data both are the same.
    names = [wanted, "top1"] if wanted == "accuracy" else [wanted]
    for name in names:
        if name in score and name in MEASURES:
            return name
    found = ", ".join(name for name in MEASURES if name in score) or "none"
    raise ValueError(f"the recipe's score '{wanted}' was not measured; measured: {found}")


def minus_baseline(entry: Entry, known: Known) -> float | None:
    """Return by how much an entry's headline exceeds its baseline's; None without a baseline.

    Raises:
        ValueError: The baseline is not among them, or lacks the measure.
    """
    baseline = entry["baseline"]
    if baseline is None:
        return None
    if baseline not in known:
        raise ValueError(f"baseline '{baseline}' is not among {', '.join(known) or '(none)'}")
    measure, theirs = headline(entry), known[baseline]["score"]
    if measure not in theirs:
        raise ValueError(f"the score of baseline '{baseline}' has no {measure}")
    return entry["score"][measure] - theirs[measure]


def differences(entry: Entry, other: Entry) -> list[str]:
    """Return in what two entries differ beside the method: recipe fields, and 'data'."""
    ours, theirs = entry["recipe"], other["recipe"]
    fields = [key for key in {**ours, **theirs} if key not in METHOD_FIELDS]
    found = [key for key in fields if ours.get(key) != theirs.get(key)]
    same = all(entry["data"].get(k) == other["data"].get(k) for k in ("sha256", "packed_with"))
    return found + ([] if same else ["data"])


def card(name: str, entry: Entry, known: Known) -> str:
    """Return the model card as Markdown.

    ``known`` gives the baseline's score.

    Raises:
        ValueError: See :func:`kind_of`, :func:`headline` and :func:`minus_baseline`.
    """
    recipe, score, data = entry["recipe"], entry["score"], entry["data"]
    packed = data.get("packed_with")
    packed = packed and (
        f"\n  For training they were packed, `{packed}`; the score is on the images as generated."
    )
    kind = kind_of(recipe["dataset"], data["made_with"])
    made, backbone = data["made_with"], recipe.get("backbone")
    first = _first_weights(backbone, known)
    chosen = f"of its epochs the best {recipe['score']} on `{recipe['splits'][1]}`"
    return _CARD.format(
        **{key: entry[key] for key in ("summary", "seed", "commit", "file", "size", "sha256")},
        name=name,
        split=score["split"],
        samples=score["samples"],
        input=recipe["input_size"],
        rows="\n".join(f"| {m} | {100 * score[m]:.1f} % |" for m in MEASURES if m in score),
        beside=_beside(entry, known),
        method=method_of(recipe),
        epochs=recipe["epochs"],
        chosen=chosen if recipe["keep"] == "best" else "the last epoch's weights",
        net=recipe["model"],
        trained=entry["trained_with"],
        made=f"`{made}`" if "prepare_data.py" in made else made,
        data=kind.name,
        hash=entry["data"]["sha256"][entry["score"]["split"]],
        start=f"the weights of `{backbone}`" if backbone else "scratch",
        options="".join(f", {key} `{value}`" for key, value in recipe["model_options"].items()),
        packed=packed or "",
        stored=STORED[entry.get("stored", "")],
        classes=", ".join(c.partition("=")[2] or c for c in entry["classes"]),
        use=kind.use + (_KIDS if "kids" in entry["classes"] else ""),
        began=_IMAGENET.format(package=pip_package(first)) if first in PIP_WEIGHTS else "",
    )


def _first_weights(backbone: str | None, known: Known) -> str | None:
    """Return what a backbone's weights began with, through published nets on the way."""
    while backbone in known:
        backbone = known[backbone]["recipe"].get("backbone")
    return backbone


def _beside(entry: Entry, known: Known) -> str:
    """Return the sentence that compares a net with its baseline, or nothing."""
    more = minus_baseline(entry, known)
    if more is None:
        return ""
    measure, other = headline(entry), known[entry["baseline"]]
    differing = differences(entry, other)
    how = f"which differs in {', '.join(differing)}" if differing else "same data, budget and seed"
    if entry["recipe"].get("backbone") == entry["baseline"]:
        how = "from whose weights it goes on"
    side = "below" if more < 0 else "above"
    return (
        f"\nIts baseline `{entry['baseline']}`, {how}: {measure} "
        f"{100 * other['score'][measure]:.1f} %; this net is {100 * abs(more):.1f} points {side}. "
        "One seed each; [results.md](../../docs/results.md) compares methods over several.\n"
    )


def method_of(recipe: dict) -> str:
    """Return the method's name as readers know it.

    A searched genotype is AutoLA's, though it is trained plainly; AWMT with equal weights is its
    paper's basic model, though AWMT's code trains it.
    """
    attention = str((recipe.get("model_options") or {}).get("attention"))
    if attention.startswith("hoga:") or recipe["model"].startswith("hoga_"):
        return "autola"
    equal = recipe["method"] == "awmt" and recipe["options"].get("adaptive") is False
    return "baseline" if equal else recipe["method"]


def table(known: Known) -> str:
    """Return the weights that come with the package as a Markdown table and a sentence on it."""
    rows = []
    more: dict[str, Any] = {name: minus_baseline(entry, known) for name, entry in known.items()}
    for name, entry in known.items():
        main, plain = headline(entry), more[name] is None
        what = f"`{name}`", method_of(entry["recipe"])
        score = f"{main} {100 * entry['score'][main]:.1f} %"
        gain = ["-", "-"] if plain else [f"{100 * more[name]:+.1f}", f"`{entry['baseline']}`"]
        size = f"{entry['size'] / 1e6:.1f} MB"
        rows.append([*what, score, *gain, size, f"[card](../model_zoo/cards/{name}.md)"])
    heads = ["name", "method", "test score", "minus baseline", "baseline", "file", "what it is"]
    found = [value for value in more.values() if value is not None]
    below = sum(value < 0 for value in found)
    return (
        tabulate(rows, heads, tablefmt="github", disable_numparse=True)
        + f"\n\n{below} of the {len(found)} nets with a baseline score below it, one seed each."
    )
