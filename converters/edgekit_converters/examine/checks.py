"""The finders: each looks for one thing in a graph, says what it means, and what is done about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from edgekit_converters.examine.graph import ARITHMETIC, MOVES, Graph, Node, Range
from edgekit_converters.formats import format_of
from edgekit_converters.records import Examination, Finding, Split

STEPS = 255  # of an int8 range
WIDE = 4  # times: a part that gets so much less of a shared range than the widest has lost 2 of its 8 bits
MOST_PARTS = 16
MOST_BINS = 64  # of a softmax whose expectation is taken
RARE = 8  # times the 99.9th percentile: of 8 bits, 3 are for values that hardly ever come
SPREAD = 100  # times, between the weights of a depthwise convolution's channels
MASK = -1e4  # what adds so little to a softmax's input, or less, hides a place from it
FLOAT = "float32"
MASKING = (*ARITHMETIC, "select", "shape")
NORMALIZING = (*ARITHMETIC, "shape", "mean", "sum", "square", "root", "abs", "clip")


@dataclass(frozen=True)
class Found:
    """A finding before it is told, with what follows from it."""

    node: Node
    says: str
    does: str
    keep: tuple[Node, ...] = ()  # in float
    split: Split | None = None


def examine_graph(engine: str, graph: Graph) -> Examination:
    """Ask every finder."""
    found = [(kind, one) for kind, find in FINDERS.items() for one in find(graph, engine)]
    splits = tuple(one.split for _, one in found if one.split)
    cut = {graph.makers[graph.outputs[split.output]].name for split in splits}
    kept = dict.fromkeys(node.name for _, one in found for node in one.keep if node.name not in cut)
    return Examination(
        findings=tuple(Finding(engine, kind, one.node.name, one.says, one.does) for kind, one in found),
        splits=splits,
        nodes=tuple((name, FLOAT) for name in kept),
    )


def wide_concats(graph: Graph, engine: str) -> Iterator[Found]:
    """Concatenations of wide with narrow ranges that reach an output, such as boxes in pixels beside scores."""
    for node in graph.nodes:
        spans = [graph.ranges[place].span for place in graph.values(node) if place in graph.ranges]
        narrow, wide = min(filter(None, spans), default=0.0), max(spans, default=0.0)
        if node.kind != "concat" or not narrow or wide < WIDE * narrow:
            continue
        leads = list(graph.behind(node.outputs, MOVES))
        reached = set(node.outputs).union(*(one.outputs for one in leads))
        if not reached & set(graph.outputs):
            continue
        says = (
            f"concatenates ranges as different as {wide:.3g} and {narrow:.3g} into an output: with one scale, "
            f"a step of int8 is {wide / STEPS:.2g}, {100 * wide / STEPS / narrow:.2g} % of the narrow range"
        )
        yield _cut_or_kept(graph, engine, node, leads, says)


def _cut_or_kept(graph: Graph, engine: str, node: Node, leads: list[Node], says: str) -> Found:
    numbers = tuple(_wide_numbers(graph, node))
    arithmetic = ", and the arithmetic that makes the wide numbers is kept in float" if numbers else ""
    scaled = format_of(engine).quantizes_outputs
    if _can_be_cut(graph, node):
        spans = () if scaled else tuple(graph.ranges[place].span for place in node.inputs)
        split = Split(graph.outputs.index(node.outputs[0]), node.axis or 0, spans)
        apart = "each with a scale of its own" if scaled else "each held against the model by itself"
        does = f"the artifact gives the parts, {apart}, and the runtime joins them{arithmetic}"
        return Found(node, says, does, numbers, split)
    if not scaled:
        does = f"nothing is lost there, since this format gives outputs in float{arithmetic}"
        return Found(node, says, does, numbers)
    return Found(node, says, f"from there to the output it is kept in float{arithmetic}", (node, *leads, *numbers))


def _can_be_cut(graph: Graph, node: Node) -> bool:
    """Its result is an output and nothing else, and its parts are made by nodes and are no outputs themselves."""
    places = node.inputs
    return (
        node.plain
        and graph.outputs.count(node.outputs[0]) == 1
        and not graph.takers(node.outputs[0])
        and len(set(places)) == len(places) <= MOST_PARTS
        and all(place in graph.makers and place not in graph.outputs for place in places)
    )


def _wide_numbers(graph: Graph, node: Node) -> Iterator[Node]:
    """The arithmetic without weights behind the parts that are wide, back to what a convolution gave."""
    spans = {place: graph.ranges[place].span for place in graph.values(node) if place in graph.ranges}
    narrow = min(filter(None, spans.values()))
    for place, span in spans.items():
        nodes = list(graph.before(place, (*MOVES, *ARITHMETIC))) if span >= WIDE * narrow else []
        if any(one.kind in ARITHMETIC for one in nodes):
            yield from nodes


def expectations(graph: Graph, _engine: str) -> Iterator[Found]:
    """A softmax over a few bins whose expectation is taken with fixed, even weights (0, 1, 2 …).

    This is how detectors with a distribution focal loss say distances (Li et al. 2020, Generalized Focal Loss,
    arXiv:2006.04388, section 3).
    """
    for node in graph.nodes:
        shape = graph.tensors[node.outputs[0]].shape
        if node.kind != "softmax" or node.axis is None or node.axis >= len(shape):
            continue
        bins = shape[node.axis]
        taker = _expectation(graph, node, bins) if 2 <= bins <= MOST_BINS else None
        if taker is None:
            continue
        between = tuple(graph.behind(node.outputs, ("shape", "multiply")))
        follows = tuple(graph.behind(taker.outputs))
        yield Found(
            node,
            f"takes the expectation of a softmax over {bins} bins: in steps of 1/256, small probabilities of far "
            f"bins are lost or double, and every number that is computed from it moves",
            "it and what follows it is kept in float",
            (node, *between, taker, *follows),
        )


def _expectation(graph: Graph, softmax: Node, bins: int) -> Node | None:
    """The node that multiplies by even weights and adds up; where two nodes do that, the one that adds up."""
    for node in graph.nodes:
        moved = set(softmax.outputs).union(*(one.outputs for one in graph.behind(softmax.outputs, ("shape",))))
        if not moved & set(node.inputs) or not any(_even(constant, bins) for constant in graph.constants(node)):
            continue
        if graph.weighted(node):
            return node
        if node.kind == "multiply":
            after = set(node.outputs).union(*(one.outputs for one in graph.behind(node.outputs, ("shape",))))
            return next((one for one in graph.nodes if one.kind == "sum" and after & set(one.inputs)), None)
    return None


def _even(constant: np.ndarray, bins: int) -> bool:
    """Whether it counts, as 0, 1, 2 … does."""
    steps = np.diff(constant.astype(np.float64).ravel())
    return constant.size == bins and bool(np.all(np.abs(steps - steps[0]) < 1e-3 * abs(steps[0])))


def rare_values(graph: Graph, _engine: str) -> Iterator[Found]:
    """Unbounded activations whose largest values hardly ever come."""
    unbounded = (*ARITHMETIC, "conv", "depthwise", "dense", "relu")
    for node in graph.nodes:
        seen = graph.ranges.get(node.outputs[0]) if node.kind in unbounded else None
        if seen is not None and seen.largest > RARE * seen.tail > 0:
            yield Found(
                node,
                f"its values go up to {seen.largest:.3g}, but 99.9 % of them stay below {seen.tail:.3g}: most of "
                f"the int8 range is for values that hardly ever come",
                'nothing by itself: a recipe with statistics = "percentile" or "mse" cuts them off; measure whether '
                "that helps",
            )


def depthwise_spreads(graph: Graph, _engine: str) -> Iterator[Found]:
    """Depthwise convolutions with weights of very different size from channel to channel."""
    for node in graph.nodes:
        weights = graph.constants(node) if node.kind == "depthwise" else []
        largest = _by_channel(weights[0], node.axis) if weights else np.zeros(0)  # (channels,)
        alive = largest[largest > 0]
        if alive.size and alive.max() > SPREAD * alive.min():
            yield Found(
                node,
                f"the largest weights of its channels differ by a factor of {alive.max() / alive.min():.3g}, so one "
                f"scale for its result leaves little of the small channels; their weights have scales of their own",
                'nothing by itself: a recipe with corrections = ["equalize"] evens the channels out',
            )


def _by_channel(weights: np.ndarray, axis: int | None) -> np.ndarray:
    """The largest absolute weight of each channel."""
    return np.asarray(np.abs(weights).max(axis=tuple(at for at in range(weights.ndim) if at != axis)))


def far_pads(graph: Graph, _engine: str) -> Iterator[Found]:
    """Padding with a constant far outside of what it pads, such as -inf before a maximum."""
    for node in graph.nodes:
        seen = graph.ranges.get(node.inputs[0]) if node.kind == "pad" else None
        values = [one for one in graph.constants(node) if one.size == 1 and one.dtype.kind == "f"]
        if seen is None or not values or not _far(float(values[-1].ravel()[0]), seen):
            continue
        takers = tuple(taker for place in node.outputs for taker in graph.takers(place))
        yield Found(
            node,
            f"pads with {float(values[-1].ravel()[0]):.3g} what lies in {seen.low:.3g}..{seen.high:.3g}: the int8 "
            f"range would be for the padding",
            "it and what takes its result are kept in float",
            (node, *takers),
        )


def _far(value: float, seen: Range) -> bool:
    return not min(seen.low, 0.0) - seen.span <= value <= max(seen.high, 0.0) + seen.span


def masks(graph: Graph, _engine: str) -> Iterator[Found]:
    """What goes into a softmax with values so low that they hide places, such as those that fill a short sentence."""
    found: dict[str, Node] = {}
    softmaxes = []
    for node in graph.nodes:
        chain = list(graph.before(node.inputs[0], MASKING)) if node.kind == "softmax" else []
        low = [one for one in chain if _masks(graph, one)]
        if low:
            softmaxes.append(node)
            behind = list(graph.behind([place for one in low for place in one.outputs], MASKING))
            found |= {one.name: one for one in chain if one in low or one in behind}
    if softmaxes:
        yield Found(
            softmaxes[0],
            f"in {len(softmaxes)} place{'s' * (len(softmaxes) > 1)} a mask brings values of {MASK:g} or less into a "
            f"softmax: the int8 range would be for the mask",
            "from the mask to the softmax it is kept in float",
            tuple(found.values()),
        )


def _masks(graph: Graph, node: Node) -> bool:
    constants = [one for one in graph.constants(node) if one.dtype.kind == "f" and one.size]
    seen = graph.ranges.get(node.outputs[0])
    return any(one.min() <= MASK for one in constants) or (seen is not None and seen.low <= MASK)


def normalizations(graph: Graph, _engine: str) -> Iterator[Found]:
    """Divisions by a deviation or a length that is computed from the values themselves.

    Such are LayerNorm (Ba et al. 2016, arXiv:1607.06450), RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) and the
    normalized embeddings of face recognition, where a format has no operator for them.
    """
    roots = {node.name: _normalization(graph, node) for node in graph.nodes if node.kind == "root"}
    found = {name: nodes for name, nodes in roots.items() if nodes}
    if found:
        first = next(node for node in graph.nodes if node.name in found)
        yield Found(
            first,
            f"the model takes the root of squares to normalize by, as LayerNorm does, in {len(found)} "
            f"place{'s' * (len(found) > 1)}: in int8 the squares of small values are lost, and the integer kernels for "
            f"the steps take longer than those for float",
            "all of that is kept in float",
            tuple(node for nodes in found.values() for node in nodes),
        )


def _normalization(graph: Graph, root: Node) -> list[Node]:
    """The nodes from what is normalized to the result, root among them; none where that is something else."""
    source = _normalized(graph, root)
    if source is None:
        return []
    reached, inside = {source}, []
    for node in graph.nodes:
        if node.kind in NORMALIZING and set(graph.values(node)) and set(graph.values(node)) <= reached:
            reached |= set(node.outputs)
            inside.append(node)
    behind = [node for node in graph.behind(root.outputs, NORMALIZING) if node in inside]
    scaled = set(root.outputs).union(*(node.outputs for node in behind))
    if not any(node.kind in ("multiply", "divide") and set(graph.values(node)) - scaled for node in behind):
        return []  # what was under the root is not divided by it
    wanted: set[int] = set()
    found: list[Node] = []
    for node in reversed(inside):
        if node is root or node in behind or wanted & set(node.outputs):
            wanted |= set(node.inputs)
            found.append(node)
    return found[::-1]


def _normalized(graph: Graph, root: Node) -> int | None:
    """The tensor whose squares, or those of its distance from its mean, add up to what is at the root; else None."""
    added = _maker(graph, root.inputs[0], ("add", "shape", "clip", "multiply", "divide"))
    if added is None or added.kind not in ("mean", "sum"):
        return None
    square = _maker(graph, added.inputs[0], ("shape",))
    places = graph.values(square) if square is not None else []
    origins = {_origin(graph, place) for place in places}
    if square is None or square.kind not in ("square", "multiply") or not places:
        return None
    apart = _apart(graph, square) if square.kind == "square" else None
    if apart is not None:
        return apart
    if len(origins) > 1 or (square.kind == "multiply" and len(places) < 2):
        return None
    source = places[0] if len(set(places)) == 1 else next(iter(origins))
    made = graph.makers.get(source)
    if made is not None and made.kind == "abs":
        return made.inputs[0]
    from_middle = _apart(graph, made) if made is not None and made.kind == "subtract" else None
    return source if from_middle is None else from_middle


def _origin(graph: Graph, tensor: int) -> int:
    """The tensor of which one is another shape."""
    while (node := graph.makers.get(tensor)) is not None and node.kind == "shape":
        tensor = node.inputs[0]
    return tensor


def _apart(graph: Graph, node: Node) -> int | None:
    """Of the two values that a node takes, the one whose mean is the other; else None."""
    for value, middle in (node.inputs, node.inputs[::-1]) if len(node.inputs) == 2 else ():
        taken = _maker(graph, middle, ("shape",))
        if taken is not None and taken.kind == "mean" and value in taken.inputs:
            return value
    return None


def _maker(graph: Graph, tensor: int, past: tuple[str, ...]) -> Node | None:
    """The node that makes a tensor, past some that have one input but for constants."""
    node = graph.makers.get(tensor)
    while node is not None and node.kind in past and len(graph.values(node)) == 1:
        node = graph.makers.get(graph.values(node)[0])
    return node


def quantizers(graph: Graph, _engine: str) -> Iterator[Found]:
    """Quantization that is in the model already."""
    there = [node for node in graph.nodes if node.kind == "quantize"]
    if there:
        yield Found(
            there[0],
            f"the model has {len(there)} quantizing nodes of its own: quantized again it loses twice",
            "nothing: convert the float model that it was made from",
        )


Finder = Callable[[Graph, str], Iterable[Found]]
FINDERS: dict[str, Finder] = {
    "wide-concat": wide_concats,
    "softmax-expectation": expectations,
    "rare-values": rare_values,
    "depthwise-spread": depthwise_spreads,
    "far-pad": far_pads,
    "mask": masks,
    "normalization": normalizations,
    "quantized-already": quantizers,
}
