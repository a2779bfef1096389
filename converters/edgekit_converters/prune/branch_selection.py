"""Depth: which residual branches go whole, before channels are chosen. It knows no framework.

Kernels compute channels in blocks, so that below some width a narrower layer takes as long; a layer that is not there
takes no time. What a branch is worth is what its channels are worth, so that leaving it out and thinning others are
weighed with one measure: cutting a group to the share s of its importance costs -ln(s) times its weight, which is what
the steps of ``choose.py`` add up to, and leaving out a branch its weight, times how many branches there were in its
stage for each that is left. From the cheapest branch on, ever more are left out, as long as the whole costs less.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from edgekit_converters.prune import Branch, PruningGraph
from edgekit_converters.prune.channel_selection import (
    Baseline,
    ChannelScores,
    Goal,
    Limits,
    group_weight,
    select_channels,
)
from edgekit_converters.prune.channel_selection import smallest_goal as smallest_channel_goal
from edgekit_converters.prune.cost_terms import Term, total
from edgekit_converters.prune.residual_branches import without_branches
from edgekit_converters.records import Cut
from edgekit_runtime.errors import PlanError

TermsAt = Callable[[PruningGraph], Sequence[Term]]


def select_branches(
    graph: PruningGraph, scores: ChannelScores, terms_at: TermsAt, goal: Goal, limits: Limits, baseline: Baseline
) -> tuple[str, ...]:
    """Return the names of the branches to leave out, so that the goal costs the least; none where channels do better.

    Raises:
        PlanError: as :func:`~edgekit_converters.prune.channel_selection.choose`, where no branch helps either.
    """
    taken: tuple[str, ...] = ()
    best: tuple[float, tuple[str, ...]] = (_channel_loss(graph, scores, terms_at, goal, limits, baseline), ())
    loss, left = 0.0, graph
    while candidates := list(_candidates(graph, left, scores, terms_at, limits)):
        _, more, name = min(candidates)
        loss, taken = loss + more, (*taken, name)
        left = without_branches(graph, taken)
        best = min(best, (loss + _channel_loss(left, scores, terms_at, goal, limits, baseline), taken))
        if loss >= best[0] or total(terms_at(left), left.widths) <= goal.left * baseline.cost:
            break
    if math.isinf(best[0]):
        select_channels(graph, scores, terms_at(graph), goal, limits, baseline)  # which says why
    return best[1]


def smallest_goal(graph: PruningGraph, terms_at: TermsAt, limits: Limits, baseline: Baseline) -> float:
    """Return the smallest goal that can be met, as a part of the dense model's costs."""
    left = without_branches(graph, [one.name for one in graph.branches if not _is_kept(one, limits)])
    try:
        return smallest_channel_goal(left, terms_at(left), limits, baseline)
    except PlanError:  # nothing of what is left can be cut
        return total(terms_at(left), left.widths) / baseline.cost


def _is_kept(branch: Branch, limits: Limits) -> bool:
    return any(fnmatchcase(name, pattern) for name in (branch.name, *branch.layers) for pattern in limits.keep)


def _candidates(
    graph: PruningGraph, left: PruningGraph, scores: ChannelScores, terms_at: TermsAt, limits: Limits
) -> list[tuple[float, float, str]]:
    """What may go next: harm for what it saves, harm, and name."""
    before, now = (Counter(one.stream for one in some.branches) for some in (graph, left))
    cost, found = total(terms_at(left), left.widths), []
    for one in left.branches:
        if not _is_kept(one, limits):
            shorter = without_branches(left, (one.name,))
            if not shorter.groups:  # something has to be there that channels can be cut of
                continue
            saved = cost - total(terms_at(shorter), shorter.widths)
            loss = _branch_weight(one, left, scores) * before[one.stream] / now[one.stream]
            found += [(loss / saved, loss, one.name)] if saved > 0 else []
    return found


def _branch_weight(branch: Branch, graph: PruningGraph, scores: ChannelScores) -> float:
    """Of the groups within, the least: without any of them nothing gets through."""
    return min(group_weight(one, scores) for one in graph.groups if one.name in branch.groups)


def _channel_loss(
    graph: PruningGraph, scores: ChannelScores, terms_at: TermsAt, goal: Goal, limits: Limits, baseline: Baseline
) -> float:
    """What it costs to reach the goal by cutting channels; infinite where that is not enough."""
    terms = terms_at(graph)
    if total(terms, graph.widths) <= goal.left * baseline.cost:
        return 0.0
    try:
        cuts = select_channels(graph, scores, terms, goal, limits, baseline)
    except PlanError:
        return math.inf
    groups = {one.name: one for one in graph.groups}
    return sum(group_weight(groups[one.group], scores) * _cut_loss(one, scores) for one in cuts)


def _cut_loss(cut: Cut, scores: ChannelScores) -> float:
    of_group = scores.by_group[cut.group]
    left = float(of_group[list(cut.kept)].sum() / of_group.sum()) if of_group.sum() > 0 else 1.0
    return -math.log(left) if left > 0 else math.inf
