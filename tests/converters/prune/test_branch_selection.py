"""Which residual branches there are, and which of them go: no framework."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekit_converters.prune import Branch, Channels, Group, LayerCost, PruningGraph
from edgekit_converters.prune.branch_selection import select_branches, smallest_goal
from edgekit_converters.prune.channel_selection import Baseline, ChannelScores, Goal, Limits
from edgekit_converters.prune.cost_terms import Term, overhead_terms, terms_of, total
from edgekit_converters.prune.residual_branches import (
    GraphNode,
    RemovableBranch,
    ResidualPath,
    branch_name,
    find_branches,
    removable_paths,
    without_branches,
)
from edgekit_runtime.errors import PlanError

SHAPE = (1, 8, 8, 4)


def node(name: str, *takes: int, shape: tuple[int, ...] = SHAPE) -> GraphNode:
    return GraphNode(name, takes, shape, is_addition=name.startswith("add"))


def test_an_operand_that_nothing_else_needs_can_be_left_out() -> None:
    nodes = [node("x"), node("stem", 0), node("a", 1), node("b", 2), node("add", 1, 3), node("out", 4)]
    assert list(removable_paths(nodes, [5])) == [ResidualPath(4, 1, frozenset({2, 3}))]


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        # one value a channel is added everywhere
        ([node("x"), node("stem", 0), node("a", 1, shape=(1, 1, 1, 4)), node("add", 1, 2), node("out", 3)], [4]),
        # an input of the model would go, too
        ([node("x"), node("y"), node("a", 0), node("b", 1), node("add", 2, 3), node("out", 4)], [5]),
        # a tensor is added to itself
        ([node("x"), node("a", 0), node("add", 1, 1), node("out", 2)], [3]),
    ],
)
def test_what_something_needs_stays(nodes: list[GraphNode], outputs: list[int]) -> None:
    assert list(removable_paths(nodes, outputs)) == []


def test_what_something_else_reads_stays() -> None:
    nodes = [node("x"), node("stem", 0), node("a", 1), node("b", 2), node("add", 1, 3), node("out", 4, 2)]
    assert [path.nodes for path in removable_paths(nodes, [5])] == [{3}]
    nodes[-1] = node("out", 4)
    assert [path.nodes for path in removable_paths(nodes, [5, 2])] == [{3}]


def test_two_operands_have_names_of_their_own() -> None:
    nodes = [node("x"), node("a", 0), node("b", 0), node("add", 1, 2), node("out", 3)]
    paths = list(removable_paths(nodes, [4]))
    assert [branch_name("add", one, paths) for one in paths] == ["add:0", "add:1"]


def stages(*blocks: int, width: int = 16) -> PruningGraph:
    """Stages of blocks with two convolutions each, as of a ResNet; a branch a block."""
    groups, layer_costs, operands = [Group("stem", "channels", width, ("stem",), ())], [], []
    layer_costs.append(LayerCost("stem", "conv", Channels(3), Channels(0, (("stem", 1),)), 1024, (3, 3), (1, 1)))
    for stage, count in enumerate(blocks):
        for place in range(count):
            name = f"s{stage}b{place}"
            groups.append(Group(f"{name}.one", "channels", width, (f"{name}.one",), (f"{name}.two",)))
            inner, outer = Channels(0, ((f"{name}.one", 1),)), Channels(0, (("stem", 1),))
            layer_costs.append(
                LayerCost(f"{name}.one", "conv", outer, inner, 1024 >> 2 * stage, (3, 3), (1, 1), channel_parameters=2)
            )
            layer_costs.append(
                LayerCost(f"{name}.two", "conv", inner, outer, 1024 >> 2 * stage, (3, 3), (1, 1), channel_parameters=2)
            )
            operands.append(RemovableBranch(f"{name}.add", str(stage), frozenset({f"{name}.one", f"{name}.two"})))
    widths = {one.name: one.width for one in groups}
    graph = PruningGraph(
        tuple(groups), tuple(layer_costs), (), 1000 + sum(one.parameters(widths) for one in layer_costs)
    )
    return PruningGraph(graph.groups, graph.layer_costs, (), graph.parameters, find_branches(graph, operands))


def flat(graph: PruningGraph) -> tuple[Term, ...]:
    """Times that do not depend on widths at all: an engine that computes in blocks."""
    return tuple(Term(frozenset(), lambda _, one=one: one.positions) for one in graph.layer_costs)


def chosen(graph: PruningGraph, terms: Any, left: float, **limits: Any) -> tuple[str, ...]:
    scores = ChannelScores({one.name: np.ones(one.width) for one in graph.groups}, comparable=False)
    whole = Baseline(graph.widths, total(terms(graph), graph.widths))
    return select_branches(graph, scores, terms, Goal("latency", left), Limits(**limits), whole)


def test_a_branch_is_what_is_inside_alone() -> None:
    graph = stages(2)
    assert graph.branches[0] == Branch("s0b0.add", ("s0b0.one", "s0b0.two"), ("s0b0.one",), "0")
    left = without_branches(graph, ["s0b0.add"])
    assert [one.name for one in left.groups] == ["stem", "s0b1.one"]
    assert left.parameters == graph.parameters - 2 * (16 * 16 * 9 + 2 * 16)
    assert [one.name for one in left.branches] == ["s0b1.add"]


def test_branches_go_where_narrower_layers_take_as_long() -> None:
    assert chosen(stages(2, 2), flat, 0.7) == ("s0b0.add",)
    assert set(chosen(stages(2, 2), flat, 0.5)) >= {"s0b0.add", "s0b1.add"}


def test_channels_go_where_that_is_cheaper() -> None:
    assert chosen(stages(2, 2), lambda one: terms_of("macs", one), 0.9) == ()


def test_stages_give_in_turns() -> None:
    graph = stages(2, 2)
    even = chosen(graph, lambda one: tuple(Term(frozenset(), lambda _: 1.0) for _ in one.layer_costs), 0.6)
    assert {name[:2] for name in even} == {"s0", "s1"}


def test_what_is_to_be_kept_stays() -> None:
    assert "s0b0.add" not in chosen(stages(2, 2), flat, 0.7, keep=("s0b0.*",))


def test_what_branches_cannot_reach_is_refused() -> None:
    graph = stages(1)
    whole = Baseline(graph.widths, total(flat(graph), graph.widths))
    assert smallest_goal(graph, flat, Limits(), whole) == pytest.approx(1 / 3)
    with pytest.raises(PlanError, match="out of reach"):
        chosen(graph, flat, 0.2)


def test_what_is_no_layers_own_goes_with_what_layers_give() -> None:
    graph = stages(2)
    assert total(overhead_terms(8.0, graph, graph), graph.widths) == pytest.approx(8.0)
    left = without_branches(graph, ["s0b0.add"])
    assert total(overhead_terms(8.0, left, graph), left.widths) == pytest.approx(8.0 * 3 / 5)
