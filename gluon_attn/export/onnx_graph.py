"""An ONNX graph that is being changed: what is known of it, how rules rewrite it, what folds.

**Folding**: what does not depend on the numbers of the images becomes a constant. The net is run in
ONNX Runtime at two batch sizes. That tells the shape of every tensor, and the value of everything
that is computed from shapes. What differs between the two runs depends on the batch size; it
becomes a constant where the node that reads it takes one for all batch sizes.
"""

from __future__ import annotations

import collections
from typing import Any, Callable, Iterable, List, Sequence, Tuple, Union

import numpy as np

from gluon_attn.export.graph import INPUT, unique
from gluon_attn.export.onnx_session import open_onnx_session

BATCH = "batch"  # name of the free dimension

Shape = Tuple[Any, ...]  # of int, BATCH, or None: depends on the batch size otherwise
Result = Union[None, str, List[Any]]  # of a rule, see Graph.rewrite
Rule = Callable[["Graph", Any], Result]

BATCHES = (1, 2)  # sizes at which the net is looked at
END = 2**31 - 1  # end of a slice: wherever the tensor ends

BROADCASTING = {
    "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Where", "Equal", "Less", "Greater",
    "And", "Or", "PRelu",
}  # fmt: skip
SHAPE_READERS = {"Shape", "Size"}
RANDOM = {"RandomUniform", "RandomNormal", "RandomUniformLike", "RandomNormalLike", "Multinomial"}


class Graph:
    """Nodes of a model in topological order, and what is known of its tensors.

    Attributes:
        constants: Numbers of the initializers that are no weights, by name.
        weights: Names of the net's parameters and of constants that were computed from them.
        shapes, types: Of the tensors, by name, see :func:`fold`; types as far as onnx infers them.
        notes: What rules remember of tensors, by name.
    """

    def __init__(self, onnx: Any, model: Any, weights: Iterable[str]) -> None:
        self.onnx, self.model = onnx, model
        self.opset = model.opset_import[0].version
        self.nodes = list(model.graph.node)
        self.outputs = [output.name for output in model.graph.output]
        initializers = {i.name: i for i in model.graph.initializer}
        self.weights: set[str] = set(weights) & set(initializers)
        self.constants: dict[str, np.ndarray] = {
            name: onnx.numpy_helper.to_array(initializer)
            for name, initializer in initializers.items()
            if name not in self.weights
        }
        self.shapes: dict[str, Shape] = {name: tuple(i.dims) for name, i in initializers.items()}
        values = [*model.graph.input, *infer(onnx, model).graph.value_info]
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self._taken = {name for node in self.nodes for name in node.output} | set(initializers)
        self.notes: dict[str, Any] = {}
        self._made: dict[Any, str] = {}
        self._producers: dict[str, Any] = {}

    # what is known

    def numbers(self, name: str) -> np.ndarray | None:
        """Return the numbers of a constant; None if it is computed, or a weight."""
        return None if name in self.weights else self.constants.get(name)

    def uniform(self, name: str) -> float | None:
        """Return the number that a constant consists of, or None."""
        values = self.numbers(name)
        if values is None or not values.size or (values != values.flat[0]).any():
            return None
        return float(values.flat[0])

    def producer(self, name: str) -> Any:
        """Return the node that a tensor comes from; one without operator if there is none."""
        return self._producers.get(name) or self.onnx.NodeProto()

    def attribute(self, node: Any, name: str, default: Any = None) -> Any:
        for attribute in node.attribute:
            if attribute.name == name:
                return self.onnx.helper.get_attribute_value(attribute)
        return default

    # what is made

    def name(self, hint: str) -> str:
        return unique(hint, self._taken)

    def constant(self, value: np.ndarray, hint: str, weight: bool = False) -> str:
        """Return the name of a constant, perhaps computed from weights; the same are kept once."""
        key = value.dtype.str, value.shape, value.tobytes(), weight
        if key not in self._made:
            name = self._made[key] = self.name(hint)
            self.constants[name], self.shapes[name] = value, value.shape
            if weight:
                self.weights.add(name)
        return self._made[key]

    def node(
        self, op: str, inputs: Sequence[str], shape: Shape, output: str = "", **attributes: Any
    ) -> Any:
        """Return a new node, not in the graph yet, with one output of this shape and name."""
        output = output or self.name(f"{inputs[0]}_{op.lower()}")
        self.shapes[output] = shape
        return self.onnx.helper.make_node(op, inputs, [output], name=output, **attributes)

    # what is done with it

    def rewrite(self, rules: Sequence[Rule]) -> None:
        """Apply rules to all nodes, in order; the outputs keep their names.

        A rule is a function of the graph and a node, whose inputs have been rewritten already. It
        returns None (the node is none of its business), the name of a tensor that is the node's
        output as it is, or the nodes that take its place, the last of which has its output; the
        rules then look at those.
        """
        same: dict[str, str] = {}
        done: list[Any] = []
        todo = self.nodes[::-1]
        while todo:
            node = todo.pop()
            for position, name in enumerate(node.input):
                node.input[position] = same.get(name, name)
            results = (rule(self, node) for rule in rules if node.input)
            result = next((found for found in results if found is not None), None)
            if isinstance(result, str):
                same[node.output[0]] = result
            elif result is not None:
                todo += result[::-1]
            else:
                done.append(node)
                self._producers.update(dict.fromkeys(node.output, node))
        self.nodes = done
        for output in self.outputs:
            if output in same:
                self._name_output(same, output)

    def _name_output(self, same: dict[str, str], output: str) -> None:
        """Let a tensor that is a graph output under another name have that name."""
        old = same[output]
        if old in self.outputs or old not in self._producers:
            self.nodes.append(self.node("Identity", [old], self.shapes[old], output))
            return
        for node in self.nodes:
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    if name == old:
                        names[position] = output
        same.update((name, output) for name, of in same.items() if of == old)

    def prune(self) -> None:
        needed, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                needed.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]

    def write(self) -> None:
        """Put nodes and initializers into the model, without what nothing needs."""
        self.prune()
        graph, needed = self.model.graph, {name for node in self.nodes for name in node.input}
        arrays = [i for i in graph.initializer if i.name in needed]
        new = needed - {i.name for i in arrays}
        made = {name: value for name, value in self.constants.items() if name in new}
        arrays += [self.onnx.numpy_helper.from_array(value, name) for name, value in made.items()]
        refill(graph, node=self.nodes, initializer=arrays)


def refill(message: Any, **fields: Iterable[Any]) -> None:
    """Replace the contents of repeated fields of a protobuf message."""
    for name, values in fields.items():
        values = list(values)  # perhaps of this very field
        message.ClearField(name)
        getattr(message, name).extend(values)


def has_loops(onnx: Any, model: Any) -> bool:
    """Return whether a node has a graph of its own, which may read any tensor by its name."""
    kinds = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return any(a.type in kinds for node in model.graph.node for a in node.attribute)


def infer(onnx: Any, model: Any, **options: Any) -> Any:
    """Return a model without weights in which onnx has entered types and shapes of the tensors."""
    graph, make_info = model.graph, onnx.helper.make_tensor_value_info
    small = [i for i in graph.initializer if i.data_type == onnx.TensorProto.INT64]  # sizes
    weights = [i for i in graph.initializer if i.data_type != onnx.TensorProto.INT64]
    inputs = [*graph.input, *(make_info(w.name, w.data_type, w.dims) for w in weights)]
    light = onnx.helper.make_graph(graph.node, graph.name, inputs, graph.output, small)
    model = onnx.helper.make_model(light, opset_imports=model.opset_import)
    return onnx.shape_inference.infer_shapes(model, **options)


def fold(graph: Graph) -> None:
    """Let nodes read constants in place of values that are the same for all images.

    Also enters the shapes of all tensors. An ExportError if ONNX Runtime does not take the model.
    """
    fixed, derived = _fixed(graph)
    readers = collections.defaultdict(list)
    for node in graph.nodes:
        if not fixed & set(node.output):
            for position, name in enumerate(node.input):
                if name in fixed:
                    readers[name].append((node, position))
    found = _run(graph, list(readers))
    for name, places in readers.items():
        first, second = found[name]
        for node, position in places:
            value = _for_all_batches(graph, node, position, found[name])
            if value is not None:
                node.input[position] = graph.constant(value, f"{name}_value", name in derived)
            elif _same_rows(first, second) and first.dtype == np.float32:
                _fill(graph, node, position, first, fixed=fixed, derived=derived)


def _fixed(graph: Graph) -> tuple[set[str], set[str]]:
    """Return the names of tensors that no image changes, and of those computed from weights."""
    varying: set[str] = {INPUT}
    fixed: set[str] = set()
    derived: set[str] = set()
    for node in graph.nodes:
        read, shape_only = set(node.input), node.op_type in SHAPE_READERS
        if node.op_type in RANDOM or (varying & read and not shape_only):
            varying.update(node.output)
            continue
        fixed.update(node.output)
        if (graph.weights | derived) & read and not shape_only:
            derived.update(node.output)
    return fixed, derived


def _run(graph: Graph, wanted: Sequence[str]) -> dict[str, list[np.ndarray]]:
    probe = graph.onnx.ModelProto()
    probe.CopyFrom(graph.model)
    tensors = [INPUT, *(name for node in graph.nodes for name in node.output if name)]
    sizes = {graph.name(f"{name}_shape"): name for name in tensors}
    for output, name in sizes.items():
        probe.graph.node.append(graph.onnx.helper.make_node("Shape", [name], [output]))
    names = [*wanted, *sizes]
    refill(probe.graph, output=(graph.onnx.ValueInfoProto(name=name) for name in names))
    session = open_onnx_session(probe.SerializeToString(), optimize=False)
    image = [d.dim_value for d in graph.model.graph.input[0].type.tensor_type.shape.dim[1:]]
    runs = [session.run(names, {INPUT: np.zeros((b, *image), np.float32)}) for b in BATCHES]
    found = {name: [run[k] for run in runs] for k, name in enumerate(names)}
    for output, name in sizes.items():
        first, second = (value.tolist() for value in found.pop(output))
        graph.shapes[name] = tuple(map(_dimension, first, second))
    return found


def _dimension(first: int, second: int) -> int | str | None:
    return first if first == second else BATCH if (first, second) == BATCHES else None


def _for_all_batches(
    graph: Graph, node: Any, position: int, values: Sequence[np.ndarray]
) -> np.ndarray | None:
    """Return what a node may read at any batch size as the input that has these two, or None."""
    first, second = values
    if first.shape == second.shape and np.array_equal(first, second):
        return first
    shapes = [graph.shapes.get(name, ()) for name in node.input]
    if node.op_type in BROADCASTING or (node.op_type == "MatMul" and first.ndim > 2):
        # one row serves, if another operand says how many there are
        others = shapes[:position] + shapes[position + 1 :]
        given = any(len(shape) == first.ndim and shape[0] == BATCH for shape in others)
        return first if given and _same_rows(first, second) else None
    if first.shape != second.shape or first.ndim != 1:
        return None
    (places,) = np.nonzero(first != second)
    axes = _axes_of_entries(graph, node, len(first), shapes[0])
    batch = [k for k in places if axes and shapes[0][axes[k]] == BATCH]
    batch = [k for k in batch if (first[k], second[k]) == BATCHES]
    value, role = first.copy(), (node.op_type, position)
    if role == ("Reshape", 1) and len(places) == 1 and -1 not in first:
        value[places] = 0 if len(batch) == 1 else -1  # 0: as in the input
        return value
    if len(batch) < len(places):
        return None
    if role == ("Slice", 2):
        value[places] = END
        return value
    # Expanded to one row a batch stays as it is; for sizes see the rule for Resize.
    return value if role in (("Expand", 1), ("Resize", 3)) else None


def _axes_of_entries(graph: Graph, node: Any, count: int, shape: Shape) -> list[int]:
    """Return which axis of ``shape`` each entry of a vector of sizes is about; [] if unknown."""
    axes = list(range(count))
    if node.op_type == "Slice" and len(node.input) > 3:
        given = graph.numbers(node.input[3])
        axes = [] if given is None else [int(axis) % len(shape) for axis in given]
    elif node.op_type == "Expand":  # aligned at the last axis; an axis that is new is unknown
        axes = [axis - count + len(shape) for axis in axes]
    return axes if all(0 <= axis < len(shape) for axis in axes) else []


def _same_rows(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == (1, *second.shape[1:]) and bool((first == second).all())


def _fill(
    graph: Graph, node: Any, position: int, row: np.ndarray, *, fixed: set[str], derived: set[str]
) -> None:
    """Let a node read a batch of equal rows ``(1, …)``: some tensor clipped to 0, plus the row."""
    weight = node.input[position] in derived
    at = next(k for k, other in enumerate(graph.nodes) if other is node)
    names = (name for other in graph.nodes[:at] for name in other.output if name not in fixed)
    shape = (BATCH, *row.shape[1:])
    anchor = next((name for name in names if graph.shapes[name] == shape), None)
    if anchor is not None:
        zero = graph.constant(np.zeros((), np.float32), "zero")
        zeros = graph.node("Clip", [anchor, zero, zero], shape)
        constant = graph.constant(row, f"{node.input[position]}_row", weight)
        rows = graph.node("Add", [zeros.output[0], constant], shape)
        graph.nodes[at:at] = [zeros, rows]
        node.input[position] = rows.output[0]
