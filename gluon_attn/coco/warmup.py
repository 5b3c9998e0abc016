"""A learning rate that rises linearly over the first updates of a run."""

from __future__ import annotations

OPTIONS = {
    "warmup_epochs": 0.0,  # passes over the training data; adds to warmup_updates
    "warmup_updates": 0,
    "warmup_start": 0.0,  # share of the learning rate at the first update
}


class WarmUp:
    """The factor on the learning rate, update by update.

    Args:
        options: Dict with the names in ``OPTIONS``.
        num_samples: Size of the training set.

    Raises:
        ValueError: A negative length, or a start outside [0, 1].

    Reference: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017,
    section 2.2.
    """

    def __init__(self, options, num_samples):
        for name in ("warmup_epochs", "warmup_updates"):
            if options[name] < 0:
                raise ValueError(f"{name}={options[name]}: must not be negative")
        if not 0 <= options["warmup_start"] <= 1:
            raise ValueError(f"warmup_start={options['warmup_start']}: valid are 0 to 1")
        self._images = options["warmup_epochs"] * num_samples
        self._updates, self._start = options["warmup_updates"], options["warmup_start"]

    def factor(self, done, batch_size):
        """Return the factor for an update before which ``done`` updates were made."""
        # Whole batches only: images that do not fill one are left out of a pass.
        length = self._updates + int(self._images // batch_size)
        if done >= length:
            return 1.0
        return self._start + (1 - self._start) * done / length
