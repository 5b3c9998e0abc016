"""What the net would have said without one module's attention, for many modules at once.

Deep Reinforced Attention Learning, Li and Chen, ECCV 2020 (DREAL). The reward of a module compares
the net's prediction with the one it makes when that module's attention maps are replaced by their
means. Done naively that is a forward pass per module. Here

* a counterfactual starts at its module: everything in front is reused from the training step's own
  forward pass (the *factual* pass), which the two therefore share dropout and statistics with;
* behind it, counterfactuals of several modules travel as one batch that grows by the batch size at
  every module, and stop at the logits: nothing else is computed;
* nothing is recorded for gradients, and batch-norm uses the statistics of the factual batch, which
  are constants: behind a convolution it is folded into the weights.

The graphs are made of the nodes of the net's own graph, so this works for any net and any mixture
of blocks. Operators must treat the samples of a batch one by one, batch-norm apart.

Legend: B batch, A logits, L modules, *variant* l: the counterfactual without module l.
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping, NamedTuple, Sequence, Tuple

import mxnet as mx
from mxnet.gluon import HybridBlock, ParameterDict

from gluon_attn.nets.graph import Entry, Graph, GraphBlock, Node, record

# Operators worth a large batch. All others work on the variants as they come, so that a variant
# that has just begun is joined with the others only once, in front of the next of these.
BATCHED = ("Convolution", "FullyConnected", "Deconvolution")
FACTUAL = -1  # the variant in which every module works; only nets with dropout behind a module

Group = Tuple[int, ...]  # numbers of modules, or of variants
Gates = Sequence[HybridBlock]  # of one module, in the order in which it applies them


class Trace(NamedTuple):
    """The graph of a net: its outputs, and input and map of every gate of its modules."""

    graph: Graph
    outputs: dict[str, Entry]
    modules: list[list[tuple[Entry, Entry]]]

    @classmethod
    def of(cls, net: HybridBlock, modules: Sequence[Gates]) -> Trace:
        """Record a net that calls each of its gates exactly once."""
        gates = [gate for module in modules for gate in module]
        graph, outputs, calls = record(net, gates)
        called = [call.block for call in calls]
        for gate in gates:
            if called.count(gate) != 1:
                raise ValueError(
                    f"{type(net).__name__} calls its gate {gate.name} {called.count(gate)} times; "
                    "an attention module must be used exactly once"
                )
        pairs = {call.block: (call.read, call.gave) for call in calls}
        return cls(graph, outputs, [[pairs[gate] for gate in module] for module in modules])


class Counterfactuals:
    """The training pass of a net and what follows from it; all blocks share the net's parameters.

    The net gives logits, or a list that begins with them; the modules are in network order, and
    each must influence the logits. Counterfactuals of the modules of a group are computed together.
    ``view`` is the block ``{'data': image} -> {name: array}``: the net's outputs by name and, as
    constants for gradients, what the counterfactuals need; ``states`` names for every module the
    input of its first gate, ``(B, C, H, W)``.
    """

    def __init__(self, net: HybridBlock, modules: Sequence[Gates], groups: Iterable[Group]) -> None:
        trace, params = Trace.of(net, modules), net.collect_params()
        states = [gates[0][0] for gates in trace.modules]
        seen: dict[Entry, Any] = dict.fromkeys(states)
        self._passes: dict[Group, tuple[GraphBlock, Group]] = {}
        for group in map(tuple, groups):
            builder = Builder(trace, group)
            logits, variants = builder.logits()
            block = GraphBlock(builder, map(_name, builder.seen), {"logits": logits}, params)
            self._passes[group] = (block, variants)
            seen.update(builder.seen)
        self.view = _view(trace, list(seen), params)
        self.states = tuple(map(_name, states))

    def logits(
        self, group: Group, seen: Mapping[str, mx.nd.NDArray]
    ) -> tuple[list[mx.nd.NDArray], mx.nd.NDArray]:
        """Return the logits without each module of a group, ``[(B, A) for each module]``, and those
        to compare them with, ``(B, A)``: the factual logits without dropout. Takes what the view
        returned.
        """
        block, variants = self._passes[tuple(group)]
        rows = block.run(seen)["logits"]
        pieces = rows.split(len(variants), axis=0) if len(variants) > 1 else [rows]
        found = dict(zip(variants, pieces))
        factual = found[FACTUAL] if FACTUAL in found else seen["logits"].detach()
        return [found[module] for module in group], factual


def _name(entry: Entry) -> str:
    return f"seen{entry[0]}_{entry[1]}"


def _view(trace: Trace, entries: list[Entry], params: ParameterDict) -> GraphBlock:
    gives = dict(trace.outputs)
    for entry in entries:
        if entry[1]:  # mean (1) and inverse standard deviation (2) of the batch
            trace.graph.nodes[entry[0]].attrs["output_mean_var"] = "True"
        # Without BlockGrad the backward pass would add zeros to the gradient of each of them.
        gives[_name(entry)] = trace.graph.add("BlockGrad", entry)
    return GraphBlock(trace.graph, ["data"], gives, params)


class Builder(Graph):
    """Writes the graph of some variants.

    The value of an entry that depends on a chosen module is a list of segments
    ``(variants, entry here)``, whose samples stand one after the other in a batch. ``seen`` maps
    entries of the net that the training pass has to provide to entries here.
    """

    def __init__(self, trace: Trace, chosen: Group) -> None:
        super().__init__()
        net = trace.graph
        self._net, self._head = net, trace.outputs["logits"]
        self.seen: dict[Entry, Entry] = {}
        self._values: dict[Entry, list[tuple[Group, Entry]]] = {}
        self._constants: dict[int, Entry] = {}
        self._sampled = net.dependent([net.variable("data")[0]])
        self._maps: dict[Entry, int] = {}
        self._inside: dict[int, set[int]] = {}
        for module in chosen:
            gates = trace.modules[module]
            self._maps.update((map_, module) for _, map_ in gates)
            self._inside[module] = {
                n
                for state, map_ in gates
                for n in set(net.needed([map_])) - set(net.needed([state]))
            }
            if self._head[0] not in net.dependent([gates[0][1][0]]):
                raise ValueError(f"attention module {module} does not influence the logits")
        affected = net.dependent([number for number, _ in self._maps])
        self._todo = sorted(affected & set(net.needed([self._head])))
        self._outputs: dict[int, set[int]] = {}  # of every node, those that are read
        for number in self._todo:
            for node, output in net.nodes[number].inputs:
                self._outputs.setdefault(node, {0}).add(output)
        kept = {number for number, _ in trace.outputs.values()}
        self._folded = self._foldable() - kept

    def logits(self) -> tuple[Entry, Group]:
        """Write everything; return the entry of the logits and the order of the variants."""
        for number in self._todo:
            # The maps of a module are means in its own variant: what leads to them is not needed.
            ignored = {m for m, inside in self._inside.items() if number in inside}
            node = self._net.nodes[number]
            if node.op == "Dropout":
                self._dropout(number, node.inputs[0])
            elif node.op == "BatchNorm":
                self._batch_norm(number, node, ignored)
            elif number not in self._folded:
                for group in self._groups(node.inputs, ignored, node.op in BATCHED):
                    inputs = [self._gather(entry, group) for entry in node.inputs]
                    self._put(number, group, self.copy(node, inputs))
            if (number, 0) in self._maps:
                module, map_ = self._maps[(number, 0)], self._see((number, 0))
                mean = self.add("mean", map_, axis=0, exclude=True, keepdims=True)
                self._put(number, (module,), self.add("broadcast_like", mean, map_))
        variants = tuple(sorted(v for group, _ in self._values[self._head] for v in group))
        return self._gather(self._head, variants), variants

    # -- nodes -------------------------------------------------------------------------------------
    def _dropout(self, number: int, source: Entry) -> None:
        """Leave dropout out; from here on the factual prediction without it is computed too."""
        segments = list(self._values[source])
        if not any(FACTUAL in variants for variants, _ in segments):
            segments.insert(0, ((FACTUAL,), self._see(source)))
        self._values[(number, 0)] = segments

    def _batch_norm(self, number: int, node: Node, ignored: set[int]) -> None:
        """Write a batch-norm with the statistics of the factual batch, as constants."""
        source = node.inputs[0]
        folded = source[0] in self._folded
        x = self._net.nodes[source[0]].inputs[0] if folded else source
        groups = self._groups([x], ignored, folded)
        if not groups:
            return
        scale, shift = self._scale_and_shift(number, node)
        if folded:
            node, weight, shift = self._fold(self._net.nodes[source[0]], scale, shift)
        for group in groups:
            read = self._gather(x, group)
            if folded:
                self._put(number, group, self.copy(node, [read, weight, shift]))
            else:
                self._put(number, group, self._affine(read, scale, shift))

    def _fold(self, node: Node, scale: Entry, shift: Entry) -> tuple[Node, Entry, Entry]:
        """Return a convolution as a node with a bias, and entries of weight and bias."""
        _, weight, *bias = node.inputs
        rows = self.add("Reshape", scale, shape="(-1, 1, 1, 1)")
        weight = self.add("broadcast_mul", self._constant(weight), rows)
        if bias:
            moved = self.add("elemwise_mul", self._constant(bias[0]), scale)
            shift = self.add("elemwise_add", moved, shift)
        return node.changed(no_bias=False), weight, shift

    def _scale_and_shift(self, number: int, node: Node) -> tuple[Entry, Entry]:
        """Return ``(C,)`` entries of the scale and the shift of a batch-norm."""
        _, gamma, beta, *running = node.inputs
        if node.flag("use_global_stats"):
            mean, variance = map(self._constant, running)
            scale = self.add("_plus_scalar", variance, scalar=node.attrs.get("eps", "0.001"))
            scale = self.add("rsqrt", scale)
        else:
            mean, scale = self._see((number, 1)), self._see((number, 2))
        if not node.flag("fix_gamma", "True"):
            scale = self.add("elemwise_mul", self._constant(gamma), scale)
        moved = self.add("elemwise_mul", mean, scale)
        return scale, self.add("elemwise_sub", self._constant(beta), moved)

    def _affine(self, x: Entry, scale: Entry, shift: Entry) -> Entry:
        """Return ``x * scale + shift`` along axis 1, for any number of axes."""
        flat = self.add("Reshape", x, shape="(0, 0, -1)")
        scale, shift = (self.add("Reshape", e, shape="(1, -1, 1)") for e in (scale, shift))
        scaled = self.add("broadcast_mul", flat, scale)
        return self.add("reshape_like", self.add("broadcast_add", scaled, shift), x)

    def _foldable(self) -> set[int]:
        """Return the convolutions that are read by a batch-norm and by nothing else."""
        nodes = self._net.nodes
        readers: dict[int, list[Node]] = {}
        for reader in nodes:
            for number, _ in reader.inputs:
                readers.setdefault(number, []).append(reader)
        found = set()
        for number in self._todo:
            weights = {nodes[source].op for source, _ in nodes[number].inputs[1:]}
            plain = nodes[number].op == "Convolution" and weights == {"null"}
            norms = [r.op == "BatchNorm" and r.attrs.get("axis", "1") == "1"
                     for r in readers.get(number, ())]  # fmt: skip
            if plain and norms == [True]:
                found.add(number)
        return found

    # -- entries -----------------------------------------------------------------------------------
    def _put(self, number: int, group: Group, written: Entry) -> None:
        """Note that a node here, whose first output is ``written``, is ``number`` for ``group``."""
        for output in self._outputs.get(number, {0}):
            segments = self._values.setdefault((number, output), [])
            segments.append((group, (written[0], output)))

    def _groups(self, inputs: list[Entry], ignored: set[int], together: bool) -> list[Group]:
        """Return the tuples of variants, but not those ``ignored``, that a node is written for.

        All are one tuple with ``together``; else only those that stand together in an input.
        """
        groups: list[set[int]] = []
        for entry in inputs:
            for variants, _ in self._values.get(entry, ()):
                if not set(variants) <= ignored:
                    joined = [g for g in groups if together or g & set(variants)]
                    groups = [g for g in groups if g not in joined]
                    groups.append(set(variants).union(*joined))
        return [tuple(sorted(group)) for group in groups]

    def _gather(self, entry: Entry, group: Group) -> Entry:
        """Return an entry that holds ``entry`` for all variants of ``group``, in their order."""
        if entry[0] not in self._sampled:
            return self._constant(entry)
        segments: list[tuple[Group, Entry]] = self._values.get(entry, [])
        parts: list[Entry] = []
        done = 0
        while done < len(group):
            segment: tuple[Group, Entry] | None = next(
                (s for s in segments if group[done] in s[0]), None
            )
            if segment is None:  # not touched by this variant
                parts.append(self._see(entry))
                done += 1
                continue
            variants, found = segment
            if group[done : done + len(variants)] == variants:
                parts.append(found)
                done += len(variants)
            else:
                piece = self.add("SliceChannel", found, axis=0, num_outputs=len(variants))
                parts.append((piece[0], variants.index(group[done])))
                done += 1
        if len(parts) == 1:
            return parts[0]
        joined = self.add("Concat", *parts, dim=0, num_args=len(parts))
        if sorted(v for variants, _ in segments for v in variants) == list(group):
            self._values[entry] = [(group, joined)]  # other readers need not join them again
        return joined

    def _see(self, entry: Entry) -> Entry:
        if entry not in self.seen:
            self.seen[entry] = self.variable(_name(entry))
        return self.seen[entry]

    def _constant(self, entry: Entry) -> Entry:
        """Return the entry here of something that depends on parameters only."""
        number, output = entry
        if number not in self._constants:
            node = self._net.nodes[number]
            self._constants[number] = self.copy(node, map(self._constant, node.inputs))
        return self._constants[number][0], output
