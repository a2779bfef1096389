"""Match two traces by values only: fused steps, split steps, steps that rearrange values, equal values."""

import numpy as np

from edgekit_converters.trace.match import pair
from edgekit_converters.trace.steps import Steps, Weights, fingerprint, same_values

GENERATOR = np.random.default_rng(0)


def array(*shape):
    return GENERATOR.standard_normal(shape).astype(np.float32)


def steps(*rows):
    """Steps from (name, indices of its inputs, its result)."""
    found = Steps()
    for name, inputs, result in rows:
        found.add((name, name), Weights(), inputs, result, [rows[place][2] for place in inputs])
    return found


def paired(source, artifact):
    names = pair(source.steps, source.values, artifact.steps, artifact.values)
    return dict(zip([step.name for step in source.steps], names, strict=True))


def test_values_are_found_in_another_layout_and_rounding():
    a, b = array(1, 5, 6, 7), array(1, 5, 6, 7)
    source = steps(("a", (), a), ("b", (0,), b))
    artifact = steps(("x", (), a.transpose(0, 3, 1, 2) * (1 + 1e-6)), ("y", (0,), b.reshape(1, -1) - 1e-5))
    assert paired(source, artifact) == {"a": ("x",), "b": ("y",)}


def test_a_fused_step_belongs_to_the_first_matched_step_after_it():
    conv, bn, relu, head = array(1, 9), array(1, 9), array(1, 9), array(1, 3)
    source = steps(("conv", (), conv), ("bn", (0,), bn), ("relu", (1,), relu), ("head", (2,), head))
    artifact = steps(("conv;relu", (), relu), ("out", (0,), head))
    fused = ("conv;relu",)
    assert paired(source, artifact) == {"conv": fused, "bn": fused, "relu": fused, "head": ("out",)}


def test_after_means_along_the_data_flow():
    left, right, left_bn, right_bn = (array(1, 9) for _ in range(4))
    source = steps(("left", (), left), ("right", (), right), ("left_bn", (0,), left_bn), ("right_bn", (1,), right_bn))
    artifact = steps(("r", (), right_bn), ("l", (), left_bn))
    assert paired(source, artifact) == {"left": ("l",), "right": ("r",), "left_bn": ("l",), "right_bn": ("r",)}


def test_nodes_that_the_source_lacks_belong_to_the_step_they_lead_to():
    dense, out = array(1, 4), array(1, 2)
    source = steps(("dense", (), dense), ("out", (0,), out))
    artifact = steps(("MatMul", (), array(1, 4)), ("Add", (0,), dense), ("Mul", (1,), array(1, 2)), ("Sum", (2,), out))
    assert paired(source, artifact) == {"dense": ("MatMul", "Add"), "out": ("Mul", "Sum")}


def test_a_step_that_rearranges_values_matches_no_node_that_computes():
    conv = array(1, 4, 4, 2)
    source = steps(("conv", (), conv), ("drop", (0,), conv), ("flatten", (1,), conv.reshape(1, -1)))
    assert paired(source, steps(("CONV", (), conv))) == {"conv": ("CONV",), "drop": (), "flatten": ()}
    moved = steps(("CONV", (), conv), ("RESHAPE", (0,), conv.reshape(1, -1)))
    assert paired(source, moved) == {"conv": ("CONV",), "drop": ("RESHAPE",), "flatten": ()}


def test_a_step_that_rearranges_values_does_not_belong_to_later_nodes():
    conv, dense = array(1, 4, 4, 2), array(1, 3)
    source = steps(("conv", (), conv), ("drop", (0,), conv), ("dense", (1,), dense))
    artifact = steps(("CONV", (), conv), ("FULLY_CONNECTED", (0,), dense))
    assert paired(source, artifact) == {"conv": ("CONV",), "drop": (), "dense": ("FULLY_CONNECTED",)}
    twice = steps(("CONV", (), conv), ("CONV_AGAIN", (), conv), ("FULLY_CONNECTED", (0,), dense))
    assert paired(source, twice)["drop"] == ()


def test_equal_values_are_matched_in_the_order_of_execution():
    same_twice = array(1, 6)
    source = steps(("first", (), same_twice), ("second", (), same_twice))
    assert paired(source, steps(("x", (), same_twice), ("y", (), same_twice))) == {"first": ("x",), "second": ("y",)}
    # computed once for both: a common subexpression
    assert paired(source, steps(("x", (), same_twice))) == {"first": ("x",), "second": ("x",)}


def test_a_step_without_a_match_has_no_nodes():
    source = steps(("lost", (), array(1, 6)))
    assert paired(source, steps(("other", (), array(1, 6)), ("size", (), array(1, 7)))) == {"lost": ()}


def test_a_fingerprint_depends_on_values_not_on_their_positions():
    a = array(1, 20, 30, 3)
    assert same_values(fingerprint(a), fingerprint(a.transpose(0, 3, 2, 1)))
    assert not same_values(fingerprint(a), fingerprint(np.maximum(a, 0)))
    assert not same_values(fingerprint(a), fingerprint(a * 1.01))
    assert same_values(fingerprint(np.zeros((1, 3))), fingerprint(np.zeros((3, 1))))
