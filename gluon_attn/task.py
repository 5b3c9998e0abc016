"""What is learnt from data: the contract between commands, training and a task.

A task says how its batches are made, which scores exist, how a split is judged, validated and
evaluated, what an export holds, and how predictions are made and look. A new one is a module with a
sub-class of :class:`Task` and a line that registers it. A data set and a net name theirs by an
attribute ``task``, an export by the key ``task`` of its sidecar. Where none is named, labels are
meant, and the schema says which: one class per image (``classification``), or attributes.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, NamedTuple, Sequence

from gluon_attn.core.recipe import Recipe
from gluon_attn.core.registry import Registry
from gluon_attn.core.schema import Schema
from gluon_attn.export.sidecar import input_entry, read_sidecar

TASKS = Registry("task")
for _name, _module in {
    "attributes": "gluon_attn.tasks.attributes",
    "classification": "gluon_attn.tasks.classification",
    "reid": "gluon_attn.tasks.reid",
    "detection": "gluon_attn.coco.detection_task",
    "keypoints": "gluon_attn.coco.keypoints_task",
}.items():
    TASKS.register_later(_name, _module)

CLASS = "class"  # the attribute of data that give every image one class
FORMS = (
    "int8",
    "bf16",
    "onnx",
    "web",
    "with_maps",
)  # what an export may add to float32 logits


class Trained(NamedTuple):
    """A trained net with all that is needed to feed and to read it.

    Attributes:
        name: For file names and table heads.
        net: Hybridized net with its parameters.
        classes: Names of its logits (or keypoints), in order.
        preprocess: ``resize``, ``crop``, ``size``, ``mean``, ``std`` of evaluation.
        extra: JSON-able record of where it comes from.
    """

    name: str
    net: Any
    classes: tuple[str, ...]
    preprocess: dict[str, Any]
    extra: dict[str, Any]

    @property
    def task(self) -> Task:
        """What it was trained for."""
        return task_of(self.net, _schema(self.extra))

    @property
    def input_size(self) -> Any:
        """Side of the net's input in pixels, or ``(H, W)``."""
        return self.preprocess["size"]

    @property
    def activation(self) -> str:
        """What makes probabilities of logits: softmax, sigmoid or none."""
        return self.task.activation

    @property
    def export_preprocess(self) -> dict[str, Any]:
        """``preprocess`` without the input size, as the export layer takes it."""
        return {key: value for key, value in self.preprocess.items() if key != "size"}

    @property
    def entry(self) -> dict[str, Any]:
        """The ``input`` entry of the sidecar of its export."""
        return input_entry(self.input_size, self.export_preprocess)


class Exported(NamedTuple):
    """An export directory, where a net could stand, too, and what runs it."""

    directory: str
    sidecar: dict[str, Any]
    backend: str = "mxnet"

    @classmethod
    def open(cls, directory: str, backend: str = "mxnet") -> Exported:
        """Read the sidecar of a directory; FileNotFoundError or ValueError if it is no export."""
        return cls(directory, read_sidecar(directory), backend)

    @property
    def task(self) -> Task:
        """What its net was trained for."""
        return task_of(self.sidecar, _schema(self.sidecar))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the logits (or keypoints), in order."""
        return tuple(self.sidecar["classes"])

    @property
    def extra(self) -> dict[str, Any]:
        """Where the net comes from."""
        return self.sidecar.get("extra", {})

    @property
    def activation(self) -> str:
        """What makes probabilities of the logits."""
        return str(self.sidecar["activation"])

    @property
    def entry(self) -> dict[str, Any]:
        """What the input must look like."""
        return self.sidecar["input"]


class Result(NamedTuple):
    """What was measured on a split: text for the console, the numbers, and the files written."""

    text: str
    values: dict[str, Any]
    files: list[str]


class Asked(NamedTuple):
    """What is asked of an evaluation.

    Attributes:
        out: Folder of the files, whose names begin with ``stem``.
        threshold: Probability from which a column counts as positive.
        boxes: File of boxes to be used instead of the annotated ones, or None.
        final: Whether it ends a run, whose folder describes the columns of stored predictions.
    """

    out: str
    stem: str
    ctx: Any
    batch_size: int = 32
    workers: int = 2
    threshold: float = 0.5
    figures: bool = True
    boxes: str | None = None
    final: bool = False


class Predicting(NamedTuple):
    """How image files are predicted, some of them at a time.

    Attributes:
        images: Their paths.
        boxes: A list of boxes for each, or None.
        find: Called with the positions of some images and the number of records before theirs;
            yields records, plain JSON values with at least ``image`` (path) and ``error`` or None.
        head: What stands before the records in JSON.
    """

    images: Sequence[str]
    boxes: Sequence[Any] | None
    find: Callable[[range, int], Iterable[dict[str, Any]]]
    head: dict[str, Any]


def _listed(names: Sequence[str], most: int = 30) -> str:
    """Return names as text, of many the first ones."""
    more = f", … ({len(names):,} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class Task:
    """Contract of a task; what has no body here is what a task must say.

    Attributes:
        name: That it is registered under.
        title: What its data are called in messages.
        scores: Names of the scores of a validation, for recipes.
        activation: What makes probabilities of the first output: sigmoid, softmax or none.
        class_names: Names of the outputs of the zoo's nets whose weights say nothing; () for none.
        kinds: Data sets that are looked for where no recipe says which; () detects any.
        columns: What the names of the outputs are called in messages.
        forms: Those of ``FORMS`` that its exports may have.
        parity: What the other process of an export repeats, for the summary.
        explained: Whether ``--analyse`` can look at its nets.
        listed: Key of the records in the JSON of a prediction.
    """

    name = ""
    title = ""
    scores: tuple[str, ...] = ()
    activation = "none"
    class_names: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    columns = "classes"
    forms: tuple[str, ...] = ()
    parity = "plain MXNet"
    explained = False
    listed = "people"

    def label(self, column: str) -> str:
        """Return the name of a column for a figure."""
        return column

    # -- data ----------------------------------------------------------------------------------
    def split(self, name: str) -> str:
        """Return the split that is meant where a user asks for ``name``."""
        return name

    def fit(self, dataset: Any, classes: Sequence[str], data_dir: str) -> Any:
        """Return a split as a net with these outputs wants it; ValueError for other names."""
        if tuple(dataset.names) != tuple(classes):
            single = [name.partition("=")[2] for name in dataset.names] == list(classes)
            raise ValueError(
                f"{data_dir} has the {self.columns} {_listed(dataset.names)}; the model was made "
                f"for {_listed(classes)}"
                + ("; these are the classes of one attribute: add --single-label" if single else "")
            )
        return dataset

    def check_splits(self, train: Any, val: Any) -> None:
        """Refuse a validation split of other columns than the training split's."""
        if train.names != val.names:
            raise ValueError(
                f"train and val have different attributes: {train.names} and {val.names}"
            )

    def describe(self, dataset: Any) -> str:
        """Return what the log of a run says of its training data."""
        priors = ", ".join(f"{n} {p:.3f}" for n, p in zip(dataset.names, dataset.prior))
        return f"Positive fraction in training: {priors}"

    def train_loader(
        self, recipe: Recipe, dataset: Any, method: Any, workers: int, *,
        cache: bool = False, parts: int = 1,
    ) -> Any:  # fmt: skip
        """Return augmented training batches; ``parts`` devices and micro-batches share each."""
        raise NotImplementedError

    def held_out_loader(
        self, recipe: Recipe, dataset: Any, method: Any, length: int, *,
        workers: int = 0, cache: bool = False,
    ) -> Any:  # fmt: skip
        """Return the validation images that a method sees in ``length`` steps, or None."""
        return None

    # -- validation and evaluation -------------------------------------------------------------
    def check_score(self, score: str, dataset: Any) -> None:
        """Raise ValueError if the data have no such score."""
        if score not in self.scores:
            raise ValueError(f"score={score}: of these data there are {', '.join(self.scores)}")

    def judge(self, score: str, dataset: Any) -> tuple[str, str]:
        """Return why no net can be scored on a split, and what is left out, '' for nothing."""
        return "", ""

    def validator(
        self, recipe: Recipe, dataset: Any, ctx: Any, workers: int
    ) -> Callable[[Any], dict[str, float]]:
        """Return the function ``net -> scores`` of the training loop."""
        raise NotImplementedError

    def final_scores(self, recipe: Recipe, net: Any, dataset: Any, asked: Asked) -> Result:
        """Evaluate a run's net at its end; write ``asked.stem.*`` and say so in the log."""
        raise NotImplementedError

    def evaluate(self, source: Any, dataset: Any, asked: Asked) -> Result:
        """Evaluate a :class:`Trained` net or an :class:`Exported` one on a split."""
        raise NotImplementedError

    # -- nets and exports ----------------------------------------------------------------------
    def preprocess(self, recipe: Recipe, net: Any) -> dict[str, Any]:
        """Return how a net is fed in evaluation: the whole image at its size, if not said else."""
        size = tuple(net.input_size)
        return {
            "resize": None, "crop": None, "size": size, "mean": tuple(recipe.mean),
            "std": tuple(recipe.std),
        }  # fmt: skip

    def export(
        self, trained: Trained, directory: str, name: str, *, threshold: float = 0.5,
        with_maps: bool = False, overwrite: bool = False, variants: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        """Write an export directory, checked in another process.

        Raises what :func:`gluon_attn.export.export_model` does.
        """
        raise NotImplementedError

    def check_forms(self, wanted: Any) -> None:
        """Refuse forms of an export that the task does not have.

        ``wanted`` is anything with attributes that are named like ``FORMS``.
        """
        wrong = [n for n in FORMS if getattr(wanted, n, False) and n not in self.forms]
        if wrong:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
            also = "".join(f" and with --{name}" for name in self.forms)
            raise ValueError(f"{flags}: this net is exported in float32{also}, without maps, only")

    # -- prediction ----------------------------------------------------------------------------
    def predict(self, source: Exported, options: Any) -> Predicting:
        """Return how image files are predicted; ``options`` are the flags of the command.

        Raises a ValueError for a flag that says nothing about such predictions.
        """
        raise NotImplementedError

    def table(self, head: dict[str, Any], records: Sequence[dict[str, Any]]) -> str:
        """Return what the console shows of records; ``head`` is that of the prediction."""
        raise NotImplementedError

    def csv(
        self, head: dict[str, Any], records: Iterable[dict[str, Any]]
    ) -> Iterable[Sequence[Any]]:
        """Yield the rows of a CSV file, the names of its columns first."""
        raise NotImplementedError


def task_of(thing: Any, schema: Schema | None = None) -> Task:
    """Return the task that a data set, a net or a sidecar names, by attribute or key ``task``.

    None means labels; ``schema`` is theirs, by default that of the data set, else binary.
    """
    name = thing.get("task") if isinstance(thing, dict) else getattr(thing, "task", None)
    if name is None:
        schema = schema or getattr(thing, "schema", None)
        name = "classification" if schema is not None and is_one_class(schema) else "attributes"
    return TASKS.get(name)


def is_one_class(schema: Schema) -> bool:
    """Return whether every image has one class: attribute 'class', nothing else.

    One multi-class attribute chosen from several ("age") has unknown and missing values; it stays
    an attribute.
    """
    return schema.is_single_label and schema.names[0] == CLASS


def _schema(record: dict[str, Any]) -> Schema | None:
    items = record.get("schema")
    return Schema.from_json(items) if items else None
