"""From a net to a symbol with stable names, and back from an export directory to a block.

The net is traced with a symbol, not with data: its hybridization, contexts and parameters are not
touched, and no batch size can end up in the graph. Gluon names nodes after counters that run on for
the whole process (``vaa1_resnet3_conv0_weight``); here a parameter is called as in
``save_parameters`` (``backbone.features.0.weight``), an operator after the block it belongs to, and
an output by its own name, so the same net always gives the same file.
"""

from __future__ import annotations

import json
import logging

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from gluon_attn.core.errors import first_line
from gluon_attn.export.graph_file import load_graph
from gluon_attn.export.sidecar import ExportError, read_sidecar, read_verified
from gluon_attn.runtime import has_avx512, has_vnni

INPUT = "data"
PRECISIONS = ("fp32", "int8", "bf16", "fp16")
_TRAINING_ATTRIBUTES = ("__lr_mult__", "__wd_mult__", "__init__")

logger = logging.getLogger(__name__)


def output_names(net):
    """Return the names of a net's outputs; a net without ``output_names`` has only logits."""
    return tuple(getattr(net, "output_names", ("logits",)))


def select_outputs(net, with_maps):
    """Return the names of the outputs to export: logits, embeddings, and attention maps if asked.

    Embeddings (``net.embedding_outputs``) are always among them: they are what such a net is for.

    Raises:
        ExportError: The first output is not the logits, or maps are asked for and there are none.
    """
    names, maps = output_names(net), tuple(getattr(net, "attention_outputs", ()))
    embeddings = tuple(getattr(net, "embedding_outputs", ()))
    if names[0] != "logits" or not {*maps, *embeddings} <= set(names):
        raise ExportError(f"{type(net).__name__}: outputs {names}: 'logits' must come first")
    if with_maps and not maps:
        raise ExportError(f"{type(net).__name__} has no attention maps; export it without them")
    return ("logits",) + embeddings + (maps if with_maps else ())


def trace(net, names):
    """Return the graph of some outputs of a net, with the parameters it needs.

    Args:
        net: HybridBlock with initialised parameters; it is not changed.
        names: Which of its outputs, in order.

    Returns:
        ``(symbol, arrays)``: the symbol with input ``data`` and one output per name, and a dict of
        ``arg:``/``aux:`` names to float32 NDArrays on the CPU. Of a net on several devices, the
        parameters and running statistics of the first are taken.

    Raises:
        ExportError: The net is no HybridBlock, cannot be traced, or has a parameter that is not
            initialised, not float32, or whose shape is unknown.
    """
    if not isinstance(net, gluon.HybridBlock):
        raise ExportError(f"{type(net).__name__} is no HybridBlock; only those have a graph")
    group = mx.sym.Group(_distinct(_trace_outputs(net, names)))
    parameters = {p.name: p for p in net.collect_params().values()}
    graph = json.loads(group.tojson())
    renamed = _rename(graph, net, names)
    arrays = {}
    auxiliary = set(group.list_auxiliary_states())
    for old in set(group.list_inputs()) - {INPUT}:
        if old not in parameters:
            raise ExportError(f"{type(net).__name__}: input '{old}' of its graph is no parameter")
        kind = "aux" if old in auxiliary else "arg"
        arrays[f"{kind}:{renamed[old]}"] = _value(parameters[old])
    if not arrays:
        raise ExportError(f"{type(net).__name__}: its graph has no parameters; nothing to export")
    _clean_attributes(graph, arrays)
    _reset_versions(graph)
    return mx.sym.load_json(json.dumps(graph)), dict(sorted(arrays.items()))


def load_exported(directory, ctx=None, precision="fp32", fused=False):
    """Load an export directory, having verified it.

    Args:
        directory: The export directory.
        ctx: Context for the parameters; the CPU by default.
        precision: ``'fp32'``; ``'fp16'``, for a GPU; or ``'int8'`` or ``'bf16'`` if the export has
            it, for the CPU. Do hybridize with ``static_alloc=True, static_shape=True``: without,
            oneDNN rearranges every weight in every call.
        fused: Of ``'fp32'``, the graph as :func:`fuse` makes it: faster, for the CPU.

    Returns:
        ``(block, sidecar)``: a SymbolBlock from ``(B, 3, H, W)`` float32 to the outputs that the
        sidecar lists (a bare array if there is one), float32, without gradients; and the sidecar.

    Raises:
        FileNotFoundError: The directory or one of its files is missing.
        ExportError: It is no export, was written by a newer version, or a file was truncated,
            changed or does not fit the others; found before anything runs. Or the export has no
            such precision, or this processor cannot run it.
        ValueError: Unknown precision, or one that the context or ``fused`` does not go with.
    """
    ctx = ctx or mx.cpu()
    _check_request(precision, fused, ctx)
    sidecar = read_sidecar(directory)
    prefix = "" if precision in ("fp32", "fp16") else f"{precision}_"
    if f"{prefix}symbol" not in sidecar["files"]:
        raise ExportError(
            f"{directory} has no {precision} graph; add it with tools/export.py --export "
            f"{directory} --{precision}"
        )
    require_cpu(precision, sidecar.get(precision))
    text = read_verified(directory, sidecar["files"][f"{prefix}symbol"])
    raw = read_verified(directory, sidecar["files"][f"{prefix}params"])
    symbol, arrays = load_graph(text, raw, directory)
    check_shapes(symbol, arrays, sidecar, directory)
    if precision == "fp16":
        from gluon_attn.export.float16 import to_float16

        symbol, arrays = to_float16(symbol, arrays)
    return make_block(fuse(symbol) if fused else symbol, arrays, ctx), sidecar


def make_block(symbol, arrays, ctx=None):
    """Return a SymbolBlock for inference.

    Args:
        symbol: Graph with the input ``data``.
        arrays: Its parameters by ``arg:``/``aux:`` names; they keep their types.
        ctx: Context; the CPU by default.
    """
    block = gluon.SymbolBlock(symbol, [mx.sym.var(INPUT, dtype="float32")])
    parameters = block.collect_params()
    parameters.setattr("grad_req", "null")  # else every weight gets a gradient buffer beside it
    parameters.load_dict(arrays, ctx=ctx or mx.cpu(), cast_dtype=True, dtype_source="saved")
    return block


def fuse(symbol):
    """Return a graph in which convolution, batch-norm, addition and activation are one operator.

    For inference on the CPU; the parameters, names of inputs and numbers (up to rounding) stay.
    """
    return symbol.get_backend_symbol("MKLDNN")


def require_cpu(precision, entry=None):
    """Refuse a precision that this processor cannot run; warn where it gives other numbers.

    Args:
        precision: See :func:`load_exported`.
        entry: The sidecar's entry for it, if there is one.

    Raises:
        ExportError: bf16 without AVX-512.
    """
    if precision == "bf16" and not has_avx512():
        raise ExportError(
            "bf16 needs a processor with AVX-512 (avx512bw, avx512dq, avx512vl), and oneDNN has no "
            "bfloat16 kernels for this one; use fp32 or int8 here"
        )
    if precision == "int8" and entry and entry.get("vnni") and not has_vnni():
        logger.warning(
            "this int8 graph was measured on a processor with VNNI instructions, which this one "
            "lacks: large sums saturate here, and the recorded drop of %.2f points does not hold",
            entry["drop"],
        )


def _check_request(precision, fused, ctx):
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: valid are {', '.join(PRECISIONS)}")
    if fused and precision != "fp32":
        raise ValueError(f"fused=True goes with fp32; the {precision} graph is always fused")
    if precision == "fp16":
        if ctx.device_type == "cpu":
            raise ValueError("fp16 runs on a GPU only; on the CPU use fp32, or int8 or bf16")
        return
    if (fused or precision != "fp32") and ctx.device_type != "cpu":
        what = "the fused graph" if fused else precision
        raise ValueError(f"{what} runs on the CPU only, not on {ctx}; use fp32 there")


def check_shapes(symbol, arrays, sidecar, where):
    """Compare the parameters and outputs with the graph, for two batch sizes.

    MXNet itself notices a wrong shape only in the first forward, and a batch size that is baked
    into the graph only when another one comes.

    Raises:
        ExportError: A parameter is missing, left over or of the wrong shape, or an output is not
            as the sidecar says.
    """
    given = {name.split(":", 1)[-1]: tuple(array.shape) for name, array in arrays.items()}
    needed = set(symbol.list_inputs()) - {INPUT}
    if set(given) != needed:
        missing, extra = sorted(needed - set(given)), sorted(set(given) - needed)
        raise ExportError(f"{where}: parameters missing: {missing[:5]}, left over: {extra[:5]}")
    sample = tuple(sidecar["input"]["shape"][1:])
    for batch in (1, 3):
        try:
            arg, out, aux = symbol.infer_shape(**{INPUT: (batch,) + sample})
        except mx.base.MXNetError as error:
            raise ExportError(f"{where}: graph and input differ: {first_line(error)}") from error
        names = symbol.list_arguments() + symbol.list_auxiliary_states()
        for name, shape in zip(names, arg + aux):
            if name != INPUT and given[name] != tuple(shape):
                raise ExportError(f"{where}: '{name}' is {given[name]}, the graph needs {shape}")
        listed = [(o["name"], (batch,) + tuple(o["shape"][1:])) for o in sidecar["outputs"]]
        if [shape for _, shape in listed] != [tuple(shape) for shape in out]:
            raise ExportError(f"{where}: outputs are {out}, the sidecar says {listed}")


def _trace_outputs(net, names):
    # A name manager of its own: tracing leaves no mark on the names of nets that are made later.
    with mx.name.NameManager(), autograd.pause(train_mode=False):
        try:
            outputs = net(mx.sym.var(INPUT))
        except (TypeError, AttributeError, NotImplementedError, mx.base.MXNetError) as error:
            raise ExportError(
                f"{type(net).__name__} cannot be traced ({first_line(error)}); a hybrid_forward "
                "may only use F operators: no .shape, no asnumpy, no branches on values"
            ) from error
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    known = output_names(net)
    if len(outputs) != len(known):
        raise ExportError(
            f"{type(net).__name__} names {len(known)} outputs, returned {len(outputs)}"
        )
    return [outputs[known.index(name)] for name in names]


def _distinct(outputs):
    """Put an identity behind outputs that cannot carry a name of their own."""
    heads = [json.loads(out.tojson()) for out in outputs]
    labels = [(g["nodes"][g["heads"][0][0]]["name"]) for g in heads]
    result = []
    for out, graph, label in zip(outputs, heads, labels):
        node, position = graph["heads"][0][:2]
        shared = graph["nodes"][node]["op"] == "null" or position or labels.count(label) > 1
        result.append(mx.sym.identity(out) if shared else out)
    return result


def _rename(graph, net, names):
    """Give the graph's nodes stable names; return {old name: new name} of its variables."""
    structural = {}
    for path, parameter in sorted(net._collect_params_with_prefix().items()):
        structural.setdefault(parameter.name, path)
    scopes = _scopes(net)
    heads = {head[0]: name for head, name in zip(graph["heads"], names)}
    taken, variables = set(names) | {INPUT}, {}
    for number, node in enumerate(graph["nodes"]):
        old = node["name"]
        if number in heads:
            node["name"] = heads[number]
            continue
        if old == INPUT and node["op"] == "null":
            continue
        new = structural.get(old) if node["op"] == "null" else None
        node["name"] = _unique(new or _relative(old, scopes), taken)
        if node["op"] == "null":
            variables[old] = node["name"]
    return variables


def _scopes(net):
    """Return [(Gluon prefix, path)] of all blocks, longest prefix first."""
    paths = {}
    todo = [("", net)]
    while todo:  # breadth first: a child made with prefix='' shares its parent's, who comes first
        path, block = todo.pop(0)
        prefix = block.prefix or mx.gluon.block._common_prefix(list(block.params.keys()))
        if prefix:
            paths.setdefault(prefix, path)
        todo += [(f"{path}.{name}".strip("."), b) for name, b in block._children.items()]
    return sorted(paths.items(), key=lambda item: (-len(item[0]), item[0]))


def _relative(name, scopes):
    for prefix, path in scopes:
        if name.startswith(prefix) and len(name) > len(prefix):
            return f"{path}.{name[len(prefix) :]}".strip(".")
    return name


def _unique(name, taken):
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


def _value(parameter):
    try:
        value = parameter.list_data()[0]
    except (RuntimeError, gluon.parameter.DeferredInitializationError) as error:
        raise ExportError(
            f"parameter '{parameter.name}' is not initialised; load or train the net first"
        ) from error
    if value.dtype != np.float32 or value.stype != "default":
        raise ExportError(
            f"parameter '{parameter.name}' is {np.dtype(value.dtype)}, {value.stype}: export needs "
            "dense float32; call net.cast('float32') first"
        )
    return value.copyto(mx.cpu())


def _clean_attributes(graph, arrays):
    """Drop what only training needs; state every parameter's shape."""
    shapes = {name.split(":", 1)[1]: str(tuple(a.shape)) for name, a in arrays.items()}
    for node in graph["nodes"]:
        if node["op"] != "null":
            continue
        kept = {k: v for k, v in node.get("attrs", {}).items() if k not in _TRAINING_ATTRIBUTES}
        if node["name"] in shapes:
            kept["__shape__"] = shapes[node["name"]]
        node["attrs"] = kept


def _reset_versions(graph):
    """Count the versions of running statistics from 0; every earlier trace has added one."""
    references = [ref for node in graph["nodes"] for ref in node["inputs"]] + graph["heads"]
    first = {}
    for number, _, version in references:
        first[number] = min(version, first.get(number, version))
    for reference in references:
        reference[2] -= first[reference[0]]
