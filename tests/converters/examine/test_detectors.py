"""Each detector on graphs built by hand: what it detects, what it ignores, and which remedy follows."""

import numpy as np
import pytest

from edgekit_converters.examine.detectors import examine_graph
from edgekit_converters.examine.graph import Graph, Node, Range, RangeRecorder, Tensor
from edgekit_converters.records import Split


class Builder:
    """Puts nodes one behind the other; a tensor is known by its name."""

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


def test_boxes_beside_scores_are_cut_and_the_arithmetic_behind_them_is_kept_in_float(builder):
    examined = detector(builder).node("concat", "all", "boxes", "scores", axis=2).examine("features", "all")
    assert kinds(examined) == ["wide-concat"]
    assert examined.splits == (Split(1, 2),)
    assert kept(examined) == {"boxes", "scaled", "rows"}
    assert "as different as 640 and 1 into an output" in examined.findings[0].description
    assert "a step of int8 is 2.5, 2.5e+02 % of the narrow range" in examined.findings[0].description
    assert "the runtime joins them" in examined.findings[0].remedy


def test_in_ir_parts_have_no_scale_and_are_held_by_themselves_all_the_same(builder):
    examined = detector(builder).node("concat", "all", "boxes", "scores", axis=2).examine("all", engine="openvino")
    assert examined.splits == (Split(0, 2, (640.0, 1.0)),)
    assert kept(examined) == {"boxes", "scaled", "rows"}
    assert "each is compared with the model separately, and the runtime joins them" in examined.findings[0].remedy


def test_in_ir_nothing_is_lost_where_it_cannot_be_cut(builder):
    detector(builder).node("concat", "all", "boxes", "scores", axis=2)
    examined = builder.node("shape", "moved", "all").examine("moved", engine="openvino")
    assert (examined.splits, kept(examined)) == ((), {"boxes", "scaled", "rows"})
    assert "keeps outputs in float" in examined.findings[0].remedy


@pytest.mark.parametrize("boxes", [(0.0, 3.9), (0.0, 0.26), (-2.0, 1.5)])
def test_parts_of_similar_ranges_may_share_a_scale(builder, boxes):
    assert detector(builder, boxes).node("concat", "all", "boxes", "scores", axis=2).examine("all").findings == ()


def test_features_that_are_concatenated_inside_a_model_reach_no_output(builder):
    detector(builder).node("concat", "all", "boxes", "scores", axis=2)
    assert builder.node("conv", "more", "all", "weights").examine("more").findings == ()


@pytest.mark.parametrize("how", ["transposed", "fused", "also", "twice", "constant", "taken"])
def test_what_cannot_be_cut_is_kept_in_float(builder, how):
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


def test_an_expectation_by_convolution_is_kept_in_float_with_what_follows(builder):
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
def test_a_softmax_that_feeds_anything_else_is_no_expectation(builder, count, weights):
    bins(builder, count).constant("w", weights)
    assert builder.node("conv", "out", "chances", "w").examine("out").findings == ()


def test_a_detector_with_both_is_cut_and_the_cut_node_is_not_kept(builder):
    bins(builder).constant("count", COUNTING).node("conv", "expected", "chances", "count", held=(0.0, 100.0))
    builder.node("other", "scores", "features", held=(0.0, 1.0))
    examined = builder.node("concat", "all", "expected", "scores", axis=2).examine("all")
    assert kinds(examined) == ["wide-concat", "softmax-expectation"]
    assert examined.splits == (Split(0, 2),)
    assert kept(examined) == {"chances", "expected"}


def test_rare_large_values_are_told_of_unbounded_activations_alone(builder):
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
    """One as formats without an operator for it write it, between two residual additions."""
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
def test_a_normalization_is_kept_in_float_and_what_is_added_before_and_behind_is_not(builder, how, steps):
    examined = normalization(builder, how).examine("z")
    if steps is None:
        assert examined.findings == ()
        return
    assert kinds(examined) == ["normalization"]
    assert kept(examined) == {*steps, "squares", "variance", "more", "scale", "even", "y"}
    assert "as LayerNorm does, in 1 place:" in examined.findings[0].description


def test_squares_of_what_never_changes_are_none(builder):
    builder.constant("fixed", np.ones((1, 4))).node("square", "squares", "fixed").node("mean", "m", "squares")
    builder.node("root", "scale", "m").node("multiply", "y", "features", "scale")
    assert builder.examine("y").findings == ()


def test_nodes_that_quantize_already(builder):
    builder.node("quantize", "q", "features").node("quantize", "dq", "q")
    examined = builder.examine("dq")
    assert kinds(examined) == ["quantized-already"]
    assert "2 quantizing nodes" in examined.findings[0].description


def test_an_ordinary_model_is_left_alone(builder):
    builder.constant("dense", np.ones((10, 4))).node("dense", "logits", "features", "dense")
    examined = builder.node("softmax", "chances", "logits", shape=(1, 10), axis=1).examine("chances")
    assert (examined.findings, examined.splits, examined.nodes) == ((), (), ())


def test_ranges_are_the_extremes_of_all_samples_and_the_tail_of_the_median_one():
    recorder = RangeRecorder()
    for largest in (1.0, 2.0, 50.0):
        values = np.linspace(-0.5, largest, 4001)
        values[7] = np.nan
        recorder.add(3, values)
    recorder.add(4, np.array([np.inf]))
    (seen,) = recorder.ranges().values()
    assert (seen.low, seen.high, seen.span) == (-0.5, 50.0, 50.5)
    assert seen.percentile == pytest.approx(1.9975, abs=1e-3)
