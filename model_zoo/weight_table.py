"""The form of ``weights.json``: one entry per model name, every field of it checked.

A mirror's table is foreign input, and what the package ships is read in the same way: an entry that
would fail later, when a net is built or fed from it, is refused here by file and name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gluon_attn.core.text import json_of, text_of

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class WeightEntry:
    """What is known of one weight file; None where unknown.

    Attributes:
        name: Zoo name.
        file: Name of the file.
        digest: Its hash, hexadecimal; ``algorithm`` says which.
        algorithm: ``'sha256'``, or ``'sha1'`` of Gluon's own.
        size: Bytes.
        classes: Names of the logits, in order.
        recipe: The recipe of the training run, as a dict with at least ``method``, ``model`` and
            ``input_size``.
        schema: The attributes that the classes belong to, as a list of dicts.
        data: Where the data come from.
        score: What the weights reach: ``split``, ``samples`` and measures in 0..1.
        remote: Path below the mirror.
        trained_with: Command that makes the run.
        source: The table that lists it, for messages.
        package: Name of the pip package that carries the file in its folder ``models``, or None.
    """

    name: str
    file: str
    digest: str
    algorithm: str = "sha256"
    size: int = None
    classes: tuple = None
    recipe: dict = None
    schema: list = None
    data: dict = None
    score: dict = None
    remote: str = ""
    trained_with: str = None
    source: str = ""
    package: str = None

    @property
    def where(self):
        """Table and name, with which messages about this entry begin."""
        return f"{self.source}: entry '{self.name}'"


def parse_table(text, where):
    """Return the entries of a table.

    Args:
        text: Its bytes.
        where: File or URL, named in errors.

    Returns:
        ``{name: WeightEntry}``.

    Raises:
        ValueError: It is no such table, or a field of an entry is not what it must be; the message
            names file, entry and field.
    """
    table = json_of(text_of(text, where), where)
    weights = table.get("weights") if isinstance(table, dict) else None
    if not isinstance(weights, dict):
        raise ValueError(f"{where}: expected an object with 'version' and 'weights'")
    if table.get("version") != SCHEMA_VERSION:
        raise ValueError(
            f"{where}: version {table.get('version')!r}, this release reads {SCHEMA_VERSION}; "
            "update gluon_attn or the table"
        )
    return {name: _parse_entry(name, record, where) for name, record in weights.items()}


def _parse_entry(name, record, where):
    def check(good, text):
        if not good:
            raise ValueError(f"{where}: entry '{name}': {text}")

    check(re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name), "not a model name")
    check(isinstance(record, dict), "expected an object")
    _check_file(name, record, check)
    _check_classes(record.get("classes"), check)
    _check_recipe(record.get("recipe"), check)
    _check_schema(record.get("schema"), check)
    _check_score(record.get("score"), check)
    check(isinstance(record.get("data"), (dict, type(None))), "data must be null or an object")
    command, classes = record.get("trained_with"), record.get("classes")
    check(command is None or isinstance(command, str), "trained_with must be null or text")
    return WeightEntry(
        name, record["file"], record["sha256"], size=record["size"],
        classes=None if classes is None else tuple(classes), recipe=record.get("recipe"),
        schema=record.get("schema"), data=record.get("data"), score=record.get("score"),
        remote=f"gluon_attn/models/{record['file']}", trained_with=command, source=where,
    )  # fmt: skip


def _check_file(name, record, check):
    digest, file, size = (record.get(key) for key in ("sha256", "file", "size"))
    good = isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)
    check(good, f"sha256 {digest!r} is not 64 lower-case hexadecimal digits")
    # This also keeps a mirror from naming a file outside the store's directory.
    check(file == f"{name}-{digest[:8]}.params", f"file must be {name}-{digest[:8]}.params")
    check(_whole(size), f"size {size!r} is not a positive number of bytes")


def _check_classes(classes, check):
    if classes is None:
        return
    good = isinstance(classes, list) and all(isinstance(c, str) and c.strip() for c in classes)
    check(good, "classes must be null or a list of names")
    check(classes and len(set(classes)) == len(classes), "classes must be distinct names")


def _check_recipe(recipe, check):
    """What a net is built by; the other fields are checked where a Recipe is made of them."""
    check(isinstance(recipe, (dict, type(None))), "recipe must be null or an object")
    if recipe is None:
        return
    for key in ("method", "model"):
        check(isinstance(recipe.get(key), str), f"recipe: {key} {recipe.get(key)!r} is no name")
    size, options = recipe.get("input_size"), recipe.get("model_options", {})
    check(_whole(size), f"recipe: input_size {size!r} is not a positive number of pixels")
    check(isinstance(options, dict), f"recipe: model_options {options!r} is not an object")


def _check_schema(schema, check):
    good = isinstance(schema, list) and all(isinstance(attribute, dict) for attribute in schema)
    check(schema is None or good, "schema must be null or a list of objects")


def _check_score(score, check):
    check(isinstance(score, (dict, type(None))), "score must be null or an object")
    for key, value in (score or {}).items():
        if key == "split":
            check(isinstance(value, str), f"score: split {value!r} is no name")
        elif key == "samples":
            check(_whole(value), f"score: samples {value!r} is not a positive number")
        else:
            good = type(value) in (int, float) and 0 <= value <= 1
            check(good, f"score: {key} {value!r} is not a number in 0..1")


def _whole(value):
    return type(value) is int and value > 0
