"""The registry of models and ``get_model``."""

from __future__ import annotations

import functools
import inspect

import mxnet as mx

from gluon_attn.registry import Registry, unknown_name

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
        pretrained: Load the published weights; the net then has the classes they were made for and
            is built as it was trained. ``model_zoo.store.entries()`` tells of which there are
            some, what they reach and on which data; small ones come with the package. Without,
            the parameters are not initialised: call ``net.initialize()``.
        root: Folder that holds weight files; it goes before ``$MXNET_HOME/models`` and
            ``~/.mxnet/models``.
        classes: Number of outputs; each name has its own default.
        ctx: Device or list of devices, CPU by default. Used with ``pretrained``.
        **kwargs: Further arguments of the model (``input_size``, ``taps``, ``version``, …).

    Returns:
        A HybridBlock; ``net.output_names`` names its outputs.

    Raises:
        ValueError: Unknown name, argument, tap or variant; the message lists the valid ones.
        FileNotFoundError: ``pretrained`` weights are not at hand; says where to put them.
    """
    factory = MODELS.get(name.lower())
    valid = list(inspect.signature(factory).parameters)
    if classes is not None:
        kwargs["classes"] = classes
    for key in kwargs:
        if key not in valid:
            raise ValueError(unknown_name(f"argument of {name}", key, valid))
    if pretrained:
        from model_zoo.params_io import load_into
        from model_zoo.store import entries, get_model_file

        path = get_model_file(name.lower(), root=root)
        entry = entries(root)[name.lower()]
        stored = entry.classes
        for key, value in ((entry.recipe or {}).get("model_options") or {}).items():
            kwargs.setdefault(key, value)  # the net that was trained
        if entry.recipe and "input_size" in valid:
            kwargs.setdefault("input_size", entry.recipe["input_size"])
        if stored and kwargs.setdefault("classes", len(stored)) != len(stored):
            raise ValueError(
                f"the weights of {name} have {len(stored)} classes, classes={kwargs['classes']} "
                "was asked for; leave classes out, or load the backbone only"
            )
    net = factory(**kwargs)
    if pretrained:
        net.initialize(mx.init.Zero(), ctx=ctx or mx.cpu())
        load_into(net, path)
    return net
