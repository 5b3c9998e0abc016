"""From a net to a symbol with stable names, back from files to a block, and small rewritings.

The net is traced with a symbol, not with data: its hybridization, contexts and parameters are not
touched, and no batch size can end up in the graph. Gluon names nodes after counters that run on for
the whole process (``vaa1_resnet3_conv0_weight``); here a parameter is called as in
``save_parameters`` (``backbone.features.0.weight``), an operator after the block it belongs to, and
an output by its own name, so the same net always gives the same file.

On the way back, MXNet's C code sees only what has been checked: its reader of parameters takes
memory for whatever a file promises (see :mod:`gluon_attn.core.reading`), and a graph in which a
layer takes output 7 of one that has a single output, or a convolution has no groups, ends the
process.

``arrays`` are everywhere the parameters of a graph by ``arg:``/``aux:`` names.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Callable, Dict, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from gluon_attn.core.errors import DamagedError, first_line, naming
from gluon_attn.core.outputs import as_list, name_outputs, output_names
from gluon_attn.core.reading import load_params
from gluon_attn.core.tracing import for_inference
from gluon_attn.env.cpu import amx_is_on, overruns_with_amx
from gluon_attn.export.sidecar import ExportError, Sidecar

Symbol = Any  # mx.sym.Symbol
Arrays = Dict[str, Any]  # "arg:name" or "aux:name" to NDArray
Graph = Tuple[Symbol, Arrays]
Json = Dict[str, Any]  # a graph as MXNet writes it

INPUT = "data"
_TRAINING_ATTRIBUTES = ("__lr_mult__", "__wd_mult__", "__init__")


def select_outputs(net: Any, with_maps: bool) -> tuple[str, ...]:
    """Return the names of the outputs to export: logits, embeddings, and attention maps if asked.

    Embeddings (``net.embedding_outputs``) are always among them: they are what such a net is for.
    """
    names, maps = output_names(net), tuple(getattr(net, "attention_outputs", ()))
    embeddings = tuple(getattr(net, "embedding_outputs", ()))
    if names[0] != "logits" or not {*maps, *embeddings} <= set(names):
        raise ExportError(f"{type(net).__name__}: outputs {names}: 'logits' must come first")
    if with_maps and not maps:
        raise ExportError(f"{type(net).__name__} has no attention maps; export it without them")
    return ("logits", *embeddings, *(maps if with_maps else ()))


def trace(net: Any, names: Sequence[str]) -> Graph:
    """Return the graph of the outputs ``names`` of a net, which is left alone, and its parameters.

    The symbol has the input ``data`` and one output per name; parameters are float32 on the CPU, of
    several devices those of the first. An ExportError if the net is no HybridBlock, cannot be
    traced, or has a parameter that is not initialised, not float32, or of unknown shape.
    """
    kind = type(net).__name__
    if not isinstance(net, gluon.HybridBlock):
        raise ExportError(f"{kind} is no HybridBlock; only those have a graph")
    group = mx.sym.Group(_distinct(_trace_outputs(net, names)))
    graph = json.loads(group.tojson())
    parameters, renamed = net.collect_params(), _rename(graph, net, names)
    args: Arrays = {}
    aux: Arrays = {}
    auxiliary = set(group.list_auxiliary_states())
    for old in set(group.list_inputs()) - {INPUT}:
        if old not in parameters:
            raise ExportError(f"{kind}: input '{old}' of its graph is no parameter")
        (aux if old in auxiliary else args)[renamed[old]] = _value(parameters[old])
    if not args and not aux:
        raise ExportError(f"{kind}: its graph has no parameters; nothing to export")
    _clean_attributes(graph, {**args, **aux})
    _reset_versions(graph)
    return symbol_of(graph), join_arrays(args, aux)


def _trace_outputs(net: Any, names: Sequence[str]) -> list[Symbol]:
    kind = type(net).__name__
    # A name manager of its own: tracing leaves no mark on the names of nets that are made later.
    with mx.name.NameManager(), autograd.pause(train_mode=False), for_inference():
        try:
            outputs = net(mx.sym.var(INPUT))
        except (TypeError, AttributeError, NotImplementedError, mx.base.MXNetError) as error:
            raise ExportError(
                f"{kind} cannot be traced ({first_line(error)}); a hybrid_forward may only use F "
                "operators: no .shape, no asnumpy, no branches on values"
            ) from error
    return select(net, outputs, names)


def select(net: Any, outputs: Any, names: Sequence[str]) -> list[Any]:
    """Return some of a net's outputs by name; ExportError if it returned another number of them."""
    try:
        named = name_outputs(net, outputs)
    except ValueError as error:
        raise ExportError(str(error)) from error
    return [named[name] for name in names]


def _distinct(outputs: Sequence[Symbol]) -> list[Symbol]:
    """Put an identity behind outputs that cannot carry a name of their own."""
    found = [json.loads(out.tojson()) for out in outputs]
    heads = [(g["nodes"][g["heads"][0][0]], g["heads"][0][1]) for g in found]
    names = [node["name"] for node, _ in heads]
    own = [
        node["op"] != "null" and not place and names.count(node["name"]) == 1
        for node, place in heads
    ]
    return [out if single else mx.sym.identity(out) for out, single in zip(outputs, own)]


def _rename(graph: Json, net: Any, names: Sequence[str]) -> dict[str, str]:
    """Give the graph's nodes stable names; return {old name: new name} of its variables."""
    structural: dict[str, str] = {}
    for path, parameter in sorted(net._collect_params_with_prefix().items()):
        structural.setdefault(parameter.name, path)
    scopes = _scopes(net)
    heads = {head[0]: name for head, name in zip(graph["heads"], names)}
    taken, variables = {*names, INPUT}, {}
    for number, node in enumerate(graph["nodes"]):
        old, is_variable = node["name"], node["op"] == "null"
        if number in heads:
            node["name"] = heads[number]
        elif old != INPUT or not is_variable:
            new = structural.get(old) if is_variable else None
            node["name"] = unique(new or _relative(old, scopes), taken)
            if is_variable:
                variables[old] = node["name"]
    return variables


def _scopes(net: Any) -> list[tuple[str, str]]:
    """Return [(Gluon prefix, path)] of all blocks, longest prefix first."""
    paths: dict[str, str] = {}
    todo = [("", net)]
    while todo:  # breadth first: a child made with prefix='' shares its parent's, who comes first
        path, block = todo.pop(0)
        prefix = block.prefix or mx.gluon.block._common_prefix(list(block.params.keys()))
        if prefix:
            paths.setdefault(prefix, path)
        todo += [(f"{path}.{name}".strip("."), b) for name, b in block._children.items()]
    return sorted(paths.items(), key=lambda item: (-len(item[0]), item[0]))


def _relative(name: str, scopes: Sequence[tuple[str, str]]) -> str:
    for prefix, path in scopes:
        if name.startswith(prefix) and len(name) > len(prefix):
            return f"{path}.{name[len(prefix) :]}".strip(".")
    return name


def unique(name: str, taken: set[str]) -> str:
    """Return a name, or with a number behind it, that is not taken; from now on it is."""
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


def _value(parameter: Any) -> Any:
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


def _clean_attributes(graph: Json, arrays: Arrays) -> None:
    """Drop what only training needs; state every parameter's shape."""
    for node in graph["nodes"]:
        if node["op"] == "null":
            kept = {k: v for k, v in node.get("attrs", {}).items() if k not in _TRAINING_ATTRIBUTES}
            if node["name"] in arrays:
                kept["__shape__"] = str(tuple(arrays[node["name"]].shape))
            node["attrs"] = kept


def _reset_versions(graph: Json) -> None:
    """Count the versions of running statistics from 0; every earlier trace has added one."""
    references = [ref for node in graph["nodes"] for ref in node["inputs"]] + graph["heads"]
    first: dict[int, int] = {}
    for number, _, version in references:
        first[number] = min(version, first.get(number, version))
    for reference in references:
        reference[2] -= first[reference[0]]


def read_graph(directory: Path, sidecar: Sidecar) -> Graph:
    """Return the float32 graph in a directory that is being written."""
    paths = [directory / sidecar["files"][kind]["file"] for kind in ("symbol", "params")]
    return load_graph(paths[0].read_bytes(), paths[1].read_bytes(), directory)


def load_graph(
    text: bytes, raw: bytes, where: Any, load: Callable[..., Any] = load_params
) -> Graph:
    """Return ``(symbol, arrays)`` of JSON and parameter file; an ExportError names ``where``."""
    try:
        with naming(where, "{path}: MXNet cannot read it: {why}"):
            symbol = load_symbol(text)
            arrays = load(raw, "its parameters")
            if not isinstance(arrays, dict):
                raise DamagedError("its parameters have no names")
    except ValueError as error:
        raise ExportError(first_line(error)) from error
    return symbol, arrays


def load_symbol(text: bytes | str) -> Symbol:
    """Return the graph of a JSON text, once every reference in it is known to lead somewhere."""
    graph = json.loads(text)
    _check_references(graph)
    return symbol_of(graph)


def check_shapes(symbol: Symbol, arrays: Arrays, sidecar: Sidecar, where: Any) -> None:
    """Compare the parameters and outputs with the graph, for two batch sizes; an ExportError.

    MXNet itself notices a wrong shape only in the first forward, and a batch size that is baked
    into the graph only when another one comes.
    """
    given = {name.split(":", 1)[-1]: tuple(array.shape) for name, array in arrays.items()}
    needed = set(symbol.list_inputs()) - {INPUT}
    if set(given) != needed:
        missing, extra = sorted(needed - set(given)), sorted(set(given) - needed)
        raise ExportError(f"{where}: parameters missing: {missing[:5]}, left over: {extra[:5]}")
    sample = tuple(sidecar["input"]["shape"][1:])
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    for batch in (1, 3):
        try:
            arg, out, aux = symbol.infer_shape(**{INPUT: (batch, *sample)})
        except mx.base.MXNetError as error:
            raise ExportError(f"{where}: graph and input differ: {first_line(error)}") from error
        for name, shape in zip(names, arg + aux):
            if name != INPUT and given[name] != tuple(shape):
                raise ExportError(f"{where}: '{name}' is {given[name]}, the graph needs {shape}")
        listed = [(o["name"], (batch, *o["shape"][1:])) for o in sidecar["outputs"]]
        if [shape for _, shape in listed] != [tuple(shape) for shape in out]:
            raise ExportError(f"{where}: outputs are {out}, the sidecar says {listed}")


def make_block(symbol: Symbol, arrays: Arrays, ctx: Any = None) -> Any:
    """Return a SymbolBlock for inference; the parameters keep their types."""
    block = gluon.SymbolBlock(symbol, [mx.sym.var(INPUT, dtype="float32")])
    parameters = block.collect_params()
    parameters.setattr("grad_req", "null")  # else every weight gets a gradient buffer beside it
    parameters.load_dict(arrays, ctx=ctx or mx.cpu(), cast_dtype=True, dtype_source="saved")
    return block


def static(block: Any) -> Any:
    """Hybridize a block for inference: otherwise oneDNN rearranges every weight in every call."""
    block.hybridize(static_alloc=True, static_shape=True)
    return block


def logits_of(block: Any, batch: Any) -> np.ndarray:
    """Return the first output of a block, the logits, of a NumPy batch."""
    return as_list(block(mx.nd.array(batch)))[0].asnumpy()


def split_arrays(arrays: Arrays) -> tuple[Arrays, Arrays]:
    """Return (args, aux) without the prefixes."""
    parts: dict[str, Arrays] = {"arg": {}, "aux": {}}
    for name, value in arrays.items():
        kind, _, plain = name.partition(":")
        parts[kind][plain] = value
    return parts["arg"], parts["aux"]


def join_arrays(args: Arrays, aux: Arrays) -> Arrays:
    """Return what :func:`split_arrays` took apart, sorted."""
    parts = (("arg", args), ("aux", aux))
    return dict(sorted((f"{k}:{name}", v) for k, part in parts for name, v in part.items()))


def _check_references(graph: Json) -> None:
    nodes: list[Json] = graph["nodes"]
    references: list[tuple[int, int]] = []
    for number, node in enumerate(nodes):
        for part in node.get("subgraphs", ()):
            _check_references(part)
        inputs = [_reference(entry, number) for entry in node["inputs"]]
        if inputs and node["op"] == "null":
            raise DamagedError(f"variable {number} of the graph has inputs")
        groups = node.get("attrs", {}).get("num_group", "1")
        if int(groups) < 1:  # by which MXNet divides
            raise DamagedError(f"node {number} of the graph has {groups} groups")
        references += inputs
    heads = [_reference(entry, len(nodes)) for entry in graph["heads"]]
    if not heads:
        raise DamagedError("the graph has no outputs")
    references += heads
    if any(place for _, place in references):
        counts = _count_outputs(graph)
        for source, place in references:
            if place >= counts[source]:
                name = nodes[source]["name"]
                raise DamagedError(f"output {place} of '{name}', which has {counts[source]}")


def _reference(entry: Any, end: int) -> tuple[int, int]:
    """Return which output of which node an entry names; the nodes before ``end`` are known."""
    if not isinstance(entry, list) or len(entry) not in (2, 3):
        raise DamagedError("a reference of the graph is none")
    if any(type(number) is not int or not 0 <= number < 1 << 31 for number in entry):
        raise DamagedError(f"the graph has the reference {entry}")
    if entry[0] >= end:
        raise DamagedError(f"node {entry[0]} of the graph is used before it is there")
    return entry[0], entry[1]


def _count_outputs(graph: Json) -> list[int]:
    """Return how many outputs each node has, by asking MXNet with all references set to the first.

    The nodes are given names that tell their number.
    """
    probe = json.loads(json.dumps(graph))
    for number, node in enumerate(probe["nodes"]):
        node["name"] = f"n{number}"
        node["inputs"] = [[entry[0], 0, 0] for entry in node["inputs"]]
    probe["heads"] = [[number, 0, 0] for number in range(len(probe["nodes"]))]
    counts = [0] * len(probe["nodes"])
    for name in symbol_of(probe).get_internals().list_outputs():
        counts[int(re.sub(r"n(\d+).*", r"\1", name))] += 1
    return counts


def json_of(symbol: Symbol) -> Json:
    """Return a graph as JSON, casts included."""
    return dict(json.loads(symbol.tojson(remove_amp_cast=False)))


def nodes_of(symbol: Symbol) -> list[Json]:
    """Return the nodes of :func:`json_of`."""
    return list(json_of(symbol)["nodes"])


def symbol_of(graph: Json) -> Symbol:
    """Return the graph of trusted JSON."""
    return mx.sym.load_json(json.dumps(graph))


def fuse(symbol: Symbol) -> Symbol:
    """Return a graph in which convolution, batch-norm, addition and activation are one operator.

    For inference on the CPU; the parameters, names of inputs and numbers (up to rounding) stay.
    """
    return symbol.get_backend_symbol("MKLDNN")


def avoid_overruns(symbol: Symbol, image: Sequence[int]) -> Symbol:
    """Return an int8 or bf16 graph without the convolutions of `overruns_with_amx`, if AMX is on.

    They get a dilation, which means nothing to a kernel of 1×1 and makes oneDNN take another one
    of its own. ``image`` is the shape of one input, ``(3, H, W)``.
    """
    if not amx_is_on():
        return symbol
    graph, internals = json_of(symbol), symbol.get_internals()
    _, shapes, _ = internals.infer_shape_partial(**{INPUT: (1, *image)})
    outputs = dict(zip(internals.list_outputs(), shapes))
    for node in graph["nodes"]:
        fused = [part for inner in node.get("subgraphs", ()) for part in inner["nodes"]]
        for part in (node, *fused):
            if part["op"] == "Convolution":
                name = node["name"]
                output = outputs.get(f"{name}_output") or outputs[f"{name}_output0"]
                if overruns_with_amx(part["attrs"], output):
                    part["attrs"]["dilate"] = str((2,) * (len(output) - 2))
    return symbol_of(graph)


def rename_outputs(symbol: Symbol, sidecar: Sidecar) -> Symbol:
    """Return ``symbol`` with its outputs named as in the sidecar; conversions rename nodes."""
    graph = json_of(symbol)
    heads = [head[0] for head in graph["heads"]]
    taken = {node["name"] for k, node in enumerate(graph["nodes"]) if k not in heads}
    for head, output in zip(heads, sidecar["outputs"]):
        if heads.count(head) == 1 and output["name"] not in taken:
            graph["nodes"][head]["name"] = output["name"]
    return symbol_of(graph)


def flatten_before_dense(symbol: Symbol) -> Symbol:
    """Return ``symbol`` with a Flatten before every dense layer that flattens by itself.

    The numbers are the same. Without, a dense layer right behind a convolution, or behind pooling
    over a single pixel, fails in the second call of a static int8 graph: "We can't generate TBlob
    for MKLDNN data".
    """
    graph = json_of(symbol)
    nodes: list[Json] = []
    number: dict[int, int] = {}
    for old, node in enumerate(graph["nodes"]):
        node["inputs"] = [[number[source], *rest] for source, *rest in node["inputs"]]
        flattens = str(node.get("attrs", {}).get("flatten", "True")) in ("True", "1")
        if node["op"] == "FullyConnected" and flattens:
            flat = {"op": "Flatten", "name": f"{node['name']}_flatten"}
            nodes.append(dict(flat, inputs=[node["inputs"][0]]))
            node["inputs"][0] = [len(nodes) - 1, 0, 0]
        number[old] = len(nodes)
        nodes.append(node)
    return renumbered(graph, nodes, number)


def renumbered(graph: Json, nodes: list[Json], number: dict[int, int]) -> Symbol:
    """Return ``graph`` with other ``nodes``; ``number`` tells where the old ones are now."""
    heads = [[number[source], *rest] for source, *rest in graph["heads"]]
    variables = [k for k, node in enumerate(nodes) if node["op"] == "null"]
    kept = {"attrs": graph["attrs"]} if "attrs" in graph else {}
    return symbol_of(dict(kept, nodes=nodes, arg_nodes=variables, heads=heads))
