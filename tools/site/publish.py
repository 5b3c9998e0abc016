"""Putting the weights of a training run into the package: file, entry of weights.json, model card.

For the maintainers of this package: users' own weights need none of it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import mxnet as mx
import numpy as np

from gluon_attn.core.errors import first_line
from gluon_attn.core.files import json_text, sha256_of, write_bytes, write_json, write_text
from gluon_attn.core.reading import load_params
from gluon_attn.core.registry import unknown_name
from gluon_attn.core.text import read_json
from gluon_attn.tasks import data as evaluation
from gluon_attn.train import trained as load
from model_zoo import MODELS, get_model, store
from model_zoo.params_io import load_into
from model_zoo.registry import trained_options
from model_zoo.transfer import SCHEMA_VERSION, WeightEntry, parse_table
from tools.experiments.results_page import replace_block
from tools.site.cards import MEASURES, Entry, Known, card, headline, kind_of, table

LARGEST = 4_000_000  # bytes of a file that is shipped
TOLERANCE = 1e-4  # between the logits of the run's net and of the published one
CODE = (":(top)gluon_attn", ":(top)model_zoo", ":(top)tools")
# What publishing itself writes: several nets may be published one after the other.
WRITTEN = tuple(f":(top,exclude)model_zoo/{name}" for name in ("weights.json", "weights", "cards"))


class Source(NamedTuple):
    """Where published weights come from.

    Attributes:
        run: Folder of the training run.
        data_dir: Data that it is tested on.
        made_with: Command that makes these data, or where they are to be had, for the card.
        trained_with: Command that makes the run.
        baseline: Zoo name of the baseline with weights, or None.
        summary: One sentence on what the model is.
        stored: ``'half'`` or ``'int8'`` for matrices and kernels in that precision, int8 with a
            step per output channel, and scales and shifts in half precision; the score is that of
            the stored ones.
        packed_with: Command that packs the data for training, or '' if they are used as made.
    """

    run: str
    data_dir: str
    made_with: str
    trained_with: str
    baseline: str | None = None
    summary: str = ""
    stored: str = ""
    packed_with: str = ""


def publish(
    name: str, source: Source, folder: str | None = None, split: str | None = None
) -> Entry:
    """Write the weights of a run into the zoo, with everything needed to check them.

    Nothing is written before the weights have been loaded as users will load them. Then come file,
    cards and table, in this order, and what they replace is deleted last.

    Args:
        name: Zoo name under which ``get_model(name, pretrained=True)`` gives them.
        source: :class:`Source`.
        folder: The ``model_zoo`` folder; by default that of this package.
        split: Split of the score; None: the one that the recipe's runs are tested on.

    Returns:
        The entry, as in ``weights.json``.

    Raises:
        ValueError: No such model, or one that is another net than the run's; a file larger than
            4 MB; data that this package does not make; a baseline that is not there, has other
            data or lacks the measure; code with changes that no commit holds.
        FileNotFoundError: No such run or data.
        OSError: The disk failed.
    """
    folder = folder or os.path.dirname(store.BUILTIN)
    known = read_json(os.path.join(folder, "weights.json"))["weights"]
    _check_named(name, source, known)
    commit, trained = _commit(), load.from_run(source.run, [mx.cpu()])
    with tempfile.TemporaryDirectory() as temporary:
        path = os.path.join(source.run, "best.params")
        if source.stored:
            path = _smaller(path, os.path.join(temporary, "smaller.params"), source.stored)
            load_into(trained.net, path)
        _check_fits(name, trained, path)
        entry = dict(_entry(name, source, trained, path, split=split), commit=commit)
        _check_entry(name, entry, known)
        known = dict(sorted({**known, name: entry}.items()))
        _write(folder, name, known, path)
    return entry


def _entry(name: str, source: Source, trained: Any, path: str, *, split: str | None) -> Entry:
    """Return the entry of ``weights.json``, but for the commit."""
    recipe = trained.extra["recipe"]
    dataset = evaluation.open_for(trained, source.data_dir, split)
    size, digest = os.path.getsize(path), sha256_of(path)
    packed = {"packed_with": source.packed_with} if source.packed_with else {}
    split = dataset.split
    kind = kind_of(recipe["dataset"], source.made_with)
    hashes = dict(trained.extra["data"], **{split: dataset.fingerprint()})
    return {
        "file": f"{name}-{digest[:8]}.params",
        "sha256": digest,
        "size": size,
        "classes": list(trained.classes),
        "schema": trained.extra.get("schema"),
        "recipe": recipe,
        "seed": recipe["seed"],
        "commit": None,
        "trained_with": source.trained_with,
        "baseline": source.baseline,
        "data": {"name": kind.name, "made_with": source.made_with, **packed, "sha256": hashes},
        "score": dict(split=split, samples=len(dataset), **measure(trained, dataset)),
        "summary": source.summary,
        **({"stored": source.stored} if source.stored else {}),
    }


def _smaller(path: str, target: str, stored: str) -> str:
    """Write a parameter file with its matrices and kernels in another precision; return its path.

    Of int8, the largest magnitude of an output channel is 127 steps: nearer to the weights than the
    numbers of an int8 export, which are those of MXNet's operators.
    """
    found: dict[str, Any] = {}
    for name, array in load_params(path).items():
        if array.ndim < 2:  # statistics may leave the range of half precision
            kept = stored == "half" or name.rpartition(".")[2].startswith("running_")
            found[name] = array if kept else array.astype("float16")
        elif stored == "half":
            found[name] = array.astype("float16")
        else:
            values = array.asnumpy()
            step = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / 127
            step = step.astype(np.float16)
            codes = np.rint(np.divide(values, step, out=np.zeros_like(values), where=step > 0))
            found[name] = mx.nd.array(np.clip(codes, -127, 127), dtype="int8")
            found[f"{name}.step"] = mx.nd.array(step, dtype="float16")
    mx.nd.save(target, found)
    return target


def measure(trained: Any, dataset: Any, ctx: mx.Context | None = None) -> dict[str, float]:
    """Return the measures that a run is judged by, of a split, ``{name: value in 0..1}``.

    ``accuracy`` is the mean over attributes, of several classes the most probable one; data with
    a single label have ``top1`` instead, the same number.
    """
    found = evaluation.predict_dataset(trained, dataset, ctx or mx.cpu())
    scores = trained.task.scores_of(found, dataset, trained.extra["recipe"]["score"])
    if "top1" in scores:
        del scores["accuracy"]
    measured = {name: float(scores[name]) for name in MEASURES if name in scores}
    return {name: value for name, value in measured.items() if not np.isnan(value)}


def _check_named(name: str, source: Source, known: Known) -> None:
    """Refuse, before anything is computed, names that there are none of."""
    MODELS.get(name)
    baseline = source.baseline
    if baseline == name:
        raise ValueError(f"'{name}' cannot be its own baseline")
    if baseline is not None and baseline not in known:
        raise ValueError(unknown_name("baseline with weights", baseline, known))


def _check_fits(name: str, trained: Any, path: str) -> None:
    """Load the file as ``get_model(name, pretrained=True)`` will, and compare the outputs."""
    size = os.path.getsize(path)
    if size > LARGEST:
        raise ValueError(f"{path} has {size} bytes; at most {LARGEST} are shipped")
    found = {"classes": trained.classes, "recipe": trained.extra["recipe"], "source": path}
    entry = WeightEntry(name, os.path.basename(path), "", **found)
    try:
        net = get_model(name, **trained_options(name, entry))
        net.initialize(mx.init.Zero())
        load_into(net, path)
    except ValueError as error:
        raise ValueError(f"'{name}' is another net than that of the run: {error}") from error
    height, width = net.input_size
    batch = mx.nd.array(np.random.default_rng(0).normal(size=(2, 3, height, width)))
    ours, theirs = (_logits(each, batch) for each in (net, trained.net))
    if not np.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE):
        raise ValueError(
            f"'{name}' takes the weights of the run but gives other logits, by up to "
            f"{np.abs(ours - theirs).max():.3g}: it is another net"
        )


def _logits(net: Any, batch: Any) -> np.ndarray:
    outputs = net(batch)
    return (outputs[0] if isinstance(outputs, (list, tuple)) else outputs).asnumpy()


def _check_entry(name: str, entry: Entry, known: Known) -> None:
    """Refuse an entry that the store could not read, without a headline, or of other data."""
    text = json_text({"version": SCHEMA_VERSION, "weights": {name: entry}})
    parse_table(text.encode("utf-8"), "new weights.json")
    headline(entry)
    other = known.get(entry["baseline"])
    if other and other["data"]["sha256"] != entry["data"]["sha256"]:
        raise ValueError(f"baseline '{entry['baseline']}' was trained or tested on other data")


def _write(folder: str, name: str, known: Known, path: str) -> None:
    """Write file, cards and table; only then is the file removed that they replace."""
    cards = cards_of(known)
    weights, index = os.path.join(folder, "weights"), os.path.join(folder, "weights.json")
    contents = read_json(index)
    new = known[name]["file"]
    old = contents["weights"].get(name, known[name])["file"]
    write_bytes(os.path.join(weights, new), Path(path).read_bytes())
    write_cards(cards, folder)
    write_json(index, dict(contents, weights=known))
    if old != new:
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(weights, old))


def cards_of(known: Known) -> dict[str, str]:
    """Return the model cards of all weights, ``{name: text}``; one's score is on others' cards."""
    return {name: card(name, entry, known) for name, entry in known.items()}


def write_cards(cards: dict[str, str], folder: str) -> None:
    """Write model cards, ``{name: text}``, into ``cards`` of a ``model_zoo`` folder."""
    for name, text in cards.items():
        write_text(os.path.join(folder, "cards", f"{name}.md"), text)


def renew(page: str) -> None:
    """Write the table of this package's weights between the marks ``weights`` of a page."""
    replace_block(page, "weights", table(read_json(store.BUILTIN)["weights"]))


def _commit() -> str:
    """Return the commit of the code that publishes.

    Raises:
        ValueError: There is no git or no checkout, or its code differs from the commit.
    """
    name = _git("describe", "--always", "--abbrev=10")
    changed = _git("status", "--porcelain", "--", *CODE, *WRITTEN).splitlines()
    if changed:
        raise ValueError(
            "the code has changes that no commit holds, so that it could not be had back: "
            f"{', '.join(line[3:] for line in changed[:5])}. Commit them, then publish again"
        )
    return name


def _git(*arguments: str) -> str:
    """Return what git says of the checkout that this file belongs to."""
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        found = subprocess.run(
            ["git", "-C", here, *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise ValueError(
            "weights are published with the commit of the code, for which git is needed; it is "
            "not installed or not in PATH"
        ) from None
    if found.returncode:
        raise ValueError(
            f"weights are published from a git checkout; of {here} git says: "
            f"{first_line(found.stderr)}"
        )
    return found.stdout.rstrip()
