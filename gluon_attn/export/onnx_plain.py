"""ONNX graphs as the plain ones that every engine reads.

MXNet's exporter writes what MXNet computes, operator by operator. Some of that runs in few engines:
shapes that are read from tensors while the net runs, sums of many terms, means and repetitions as
matrix products with ones (which is how the blocks of this package train fast), exponentials that
overflow in place of a softmax. Here the graph is rewritten, in two steps:

1. :func:`fold`: the net is run in ONNX Runtime at two batch sizes. What no image changes becomes a
   constant, and every shape is known but for the batch size.
2. :class:`Rewriter`: small rules, each of which replaces one node by plainer ones
   (:mod:`gluon_attn.export.onnx_rules`).

Weights keep their names and numbers, and no rule looks at the numbers of a weight: the graph
depends on the net's structure alone. General simplifiers (onnxsim, onnxoptimizer) do neither step:
with a free batch size shapes are no constants to them, and they do not know such means.
"""

from __future__ import annotations

import collections
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple, Union

import numpy as np

from gluon_attn.export.backends import open_onnx_session
from gluon_attn.export.symbol import INPUT

BATCH = "batch"  # name of the free dimension
BATCHES = (1, 2)  # sizes at which the net is looked at
END = 2**31 - 1  # end of a slice: wherever the tensor ends

ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"}  # their inputs are broadcast
BROADCASTING = ELEMENTWISE | {"Sum", "Where", "Equal", "Less", "Greater", "And", "Or", "PRelu"}
SHAPE_READERS = {"Shape", "Size"}
RANDOM = {"RandomUniform", "RandomNormal", "RandomUniformLike", "RandomNormalLike", "Multinomial"}

Shape = Tuple[Union[int, str, None], ...]  # BATCH; None: depends on the batch size otherwise
Rule = Callable[["Rewriter", Any], Union[None, str, List[Any]]]


class Graph:
    """A model that is being changed, and what is known of its tensors.

    Args:
        onnx: The onnx package.
        model: ModelProto.
        weights: Names of the initializers that are parameters of the net.

    Attributes:
        nodes: List of NodeProto, in topological order.
        constants: Numbers of the initializers that are no weights, by name.
        weights: Names of the weights and of constants that were computed from weights.
        shapes: Of all tensors, by name.
        types: Element types of the tensors, as far as onnx infers them.
        opset: Version of the operator set.
    """

    def __init__(self, onnx: Any, model: Any, weights: Iterable[str]):
        self.onnx, self.model = onnx, model
        self.nodes = list(model.graph.node)
        initializers = {i.name: i for i in model.graph.initializer}
        self.weights: Set[str] = set(weights) & set(initializers)
        self.constants: Dict[str, np.ndarray] = {
            name: onnx.numpy_helper.to_array(initializer)
            for name, initializer in initializers.items()
            if name not in self.weights
        }
        self.shapes: Dict[str, Shape] = {name: tuple(i.dims) for name, i in initializers.items()}
        self.opset = model.opset_import[0].version
        known = [*model.graph.input, *infer(onnx, model).graph.value_info]
        self.types = {value.name: value.type.tensor_type.elem_type for value in known}
        self._known: Dict[Any, str] = {}
        self._taken = {name for node in self.nodes for name in node.output} | set(initializers)

    def name(self, hint: str) -> str:
        """Return a name that no tensor has."""
        name, number = hint, 0
        while name in self._taken:
            number += 1
            name = f"{hint}_{number}"
        self._taken.add(name)
        return name

    def constant(self, value: np.ndarray, hint: str, weight: bool = False) -> str:
        """Return the name of a constant; the same numbers are kept once.

        Args:
            value: The numbers.
            hint: What it may be called.
            weight: Whether it was computed from weights.
        """
        key = value.dtype.str, value.shape, value.tobytes(), weight
        if key not in self._known:
            name = self._known[key] = self.name(hint)
            self.constants[name], self.shapes[name] = value, value.shape
            if weight:
                self.weights.add(name)
        return self._known[key]

    def prune(self) -> None:
        """Leave out nodes that no output needs."""
        needed, kept = {output.name for output in self.model.graph.output}, []
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
        old = {i.name for i in arrays}
        for name, value in self.constants.items():
            if name in needed and name not in old:
                arrays.append(self.onnx.numpy_helper.from_array(value, name))
        for field, values in (("node", self.nodes), ("initializer", arrays)):
            graph.ClearField(field)
            getattr(graph, field).extend(values)


def make_plain(onnx: Any, model: Any, weights: Iterable[str], rules: Sequence[Rule]) -> None:
    """Rewrite a model in place.

    Args:
        onnx: The onnx package.
        model: ModelProto that ONNX Runtime takes; its input ``data`` has a free batch size.
        weights: Names of the initializers that are parameters of the net.
        rules: See :class:`Rewriter`.

    Raises:
        ExportError: ONNX Runtime does not take the model.
        ImportError: onnxruntime is not installed.
    """
    kinds = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    if any(a.type in kinds for node in model.graph.node for a in node.attribute):
        return  # the body of a loop may read any tensor by its name
    graph = Graph(onnx, model, weights)
    fold(graph)
    graph.prune()
    graph.nodes = Rewriter(graph, rules).run()
    graph.write()
    record_shapes(onnx, model)


# --- what no image changes ----------------------------------------------------------------------


def fold(graph: Graph) -> None:
    """Let nodes read constants in place of computed values that are the same for all images.

    Also enters the shapes of all tensors. Values that depend on the batch size become constants
    where the reading node allows for that, as a reshape does.
    """
    fixed, derived = _fixed(graph)
    users = collections.defaultdict(list)
    for node in graph.nodes:
        if not fixed & set(node.output):
            for position, name in enumerate(node.input):
                if name in fixed:
                    users[name].append((node, position))
    found = _run(graph, list(users))
    for name, readers in users.items():
        for node, position in readers:
            value = _for_all_batches(graph, node, position, *found[name])
            if value is not None:
                node.input[position] = graph.constant(value, f"{name}_value", name in derived)
            elif _same_rows(*found[name]):
                _fill(graph, node, position, found[name][0], fixed, name in derived)


def _fixed(graph: Graph) -> Tuple[Set[str], Set[str]]:
    """Return the names of tensors that no image changes, and of those computed from weights."""
    varying, fixed, derived = {INPUT}, set(), set()
    for node in graph.nodes:
        read = set(node.input)
        shape_only = node.op_type in SHAPE_READERS
        if node.op_type in RANDOM or (varying & read and not shape_only):
            varying.update(node.output)
            continue
        fixed.update(node.output)
        if (graph.weights | derived) & read and not shape_only:
            derived.update(node.output)
    return fixed, derived


def _run(graph: Graph, wanted: Sequence[str]) -> Dict[str, List[np.ndarray]]:
    """Return the values of ``wanted`` at both batch sizes, and enter all shapes."""
    probe = graph.onnx.ModelProto()
    probe.CopyFrom(graph.model)
    tensors = [INPUT, *(name for node in graph.nodes for name in node.output if name)]
    readers = {graph.name(f"{name}_shape"): name for name in tensors}
    for output, name in readers.items():
        probe.graph.node.append(graph.onnx.helper.make_node("Shape", [name], [output]))
    names = [*wanted, *readers]
    probe.graph.ClearField("output")
    probe.graph.output.extend(graph.onnx.ValueInfoProto(name=name) for name in names)
    session = open_onnx_session(probe.SerializeToString())
    image = [d.dim_value for d in graph.model.graph.input[0].type.tensor_type.shape.dim[1:]]
    runs = [session.run(names, {INPUT: np.zeros((b, *image), np.float32)}) for b in BATCHES]
    found = {name: [run[k] for run in runs] for k, name in enumerate(names)}
    for output, name in readers.items():
        first, second = (value.tolist() for value in found.pop(output))
        graph.shapes[name] = tuple(map(_dimension, first, second))
    return found


def _dimension(first: int, second: int) -> Union[int, str, None]:
    return first if first == second else BATCH if (first, second) == BATCHES else None


def _for_all_batches(
    graph: Graph, node: Any, position: int, first: np.ndarray, second: np.ndarray
) -> Optional[np.ndarray]:
    """Return what a node may read in place of a value at any batch size, or None.

    Args:
        graph: The graph.
        node, position: Who reads it, and as which input.
        first, second: The value at the two batch sizes.
    """
    if first.shape == second.shape and np.array_equal(first, second):
        return first
    shapes = [graph.shapes.get(name, ()) for name in node.input]
    if node.op_type in BROADCASTING or (node.op_type == "MatMul" and first.ndim > 2):
        # The rows of a batch are all the same, and another operand gives their number.
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


def _same_rows(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == (1, *second.shape[1:]) and bool((first == second).all())


def _fill(
    graph: Graph, node: Any, position: int, rows: np.ndarray, fixed: Set[str], weight: bool
) -> None:
    """Let a node read a batch of equal rows: some tensor of that shape clipped to 0, plus a row.

    Args:
        graph: The graph.
        node, position: Who reads it, and as which input.
        rows: ``(1, …)``, the row.
        fixed: Names of tensors that no image changes.
        weight: Whether the row was computed from weights.
    """
    at = next(k for k, other in enumerate(graph.nodes) if other is node)
    names = (name for other in graph.nodes[:at] for name in other.output if name not in fixed)
    shape = (BATCH, *rows.shape[1:])
    anchor = next((name for name in names if graph.shapes[name] == shape), None)
    if anchor is None:
        return
    make, zero = graph.onnx.helper.make_node, graph.constant(np.float32(0), "zero")
    made = [make("Clip", [anchor, zero, zero], [graph.name(f"{node.input[position]}_zeros")])]
    row = graph.constant(rows, f"{node.input[position]}_row", weight)
    made.append(make("Add", [*made[0].output, row], [graph.name(f"{node.input[position]}_rows")]))
    graph.shapes.update({new.output[0]: shape for new in made})
    graph.nodes[at:at] = made
    node.input[position] = made[-1].output[0]


def _axes_of_entries(graph: Graph, node: Any, count: int, shape: Shape) -> List[int]:
    """Return which axis of ``shape`` each entry of a vector of sizes is about; [] if unknown."""
    axes = list(range(count))
    if node.op_type == "Slice" and len(node.input) > 3:
        given = graph.constants.get(node.input[3])
        axes = [] if given is None else [int(axis) for axis in given]
    elif node.op_type == "Expand":
        axes = [axis - count + len(shape) for axis in axes]
        axes = [axis if axis >= 0 else len(shape) for axis in axes]
    return axes if all(-len(shape) <= axis < len(shape) for axis in axes) else []


# --- rules --------------------------------------------------------------------------------------


class Rewriter:
    """One pass over the nodes of a graph, in order.

    A rule is a function of the rewriter and a node, whose inputs are plain already. It returns None
    (the node is none of its business), the name of a tensor that is the node's output as it is, or
    the nodes that take its place, the last of which has its output; the rules then look at those.

    Args:
        graph: The graph, shapes known.
        rules: The rules.
    """

    def __init__(self, graph: Graph, rules: Sequence[Rule]):
        self.graph, self._rules = graph, rules
        self._producers: Dict[str, Any] = {}
        self._same: Dict[str, str] = {}
        self._done: List[Any] = []

    def run(self) -> List[Any]:
        """Return the new nodes; the graph's outputs keep their names."""
        for node in self.graph.nodes:
            self._place(node)
        for output in self.graph.model.graph.output:
            if output.name in self._same:
                self._rename(self._same[output.name], output.name)
        return self._done

    def _place(self, node: Any) -> None:
        for position, name in enumerate(node.input):
            node.input[position] = self._same.get(name, name)
        for rule in self._rules if node.input else ():
            result = rule(self, node)
            if isinstance(result, str):
                self._same[node.output[0]] = result
                return
            if result is not None:
                for new in result:
                    self._place(new)
                return
        self._done.append(node)
        self._producers.update(dict.fromkeys(node.output, node))

    def _rename(self, old: str, new: str) -> None:
        """Give a tensor the name of a graph output, or an identity of that name if it has one."""
        outputs = {output.name for output in self.graph.model.graph.output}
        if old in outputs or old not in self._producers:
            self._done.append(self.make("Identity", [old], self.graph.shapes[old], new))
            return
        for node in self._done:
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    if name == old:
                        names[position] = new

    def producer(self, name: str) -> Any:
        """Return the node that a tensor comes from; one without operator for an input."""
        return self._producers.get(name) or self.graph.onnx.NodeProto()

    def shape(self, name: str) -> Shape:
        """Return the shape of a tensor."""
        return self.graph.shapes[name]

    def attribute(self, node: Any, name: str, default: Any = None) -> Any:
        """Return the value of an attribute."""
        for attribute in node.attribute:
            if attribute.name == name:
                return self.graph.onnx.helper.get_attribute_value(attribute)
        return default

    def numbers(self, name: str) -> Optional[np.ndarray]:
        """Return the numbers of a constant; None if it is computed, or a weight."""
        return None if name in self.graph.weights else self.graph.constants.get(name)

    def uniform(self, name: str) -> Optional[float]:
        """Return the number that a constant consists of, or None."""
        values = self.numbers(name)
        same = values is not None and values.size and (values == values.flat[0]).all()
        return float(values.flat[0]) if same else None

    def make(
        self, op: str, inputs: Sequence[str], shape: Shape, output: str = "", **attributes: Any
    ) -> Any:
        """Return a new node with one output, called ``output`` or after its first input."""
        output = output or self.graph.name(f"{inputs[0]}_{op.lower()}")
        self.graph.shapes[output] = shape
        return self.graph.onnx.helper.make_node(op, inputs, [output], name=output, **attributes)


def infer(onnx: Any, model: Any, **options: Any) -> Any:
    """Return a model without weights in which onnx has entered types and shapes of the tensors."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    light.graph.ClearField("initializer")
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.INT64:  # what shapes are made from
            light.graph.initializer.append(weight)
        else:
            value = onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
            light.graph.input.append(value)
    return onnx.shape_inference.infer_shapes(light, **options)


def record_shapes(onnx: Any, model: Any) -> None:
    """Enter type and shape of every tensor, so that a reader need not infer them."""
    inferred = infer(onnx, model, strict_mode=True, data_prop=True)
    model.graph.ClearField("value_info")
    model.graph.value_info.extend(inferred.graph.value_info)
