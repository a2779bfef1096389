"""Each detector on graphs built by hand: what it detects, what it ignores, and which remedy follows."""

import numpy as np
import pytest

from edgekit_converters.examine.detectors import examine_graph
from edgekit_converters.examine.graph import Graph, Node, Range, RangeRecorder, Tensor
from edgekit_converters.records import Split


class Builder:
    """Builds a graph node by node; tensors are referred to by name."""

    def __init__(self):
        self.names, self.tensors, self.nodes, self.ranges = [], [], [], {}

    def tensor(self, name, shape=(1, 8, 4), held=(-1.0, 1.0), percentile=None, constant=None):
        if name in self.names:
            return self.names.index(name)
        self.names.append(name)
        self.tensors.append(Tensor(shape if constant is None else constant.shape, constant))
        if constant is None:
            self.ranges[len(self.names) - 1] = Range(*held, max(map(abs, held)) if percentile is None else percentile)
        return len(self.names) - 1

    def node(self, kind, output, *inputs, axis=None, unfused=True, **made):
        places = tuple(self.tensor(name) for name in inputs)
        self.nodes.append(Node(output, kind, places, (self.tensor(output, **made),), axis, unfused))
        return self

    def constant(self, name, values):
        self.tensor(name, constant=np.asarray(values, np.float32))
        return self

    def examine(self, *outputs, engine="litert"):
        graph = Graph(tuple(self.tensors), tuple(self.nodes), tuple(self.tensor(name) for name in outputs), self.ranges)
        return examine_graph(engine, graph)


def kinds(examined):
    return [finding.kind for finding in examined.findings]


def kept(examined):
    assert {scheme for _, scheme in examined.nodes} <= {"float32"}
    return {node for node, _ in examined.nodes}


@pytest.fixture
def builder():
    made = Builder()
    made.tensor("image")
    return made.constant("weights", np.ones((4, 3, 3, 4))).node("conv", "features", "image", "weights")


def detector(builder, boxes=(0.0, 640.0)):
    """Boxes from arithmetic, and scores."""
    builder.constant("stride", [8.0]).constant("anchors", np.ones((8, 4)))
    builder.node("shape", "rows", "features").node("multiply", "scaled", "rows", "stride", held=boxes)
    builder.node("add", "boxes", "scaled", "anchors", held=boxes)
    return builder.node("other", "scores", "features", held=(0.0, 1.0))


def test_boxes_beside_scores_are_split_and_their_arithmetic_stays_in_float(builder):
    examined = detector(builder).node("concat", "all", "boxes", "scores", axis=2).examine("features", "all")
    assert kinds(examined) == ["wide-concat"]
    assert examined.splits == (Split(1, 2),)
    assert kept(examined) == {"boxes", "scaled", "rows"}
    assert "as different as 640 and 1 into an output" in examined.findings[0].description
    assert "a step of int8 is 2.5, 2.5e+02 % of the narrow range" in examined.findings[0].description
    assert "the runtime joins them" in examined.findings[0].remedy


def test_in_ir_parts_have_no_scale_and_are_compared_separately(builder):
    examined = detector(builder).node("concat", "all", "boxes", "scores", axis=2).examine("all", engine="openvino")
    assert examined.splits == (Split(0, 2, (640.0, 1.0)),)
    assert kept(examined) == {"boxes", "scaled", "rows"}
    assert "each is compared with the model separately, and the runtime joins them" in examined.findings[0].remedy


def test_in_ir_an_output_that_cannot_be_split_loses_nothing(builder):
    detector(builder).node("concat", "all", "boxes", "scores", axis=2)
    examined = builder.node("shape", "moved", "all").examine("moved", engine="openvino")
    assert (examined.splits, kept(examined)) == ((), {"boxes", "scaled", "rows"})
    assert "keeps outputs in float" in examined.findings[0].remedy


@pytest.mark.parametrize("boxes", [(0.0, 3.9), (0.0, 0.26), (-2.0, 1.5)])
def test_parts_of_similar_ranges_may_share_a_scale(builder, boxes):
    assert detector(builder, boxes).node("concat", "all", "boxes", "scores", axis=2).examine("all").findings == ()


def test_a_concatenation_that_reaches_no_output_is_ignored(builder):
    detector(builder).node("concat", "all", "boxes", "scores", axis=2)
    assert builder.node("conv", "more", "all", "weights").examine("more").findings == ()


@pytest.mark.parametrize("how", ["transposed", "fused", "also", "twice", "constant", "taken"])
def test_an_output_that_cannot_be_split_is_kept_in_float(builder, how):
    detector(builder)
    parts = ("boxes", "scores", "boxes") if how == "twice" else ("boxes", "scores")
    if how == "constant":
        builder.constant("zeros", np.zeros((1, 8, 4)))
        parts += ("zeros",)
    builder.node("concat", "all", *parts, axis=2, unfused=how != "fused")
    outputs = {"also": ("all", "scores")}.get(how, ("all",))
    if how == "transposed":
        outputs = (builder.node("shape", "rows first", "all") and "rows first",)
    if how == "taken":
        builder.node("other", "best", "all")
        outputs = ("all", "best")
    examined = builder.examine(*outputs)
    assert examined.splits == ()
    assert kept(examined) >= {"all", "boxes", "scaled", "rows"}
    assert ("rows first" in kept(examined)) == (how == "transposed")
    assert "to the output are kept in float" in examined.findings[0].remedy


def bins(builder, count=16):
    builder.node("shape", "bins", "features", shape=(1, 8, 4, count))
    return builder.node("softmax", "chances", "bins", shape=(1, 8, 4, count), held=(0.0, 1.0), axis=3)


COUNTING = np.arange(16, dtype=np.float32)


def test_an_expectation_by_convolution_and_the_nodes_after_it_are_kept_in_float(builder):
    bins(builder).constant("count", COUNTING.reshape(1, 1, 1, 16)).constant("two", [2.0])
    builder.node("shape", "moved", "chances").node("conv", "expected", "moved", "count")
    builder.node("multiply", "distance", "expected", "two").node("conv", "refined", "distance", "weights")
    examined = builder.node("other", "after", "refined").examine("after", "distance")
    assert kinds(examined) == ["softmax-expectation"]
    assert kept(examined) == {"chances", "moved", "expected", "distance"}
    assert "softmax over 16 bins" in examined.findings[0].description


def test_an_expectation_by_products_and_a_sum(builder):
    bins(builder).constant("count", COUNTING * 0.5 + 3)
    builder.node("multiply", "products", "chances", "count").node("sum", "expected", "products", axis=3)
    assert kept(builder.examine("expected")) == {"chances", "products", "expected"}


@pytest.mark.parametrize(
    ("count", "weights"),
    [
        (16, np.random.default_rng(0).normal(size=16)),  # learned
        (16, np.ones(16)),
        (16, COUNTING[:15]),
        (16, np.tile(COUNTING, 2)),
        (1000, np.arange(1000)),  # a classifier's
    ],
)
def test_a_softmax_with_other_consumers_is_no_expectation(builder, count, weights):
    bins(builder, count).constant("w", weights)
    assert builder.node("conv", "out", "chances", "w").examine("out").findings == ()


def test_with_both_patterns_the_output_is_split_and_its_node_is_not_kept(builder):
    bins(builder).constant("count", COUNTING).node("conv", "expected", "chances", "count", held=(0.0, 100.0))
    builder.node("other", "scores", "features", held=(0.0, 1.0))
    examined = builder.node("concat", "all", "expected", "scores", axis=2).examine("all")
    assert kinds(examined) == ["wide-concat", "softmax-expectation"]
    assert examined.splits == (Split(0, 2),)
    assert kept(examined) == {"chances", "expected"}


def test_rare_large_values_are_reported_for_unbounded_activations_only(builder):
    builder.node("relu", "rare", "features", held=(0.0, 90.0), percentile=10.0)
    builder.node("relu", "common", "rare", held=(0.0, 79.0), percentile=10.0)
    builder.node("other", "sigmoid", "common", held=(0.0, 1.0), percentile=0.01)
    builder.node("relu", "dead", "sigmoid", held=(0.0, 0.0), percentile=0.0)
    examined = builder.examine("dead")
    assert [(finding.kind, finding.node) for finding in examined.findings] == [("rare-values", "rare")]
    assert examined.nodes == ()


@pytest.mark.parametrize(("axis", "found"), [(3, True), (1, False)])
def test_depthwise_weights_are_compared_channel_by_channel(builder, axis, found):
    weights = np.ones((1, 3, 3, 4), np.float32)
    weights[..., 1] = 0.005
    weights[..., 2] = 0  # a dead channel harms nobody
    builder.constant("kernels", weights).node("depthwise", "spread", "features", "kernels", axis=axis)
    assert (kinds(builder.examine("spread")) == ["depthwise-spread"]) == found


@pytest.mark.parametrize(
    ("value", "found"), [(-np.inf, True), (-3.4e38, True), (-9.0, True), (0.0, False), (2.5, False)]
)
def test_padding_far_outside(builder, value, found):
    builder.constant("fill", value).node("pad", "padded", "features", "fill").node("other", "pooled", "padded")
    builder.node("other", "after", "pooled")
    examined = builder.examine("after")
    assert kinds(examined) == ["far-pad"] * found
    assert kept(examined) == ({"padded", "pooled"} if found else set())


def normalization(builder, how):
    """Build a normalization from single operators, between two residual additions."""
    builder.constant("eps", 1e-6).constant("gain", np.ones(4)).node("dense", "new", "features", "weights")
    builder.node("add", "x", "features", "new")
    if how in ("deviation", "turned", "apart"):
        builder.node("mean", "centre", "x").node("shape", "centres", "centre")
        builder.node("square", "squares", *(("centres", "x") if how == "turned" else ("x", "centres")))
    elif how == "centred":
        builder.node("mean", "centre", "x").node("subtract", "far", "centre", "x")
        builder.node("multiply", "squares", "far", "far")
    elif how == "unit":
        builder.node("abs", "far", "x").node("multiply", "squares", "far", "far")
    elif how == "itself":
        builder.node("shape", "same", "x").node("multiply", "squares", "x", "same")
    elif how == "product":
        builder.node("multiply", "squares", "x", "gain")
    else:
        builder.node("relu" if how == "" else "square", "squares", "x")
    added, least = ("sum", "clip") if how == "unit" else ("mean", "multiply" if how == "turned" else "add")
    builder.node(added, "variance", "squares").node(least, "more", "variance", "eps").node("root", "scale", "more")
    if how == "statistics":
        return builder.node("concat", "z", "x", "scale")
    source = "far" if how == "centred" else "x"
    if how == "apart":
        builder.node("subtract", "far", "x", "centres")
        source = "far"
    builder.node("multiply", "even", source, "scale").node("multiply", "y", "even", "gain")
    return builder.node("add", "z", "y", "new")


@pytest.mark.parametrize(
    ("how", "steps"),
    [
        ("deviation", {"centre", "centres"}),
        ("turned", {"centre", "centres"}),
        ("apart", {"centre", "centres", "far"}),
        ("centred", {"centre", "far"}),
        ("unit", {"far"}),
        ("rms", set()),
        ("itself", {"same"}),
        *((how, None) for how in ("", "product", "statistics")),
    ],
)
def test_a_normalization_is_kept_in_float_and_residual_additions_are_not(builder, how, steps):
    examined = normalization(builder, how).examine("z")
    if steps is None:
        assert examined.findings == ()
        return
    assert kinds(examined) == ["normalization"]
    assert kept(examined) == {*steps, "squares", "variance", "more", "scale", "even", "y"}
    assert "as LayerNorm does, in 1 place:" in examined.findings[0].description


def test_squares_of_constants_are_no_normalization(builder):
    builder.constant("fixed", np.ones((1, 4))).node("square", "squares", "fixed").node("mean", "m", "squares")
    builder.node("root", "scale", "m").node("multiply", "y", "features", "scale")
    assert builder.examine("y").findings == ()


def test_quantizing_nodes_are_reported(builder):
    builder.node("quantize", "q", "features").node("quantize", "dq", "q")
    examined = builder.examine("dq")
    assert kinds(examined) == ["quantized-already"]
    assert "2 quantizing nodes" in examined.findings[0].description


def test_an_ordinary_model_has_no_findings(builder):
    builder.constant("dense", np.ones((10, 4))).node("dense", "logits", "features", "dense")
    examined = builder.node("softmax", "chances", "logits", shape=(1, 10), axis=1).examine("chances")
    assert (examined.findings, examined.splits, examined.nodes) == ((), (), ())


def test_ranges_are_the_extremes_and_the_median_percentile_of_all_samples():
    recorder = RangeRecorder()
    for largest in (1.0, 2.0, 50.0):
        values = np.linspace(-0.5, largest, 4001)
        values[7] = np.nan
        recorder.add(3, values)
    recorder.add(4, np.array([np.inf]))
    (seen,) = recorder.ranges().values()
    assert (seen.low, seen.high, seen.span) == (-0.5, 50.0, 50.5)
    assert seen.percentile == pytest.approx(1.9975, abs=1e-3)
