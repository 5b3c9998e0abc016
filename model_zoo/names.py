"""The registry of models and ``get_model``."""

from __future__ import annotations

import functools
import inspect

import mxnet as mx

from gluon_attn.core.registry import Registry, unknown_name

MODELS = Registry("model")

# Order of the annotation files; see docs/data.md.
WIDER_ATTRIBUTES = (
    "Male", "longHair", "sunglass", "Hat", "Tshirt", "longSleeve", "formal", "shorts", "jeans",
    "longPants", "skirt", "faceMask", "logo", "stripe",
)  # fmt: skip


def register(name, factory, **fixed):
    """Register ``factory`` under ``name`` with other defaults, which stay overridable.

    Raises:
        ValueError: ``name`` is taken.
    """
    signature = inspect.signature(factory)
    entry = functools.partial(factory, **fixed)
    entry.__signature__ = signature.replace(
        parameters=[
            p.replace(default=fixed.get(p.name, p.default)) for p in signature.parameters.values()
        ]
    )
    entry.__doc__ = factory.__doc__
    MODELS.register(name)(entry)


def list_models():
    """Return the names of all models, sorted."""
    return MODELS.names()


def get_model(name, pretrained=False, root=None, classes=None, ctx=None, **kwargs):
    """Build a model by name.

    Args:
        name: A name from :func:`list_models`, in any case.
        pretrained: Load the published weights (``model_zoo.store.entries()`` lists them; small ones
            come with the package); the net has their classes and is built as it was trained.
            Without, the parameters are not initialised: call ``net.initialize()``.
        root: Folder that holds weight files; it goes before ``$MXNET_HOME/models`` and
            ``~/.mxnet/models``.
        classes: Number of outputs; each name has its own default.
        ctx: Device or list of devices, CPU by default. Used with ``pretrained``.
        **kwargs: Further arguments of the model (``input_size``, ``taps``, ``version``, …).

    Returns:
        A HybridBlock; ``net.output_names`` names its outputs.

    Raises:
        ValueError: Unknown name, argument, tap or variant; the message lists the valid ones. Or no
            weights are known, or they do not fit ``kwargs``.
        FileNotFoundError: ``pretrained`` weights are not at hand; says where to put them.
        OSError: They could not be fetched.
    """
    valid = _arguments_of(name)
    if classes is not None:
        kwargs["classes"] = classes
    for key in kwargs:
        if key not in valid:
            raise ValueError(unknown_name(f"argument of {name}", key, valid))
    factory = MODELS.get(name.lower())
    if not pretrained:
        return factory(**kwargs)
    from model_zoo.params_io import load_into
    from model_zoo.store import find

    path, entry = find(name.lower(), root)
    net = factory(**trained_options(name, entry, kwargs))
    net.initialize(mx.init.Zero(), ctx=ctx or mx.cpu())
    load_into(net, path)
    return net


def trained_options(name, entry, given=None):
    """Return the arguments of :func:`get_model` that build the net which weights were made for.

    Args:
        name: Zoo name, in any case.
        entry: :class:`model_zoo.weight_table.WeightEntry` of the weights.
        given: Arguments that are to stay as they are, or None.

    Returns:
        ``given`` and, where it lacks them, the model arguments, input size and number of classes of
        the training run.

    Raises:
        ValueError: The entry has an argument that the model has not, or another number of classes
            was asked for.
    """
    valid, options, recipe = _arguments_of(name), dict(given or {}), entry.recipe or {}
    for key, value in recipe.get("model_options", {}).items():
        if key not in valid:
            raise ValueError(
                f"{entry.where}: recipe: {unknown_name(f'argument of {name}', key, valid)}"
            )
        options.setdefault(key, value)  # the net that was trained
    if recipe and "input_size" in valid:
        options.setdefault("input_size", recipe["input_size"])
    stored = len(entry.classes or ())
    if stored and options.setdefault("classes", stored) != stored:
        raise ValueError(
            f"the weights of {name} have {stored} classes, classes={options['classes']} "
            "was asked for; leave classes out, or load the backbone only"
        )
    return options


def _arguments_of(name):
    return list(inspect.signature(MODELS.get(name.lower())).parameters)
