"""Batch-norm in separate steps, and its directional derivative.

The derivative counts how mean and variance of the batch depend on the input, as automatic
differentiation does.

A factor and a term per channel are applied by a 1x1 convolution with one group per channel: on a
CPU, with its gradient, more than ten times faster than ``broadcast_mul``. For the same reason a
mean goes through a pooling.
"""

from __future__ import annotations

from gluon_attn.papers.icasc.tangents import added


def normalize(graph, attrs, inputs, channels):
    """Add batch-norm in separate steps.

    Args:
        graph: Graph.
        attrs: Attributes of the BatchNorm node, whose channels must be axis 1.
        inputs: Entries of data ``(B, C, H, W)``, gamma, beta, running mean, running variance.
        channels: C.

    Returns:
        A dict of entries: ``output``, ``normal`` (the normalised input), ``slope`` (gamma over the
        standard deviation, ``(C,)``), ``mean`` and ``var`` (of the batch, ``(C,)``, not to be
        differentiated; None if the running statistics are used).
    """
    if attrs.get("axis", "1") != "1":
        raise ValueError(f"BatchNorm over axis {attrs['axis']} has no directional derivative here")
    data, gamma, beta, mean, var = inputs
    frozen = attrs.get("use_global_stats") in ("True", "1")
    mean = mean if frozen else batch_mean(graph, data)
    centred = graph.add("broadcast_sub", data, graph.add("Reshape", mean, shape="(1, -1, 1, 1)"))
    var = var if frozen else batch_mean(graph, graph.add("square", centred))
    scale = graph.add("rsqrt", graph.add("_plus_scalar", var, scalar=attrs.get("eps", "1e-3")))
    normal = _affine(graph, centred, channels, scale)
    if attrs.get("fix_gamma", "True") in ("True", "1"):
        gamma = graph.add("BlockGrad", graph.add("ones_like", gamma))
    statistics = (None, None) if frozen else (graph.add("BlockGrad", x) for x in (mean, var))
    return dict(
        zip(("mean", "var"), statistics), output=_affine(graph, normal, channels, gamma, beta),
        normal=normal, slope=graph.add("elemwise_mul", scale, gamma), channels=channels,
    )  # fmt: skip


def normalize_tangent(graph, steps, change):
    """Return the directional derivative of :func:`normalize`, whose result is ``steps``.

    With normalised input n, slope s and means over the batch and all positions, it is
    ``s (t - mean(t) - n mean(n t))``.
    """
    slope, channels = steps["slope"], steps["channels"]
    if steps["mean"] is None:
        return _affine(graph, change, channels, slope)
    opposite = graph.add("negative", slope)
    shift = graph.add("broadcast_mul", opposite, batch_mean(graph, change))
    along = batch_mean(graph, graph.add("elemwise_mul", steps["normal"], change))
    stretch = graph.add("broadcast_mul", opposite, along)
    return added(graph, [
        _affine(graph, change, channels, slope, shift),
        _affine(graph, steps["normal"], channels, stretch),
    ])  # fmt: skip


def batch_mean(graph, entry):
    """Add the mean of each channel over batch and positions, ``(B, C, H, W)`` to ``(C,)``."""
    pooled = graph.add("Pooling", entry, pool_type="avg", global_pool=True, kernel="(1, 1)")
    return graph.add("Reshape", graph.add("mean", pooled, axis="(0,)"), shape="(-1,)")


def _affine(graph, entry, channels, factor, *term):
    """Add ``factor * entry + term``, factor and term ``(C,)``."""
    weight = graph.add("Reshape", factor, shape="(-1, 1, 1, 1)")
    return graph.add("Convolution", entry, weight, *term, kernel="(1, 1)", num_filter=channels,
                     num_group=channels, no_bias=not term)  # fmt: skip
