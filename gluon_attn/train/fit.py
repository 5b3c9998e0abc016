"""The training loop: epochs, validation, the best epoch, checkpoints, logs.

It knows no paper, no metric and no data set: a :class:`gluon_attn.method.Method`, a loader of
:class:`gluon_attn.core.batch.Batch` and a function that scores the net are handed in.
"""

from __future__ import annotations

import collections
import logging
import math
import os
import time
from typing import Any, Callable, NamedTuple

import mxnet as mx
import numpy as np

from gluon_attn.core.errors import DivergedError, describe
from gluon_attn.core.files import or_nan, save_parameters, sha256_of, write_json
from gluon_attn.core.recipe import Recipe
from gluon_attn.method import Method
from gluon_attn.runtime import seed_everything
from gluon_attn.tasks.data import bar
from gluon_attn.train.checkpoint import load_checkpoint, restore, save_checkpoint
from gluon_attn.train.log import JsonLines
from gluon_attn.train.schedule import Schedule

logger = logging.getLogger("gluon_attn.fit")

MAX_AHEAD = 2  # batches that may be queued on the devices before the loop waits for the oldest


class Run(NamedTuple):
    """Everything :func:`fit` needs.

    Attributes:
        loader: Training batches; has ``set_epoch`` and ``len``.
        validate: Function ``net -> dict`` with at least the key ``score_name``; higher is better.
        folder: Where ``last.ckpt``, ``best.params``, ``best.json`` and ``log.jsonl`` go.
        seed: Seed of the run; every epoch derives its own.
        record: JSON-able description (recipe, versions, data) saved with the weights.
        log_interval: Batches between log lines.
        writers: Further objects with ``write(record)``.
        held_out: Loader like ``loader``, at least as long, of the validation images that the method
            sees in every step; None for methods that want none.
        keep: ``best`` keeps the epoch of the best validation score in the last phase, ``last``
            always the last one.
    """

    method: Method
    loader: Any
    validate: Callable[[Any], dict[str, float]]
    schedule: Schedule
    epochs: int
    folder: str
    seed: int = 0
    record: dict[str, Any] = {}
    score_name: str = "mAP"
    log_interval: int = 50
    writers: tuple[Any, ...] = ()
    held_out: Any = None
    keep: str = "best"


def fit(run: Run, resume: bool = False) -> dict[str, Any]:
    """Train, keeping the best epoch by validation score (or the last one).

    After every epoch ``last.ckpt`` replaces its predecessor atomically. Every epoch starts from its
    own seed, so a run that was killed at any moment and resumed repeats the interrupted epoch
    exactly and ends, on a CPU, with the same bits.

    Of several workers (:mod:`gluon_attn.workers`) all call this, and the first writes. Batches come
    from the same orders whatever their number, so that a run may be resumed with another one.

    An epoch whose validation score is undefined (nan) does not replace one that has a score. As
    long as there is none with a score, the last epoch is kept. An epoch whose validation fails is
    saved; a resumed run validates it and goes on.

    Returns ``{"epoch": best epoch, and all validation scores of that epoch by name}``; its score is
    nan if no epoch had one. Raises a DivergedError if a loss or a weight is not finite, a
    ValueError if the checkpoint belongs to another run or validation failed; after an OSError
    earlier checkpoints are untouched.
    """
    os.makedirs(run.folder, exist_ok=True)
    last = os.path.join(run.folder, "last.ckpt")
    start = 0
    best: dict[str, Any] | None = None
    pending: tuple[dict[str, Any], dict[str, Any]] | None = None
    if resume and os.path.exists(last):
        arrays, meta = load_checkpoint(last)
        _check_same_run(run, meta, last)
        restore(run.method, arrays, meta)
        run.schedule.load_state(meta["schedule"])
        # What was noted when the run was started stays with it.
        run = run._replace(record={**meta["record"], **run.record})
        best, pending = meta["best"], meta.get("pending")
        start = meta["epoch"] + (pending is None)
        logger.info("Resumed from %s after epoch %d", last, meta["epoch"])
    elif resume and os.path.exists(os.path.join(run.folder, "best.params")):
        logger.warning(
            "%s is not there: the run begins again, and its best.params will be replaced", last
        )
    group = run.method.workers
    group.check_equal(start, f"the epoch to begin with, by {last},")
    writers: tuple[Any, ...] = ()
    if group.is_first:
        writers = (JsonLines(os.path.join(run.folder, "log.jsonl"), start), *run.writers)
    for epoch in range(start, run.epochs):
        try:
            pending = _train_epoch(run, epoch) if pending is None else pending
        except DivergedError as error:
            raise DivergedError(f"{error}: training has diverged; {_way_back(run, best)}") from None
        meta = {
            "epoch": epoch, "schedule": run.schedule.state(), "best": best, "record": run.record
        }  # fmt: skip
        try:
            scores = _validate(run, epoch)
        except BaseException as error:
            _keep_trained(run, last, dict(meta, pending=pending), error)
            raise
        record = {**pending[0], **{f"val_{n}": v for n, v in scores.items()}, **pending[1]}
        pending = None
        run.schedule.record(scores[run.score_name])
        if _is_better(run, epoch, scores, best):
            best = {"epoch": epoch, **scores}
            if group.is_first:
                _save_best(run, best)
        for writer in writers:  # first: a resumed run drops the lines of epochs that it repeats
            writer.write(record)
        if group.is_first:
            meta = dict(meta, schedule=run.schedule.state(), best=best)
            save_checkpoint(last, run.method, meta)
    group.wait()  # so that all may read what the first has written
    return {name: or_nan(value) for name, value in (best or {}).items()}


def _is_better(run: Run, epoch: int, scores: dict[str, float], best: dict[str, Any] | None) -> bool:
    if best is None or run.keep == "last":
        return True
    score, before = scores[run.score_name], or_nan(best[run.score_name])
    if _kind(run, epoch) != _kind(run, best["epoch"]) and not math.isnan(score):
        return True  # parts of the net or of the loss took no part in what was before
    if math.isnan(score) and not math.isnan(before):
        logger.warning(
            "[Epoch %d] validation %s is undefined: epoch %d with %.4f stays the best", epoch,
            run.score_name, best["epoch"], before,
        )  # fmt: skip
    return score > before or math.isnan(before)


def _kind(run: Run, epoch: int) -> tuple[str, bool]:
    return run.method.phase_of(epoch), run.method.is_complete(epoch)


def _keep_trained(run: Run, path: str, meta: dict[str, Any], error: BaseException) -> None:
    """Save what was trained, as its validation has failed; raise an error that says so."""
    if not run.method.workers.is_first:
        return
    try:
        save_checkpoint(path, run.method, meta)
    except Exception as second:
        logger.warning("What epoch %d trained is lost: %s", meta["epoch"], describe(second))
        return
    kept = f"what it trained is in {path}: --resume validates it and goes on"
    if isinstance(error, Exception):
        text = f"validation of epoch {meta['epoch']} failed: {describe(error)}; {kept}"
        raise ValueError(text) from error
    logger.info("Validation of epoch %d was interrupted; %s", meta["epoch"], kept)


def _way_back(run: Run, best: dict[str, Any] | None) -> str:
    text = "lower lr, or use amp=none"
    if best is None:
        return f"{text}. It has finished no epoch: start it again"
    return (
        f"{text}. A new run can start from the weights of its epoch {best['epoch']}: "
        f"--init-from {run.folder}"
    )


def _train_epoch(run: Run, epoch: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train one epoch; return the parts of its log record before and behind the scores."""
    group = run.method.workers
    seed_everything((run.seed * 1_000_003 + group.rank * 15_485_863 + epoch) % 2**31)
    phase = run.method.phase
    run.method.begin_epoch(epoch)
    if phase is not None and phase != run.method.phase:
        logger.info("[Epoch %d] phase '%s' begins", epoch, run.method.phase)
        run.schedule.restart()
    lr = run.schedule.lr(epoch)
    run.method.set_learning_rate(lr)
    started = time.time()
    losses, samples = _train_batches(run, epoch, lr)
    run.method.end_epoch()
    group.make_equal(run.method.net)
    seconds = time.time() - started
    text = "\t".join(f"{n}={v:f}" for n, v in losses.items())
    logger.info("[Epoch %d] training: %s", epoch, text)
    logger.info(
        "[Epoch %d] speed: %d samples/sec\ttime cost: %f", epoch, samples / seconds, seconds
    )
    mx.nd.waitall()  # running statistics read straight after a static step can be stale
    # Weights that the last batches have spoilt must not replace good ones.
    for name, parameter in run.method.net._collect_params_with_prefix().items():
        if not np.isfinite(parameter.data(run.method.ctx[0]).asnumpy()).all():
            raise DivergedError(f"epoch {epoch} ends with NaN or infinite values in {name}")
    behind = dict(run.method.report(), samples_per_second=samples / seconds, seconds=seconds)
    return {"epoch": epoch, "phase": run.method.phase, "lr": lr, **losses}, behind


def _validate(run: Run, epoch: int) -> dict[str, float]:
    scores = run.validate(run.method.net)
    if run.score_name not in scores:
        raise ValueError(f"no score '{run.score_name}'; there are {', '.join(scores)}")
    restore_plain_layout(run.method.net)
    text = "\t".join(f"{n}={v:f}" for n, v in scores.items())
    logger.info("[Epoch %d] validation: %s", epoch, text)
    return scores


def _train_batches(run: Run, epoch: int, lr: float) -> tuple[dict[str, float], int]:
    """Run the batches of one epoch; return mean losses per sample and the number of samples."""
    loaders: list[Any] = [run.loader] if run.held_out is None else [run.loader, run.held_out]
    for loader in loaders:
        loader.set_epoch(epoch)
    totals: dict[str, Any] = {}
    queue: collections.deque[Any] = collections.deque()
    group = run.method.workers
    samples, since, since_samples = 0, time.time(), 0
    shown = bar(run.loader, f"epoch {epoch}")
    for number, batches in enumerate(zip(shown, *loaders[1:])):
        batch = batches[0]
        if run.schedule.every_batch:
            lr = run.schedule.lr_within(epoch, number / len(run.loader))
            run.method.set_learning_rate(lr)
        sums = run.method.train_step(*batches)
        for name, value in sums.items():
            totals[name] = totals[name] + value if name in totals else value
        samples += run.method.rows(batch)
        # Bound how far Python runs ahead of the devices; this waits for an older batch only.
        queue.append(sums["loss"])
        if len(queue) > MAX_AHEAD:
            queue.popleft().wait_to_read()
        if (number + 1) % run.log_interval == 0:
            loss = group.total("loss", totals["loss"].asnumpy())[0] / samples
            _finite(loss, epoch, number)
            speed = (samples - since_samples) / (time.time() - since)
            logger.info(
                "Epoch[%d] Batch [%d]\tSpeed: %f samples/sec\tloss=%f\tlr=%f",
                epoch, number + 1, speed, loss, lr,
            )  # fmt: skip
            since, since_samples = time.time(), samples
    if not samples:
        raise ValueError("the training set is smaller than one batch; lower batch_size")
    means = {
        n if n == "loss" else f"loss_{n}": float(group.total("loss", t.asnumpy())[0]) / samples
        for n, t in totals.items()
    }
    _finite(means["loss"], epoch, number)
    return means, samples


def _finite(loss: float, epoch: int, batch: int) -> None:
    if not math.isfinite(loss):
        raise DivergedError(f"the loss is {loss} in epoch {epoch}, by batch {batch + 1}")


def _save_best(run: Run, best: dict[str, Any]) -> None:
    path = os.path.join(run.folder, "best.params")
    save_parameters(run.method.net, path)
    text = dict(best, sha256=sha256_of(path), **run.record)
    write_json(os.path.join(run.folder, "best.json"), text)


def _check_same_run(run: Run, meta: dict[str, Any], path: str) -> None:
    old, new = meta["record"], run.record
    for group in ("recipe", "data"):
        before, now = old.get(group, {}), new.get(group, {})
        if group == "recipe" and before:  # settings that did not exist then had their defaults
            before = Recipe.from_dict(before, path).to_dict()
        for key in sorted(set(before) | set(now)):
            if before.get(key) != now.get(key) and key not in ("epochs", "log_interval"):
                raise ValueError(
                    f"cannot resume {path}: {group} '{key}' was {before.get(key)!r}, now it is "
                    f"{now.get(key)!r}; use the same settings or another --save-dir"
                )


def restore_plain_layout(net: Any) -> None:
    """Undo what inference on a CPU does to the weights' memory layout.

    In inference, MXNet's oneDNN convolutions reorder their weights in place. Training on such
    weights gives results that now and then differ in the last bit, so that repeated or resumed runs
    would not be bit-identical (measured: 1 run in 7).
    """
    mx.nd.waitall()
    for parameter in net.collect_params().values():
        for data in parameter.list_data():
            if data.context.device_type == "cpu" and data.ndim == 4:
                mx.nd.identity(mx.nd.array(data.asnumpy(), ctx=data.context), out=data)
    mx.nd.waitall()


def use_static_graph(net: Any) -> None:
    """Hybridize ``net`` with static memory and shapes."""
    net.hybridize(static_alloc=True, static_shape=True)
    mx.nd.waitall()
