"""An ONNX graph that is being changed, and a pass of rules over it."""

from __future__ import annotations

from typing import Any, Callable, Iterable, List, Sequence, Tuple, Union

import numpy as np

BATCH = "batch"  # name of the free dimension

Shape = Tuple[Union[int, str, None], ...]  # BATCH; None: depends on the batch size otherwise
Result = Union[None, str, List[Any]]  # of a rule, see Graph.rewrite
Rule = Callable[["Graph", Any], Result]


class Graph:
    """Nodes of a model, and what is known of its tensors.

    Args:
        onnx: The onnx package.
        model: ModelProto.
        weights: Names of the initializers that are parameters of the net.

    Attributes:
        nodes: List of NodeProto, in topological order.
        constants: Numbers of the initializers that are no weights, by name.
        weights: Names of the weights and of constants that were computed from weights.
        shapes: Of the tensors, by name; see :func:`gluon_attn.export.onnx_fold.fold`.
        types: Element types of the tensors, as far as onnx infers them.
        opset: Version of the operator set.
        notes: What rules remember of tensors, by name.
    """

    def __init__(self, onnx: Any, model: Any, weights: Iterable[str]):
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

    def shape(self, name: str) -> Shape:
        """Return the shape of a tensor."""
        return self.shapes[name]

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
        """Return the value of an attribute."""
        for attribute in node.attribute:
            if attribute.name == name:
                return self.onnx.helper.get_attribute_value(attribute)
        return default

    # what is made

    def name(self, hint: str) -> str:
        """Return a name that no tensor has yet."""
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
        if key not in self._made:
            name = self._made[key] = self.name(hint)
            self.constants[name], self.shapes[name] = value, value.shape
            if weight:
                self.weights.add(name)
        return self._made[key]

    def node(
        self, op: str, inputs: Sequence[str], shape: Shape, output: str = "", **attributes: Any
    ) -> Any:
        """Return a new node, not in the graph yet, with one output.

        Args:
            op: Operator.
            inputs: Names.
            shape: Of the output.
            output: Its name; by default made from that of the first input.
            attributes: Of the operator.
        """
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
            self.nodes.append(self.node("Identity", [old], self.shape(old), output))
            return
        for node in self.nodes:
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    if name == old:
                        names[position] = output
        same.update((name, output) for name, of in same.items() if of == old)

    def prune(self) -> None:
        """Leave out nodes that no output needs."""
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
        old = {i.name for i in arrays}
        for name, value in self.constants.items():
            if name in needed and name not in old:
                arrays.append(self.onnx.numpy_helper.from_array(value, name))
        for field, values in (("node", self.nodes), ("initializer", arrays)):
            graph.ClearField(field)
            getattr(graph, field).extend(values)


def infer(onnx: Any, model: Any, **options: Any) -> Any:
    """Return a model without weights in which onnx has entered types and shapes of the tensors."""
    graph, make_info = model.graph, onnx.helper.make_tensor_value_info
    small = [i for i in graph.initializer if i.data_type == onnx.TensorProto.INT64]  # sizes
    weights = [i for i in graph.initializer if i.data_type != onnx.TensorProto.INT64]
    inputs = [*graph.input, *(make_info(w.name, w.data_type, w.dims) for w in weights)]
    light = onnx.helper.make_graph(graph.node, graph.name, inputs, graph.output, small)
    model = onnx.helper.make_model(light, opset_imports=model.opset_import)
    return onnx.shape_inference.infer_shapes(model, **options)
