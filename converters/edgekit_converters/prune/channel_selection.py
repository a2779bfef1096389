"""Choose: which channels go, so that a goal is met and the least is lost. It knows no framework.

A step takes the least important channels of one group. Its harm is the share of the importance left in the group that
goes with them, for each layer that makes them: so halving a layer costs the same whatever its scores are counted in,
the last channels are dear, and a stream that many layers add to is dearer than what one block keeps to itself.
Importances that compare across groups, such as an effect on the loss, weigh groups by their sums instead. Steps are
taken by the least ``harm / cost saved``, until the costs meet the goal: as in Molchanov et al., Importance Estimation
for Neural Network Pruning (CVPR 2019), with the resource in the denominator as in Shen et al., HALP (NeurIPS 2022).
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
from edgekit_converters.records import Cut
from edgekit_runtime.errors import PlanError

COMPARABLE = ("taylor",)  # importances of which a unit means the same in every group
MAX_MULTIPLE, MIN_STEPS = 8, 8  # channels are kept by 8, by fewer where a group has less than 8 such steps
LOOKAHEAD = 4  # steps of one group that are looked at together: one alone may save nothing where kernels come in blocks


@dataclass(frozen=True)
class Goal:
    """How much is to be left of what the dense model has or takes."""

    measure: str  # one of MEASURES
    left: float  # a part: above 0, below 1

    def __str__(self) -> str:
        if self.measure == "channels":
            return f"--prune {1 - self.left:g}"
        return f"--prune-to {self.measure}={self.left:g}"


@dataclass(frozen=True)
class ChannelScores:
    """What every channel is worth."""

    by_group: Mapping[str, np.ndarray]  # by group (width,), none below 0
    comparable: bool  # whether a unit means the same in every group


@dataclass(frozen=True)
class Baseline:
    """The dense model, of which goals and floors are parts."""

    widths: Widths  # a group that is none of its was as wide as it is
    cost: float  # by the terms of the goal


@dataclass(frozen=True)
class Limits:
    """What no choice goes beyond."""

    floor: float = 0.1  # of every group at least this part is left, and one channel
    multiple: int | None = None  # channels left of a group are so many times a whole number; by width without
    keep: tuple[str, ...] = ()  # patterns of the layers that keep all their outputs
    per_layer: bool = False  # cut the same part of every group, instead of where it harms least


def select_channels(
    graph: PruningGraph,
    scores: ChannelScores,
    terms: Sequence[Term],
    goal: Goal,
    limits: Limits,
    baseline: Baseline | None = None,
) -> tuple[Cut, ...]:
    """Return the cuts that meet a goal.

    Args:
        anatomy: of the model as it is.
        worth: of its channels.
        terms: what the goal is counted in; see :func:`~edgekit_converters.prune.cost_terms.terms_of`.
        goal: what is wanted of them.
        limits: what no choice goes beyond.
        whole: what the goal and the floors are parts of; without, the model as it is.

    Raises:
        PlanError: no channel may be cut, the goal is out of reach, or a pattern matches no layer.
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
        Cut(one.name, _highest(scores.by_group[one.name], widths[one.name]))
        for one in graph.groups
        if widths[one.name] < one.width
    )


def smallest_goal(graph: PruningGraph, terms: Sequence[Term], limits: Limits, baseline: Baseline) -> float:
    """Return the smallest goal that can be met, as a part of the dense model's costs.

    Raises:
        PlanError: no channel may be cut, or a pattern matches no layer.
    """
    return (
        _minimum_cost(graph, terms, _allowed_widths(graph, limits, graph.widths | dict(baseline.widths)))
        / baseline.cost
    )


def read_scores(scores: Scores, importance: str) -> ChannelScores:
    """Read what the stage ``score`` left."""
    with np.load(scores.path) as arrays:
        return ChannelScores({name: arrays[name] for name in arrays.files}, importance in COMPARABLE)


def widths_after(graph: PruningGraph, cuts: Sequence[Cut]) -> dict[str, int]:
    """Return how many channels cuts leave of each group."""
    return graph.widths | {one.group: len(one.kept) for one in cuts}


def group_weight(group: Group, scores: ChannelScores) -> float:
    """Return what all of a group is worth."""
    return float(np.sum(scores.by_group[group.name])) if scores.comparable else float(max(1, len(group.producers)))


def channel_multiple(group: Group, width: int, multiple: int | None) -> int:
    """Return what the channels left of a group are a multiple of.

    Without being asked, the largest power of two up to 8 that leaves a group of this width at least 8 steps: engines
    compute channels in blocks of 8, but of 16 channels half would be too coarse a step. Heads are counted singly.
    """
    if group.kind == "heads":
        return 1
    if multiple is not None:
        return multiple
    return 1 << (max(1, min(MAX_MULTIPLE, width // MIN_STEPS)).bit_length() - 1)


def _allowed_widths(graph: PruningGraph, limits: Limits, dense: Widths) -> dict[str, list[int]]:
    """By group the widths it may be cut to, the greatest first.

    Raises:
        PlanError: there is none for any group, or a pattern matches no layer.
    """
    kept = _kept_groups(graph, limits.keep)
    found = {}
    for one in graph.groups:
        least = max(1, math.ceil(limits.floor * dense[one.name] - 1e-9))
        multiple = channel_multiple(one, dense[one.name], limits.multiple)
        multiples = range((one.width - 1) // multiple * multiple, 0, -multiple)
        found[one.name] = [] if one.name in kept else [width for width in multiples if width >= least]
    if not any(found.values()):
        reasons = "".join(f"\n  {layer}: {why}" for layer, why in graph.unprunable[:5])
        raise PlanError(
            f"nothing can be pruned: none of {len(graph.groups)} groups of channels may become narrower with these "
            f"--exclude-layer, --round-to and --min-channel-ratio"
            f"{reasons and '; layers that stay whole in any case:'}{reasons}"
        )
    return found


def _kept_groups(graph: PruningGraph, patterns: Sequence[str]) -> set[str]:
    """The groups of which a layer is to keep all its outputs."""
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
    """The costs when everything is cut that may be."""
    return total(terms, {one.name: (allowed[one.name] or [one.width])[-1] for one in graph.groups})


def _check_reachable(goal: Goal, least: float) -> None:
    """Refuse a goal that not even all that may be cut would meet."""
    if least > goal.left + 1e-9:
        what = "channels are left" if goal.measure == "channels" else f"{goal.measure} is left"
        raise PlanError(
            f"{goal}: out of reach; when everything is cut that may be, {100 * least:.1f} % of the {what}\n"
            f"ask for less, lower --min-channel-ratio or --round-to, or exclude fewer layers"
        )


def _uniform_widths(
    graph: PruningGraph, terms: Sequence[Term], budget: float, allowed: Mapping[str, list[int]], dense: Widths
) -> dict[str, int]:
    """The widest model within the budget of which every group is cut to the same part, or to its least."""
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
    """Step by step from the model as it is to one within a budget."""

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
        # by group: the importance that is left when its n most important channels are
        self.left = {
            one.name: np.concatenate([[0.0], np.cumsum(np.sort(self.scores.by_group[one.name])[::-1])])
            for one in self.graph.groups
        }
        self.weights = {one.name: group_weight(one, self.scores) for one in self.graph.groups}

    def reduce_to(self, budget: float) -> dict[str, int]:
        """Return the widths of the first model within the budget, with what fits into the rest of it put back."""
        cost, best = total(self.terms, self.widths), {name: self._best_step(name) for name in self.allowed}
        while cost > budget * (1 + 1e-9):
            group = min((name for name in best if best[name]), key=lambda name: best[name][0])  # type: ignore[index]
            self.widths[group] = best[group][1]  # type: ignore[index]
            cost = total(self.terms, self.widths)
            for name in {group, *(other for term in self.by_group[group] for other in term.groups)}:
                best[name] = self._best_step(name)
        return self._widened(budget)

    def _best_step(self, group: str) -> tuple[float, int] | None:
        """The least harm for what it saves of a group's next steps, and where it leads; None where there is none."""
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
        """All costs that depend on a group, at one of its widths."""
        return total(self.by_group[group], self.widths | {group: width})

    def _widened(self, budget: float) -> dict[str, int]:
        """The widths, after putting back the most harmful last steps that the budget still has room for."""
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
    """The places of the greatest scores, ascending; among equals the first."""
    order = np.argsort(-scores, kind="stable")[:count]
    return tuple(sorted(int(place) for place in order))
