"""Run a net over a data set and collect its predictions by sample id."""

from __future__ import annotations

import collections
import sys
from typing import NamedTuple

import mxnet as mx
import numpy as np
from tqdm import tqdm

from gluon_attn.core.batch import PADDING


class Predictions(NamedTuple):
    """Predictions of a whole data set, in the data set's order.

    Attributes:
        probs: ``(N, A)`` float32 probabilities; nan where a sample was never seen.
        label: ``(N, A)`` in {0, 1}.
        mask: ``(N, A)``; 0 where the label is unspecified.
    """

    probs: np.ndarray
    label: np.ndarray
    mask: np.ndarray


def predict(net, loader, num_samples, ctx, progress=False, activation="sigmoid"):
    """Return the probabilities that the first output stands for, for every sample of ``loader``.

    Args:
        net: Net whose first output is ``logits (B, A)``.
        loader: Yields :class:`gluon_attn.core.batch.Batch`; padding rows are dropped.
        num_samples: N.
        ctx: Device of the net.
        progress: Whether to show a bar on a terminal.
        activation: What makes probabilities of logits: ``sigmoid``, or ``softmax`` over all columns
            for single-label classification.
    """
    probabilities = {"sigmoid": mx.nd.sigmoid, "softmax": mx.nd.softmax}[activation]
    arrays, queue = None, collections.deque()
    bar = tqdm(
        loader, total=len(loader), desc="evaluating", unit="batch", leave=False,
        disable=not (progress and sys.stderr.isatty()),
    )  # fmt: skip

    def store(probs, batch):
        rows = batch.index != PADDING
        for target, source in zip(arrays, (probs, batch.label, batch.mask)):
            target[batch.index[rows]] = source.asnumpy()[rows]

    for batch in bar:
        outputs = net(batch.image.as_in_context(ctx))
        logits = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
        if arrays is None:
            shape = (num_samples, logits.shape[1])
            arrays = [np.full(shape, np.nan, np.float32)]
            arrays += [np.zeros(shape, np.float32) for _ in range(2)]
        queue.append((probabilities(logits), batch))
        if len(queue) > 1:  # read one batch behind, while the device works on the next
            store(*queue.popleft())
    if arrays is None:
        raise ValueError("nothing to evaluate: the data set is empty")
    while queue:
        store(*queue.popleft())
    return Predictions(*arrays)
