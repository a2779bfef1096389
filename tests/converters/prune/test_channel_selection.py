"""Which channels go: the laws that hold for any model, on made-up anatomies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_converters.prune import Channels, Group, LayerCost, PruningGraph, Scores, Widths
from edgekit_converters.prune.channel_selection import (
    Baseline,
    ChannelScores,
    Goal,
    Limits,
    channel_multiple,
    read_scores,
    select_channels,
    widths_after,
)
from edgekit_converters.prune.cost_terms import terms_of, total
from edgekit_runtime.errors import PlanError


def chain(seed: int, depth: int = 5) -> PruningGraph:
    """Convolutions one after the other, of random widths, with a dense layer at the end."""
    random = np.random.default_rng(seed)
    widths = [int(width) for width in random.integers(8, 96, depth)]
    groups, layer_costs, ins = [], [], Channels(3)
    for place, width in enumerate(widths):
        name, side = f"conv{place}", int(random.integers(2, 32))
        user = f"conv{place + 1}" if place + 1 < depth else "head"
        groups.append(Group(name, "channels", width, (name,), (user,)))
        outs = Channels(0, ((name, 1),))
        layer_costs.append(LayerCost(name, "conv", ins, outs, side * side, (3, 3), (1, 1), channel_parameters=3))
        ins = outs
    layer_costs.append(LayerCost("head", "dense", ins, Channels(10), 1, channel_parameters=1))
    dense = {group.name: group.width for group in groups}
    return PruningGraph(tuple(groups), tuple(layer_costs), (), 17 + sum(one.parameters(dense) for one in layer_costs))


def scores_of(graph: PruningGraph, seed: int = 0, *, comparable: bool = False) -> ChannelScores:
    random = np.random.default_rng(seed)
    return ChannelScores({one.name: random.gamma(1.0, 1.0, one.width) for one in graph.groups}, comparable)


FINE = Limits(min_ratio=0.05, multiple=1)


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("measure", ["channels", "macs", "size"])
@pytest.mark.parametrize("seed", range(6))
def test_goals_are_met_and_hardly_missed(seed: int, measure: str, *, per_layer: bool) -> None:
    graph = chain(seed)
    terms = terms_of(measure, graph)
    limits = Limits(min_ratio=0.05, multiple=1, per_layer=per_layer)
    cuts = select_channels(graph, scores_of(graph, seed), terms, Goal(measure, 0.5), limits)
    left = total(terms, widths_after(graph, cuts)) / total(terms, graph.widths)
    assert 0.42 if per_layer else 0.48 <= left <= 0.5


@pytest.mark.parametrize("seed", range(4))
def test_of_every_group_the_best_stay(seed: int) -> None:
    graph, scores = chain(seed), scores_of(chain(seed), seed)
    cuts = select_channels(graph, scores, terms_of("macs", graph), Goal("macs", 0.4), FINE)
    assert cuts
    for cut in cuts:
        of_group = scores.by_group[cut.group]
        gone = np.delete(of_group, cut.kept)
        assert list(cut.kept) == sorted(set(cut.kept))
        assert of_group[list(cut.kept)].min() >= gone.max()


@pytest.mark.parametrize("multiple", [4, 8])
def test_what_is_left_is_a_multiple_and_above_the_floor(multiple: int) -> None:
    graph = chain(3)
    limits = Limits(min_ratio=0.3, multiple=multiple)
    cuts = select_channels(graph, scores_of(graph), terms_of("macs", graph), Goal("macs", 0.5), limits)
    assert cuts
    for cut in cuts:
        assert len(cut.kept) % multiple == 0
        assert len(cut.kept) >= 0.3 * graph.widths[cut.group]


def test_without_being_asked_a_multiple_leaves_eight_steps() -> None:
    def multiple(width: int, kind: str = "channels") -> int:
        return channel_multiple(Group("g", kind, width, ("g",), ()), width, None)

    assert [multiple(width) for width in (4, 16, 24, 32, 64, 1280)] == [1, 2, 2, 4, 8, 8]
    assert multiple(128, "heads") == 1


def test_channels_without_worth_go_first() -> None:
    graph, scores = chain(1), scores_of(chain(1))
    dead = {name: scores.copy() for name, scores in scores.by_group.items()}
    dead["conv2"][::2] = 0.0
    half = len(dead["conv2"]) - len(dead["conv2"][::2])
    goal = Goal("channels", 1 - len(dead["conv2"][::2]) / sum(graph.widths.values()))
    cuts = select_channels(graph, ChannelScores(dead, comparable=False), terms_of("channels", graph), goal, FINE)
    assert [(cut.group, len(cut.kept)) for cut in cuts] == [("conv2", half)]


def test_what_saves_more_is_cut_more() -> None:
    side = {"wide": 32 * 32, "low": 4 * 4}
    groups = tuple(Group(name, "channels", 32, (name,), (f"{name}_end",)) for name in side)
    layer_costs = tuple(
        LayerCost(f"{name}{end}", "conv", ins, outs, positions, (3, 3))
        for name, positions in side.items()
        for end, ins, outs in (
            ("", Channels(8), Channels(0, ((name, 1),))),
            ("_end", Channels(0, ((name, 1),)), Channels(8)),
        )
    )
    graph = PruningGraph(groups, layer_costs, (), 10**5)
    same = ChannelScores({name: np.ones(32) for name in side}, comparable=False)
    left = widths_after(graph, select_channels(graph, same, terms_of("macs", graph), Goal("macs", 0.5), FINE))
    assert left["wide"] < left["low"] == 32


def test_comparable_scores_weigh_groups() -> None:
    graph = chain(2)
    terms, goal = terms_of("macs", graph), Goal("macs", 0.5)
    scores = {one.name: np.ones(one.width) for one in graph.groups}
    apart = widths_after(graph, select_channels(graph, ChannelScores(scores, comparable=False), terms, goal, FINE))
    most_cut = min(apart, key=lambda name: apart[name] / graph.widths[name])
    scores[most_cut] *= 100
    assert (
        widths_after(graph, select_channels(graph, ChannelScores(scores, comparable=False), terms, goal, FINE)) == apart
    )
    together = widths_after(graph, select_channels(graph, ChannelScores(scores, comparable=True), terms, goal, FINE))
    assert together[most_cut] > apart[most_cut]


def test_layers_kept_by_a_pattern_stay_whole() -> None:
    graph = chain(4)
    limits = Limits(multiple=1, keep=("conv[34]",))
    cuts = select_channels(graph, scores_of(graph), terms_of("macs", graph), Goal("macs", 0.8), limits)
    assert cuts
    assert not {"conv3", "conv4"} & {cut.group for cut in cuts}


def test_a_step_that_saves_nothing_alone_is_looked_beyond() -> None:
    graph = chain(5, depth=2)

    def milliseconds(layer_cost: LayerCost, widths: Widths) -> float:
        blocks = [-(-side.count(widths) // 4) for side in (layer_cost.ins, layer_cost.outs)]  # kernels compute by 4
        return 1e-3 * layer_cost.positions * blocks[0] * blocks[1]

    terms = terms_of("latency", graph, milliseconds)
    cuts = select_channels(graph, scores_of(graph), terms, Goal("latency", 0.5), FINE)
    left = widths_after(graph, cuts)
    assert total(terms, left) <= 0.5 * total(terms, graph.widths)
    assert sum(width % 4 == 0 for name, width in left.items() if width < graph.widths[name]) >= 1


def test_rounds_add_up_to_the_goal_of_the_dense_model() -> None:
    graph = chain(6)
    once = select_channels(graph, scores_of(graph), terms_of("macs", graph), Goal("macs", 0.7), FINE)
    widths = widths_after(graph, once)
    groups = tuple(Group(one.name, one.kind, widths[one.name], one.producers, one.consumers) for one in graph.groups)
    thinner = PruningGraph(groups, graph.layer_costs, (), 0)
    terms = terms_of("macs", thinner)
    twice = select_channels(
        thinner,
        scores_of(thinner),
        terms,
        Goal("macs", 0.5),
        FINE,
        Baseline(graph.widths, total(terms, graph.widths)),
    )
    assert total(terms, widths_after(thinner, twice)) <= 0.5 * total(terms, graph.widths)


def test_refusals_say_what_is_possible() -> None:
    graph = chain(8)
    scores, terms = scores_of(graph), terms_of("macs", graph)
    with pytest.raises(PlanError, match=r"out of reach.* \d+\.\d % of the macs is left"):
        select_channels(graph, scores, terms, Goal("macs", 0.05), Limits(min_ratio=0.5))
    with pytest.raises(PlanError, match=r"--exclude-layer stem: no layer has such a name; .*conv0"):
        select_channels(graph, scores, terms, Goal("macs", 0.5), Limits(keep=("stem",)))
    with pytest.raises(PlanError, match="nothing can be pruned"):
        select_channels(graph, scores, terms, Goal("macs", 0.5), Limits(keep=("*",)))
    with pytest.raises(PlanError, match="nothing can be pruned"):
        select_channels(graph, scores, terms, Goal("macs", 0.5), Limits(multiple=128))
    with pytest.raises(PlanError, match=r"head: its outputs are the model's"):
        bare = PruningGraph((), graph.layer_costs, (("head", "its outputs are the model's"),), graph.parameters)
        select_channels(bare, ChannelScores({}, comparable=False), terms_of("macs", graph), Goal("macs", 0.5), Limits())


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"block/conv": np.arange(3.0)}
    np.savez(tmp_path / "scores.npz", **arrays)
    scores = read_scores(Scores(tmp_path / "scores.npz"), "taylor")
    assert scores.comparable
    assert scores.by_group["block/conv"].tolist() == [0, 1, 2]
