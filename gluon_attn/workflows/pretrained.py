"""Models with published weights, ready to be given pictures.

>>> from gluon_attn.workflows.pretrained import load_predictor  # doctest: +SKIP
>>> load_predictor("vaa_resnet18_w16_synthetic").predict(["person.jpg"])  # doctest: +SKIP
"""

from __future__ import annotations

import os
import tempfile

import mxnet as mx

from gluon_attn.export import Predictor, export_model
from gluon_attn.workflows import load
from model_zoo import get_model
from model_zoo.store import entries, get_model_file


def load_predictor(name, root=None, with_maps=True, **options):
    """Return a Predictor of a zoo model with published weights.

    The model is exported once, beside its weights in the first directory of the weight store
    (``root``, ``$MXNET_HOME/models`` or ``~/.mxnet/models``), and read from there afterwards; where
    that cannot be written, to a temporary directory.

    Args:
        name: Zoo name; ``model_zoo.store.pretrained_model_list()`` has those with weights.
        root: Folder of weight files.
        with_maps: Whether attention maps are exported too, where the net has any.
        **options: Of :class:`gluon_attn.export.Predictor`.

    Raises:
        ValueError: No weights are known for ``name``.
        FileNotFoundError: They are known but not at hand.
    """
    name = name.lower()
    file = get_model_file(name, root)
    maps = with_maps and bool(getattr(get_model(name), "attention_outputs", ()))
    stem = os.path.splitext(os.path.basename(file))[0] + ("-maps" if maps else "")
    directory = os.path.join(_writable(root), stem)
    if not os.path.exists(directory):
        trained = load.from_zoo(name, None, [mx.cpu()], pretrained=True, root=root)
        export_model(
            trained.net, directory, name, trained.classes, trained.input_size,
            trained.export_preprocess, with_maps=maps, extra=trained.extra,
            activation=trained.activation, schema=trained.extra.get("schema"),
        )  # fmt: skip
    return Predictor(directory, **options)


def published():
    """Return ``{name: score}`` of the models whose weights come with this package."""
    return {name: entry.score for name, entry in entries().items() if entry.score}


def _writable(root):
    home = os.path.join(os.path.expanduser("~"), ".mxnet")
    folder = root or os.path.join(os.environ.get("MXNET_HOME") or home, "models")
    exports = os.path.join(folder, "exports")
    try:
        os.makedirs(exports, exist_ok=True)
    except OSError:
        return tempfile.mkdtemp(prefix="gluon_attn-")
    return exports if os.access(exports, os.W_OK) else tempfile.mkdtemp(prefix="gluon_attn-")
