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

from gluon_attn.nets.graphs import Graph, GraphBlock
from gluon_attn.papers.dreal.trace import Trace

# Operators worth a large batch. All others work on the variants as they come, so that a variant
# that has just begun is joined with the others only once, in front of the next of these.
BATCHED = ("Convolution", "FullyConnected", "Deconvolution")
FACTUAL = -1  # the variant in which every module works; only nets with dropout behind a module
TRUE = ("True", "1")


class Counterfactuals:
    """The training pass of a net and what follows from it; all blocks share the net's parameters.

    Args:
        net: HybridBlock: image -> logits, or a list that begins with them.
        modules: For each of the L modules the tuple of its gates (HybridBlocks), in network order.
        groups: Tuples of module numbers; the counterfactuals of a group are computed together.

    Attributes:
        view: GraphBlock ``{'data': image} -> {name: array}``: the net's outputs as ``output0``, …
            and, as constants for gradients, what the counterfactuals need.
        states: For every module the name of the input of its first gate, ``(B, C, H, W)``.

    Raises:
        ValueError: A gate is not called exactly once, or a module does not influence the logits.
    """

    def __init__(self, net, modules, groups):
        trace, params = Trace(net, modules), net.collect_params()
        states = [gates[0][0] for gates in trace.modules]
        seen, self._passes = dict.fromkeys(states), {}
        for group in map(tuple, groups):
            builder = Builder(trace, group)
            logits, variants = builder.logits()
            names = list(map(_name, builder.seen))
            block = GraphBlock(builder, names, {"logits": logits}, params)
            self._passes[group] = (block, variants)
            seen.update(dict.fromkeys(builder.seen))
        self.view = _view(trace, list(seen), params)
        self.states = tuple(map(_name, states))

    def logits(self, group, seen):
        """Return the logits without each module of a group, and those to compare them with.

        Args:
            group: Module numbers, one of the ``groups``.
            seen: What the view returned.

        Returns:
            ``[(B, A) for each module]`` and ``(B, A)``: the factual logits, without dropout.
        """
        block, variants = self._passes[tuple(group)]
        rows = block.run(seen)["logits"]
        pieces = rows.split(len(variants), axis=0) if len(variants) > 1 else [rows]
        found = dict(zip(variants, pieces))
        return [found[module] for module in group], found.get(FACTUAL, seen["output0"].detach())


def _name(entry):
    return f"seen{entry[0]}_{entry[1]}"


def _view(trace, entries, params):
    """Return the block of the training pass, with ``entries`` as further outputs."""
    gives = {f"output{k}": entry for k, entry in enumerate(trace.outputs)}
    for entry in entries:
        if entry[1]:  # mean (1) and inverse standard deviation (2) of the batch
            trace.nodes[entry[0]]["attrs"]["output_mean_var"] = "True"
        # Without BlockGrad the backward pass would add zeros to the gradient of each of them.
        gives[_name(entry)] = trace.graph.add("BlockGrad", entry)
    return GraphBlock(trace.graph, ["data"], gives, params)


class Builder(Graph):
    """Writes the graph of some variants.

    The value of an entry that depends on a chosen module is a list of segments
    ``(variants, entry here)``, whose samples stand one after the other in a batch.

    Args:
        trace: :class:`gluon_attn.papers.dreal.trace.Trace` of the net.
        chosen: Module numbers.

    Attributes:
        seen: ``{entry of the net: entry here}`` of what the training pass has to provide.

    Raises:
        ValueError: A module does not influence the logits.
    """

    def __init__(self, trace, chosen):
        super().__init__()
        self.trace, self.seen, self._values, self._constants = trace, {}, {}, {}
        self._sampled = trace.descendants([trace.graph.variable("data")[0]])
        self._maps, self._inside = {}, {}
        for module in chosen:
            gates = trace.modules[module]
            self._maps.update((map_, module) for _, map_ in gates)
            self._inside[module] = set()
            for state, map_ in gates:
                self._inside[module] |= trace.ancestors([map_]) - trace.ancestors([state])
            if trace.outputs[0][0] not in trace.descendants([gates[0][1][0]]):
                raise ValueError(f"attention module {module} does not influence the logits")
        affected = trace.descendants([node for node, _ in self._maps])
        self._todo = sorted(affected & trace.ancestors(trace.outputs[:1]))
        self._outputs = {}  # of every node, those that are read
        for number in self._todo:
            for node, output in trace.inputs(number):
                self._outputs.setdefault(node, {0}).add(output)
        self._folded = self._foldable()

    def logits(self):
        """Write everything; return the entry of the logits and the order of the variants."""
        for number in self._todo:
            # The maps of a module are means in its own variant: what leads to them is not needed.
            ignored = [m for m, inside in self._inside.items() if number in inside]
            op = self.trace.nodes[number]["op"]
            if op == "Dropout":
                self._dropout(number)
            elif op == "BatchNorm":
                self._batch_norm(number, ignored)
            elif number not in self._folded:
                self._copy(number, ignored)
            if (number, 0) in self._maps:
                module, map_ = self._maps[(number, 0)], self._see((number, 0))
                mean = self.add("mean", map_, axis=0, exclude=True, keepdims=True)
                mean = self.add("broadcast_like", mean, map_)
                self._values.setdefault((number, 0), []).append(((module,), mean))
        head = self.trace.outputs[0]
        variants = tuple(sorted(v for group, _ in self._values[head] for v in group))
        return self._gather(head, variants), variants

    # -- nodes -------------------------------------------------------------------------------------
    def _copy(self, number, ignored):
        """Write a node for all its variants, together or as they come."""
        node, inputs = self.trace.nodes[number], self.trace.inputs(number)
        for group in self._groups(inputs, ignored, node["op"] in BATCHED):
            self._put(number, group, self.copy(node, [self._gather(e, group) for e in inputs]))

    def _dropout(self, number):
        """Leave dropout out; from here on the factual prediction without it is computed too."""
        source = self.trace.inputs(number)[0]
        segments = list(self._values[source])
        if not any(FACTUAL in variants for variants, _ in segments):
            segments.insert(0, ((FACTUAL,), self._see(source)))
        self._values[(number, 0)] = segments

    def _batch_norm(self, number, ignored):
        """Write a batch-norm with the statistics of the factual batch, as constants."""
        source = self.trace.inputs(number)[0]
        folded = source[0] in self._folded
        x = self.trace.inputs(source[0])[0] if folded else source
        groups = self._groups([x], ignored, folded)
        if not groups:
            return
        scale, shift = self._scale_and_shift(number)
        node, weight = None, None
        if folded:
            node, weight, shift = self._fold(source[0], scale, shift)
        for group in groups:
            read = self._gather(x, group)
            written = (
                self.copy(node, [read, weight, shift])
                if folded
                else self._affine(read, scale, shift)
            )
            self._put(number, group, written)

    def _fold(self, number, scale, shift):
        """Return convolution ``number`` as a node with a bias, and entries of weight and bias."""
        node, (_, weight, *bias) = self.trace.nodes[number], self.trace.inputs(number)
        rows = self.add("Reshape", scale, shape="(-1, 1, 1, 1)")
        weight = self.add("broadcast_mul", self._constant(weight), rows)
        if bias:
            moved = self.add("elemwise_mul", self._constant(bias[0]), scale)
            shift = self.add("elemwise_add", moved, shift)
        return dict(node, attrs=dict(node["attrs"], no_bias="False")), weight, shift

    def _scale_and_shift(self, number):
        """Return ``(C,)`` entries of the scale and the shift of a batch-norm."""
        attrs = self.trace.nodes[number]["attrs"]
        _, gamma, beta, *running = self.trace.inputs(number)
        if attrs.get("use_global_stats") in TRUE:
            mean, variance = map(self._constant, running)
            scale = self.add("_plus_scalar", variance, scalar=attrs.get("eps", "0.001"))
            scale = self.add("rsqrt", scale)
        else:
            mean, scale = self._see((number, 1)), self._see((number, 2))
        if attrs.get("fix_gamma", "True") not in TRUE:
            scale = self.add("elemwise_mul", self._constant(gamma), scale)
        moved = self.add("elemwise_mul", mean, scale)
        return scale, self.add("elemwise_sub", self._constant(beta), moved)

    def _affine(self, x, scale, shift):
        """Return ``x * scale + shift`` along axis 1, for any number of axes."""
        flat = self.add("Reshape", x, shape="(0, 0, -1)")
        scale, shift = (self.add("Reshape", e, shape="(1, -1, 1)") for e in (scale, shift))
        scaled = self.add("broadcast_mul", flat, scale)
        return self.add("reshape_like", self.add("broadcast_add", scaled, shift), x)

    def _foldable(self):
        """Return the convolutions that are read by a batch-norm and by nothing else."""
        nodes, readers = self.trace.nodes, self.trace.readers()
        kept = {node for node, _ in self.trace.outputs}
        found = set()
        for number in self._todo:
            weights = [nodes[node]["op"] for node, _ in self.trace.inputs(number)[1:]]
            plain = nodes[number]["op"] == "Convolution" and set(weights) == {"null"}
            if plain and number not in kept and len(readers[number]) == 1:
                reader = nodes[readers[number][0]]
                if reader["op"] == "BatchNorm" and reader["attrs"].get("axis", "1") == "1":
                    found.add(number)
        return found

    # -- entries -----------------------------------------------------------------------------------
    def _put(self, number, group, written):
        """Note that a node here, whose first output is ``written``, is ``number`` for ``group``."""
        for output in self._outputs.get(number, {0}):
            segments = self._values.setdefault((number, output), [])
            segments.append((group, (written[0], output)))

    def _groups(self, inputs, ignored, together):
        """Return the tuples of variants that a node has to be written for.

        Args:
            inputs: Entries that it reads.
            ignored: Variants that it is not wanted for.
            together: Whether all variants are one group; else only those are that stand together
                in an input.
        """
        groups = []
        for entry in inputs:
            for variants, _ in self._values.get(entry, ()):
                if not set(variants) <= set(ignored):
                    joined = [g for g in groups if together or g & set(variants)]
                    groups = [g for g in groups if g not in joined]
                    groups.append(set(variants).union(*joined))
        return [tuple(sorted(group)) for group in groups]

    def _gather(self, entry, group):
        """Return an entry that holds ``entry`` for all variants of ``group``, in their order."""
        if entry[0] not in self._sampled:
            return self._constant(entry)
        segments, parts, done = self._values.get(entry, []), [], 0
        while done < len(group):
            variants, found = next((s for s in segments if group[done] in s[0]), ((), None))
            if found is None:  # not touched by this variant
                parts.append(self._see(entry))
                done += 1
            elif group[done : done + len(variants)] == variants:
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

    def _see(self, entry):
        """Return the entry here of an array of the training pass."""
        if entry not in self.seen:
            self.seen[entry] = self.variable(_name(entry))
        return self.seen[entry]

    def _constant(self, entry):
        """Return the entry here of something that depends on parameters only."""
        number, output = entry
        if number not in self._constants:
            inputs = [self._constant(e) for e in self.trace.inputs(number)]
            self._constants[number] = self.copy(self.trace.nodes[number], inputs)[0]
        return self._constants[number], output
