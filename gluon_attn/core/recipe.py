"""A training run as a record: plain values, loaded by name or path, overridable as ``key=value``.

A recipe file is Python syntax, but only assignments of literals are allowed, and nothing in it is
executed. Its docstring says what it costs and what to expect.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import dataclasses
import functools
import json
import math
import os
from pathlib import Path
from typing import Any, Collection, Iterable, Mapping, NamedTuple, Sequence

from gluon_attn.core.errors import naming
from gluon_attn.core.registry import unknown_name
from gluon_attn.core.text import json_of, read_text

FOLDER = Path(__file__).resolve().parent.parent / "recipes"
LONGEST = 1 << 16  # characters: Python 3.8 and 3.9 end at longer chains of operators
AUGMENT = ("crop", "pad", "inception")
INIT = ("xavier", "msra")
KEEP = ("best", "last")
GROUPS = ("options", "model_options", "data_options")
SCORES = ("mAP", "mA", "accuracy", "top1", "top5")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All settings of a training run but its paths and devices.

    Attributes:
        method: Name of a registered method; ``options`` are its own settings.
        model: Zoo name; ``model_options`` are further arguments of ``get_model``.
        backbone: Zoo name of the published weights from which the backbone starts, such as
            ``efficientnet_lite0``; '' for a random start. ``--base-params FILE`` goes before it.
        dataset: ``auto``, or the kind (:data:`gluon_attn.data.DATASETS`); ``data_options`` are
            settings of its reader, such as ``per_class`` of Caltech-256, or of any data set
            ``images_per_class`` and ``label_noise`` (:func:`gluon_attn.data.views.altered`).
        splits: For training, for validation and for the one evaluation at the end. Papers that
            train on all of ``trainval`` and watch ``test`` need ``keep='last'``, so that nothing is
            chosen on the test split.
        attributes: Names of the attributes to train on; none means all.
        unspecified: Unspecified training labels: ``negative`` or ``masked``.
        input_size: Side of the square network input in pixels.
        resize: Side to which crops are resized first.
        crop_min, crop_max: Sides of the random square training crop, at scale ``resize``.
        mirror: Whether training crops are mirrored half of the time.
        augment: ``crop`` (random square, ``crop_min`` to ``crop_max``), ``pad`` (CIFAR: ``pad``
            black pixels around ``input_size``, then a piece of that size) or ``inception``
            (ImageNet: random shape and area, at least the share ``area_min``).
        eval_crop: What evaluation keeps of an image: the centre crop of that side, at scale
            ``resize``, or with 0 all of it.
        keep_aspect: Whether evaluation keeps proportions: the shorter side becomes ``resize``, or
            with ``eval_crop`` 0 bars make a square of the image (letterbox). Otherwise images are
            resized to squares of side ``resize``, as they are for training.
        mean, std: Per RGB channel, in 0–255 units.
        epochs: Epochs in all phases together.
        iterations_per_epoch: Updates between two validations, for papers that count iterations; 0:
            an epoch is one pass over the training data.
        score: What is best on the validation split, and what ``plateau`` watches: ``mAP``, ``mA``
            or ``accuracy``; for single-label data ``top1`` (the same as ``accuracy``) or ``top5``.
        keep: Which epoch's weights the run keeps: ``best`` by ``score``, or ``last``.
        batch_size: Images per update, over all devices, in ``accumulate`` micro-batches.
        optimizer: MXNet optimiser name; ``momentum`` is for SGD, ``wd`` is the weight decay.
        lr: Learning rate at the start, at least ``lr_min`` later, after rising linearly over
            ``warmup_epochs``.
        schedule: ``plateau``, ``cosine``, ``cyclic_cosine``, ``step`` or ``constant``.
        lr_factor: Factor of ``plateau`` and ``step``.
        lr_patience: Epochs without a better validation score before ``plateau`` acts.
        lr_epochs: Epochs (from 0) at which ``step`` acts, and at which ``cyclic_cosine`` begins
            another cycle.
        init: Initial weights: ``xavier`` (Gluon's training scripts) or ``msra`` (He et al., ICCV
            2015: normal, variance 2 / fan-in); layers with an initialiser of their own keep it.
        amp: ``none``, ``float16`` (GPU) or ``bfloat16`` (CPU with AVX-512).
        hybridize: Whether the net runs as one static graph.
        seed: Seed of initialisation, shuffling and augmentation.
        log_interval: Batches between log lines.
    """

    method: str
    model: str
    model_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    backbone: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    dataset: str = "auto"
    data_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    splits: tuple[str, ...] = ("train", "val", "test")
    attributes: tuple[str, ...] = ()
    unspecified: str = "negative"
    input_size: int = 224
    resize: int = 256
    crop_min: int = 128
    crop_max: int = 224
    mirror: bool = True
    augment: str = "crop"
    pad: int = 4
    area_min: float = 0.08
    eval_crop: int = 224
    keep_aspect: bool = False
    mean: tuple[float, ...] = (123.68, 116.779, 103.939)
    std: tuple[float, ...] = (58.393, 57.12, 57.375)
    epochs: int = 60
    iterations_per_epoch: int = 0
    score: str = "mAP"
    keep: str = "best"
    batch_size: int = 32
    accumulate: int = 1
    optimizer: str = "sgd"
    lr: float = 1e-3
    momentum: float = 0.9
    wd: float = 5e-4
    schedule: str = "plateau"
    lr_factor: float = 0.1
    lr_patience: int = 10
    lr_epochs: tuple[int, ...] = ()
    lr_min: float = 1e-5
    warmup_epochs: int = 0
    init: str = "xavier"
    amp: str = "none"
    hybridize: bool = True
    seed: int = 0
    log_interval: int = 50

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _typed(field.name, str(field.type), getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        for name, lowest in _LOWEST.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"recipe: {name}={getattr(self, name)} must be >= {lowest}")
        if self.score not in SCORES:
            raise ValueError(f"recipe: {unknown_name('score', self.score, SCORES)}")
        for name, valid in (("keep", KEEP), ("init", INIT), ("augment", AUGMENT)):
            if getattr(self, name) not in valid:
                raise ValueError(f"recipe: {unknown_name(name, getattr(self, name), valid)}")
        if len(self.splits) != 3 or not all(self.splits):
            raise ValueError(f"recipe: splits={self.splits!r}: three names are needed")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, 3):
                raise ValueError(f"recipe: {name}={getattr(self, name)!r}: three numbers, or one")
        twice = [a for k, a in enumerate(self.attributes) if a in self.attributes[:k]]
        if twice:
            raise ValueError(f"recipe: attributes names '{twice[0]}' twice")
        if self.augment == "crop" and not self.crop_min <= self.crop_max <= self.resize:
            raise ValueError(
                f"recipe: needs crop_min <= crop_max <= resize, got "
                f"{self.crop_min}, {self.crop_max}, {self.resize}"
            )

    def override(self, pairs: Iterable[str], options: Collection[str] = ()) -> Recipe:
        """Return a copy with ``key=value`` strings applied; ``options`` are the method's settings.

        Keys are fields (``lr=0.01``), the method's own settings (``gamma=1`` or
        ``options.gamma=1``), model arguments (``model_options.taps=…``) or settings of the reader
        (``data_options.per_class=60``). A dict replaces a group (``model_options={'width': 8}``).
        Values are read as Python literals, else as JSON, else as text.
        """
        changes: dict[str, Any] = {}
        fields = [f.name for f in dataclasses.fields(self)]
        for pair in pairs:
            key, found, text = pair.partition("=")
            if not found:
                raise ValueError(f"override {pair!r}: write key=value")
            value = literal(text)
            group, dot, name = key.partition(".")
            if group in GROUPS:
                given = {name: value} if dot else value
                if not isinstance(given, dict):
                    raise ValueError(
                        f"override {pair!r}: {group} is a group of settings; set one, such as "
                        f"{group}.NAME=VALUE, or all of them: {group}=\"{{'NAME': VALUE}}\""
                    )
                for each in given if group == "options" and options else ():
                    if each not in options:
                        raise ValueError(unknown_name("method setting", each, options))
                before = changes.get(group, getattr(self, group)) if dot else {}
                changes[group] = {**before, **given}
            elif key in options:
                changes.setdefault("options", dict(self.options))[key] = value
            elif key in fields:
                changes[key] = value
            else:
                raise ValueError(unknown_name("recipe key", key, fields + list(options)))
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return all values as JSON-able types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "recipe") -> Recipe:
        """Build a recipe, refusing unknown keys; ``source`` is named in errors."""
        fields = {f.name for f in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise ValueError(f"{source}: {unknown_name('recipe key', key, fields)}")
        for key in ("method", "model"):
            if key not in values:
                raise ValueError(f"{source}: '{key}' is missing")
        with naming(source):
            return cls(**values)

    @classmethod
    def load(cls, name: str) -> Recipe:
        """Load a recipe by name, or from a file (``.py`` or ``.json``).

        The FileNotFoundError lists those that exist; a ValueError says what is not a recipe.
        """
        if name.endswith(".json") and os.path.isfile(name):
            return cls.from_dict(json_of(read_text(name), name), source=name)
        entry = find(name)
        return cls.from_dict(copy.deepcopy(resolved(entry)), source=entry.file)


class Entry(NamedTuple):
    """A recipe as its file has it: its text, its own values and where they stand."""

    text: str
    values: dict[str, Any]
    file: str


@functools.lru_cache(maxsize=None)
def catalogue() -> dict[str, Entry]:
    """Return the recipes of the package; names that begin with ``_`` are only bases of others."""
    found: dict[str, Entry] = {}
    for path in sorted(FOLDER.glob("*.py")):
        found.update(read_entries(str(path)))
    return found


def names() -> list[str]:
    """Return the names of the package's recipes, sorted."""
    return sorted(name for name in catalogue() if name[0] != "_")


def find(name: str) -> Entry:
    """Return the recipe of this name or file; of a file with several, ``FILE.py:NAME``.

    A path that is no longer there, ``tools/recipes/NAME.py`` of version 0.1, stands for the name.
    """
    path, colon, chosen = name.rpartition(":")
    path = path if colon else name
    if os.path.isfile(path):
        found = read_entries(path)
        if colon and chosen not in found:
            raise FileNotFoundError(f"{path}: {unknown_name('recipe', chosen, found)}")
        if not colon and len(found) > 1:
            raise ValueError(
                f"{path} holds several recipes, choose one: {path}:{next(iter(found))}"
            )
        return found[chosen] if colon else next(iter(found.values()))
    folder, file = os.path.split(name)
    key = file[:-3] if os.path.basename(folder) == "recipes" and file.endswith(".py") else name
    if key not in names():
        told = unknown_name("recipe", key, names())
        raise FileNotFoundError(f"no recipe file; {told}; `gluon-attn recipes` lists all")
    return catalogue()[key]


def resolved(entry: Entry, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a recipe's values with those of its bases; a group of settings replaces its base's."""
    values = dict(entry.values)
    base = values.pop("base", None)
    if base is None:
        return values
    if base not in catalogue():
        raise ValueError(f"{entry.file}: {unknown_name('base', base, catalogue())}")
    if base in seen:
        raise ValueError(f"{entry.file}: base '{base}' comes back to itself")
    return {**resolved(catalogue()[base], (*seen, base)), **values}


def read_entries(path: str) -> dict[str, Entry]:
    """Return the recipes of a Python file: its classes, or, where it has none, the file itself.

    A class without a ``base`` of its own starts from the values that stand outside of classes.
    """
    text = read_text(path)
    if len(text) > LONGEST:
        raise ValueError(f"{path}: {len(text)} characters; a recipe file has at most {LONGEST}")
    try:
        tree = ast.parse(text, path)
    except SyntaxError as error:
        raise ValueError(f"{path}:{error.lineno}: {error.msg}") from None
    except (MemoryError, RecursionError) as error:
        raise ValueError(f"{path}: nested too deeply for a recipe") from error
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    common = _literals([node for node in tree.body if node not in classes], path)
    if not classes:
        stem = os.path.splitext(os.path.basename(path))[0]
        return {stem: Entry(ast.get_docstring(tree) or "", common, path)}
    found = {}
    for node in classes:
        own = _literals([*node.bases, *node.body], path)
        texts = [ast.get_docstring(node), ast.get_docstring(tree)]
        found[node.name] = Entry(
            "\n\n".join(filter(None, texts)), own if "base" in own else {**common, **own}, path
        )
    return found


def _literals(body: Sequence[Any], path: str) -> dict[str, Any]:
    values = {}
    for node in body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        try:
            if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
                raise ValueError
            values[node.targets[0].id] = ast.literal_eval(node.value)
        except (MemoryError, RecursionError, TypeError, ValueError):
            raise ValueError(
                f"{path}:{node.lineno}: a recipe holds only assignments of plain values"
            ) from None
    return values


_LOWEST = {
    "input_size": 1, "resize": 1, "crop_min": 1, "eval_crop": 0, "epochs": 1, "batch_size": 1,
    "accumulate": 1, "lr": 0, "wd": 0, "lr_patience": 0, "lr_min": 0, "warmup_epochs": 0,
    "log_interval": 1, "seed": 0, "iterations_per_epoch": 0, "pad": 0, "area_min": 0,
}  # fmt: skip


def literal(text: str) -> Any:
    """Return the value that a text after ``key=`` means; what is no literal stays a text."""
    named: dict[str, Any] = {"true": True, "false": False, "none": "none"}
    if text.lower() in named:
        return named[text.lower()]
    with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        return ast.literal_eval(text)
    if text.startswith(("{", "[")):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(text)
    return tuple(part for part in text.split(",") if part) if "," in text else text


def _typed(name: str, kind: str, value: Any) -> Any:
    """Return ``value`` as the type that the field's annotation names.

    One element, or nothing (``lr_epochs=``), stands for a tuple of it.
    """
    kind, _, each = kind.partition("[")
    if kind == "tuple":
        values = value if isinstance(value, (tuple, list)) else (value,) if value != "" else ()
        return tuple(_typed(f"each of {name}", each.partition(",")[0], one) for one in values)
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wanted: type = {"str": str, "int": int, "float": float, "bool": bool, "dict": dict}[kind]
    fits = isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))
    if not fits:
        raise ValueError(f"recipe: {name} must be {kind}, got {value!r}")
    if wanted is float and not math.isfinite(value):
        raise ValueError(f"recipe: {name} must be a finite number, got {value!r}")
    return value
