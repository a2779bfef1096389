"""Select the channels to cut, so that a goal is met and the least importance is lost; independent of frameworks.

A step cuts the least important channels of one group. Its loss is the fraction of the group's remaining importance that
it removes, counted once for each producer. So halving a layer costs the same in any unit of importance, the last
channels of a group are expensive, and a residual stream with many producers is more expensive than a channel group
inside one block. Importances that are comparable across groups, such as an effect on the loss, weigh each group by its
sum instead. The step with the least ``loss / cost saved`` is taken until the goal is met, as in Molchanov et al.,
Importance Estimation for Neural Network Pruning (CVPR 2019), with the cost in the denominator as in Shen et al., HALP
(NeurIPS 2022).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np

from edgekit_converters.prune import Group, PruningGraph, Scores, Widths
from edgekit_converters.prune.cost_terms import Term, total
from edgekit_converters.records import ChannelCut
from edgekit_runtime.errors import PlanError

COMPARABLE = ("taylor",)  # importances that are comparable across groups
MAX_MULTIPLE, MIN_STEPS = 8, 8  # multiples of 8 channels are kept, smaller ones if a group has fewer than 8 such steps
LOOKAHEAD = 4  # steps of one group to compare: a single step may save nothing if kernels compute in blocks


@dataclass(frozen=True)
class Goal:
    """The fraction of the original model's channels or cost to keep."""

    measure: str  # one of MEASURES
    left: float  # a fraction: above 0, below 1

    def __str__(self) -> str:
        if self.measure == "channels":
            return f"--prune {1 - self.left:g}"
        return f"--prune-to {self.measure}={self.left:g}"


@dataclass(frozen=True)
class ChannelScores:
    """The importance of every channel."""

    by_group: Mapping[str, np.ndarray]  # by group: (width,), never negative
    comparable: bool  # whether scores are comparable across groups


@dataclass(frozen=True)
class Baseline:
    """The original model; goals and minimum ratios are fractions of it."""

    widths: Widths  # a group that is not listed has its current width
    cost: float  # in the unit of the goal


@dataclass(frozen=True)
class Limits:
    """The limits of every selection."""

    min_ratio: float = 0.1  # the fraction of every group to keep at least; one channel is always kept
    multiple: int | None = None  # the number of kept channels is a multiple of it; None: chosen by width
    keep: tuple[str, ...] = ()  # name patterns of the layers that keep all their outputs
    per_layer: bool = False  # cut the same fraction of every group


def select_channels(
    graph: PruningGraph,
    scores: ChannelScores,
    terms: Sequence[Term],
    goal: Goal,
    limits: Limits,
    baseline: Baseline | None = None,
) -> tuple[ChannelCut, ...]:
    """Return the cuts that meet a goal.

    Args:
        graph: of the current model.
        scores: of its channels.
        terms: the cost that the goal limits; see :func:`~edgekit_converters.prune.cost_terms.terms_of`.
        goal: to meet.
        limits: of the selection.
        baseline: the original model; without, the current one.

    Raises:
        PlanError: no channel can be cut, the goal is out of reach, or a pattern matches no layer.
    """
    dense = graph.widths | dict(baseline.widths if baseline else {})
    allowed = _allowed_widths(graph, limits, dense)
    baseline = baseline or Baseline(dense, total(terms, dense))
    budget = goal.left * baseline.cost
    _check_reachable(goal, _minimum_cost(graph, terms, allowed) / baseline.cost)
    if limits.per_layer:
        widths = _uniform_widths(graph, terms, budget, allowed, dense)
    else:
        widths = _Greedy(graph, scores, terms, allowed).reduce_to(budget)
    return tuple(
        ChannelCut(one.name, _highest(scores.by_group[one.name], widths[one.name]))
        for one in graph.groups
        if widths[one.name] < one.width
    )


def smallest_goal(graph: PruningGraph, terms: Sequence[Term], limits: Limits, baseline: Baseline) -> float:
    """Return the smallest reachable goal, as a fraction of the cost of the original model.

    Raises:
        PlanError: no channel can be cut, or a pattern matches no layer.
    """
    return (
        _minimum_cost(graph, terms, _allowed_widths(graph, limits, graph.widths | dict(baseline.widths)))
        / baseline.cost
    )


def read_scores(scores: Scores, importance: str) -> ChannelScores:
    """Read the file of the stage ``score``."""
    with np.load(scores.path) as arrays:
        return ChannelScores({name: arrays[name] for name in arrays.files}, importance in COMPARABLE)


def widths_after(graph: PruningGraph, cuts: Sequence[ChannelCut]) -> dict[str, int]:
    """Return the width of each group after cuts."""
    return graph.widths | {one.group: len(one.kept) for one in cuts}


def group_weight(group: Group, scores: ChannelScores) -> float:
    """Return the importance of a whole group."""
    return float(np.sum(scores.by_group[group.name])) if scores.comparable else float(max(1, len(group.producers)))


def channel_multiple(group: Group, width: int, multiple: int | None) -> int:
    """Return the number that the kept channels of a group are a multiple of.

    Without ``multiple``, it is the largest power of two up to 8 that leaves a group of this width at least 8 steps:
    engines compute channels in blocks of 8, but for a group of 16 channels such steps are too coarse. Heads are counted
    one by one.
    """
    if group.kind == "heads":
        return 1
    if multiple is not None:
        return multiple
    return 1 << (max(1, min(MAX_MULTIPLE, width // MIN_STEPS)).bit_length() - 1)


def _allowed_widths(graph: PruningGraph, limits: Limits, dense: Widths) -> dict[str, list[int]]:
    """Return by group the widths that it may be cut to, the largest first.

    Raises:
        PlanError: no group may be cut, or a pattern matches no layer.
    """
    kept = _kept_groups(graph, limits.keep)
    found = {}
    for one in graph.groups:
        least = max(1, math.ceil(limits.min_ratio * dense[one.name] - 1e-9))
        multiple = channel_multiple(one, dense[one.name], limits.multiple)
        multiples = range((one.width - 1) // multiple * multiple, 0, -multiple)
        found[one.name] = [] if one.name in kept else [width for width in multiples if width >= least]
    if not any(found.values()):
        reasons = "".join(f"\n  {layer}: {why}" for layer, why in graph.unprunable[:5])
        raise PlanError(
            f"nothing can be pruned: none of the {len(graph.groups)} channel groups may become narrower with these "
            f"--exclude-layer, --round-to and --min-channel-ratio"
            f"{reasons and '; layers that cannot be cut:'}{reasons}"
        )
    return found


def _kept_groups(graph: PruningGraph, patterns: Sequence[str]) -> set[str]:
    """Return the groups that have a layer whose outputs are all kept."""
    producers = {one.name: {one.name, *one.producers} for one in graph.groups}
    known = {name for names in producers.values() for name in names}
    known |= {one.layer for one in graph.layer_costs} | {layer for layer, _ in graph.unprunable}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            some = ", ".join(sorted({name for names in producers.values() for name in names})[:8])
            raise PlanError(
                f"--exclude-layer {pattern}: no layer has such a name; layers that can be pruned are {some} and so on"
            )
    return {
        group for group, names in producers.items() if any(fnmatchcase(name, one) for name in names for one in patterns)
    }


def _minimum_cost(graph: PruningGraph, terms: Sequence[Term], allowed: Mapping[str, list[int]]) -> float:
    """Return the cost when every group is cut as far as allowed."""
    return total(terms, {one.name: (allowed[one.name] or [one.width])[-1] for one in graph.groups})


def _check_reachable(goal: Goal, least: float) -> None:
    """Refuse a goal that even the smallest allowed model does not meet."""
    if least > goal.left + 1e-9:
        what = "channels are left" if goal.measure == "channels" else f"{goal.measure} is left"
        raise PlanError(
            f"{goal}: out of reach; with all allowed cuts, {100 * least:.1f} % of the {what}\n"
            f"ask for less, lower --min-channel-ratio or --round-to, or exclude fewer layers"
        )


def _uniform_widths(
    graph: PruningGraph, terms: Sequence[Term], budget: float, allowed: Mapping[str, list[int]], dense: Widths
) -> dict[str, int]:
    """Return the widest model within the budget in which every group is cut to the same fraction, or to its minimum."""
    steps = {one.name: [one.width, *allowed[one.name]] for one in graph.groups}
    parts = sorted({width / dense[name] for name, widths in steps.items() for width in widths}, reverse=True)
    for part in parts:
        widths = {
            name: next((width for width in allowed if width <= part * dense[name] + 1e-9), allowed[-1])
            for name, allowed in steps.items()
        }
        if total(terms, widths) <= budget * (1 + 1e-9):
            break
    return widths


@dataclass
class _Greedy:
    """A greedy search, step by step from the current model to one within the budget."""

    graph: PruningGraph
    scores: ChannelScores
    terms: Sequence[Term]
    allowed: Mapping[str, list[int]]
    widths: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.widths = dict(self.graph.widths)
        self.by_group: defaultdict[str, list[Term]] = defaultdict(list)
        for term in self.terms:
            for group in term.groups:
                self.by_group[group].append(term)
        # by group: the importance of its n most important channels, at index n
        self.left = {
            one.name: np.concatenate([[0.0], np.cumsum(np.sort(self.scores.by_group[one.name])[::-1])])
            for one in self.graph.groups
        }
        self.weights = {one.name: group_weight(one, self.scores) for one in self.graph.groups}

    def reduce_to(self, budget: float) -> dict[str, int]:
        """Return the widths of the first model within the budget, widened again as far as the budget allows."""
        cost, best = total(self.terms, self.widths), {name: self._best_step(name) for name in self.allowed}
        while cost > budget * (1 + 1e-9):
            group = min((name for name in best if best[name]), key=lambda name: best[name][0])  # type: ignore[index]
            self.widths[group] = best[group][1]  # type: ignore[index]
            cost = total(self.terms, self.widths)
            for name in {group, *(other for term in self.by_group[group] for other in term.groups)}:
                best[name] = self._best_step(name)
        return self._widened(budget)

    def _best_step(self, group: str) -> tuple[float, int] | None:
        """Return the step of a group with the least loss for its saving, as (ratio, width); None if none is allowed."""
        steps = [width for width in self.allowed[group] if width < self.widths[group]][:LOOKAHEAD]
        return min(((self._loss_per_saving(group, width), width) for width in steps), default=None)

    def _loss_per_saving(self, group: str, width: int) -> float:
        saved = self._cost_of(group, self.widths[group]) - self._cost_of(group, width)
        loss = self._loss(group, width)
        return loss / saved if saved > 0 else math.inf

    def _loss(self, group: str, width: int) -> float:
        left, now = self.left[group], float(self.left[group][self.widths[group]])
        return self.weights[group] * (now - float(left[width])) / now if now > 0 else 0.0

    def _cost_of(self, group: str, width: int) -> float:
        """Return all costs that depend on a group, at one of its widths."""
        return total(self.by_group[group], self.widths | {group: width})

    def _widened(self, budget: float) -> dict[str, int]:
        """Return the widths after undoing the last steps with the largest loss that still fit into the budget."""
        for _, group, wider in sorted(self._last_steps(), reverse=True):
            widened = self.widths | {group: wider}
            if total(self.terms, widened) <= budget * (1 + 1e-9):
                self.widths = widened
        return self.widths

    def _last_steps(self) -> Iterator[tuple[float, str, int]]:
        for one in self.graph.groups:
            allowed = [one.width, *self.allowed[one.name]]
            place = allowed.index(self.widths[one.name])
            if place:
                left = self.left[one.name]
                gain = float(left[allowed[place - 1]] - left[allowed[place]]) / (float(left[allowed[place]]) or 1.0)
                yield gain * self.weights[one.name], one.name, allowed[place - 1]


def _highest(scores: np.ndarray, count: int) -> tuple[int, ...]:
    """Return the indices of the highest scores, ascending; of equal scores the first."""
    order = np.argsort(-scores, kind="stable")[:count]
    return tuple(sorted(int(place) for place in order))
