"""A loader as an endless stream, cut into epochs of a given number of batches.

Papers that count iterations need epochs of a fixed length (validation and checkpoints happen at
their ends), and a second loader beside the training one has to last as long as that.
"""

from __future__ import annotations

import itertools


class Stream:
    """Epochs of ``batches`` batches each; the passes of the loader follow one another.

    Epoch ``e`` begins with batch ``e * batches`` of the stream, so an epoch that is repeated after
    a resume has the same batches. Between two passes nothing is left out but what the loader
    itself leaves out.

    Args:
        loader: Has ``len`` and ``set_epoch(pass, first batch)``, such as
            :class:`gluon_attn.data.Loader`.
        batches: Batches per epoch.

    Raises:
        ValueError: ``batches`` is not positive.
    """

    def __init__(self, loader, batches):
        if batches < 1:
            raise ValueError(f"batches={batches}: an epoch needs at least one")
        self.loader, self.batches, self.epoch = loader, int(batches), 0

    def set_epoch(self, epoch):
        """Choose which epoch the next iteration is."""
        self.epoch = int(epoch)

    def __len__(self):
        return self.batches

    def __iter__(self):
        current, start = divmod(self.epoch * self.batches, len(self.loader))
        left = self.batches
        while left:
            self.loader.set_epoch(current, start)
            part = min(left, len(self.loader) - start)
            yield from itertools.islice(iter(self.loader), part)
            left, current, start = left - part, current + 1, 0
