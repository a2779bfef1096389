"""Rules to nodes: what selects which layer, who wins, and what is refused."""

import pytest

from edgekit_converters.recipe.recipe import Layer, Recipe, Rule, resolve
from edgekit_runtime.errors import PlanError

LAYERS = (
    Layer("stem.conv", "Conv2d", (1, 8, 16, 16), 216, 55296, ("conv;relu",)),
    Layer("stem.bn", "BatchNorm2d", (1, 8, 16, 16), 16, 0, ("conv;relu",)),
    Layer("body.conv", "Conv2d", (1, 8, 16, 16), 576, 147456, ("Convolution_1", "Add_2")),
    Layer("drop", "Dropout", (1, 8, 16, 16), 0, 0),
    Layer("head.linear", "Linear", (1, 10), 80, 80, ("MatMul_3",)),
    Layer("head.softmax", "softmax", (1, 10), 0, 0, ("Softmax_4",)),
)


def resolved(*rules, scheme="int8-static"):
    return dict(resolve(Recipe(scheme, rules=rules), LAYERS))


def test_without_rules_nothing_is_else():
    assert resolved() == {}


@pytest.mark.parametrize(
    ("rule", "nodes"),
    [
        (Rule("float32", layers=("body.conv",)), {"Convolution_1", "Add_2"}),
        (Rule("float32", layers=("head.*",)), {"MatMul_3", "Softmax_4"}),
        (Rule("float32", layers=("*.conv", "head.linear")), {"conv;relu", "Convolution_1", "Add_2", "MatMul_3"}),
        (Rule("float32", operators=("SOFTMAX",)), {"Softmax_4"}),
        (Rule("float32", operators=("conv*",)), {"conv;relu", "Convolution_1", "Add_2"}),
        (Rule("float32", depth=("first",)), {"conv;relu"}),
        (Rule("float32", depth=("first", "last")), {"conv;relu", "MatMul_3"}),
        (Rule("float32", layers=("head.*",), operators=("linear",)), {"MatMul_3"}),
        (Rule("float32", layers=("stem.bn",)), {"conv;relu"}),  # one node computes both
        (Rule("float32", layers=("drop", "head.linear")), {"MatMul_3"}),
    ],
)
def test_a_rule_selects_nodes(rule, nodes):
    assert resolved(rule) == dict.fromkeys(nodes, "float32")


def test_a_name_is_taken_as_it_is_before_it_is_a_pattern():
    layers = (Layer("a[0]", "Conv2d", (1,), 1, 1, ("x",)),)
    assert resolve(Recipe("int8-static", rules=(Rule("float32", layers=("a[0]",)),)), layers) == (("x", "float32"),)


def test_later_rules_override_earlier_ones_and_nodes_in_the_recipes_scheme_are_left_out():
    kept, back = Rule("float32", layers=("*",)), Rule("int8-static", operators=("conv2d",))
    assert resolved(kept, back) == {"MatMul_3": "float32", "Softmax_4": "float32"}
    assert resolved(back, kept).keys() == {node for layer in LAYERS for node in layer.nodes}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule("float32", layers=("stem.con",)), r"rule 1: layers: .*'stem.con'; did you mean stem.conv"),
        (Rule("float32", layers=("stem.conv", "zzz")), "'zzz'; `edgekit layers"),
        (Rule("float32", operators=("liner",)), "rule 1: operators: .*'liner'; did you mean Linear"),
        (Rule("float32", layers=("drop",)), "rule 1: no node of the artifact computes drop"),
        (Rule("float32", layers=("stem.*",), operators=("linear",)), "no layer meets all"),
    ],
)
def test_a_rule_without_effect_is_refused(rule, message):
    with pytest.raises(PlanError, match=message):
        resolved(rule)


def test_the_rule_is_named_by_its_number():
    with pytest.raises(PlanError, match="rule 2: layers"):
        resolved(Rule("float32", layers=("drop", "head.*")), Rule("float32", layers=("nothing",)))


def test_depth_needs_weights():
    with pytest.raises(PlanError, match="no layer that multiplies by weights"):
        resolve(Recipe("int8-static", rules=(Rule("float32", depth=("last",)),)), LAYERS[3:4])
