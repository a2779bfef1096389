"""Detectors: each finds one pattern in a graph that int8 harms, describes it and says what is done about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from edgekit_converters.examine.graph import ARITHMETIC, LAYOUT_KINDS, Graph, Node, Range
from edgekit_converters.formats import format_of
from edgekit_converters.records import Examination, Finding, Split

INT8_STEPS = 255
RANGE_FACTOR = 4  # a part whose range is so many times narrower than the shared range loses 2 of its 8 bits
MAX_PARTS = 16  # of a split output
MAX_BINS = 64  # of a softmax whose expectation is computed
OUTLIER_FACTOR = 8  # times the 99.9th percentile: 3 of 8 bits are spent on rare values
CHANNEL_FACTOR = 100  # between the largest weights of a depthwise convolution's channels
MASK_VALUE = -1e4  # added to the input of a softmax, it makes the result 0
FLOAT = "float32"
MASK_KINDS = (*ARITHMETIC, "select", "shape")
NORMALIZATION_KINDS = (*ARITHMETIC, "shape", "mean", "sum", "square", "root", "abs", "clip")


@dataclass(frozen=True)
class Detection:
    """What a detector found."""

    node: Node
    description: str
    remedy: str
    in_float: tuple[Node, ...] = ()  # nodes to keep in float
    split: Split | None = None  # of the output


def examine_graph(engine: str, graph: Graph) -> Examination:
    """Run every detector on a graph."""
    found = [(kind, one) for kind, detect in DETECTORS.items() for one in detect(graph, engine)]
    splits = tuple(one.split for _, one in found if one.split)
    removed = {graph.producers[graph.outputs[split.output]].name for split in splits}
    in_float = dict.fromkeys(node.name for _, one in found for node in one.in_float if node.name not in removed)
    return Examination(
        findings=tuple(Finding(engine, kind, one.node.name, one.description, one.remedy) for kind, one in found),
        splits=splits,
        nodes=tuple((name, FLOAT) for name in in_float),
    )


def detect_wide_concats(graph: Graph, engine: str) -> Iterator[Detection]:
    """Detect concatenations of wide and narrow ranges that reach an output, such as boxes in pixels and scores."""
    for node in graph.nodes:
        spans = [graph.ranges[tensor].span for tensor in graph.activations(node) if tensor in graph.ranges]
        narrow, wide = min(filter(None, spans), default=0.0), max(spans, default=0.0)
        if node.kind != "concat" or not narrow or wide < RANGE_FACTOR * narrow:
            continue
        downstream = list(graph.downstream(node.outputs, LAYOUT_KINDS))
        reached = set(node.outputs).union(*(one.outputs for one in downstream))
        if not reached & set(graph.outputs):
            continue
        description = (
            f"concatenates ranges as different as {wide:.3g} and {narrow:.3g} into an output: with one scale, "
            f"a step of int8 is {wide / INT8_STEPS:.2g}, {100 * wide / INT8_STEPS / narrow:.2g} % of the narrow range"
        )
        yield _split_or_keep_in_float(graph, engine, node, downstream, description)


def _split_or_keep_in_float(
    graph: Graph, engine: str, node: Node, downstream: list[Node], description: str
) -> Detection:
    arithmetic = tuple(_arithmetic_of_wide_parts(graph, node))
    more = ", and the arithmetic that computes the wide parts is kept in float" if arithmetic else ""
    scaled = format_of(engine).quantizes_outputs
    if _can_be_split(graph, node):
        spans = () if scaled else tuple(graph.ranges[tensor].span for tensor in node.inputs)
        split = Split(graph.outputs.index(node.outputs[0]), node.axis or 0, spans)
        each = "each has its own scale" if scaled else "each is compared with the model separately"
        remedy = f"the artifact outputs the parts, {each}, and the runtime joins them{more}"
        return Detection(node, description, remedy, arithmetic, split)
    if not scaled:
        remedy = f"nothing is lost there, because this format keeps outputs in float{more}"
        return Detection(node, description, remedy, arithmetic)
    remedy = f"the nodes from there to the output are kept in float{more}"
    return Detection(node, description, remedy, (node, *downstream, *arithmetic))


def _can_be_split(graph: Graph, node: Node) -> bool:
    """Return whether a concatenation gives only an output, and its parts are computed and no outputs themselves."""
    parts = node.inputs
    return (
        node.unfused
        and graph.outputs.count(node.outputs[0]) == 1
        and not graph.consumers(node.outputs[0])
        and len(set(parts)) == len(parts) <= MAX_PARTS
        and all(part in graph.producers and part not in graph.outputs for part in parts)
    )


def _arithmetic_of_wide_parts(graph: Graph, node: Node) -> Iterator[Node]:
    """Yield the nodes without weights that compute the wide parts, back to the last convolution."""
    spans = {tensor: graph.ranges[tensor].span for tensor in graph.activations(node) if tensor in graph.ranges}
    narrow = min(filter(None, spans.values()))
    for tensor, span in spans.items():
        nodes = list(graph.upstream(tensor, (*LAYOUT_KINDS, *ARITHMETIC))) if span >= RANGE_FACTOR * narrow else []
        if any(one.kind in ARITHMETIC for one in nodes):
            yield from nodes


def detect_softmax_expectations(graph: Graph, _engine: str) -> Iterator[Detection]:
    """Detect a softmax over a few bins whose expectation is computed with fixed, evenly spaced weights (0, 1, 2 …).

    Detectors with a distribution focal loss predict distances like this (Li et al. 2020, Generalized Focal Loss,
    arXiv:2006.04388, section 3).
    """
    for node in graph.nodes:
        shape = graph.tensors[node.outputs[0]].shape
        if node.kind != "softmax" or node.axis is None or node.axis >= len(shape):
            continue
        bins = shape[node.axis]
        summing = _summing_node(graph, node, bins) if 2 <= bins <= MAX_BINS else None
        if summing is None:
            continue
        between = tuple(graph.downstream(node.outputs, ("shape", "multiply")))
        after = tuple(graph.downstream(summing.outputs))
        yield Detection(
            node,
            f"computes the expectation of a softmax over {bins} bins: in steps of 1/256, small probabilities of far "
            f"bins vanish or double, and every value computed from it changes",
            "it and the nodes after it are kept in float",
            (node, *between, summing, *after),
        )


def _summing_node(graph: Graph, softmax: Node, bins: int) -> Node | None:
    """Return the node that multiplies by evenly spaced weights and adds up; of two such nodes, the one that adds."""
    for node in graph.nodes:
        reshaped = set(softmax.outputs).union(*(one.outputs for one in graph.downstream(softmax.outputs, ("shape",))))
        constants = graph.constants(node)
        if not reshaped & set(node.inputs) or not any(_evenly_spaced(constant, bins) for constant in constants):
            continue
        if graph.has_weights(node):
            return node
        if node.kind == "multiply":
            after = set(node.outputs).union(*(one.outputs for one in graph.downstream(node.outputs, ("shape",))))
            return next((one for one in graph.nodes if one.kind == "sum" and after & set(one.inputs)), None)
    return None


def _evenly_spaced(constant: np.ndarray, bins: int) -> bool:
    """Return whether a constant holds evenly spaced values, one a bin, such as 0, 1, 2."""
    steps = np.diff(constant.astype(np.float64).ravel())
    return constant.size == bins and bool(np.all(np.abs(steps - steps[0]) < 1e-3 * abs(steps[0])))


def detect_rare_values(graph: Graph, _engine: str) -> Iterator[Detection]:
    """Detect unbounded activations whose largest values are rare."""
    unbounded = (*ARITHMETIC, "conv", "depthwise", "dense", "relu")
    for node in graph.nodes:
        measured = graph.ranges.get(node.outputs[0]) if node.kind in unbounded else None
        if measured is not None and measured.largest > OUTLIER_FACTOR * measured.percentile > 0:
            yield Detection(
                node,
                f"its values reach {measured.largest:.3g}, but 99.9 % of them stay below {measured.percentile:.3g}: "
                f"most of the int8 range is spent on rare values",
                'nothing automatically: a recipe with statistics = "percentile" or "mse" clips them; measure whether '
                "that helps",
            )


def detect_depthwise_spreads(graph: Graph, _engine: str) -> Iterator[Detection]:
    """Detect depthwise convolutions whose weights differ much in size from channel to channel."""
    for node in graph.nodes:
        weights = graph.constants(node) if node.kind == "depthwise" else []
        largest = _largest_by_channel(weights[0], node.axis) if weights else np.zeros(0)  # (channels,)
        nonzero = largest[largest > 0]
        if nonzero.size and nonzero.max() > CHANNEL_FACTOR * nonzero.min():
            yield Detection(
                node,
                f"the largest weights of its channels differ by a factor of {nonzero.max() / nonzero.min():.3g}: the "
                f"weights have a scale a channel, but the result has one scale, which is too coarse for small channels",
                'nothing automatically: a recipe with corrections = ["equalize"] evens the channels out',
            )


def _largest_by_channel(weights: np.ndarray, axis: int | None) -> np.ndarray:
    """Return the largest absolute weight of each channel, (channels,)."""
    return np.asarray(np.abs(weights).max(axis=tuple(at for at in range(weights.ndim) if at != axis)))


def detect_far_pads(graph: Graph, _engine: str) -> Iterator[Detection]:
    """Detect padding with a constant far outside the range of the padded values, such as -inf before a maximum."""
    for node in graph.nodes:
        padded = graph.ranges.get(node.inputs[0]) if node.kind == "pad" else None
        values = [one for one in graph.constants(node) if one.size == 1 and one.dtype.kind == "f"]
        if padded is None or not values or not _far_outside(float(values[-1].ravel()[0]), padded):
            continue
        consumers = tuple(one for tensor in node.outputs for one in graph.consumers(tensor))
        yield Detection(
            node,
            f"pads values in {padded.low:.3g}..{padded.high:.3g} with {float(values[-1].ravel()[0]):.3g}: the int8 "
            f"range would be spent on the padding",
            "it and the nodes that use its result are kept in float",
            (node, *consumers),
        )


def _far_outside(value: float, padded: Range) -> bool:
    return not min(padded.low, 0.0) - padded.span <= value <= max(padded.high, 0.0) + padded.span


def detect_masks(graph: Graph, _engine: str) -> Iterator[Detection]:
    """Detect masks: very low values in the input of a softmax, such as for the padding of a short sentence."""
    found: dict[str, Node] = {}
    softmaxes = []
    for node in graph.nodes:
        chain = list(graph.upstream(node.inputs[0], MASK_KINDS)) if node.kind == "softmax" else []
        low = [one for one in chain if _has_mask_values(graph, one)]
        if low:
            softmaxes.append(node)
            after = list(graph.downstream([tensor for one in low for tensor in one.outputs], MASK_KINDS))
            found |= {one.name: one for one in chain if one in low or one in after}
    if softmaxes:
        yield Detection(
            softmaxes[0],
            f"in {len(softmaxes)} place{'s' * (len(softmaxes) > 1)} a mask puts values of {MASK_VALUE:g} or less into "
            f"a softmax: the int8 range would be spent on the mask",
            "the nodes from the mask to the softmax are kept in float",
            tuple(found.values()),
        )


def _has_mask_values(graph: Graph, node: Node) -> bool:
    constants = [one for one in graph.constants(node) if one.dtype.kind == "f" and one.size]
    result = graph.ranges.get(node.outputs[0])
    return any(one.min() <= MASK_VALUE for one in constants) or (result is not None and result.low <= MASK_VALUE)


def detect_normalizations(graph: Graph, _engine: str) -> Iterator[Detection]:
    """Detect divisions by a deviation or a length that is computed from the values themselves.

    Examples are LayerNorm (Ba et al. 2016, arXiv:1607.06450), RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) and
    the normalized embeddings of face recognition, where a format has no operator for them.
    """
    roots = {node.name: _normalization(graph, node) for node in graph.nodes if node.kind == "root"}
    found = {name: nodes for name, nodes in roots.items() if nodes}
    if found:
        first = next(node for node in graph.nodes if node.name in found)
        yield Detection(
            first,
            f"the model normalizes by the root of a sum of squares, as LayerNorm does, in {len(found)} "
            f"place{'s' * (len(found) > 1)}: in int8 the squares of small values are lost, and the integer kernels "
            f"are slower than the float kernels",
            "all of its nodes are kept in float",
            tuple(node for nodes in found.values() for node in nodes),
        )


def _normalization(graph: Graph, root: Node) -> list[Node]:
    """Return the nodes from the normalized tensor to the result, root among them; an empty list if it is none."""
    source = _normalized_tensor(graph, root)
    if source is None:
        return []
    reached, inside = {source}, []
    for node in graph.nodes:
        if node.kind in NORMALIZATION_KINDS and graph.activations(node) and set(graph.activations(node)) <= reached:
            reached |= set(node.outputs)
            inside.append(node)
    after = [node for node in graph.downstream(root.outputs, NORMALIZATION_KINDS) if node in inside]
    scaled = set(root.outputs).union(*(node.outputs for node in after))
    if not any(node.kind in ("multiply", "divide") and set(graph.activations(node)) - scaled for node in after):
        return []  # the values are not divided by the root
    needed: set[int] = set()
    found: list[Node] = []
    for node in reversed(inside):
        if node is root or node in after or needed & set(node.outputs):
            needed |= set(node.inputs)
            found.append(node)
    return found[::-1]


def _normalized_tensor(graph: Graph, root: Node) -> int | None:
    """Return the tensor whose squares, or squared distances from its mean, are summed up under a root; else None."""
    reduction = _producer(graph, root.inputs[0], ("add", "shape", "clip", "multiply", "divide"))
    if reduction is None or reduction.kind not in ("mean", "sum"):
        return None
    square = _producer(graph, reduction.inputs[0], ("shape",))
    factors = graph.activations(square) if square is not None else []
    origins = {_before_reshapes(graph, tensor) for tensor in factors}
    if square is None or square.kind not in ("square", "multiply") or not factors:
        return None
    centered = _minus_own_mean(graph, square) if square.kind == "square" else None
    if centered is not None:
        return centered
    if len(origins) > 1 or (square.kind == "multiply" and len(factors) < 2):
        return None
    source = factors[0] if len(set(factors)) == 1 else next(iter(origins))
    producer = graph.producers.get(source)
    if producer is not None and producer.kind == "abs":
        return producer.inputs[0]
    centered = _minus_own_mean(graph, producer) if producer is not None and producer.kind == "subtract" else None
    return source if centered is None else centered


def _before_reshapes(graph: Graph, tensor: int) -> int:
    """Return the tensor that one is a reshape of, or itself."""
    while (node := graph.producers.get(tensor)) is not None and node.kind == "shape":
        tensor = node.inputs[0]
    return tensor


def _minus_own_mean(graph: Graph, node: Node) -> int | None:
    """Return that input of a node whose mean is the other input; else None."""
    for value, mean in (node.inputs, node.inputs[::-1]) if len(node.inputs) == 2 else ():
        producer = _producer(graph, mean, ("shape",))
        if producer is not None and producer.kind == "mean" and value in producer.inputs:
            return value
    return None


def _producer(graph: Graph, tensor: int, skipping: tuple[str, ...]) -> Node | None:
    """Return the node that computes a tensor, skipping nodes of some kinds that have one input beside constants."""
    node = graph.producers.get(tensor)
    while node is not None and node.kind in skipping and len(graph.activations(node)) == 1:
        node = graph.producers.get(graph.activations(node)[0])
    return node


def detect_quantized_nodes(graph: Graph, _engine: str) -> Iterator[Detection]:
    """Detect quantization that the model already contains."""
    nodes = [node for node in graph.nodes if node.kind == "quantize"]
    if nodes:
        yield Detection(
            nodes[0],
            f"the model already has {len(nodes)} quantizing nodes: quantized again, it loses accuracy twice",
            "nothing: convert the float model that it was made from",
        )


Detector = Callable[[Graph, str], Iterable[Detection]]
DETECTORS: dict[str, Detector] = {
    "wide-concat": detect_wide_concats,
    "softmax-expectation": detect_softmax_expectations,
    "rare-values": detect_rare_values,
    "depthwise-spread": detect_depthwise_spreads,
    "far-pad": detect_far_pads,
    "mask": detect_masks,
    "normalization": detect_normalizations,
    "quantized-already": detect_quantized_nodes,
}
