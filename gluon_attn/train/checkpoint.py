"""One file that holds a whole training run, so that its parts can never disagree.

``last.ckpt`` is a NumPy archive (no pickles: opening a third-party one runs no code) with the net's
parameters, the optimiser's state, the method's own state and a JSON record of where the run stands.
MXNet's ``Trainer.save_states`` is not used because it pickles.
"""

from __future__ import annotations

import json
from typing import Any, Dict, Sequence

import mxnet as mx
import numpy as np

from gluon_attn.core.errors import DamagedError, naming
from gluon_attn.core.files import json_text, save_arrays
from gluon_attn.core.reading import read_npz
from gluon_attn.method import Method

FORMAT = 2  # 1: no epoch in it waits for its validation
_DAMAGED = "checkpoint {path} is damaged ({why}); use an older one"
_SCALER = "amp/scaler"
Arrays = Dict[str, np.ndarray]


def save_checkpoint(path: str, method: Method, meta: dict[str, Any]) -> None:
    """Write ``path`` atomically; after an OSError the previous checkpoint is untouched.

    ``meta`` is a JSON-able record (epoch, schedule, scores, recipe, versions); with ``pending``,
    what the log is to say of an epoch that has been trained but not validated.
    """
    mx.nd.waitall()  # running statistics read straight after a static step can be stale
    parameters = _parameters(method.net)
    arrays = {f"net/{n}": p.data(method.ctx[0]).asnumpy() for n, p in parameters.items()}
    for phase, trainer in method.trainers.items():
        arrays.update(_trainer_arrays(f"trainer/{phase}", trainer))
    arrays.update({f"method/{name}": value for name, value in method.state().items()})
    if method.precision.scaler is not None:
        arrays[_SCALER] = method.precision.scaler.state()
    version = FORMAT if "pending" in meta else 1  # older releases would take it for finished
    meta = dict(meta, format=version, phase=method.phase, phases=list(method.trainers))
    arrays["meta"] = np.frombuffer(json_text(meta, None).encode(), dtype=np.uint8)
    save_arrays(path, arrays)


def load_checkpoint(path: str) -> tuple[Arrays, dict[str, Any]]:
    """Read a checkpoint: ``(arrays, meta)`` for :func:`restore`.

    Raises a ValueError if the file is damaged or was written by a newer version.
    """
    try:
        arrays = read_npz(path, _DAMAGED)
    except FileNotFoundError:
        raise FileNotFoundError(f"no checkpoint {path}") from None
    with naming(path, _DAMAGED):
        if "meta" not in arrays:
            raise DamagedError("it holds no record of a run")
        meta = json.loads(arrays.pop("meta").tobytes().decode())
        if not isinstance(meta, dict) or type(meta.get("format")) is not int:
            raise DamagedError("its record is none of a run")
    if meta["format"] > FORMAT:
        raise ValueError(f"checkpoint {path} has format {meta['format']}, this is {FORMAT}")
    return arrays, meta


def load_net(net: Any, arrays: Arrays, path: str) -> None:
    """Give an initialised net the parameters of a checkpoint; ValueError if it is another net's."""
    for parameter, saved in _pairs(net, arrays, f"checkpoint {path}"):
        parameter.set_data(mx.nd.array(saved, dtype=saved.dtype))


def restore(method: Method, arrays: Arrays, meta: dict[str, Any]) -> None:
    """Put a method into the state that was saved.

    Raises a ValueError if the checkpoint belongs to another net or other data; shapes are compared
    before anything is changed.
    """
    pairs = _pairs(method.net, arrays, "the checkpoint")
    own = {n[len("method/") :]: a for n, a in arrays.items() if n.startswith("method/")}
    method.load_state(own)
    if method.precision.scaler is not None and _SCALER in arrays:
        method.precision.scaler.load_state(arrays[_SCALER])
    for parameter, saved in pairs:
        parameter.set_data(mx.nd.array(saved, dtype=saved.dtype))
    for phase in meta["phases"]:
        method.begin_phase(phase)
        method.phase = phase
        _load_trainer(f"trainer/{phase}", method.trainers[phase], arrays)
    if meta["phase"] is not None and method.phase != meta["phase"]:
        method.begin_phase(meta["phase"])
        method.phase = meta["phase"]


def _parameters(net: Any) -> dict[str, Any]:
    """Return parameters by names that do not depend on the instance."""
    return net._collect_params_with_prefix()


def _pairs(net: Any, arrays: Arrays, what: str) -> list[tuple[Any, np.ndarray]]:
    parameters = _parameters(net)
    saved = {n[len("net/") :]: a for n, a in arrays.items() if n.startswith("net/")}
    wrong = [n for n in parameters if n not in saved or saved[n].shape != parameters[n].shape]
    wrong += [n for n in saved if n not in parameters]
    if wrong:
        raise ValueError(f"{what} is of another net: {', '.join(wrong[:3])} differ")
    return [(parameter, saved[name]) for name, parameter in parameters.items()]


def _trainer_arrays(prefix: str, trainer: Any) -> Arrays:
    """Return optimiser state as arrays: one per state tensor, plus the update counts."""
    updater = trainer._updaters[0]
    arrays = {}
    for index, state in updater.states.items():
        for number, tensor in enumerate(_flat(state)):
            arrays[f"{prefix}/{index}/{number}"] = tensor.asnumpy()
    optimizer = updater.optimizer
    counts = sorted(optimizer._index_update_count.items())
    arrays[f"{prefix}/counts"] = np.array(counts, dtype=np.int64).reshape(-1, 2)
    arrays[f"{prefix}/num_update"] = np.array(optimizer.num_update, dtype=np.int64)
    return arrays


def _load_trainer(prefix: str, trainer: Any, arrays: Arrays) -> None:
    if not trainer._kv_initialized:
        trainer._init_kvstore()
    if trainer._params_to_init:
        trainer._init_params()
    counts = {int(i): int(n) for i, n in arrays[f"{prefix}/counts"]}
    for updater, ctx in zip(trainer._updaters, trainer._contexts):
        for index in counts:
            weight = trainer._params[index].data(ctx)
            state = updater.optimizer.create_state_multi_precision(index, weight)
            for number, tensor in enumerate(_flat(state)):
                saved = arrays[f"{prefix}/{index}/{number}"]
                tensor[:] = mx.nd.array(saved, ctx=ctx, dtype=saved.dtype)
            updater.states[index] = state
            updater.states_synced[index] = True
        updater.optimizer.num_update = int(arrays[f"{prefix}/num_update"])
    # one optimiser is shared by the updaters of all devices; each keeps its own counts
    optimizer = trainer._updaters[0].optimizer
    for ctx in trainer._contexts:
        optimizer._all_index_update_counts[ctx.device_id] = dict(counts)
    optimizer._set_current_context(trainer._contexts[0].device_id)


def _flat(state: Any) -> Sequence[Any]:
    if state is None:
        return []
    if isinstance(state, (tuple, list)):
        return [tensor for part in state for tensor in _flat(part)]
    return [state]
