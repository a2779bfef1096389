"""Select the residual branches to remove, before channels are selected; independent of frameworks.

Kernels compute channels in blocks. Below some width a narrower layer is not faster, but a removed layer takes no time.
Removing a branch and cutting channels are compared by one measure, the loss of importance. Cutting a group to the share
s of its importance loses -ln(s) times its weight, which is also the sum of the steps of ``channel_selection.py``.
Removing a branch loses the weight of the branch, times the ratio of the branches that its stage had to those that are
left. Branches are removed one after the other, the cheapest first, as long as the total loss decreases.
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
from edgekit_converters.records import ChannelCut
from edgekit_runtime.errors import PlanError

TermsAt = Callable[[PruningGraph], Sequence[Term]]


def select_branches(
    graph: PruningGraph, scores: ChannelScores, terms_at: TermsAt, goal: Goal, limits: Limits, baseline: Baseline
) -> tuple[str, ...]:
    """Return the names of the branches whose removal meets the goal with the least loss of importance.

    Returns none when cutting channels alone loses less.

    Raises:
        PlanError: the goal is out of reach with and without branches.
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
        select_channels(graph, scores, terms_at(graph), goal, limits, baseline)  # raises the error with the reason
    return best[1]


def smallest_goal(graph: PruningGraph, terms_at: TermsAt, limits: Limits, baseline: Baseline) -> float:
    """Return the smallest reachable goal, as a fraction of the cost of the original model."""
    left = without_branches(graph, [one.name for one in graph.branches if not _is_kept(one, limits)])
    try:
        return smallest_channel_goal(left, terms_at(left), limits, baseline)
    except PlanError:  # no remaining channel can be cut
        return total(terms_at(left), left.widths) / baseline.cost


def _is_kept(branch: Branch, limits: Limits) -> bool:
    return any(fnmatchcase(name, pattern) for name in (branch.name, *branch.layers) for pattern in limits.keep)


def _candidates(
    graph: PruningGraph, left: PruningGraph, scores: ChannelScores, terms_at: TermsAt, limits: Limits
) -> list[tuple[float, float, str]]:
    """Return the branches that can be removed next: (loss for each unit of cost saved, loss, name)."""
    before, now = (Counter(one.stream for one in some.branches) for some in (graph, left))
    cost, found = total(terms_at(left), left.widths), []
    for one in left.branches:
        if not _is_kept(one, limits):
            shorter = without_branches(left, (one.name,))
            if not shorter.groups:  # at least one group must remain
                continue
            saved = cost - total(terms_at(shorter), shorter.widths)
            loss = _branch_weight(one, left, scores) * before[one.stream] / now[one.stream]
            found += [(loss / saved, loss, one.name)] if saved > 0 else []
    return found


def _branch_weight(branch: Branch, graph: PruningGraph, scores: ChannelScores) -> float:
    """Return the lowest weight of the branch's groups: the branch passes nothing without any one of them."""
    return min(group_weight(one, scores) for one in graph.groups if one.name in branch.groups)


def _channel_loss(
    graph: PruningGraph, scores: ChannelScores, terms_at: TermsAt, goal: Goal, limits: Limits, baseline: Baseline
) -> float:
    """Return the loss of meeting the goal by cutting channels only; infinite if that cannot meet it."""
    terms = terms_at(graph)
    if total(terms, graph.widths) <= goal.left * baseline.cost:
        return 0.0
    try:
        cuts = select_channels(graph, scores, terms, goal, limits, baseline)
    except PlanError:
        return math.inf
    groups = {one.name: one for one in graph.groups}
    return sum(group_weight(groups[one.group], scores) * _cut_loss(one, scores) for one in cuts)


def _cut_loss(cut: ChannelCut, scores: ChannelScores) -> float:
    of_group = scores.by_group[cut.group]
    left = float(of_group[list(cut.kept)].sum() / of_group.sum()) if of_group.sum() > 0 else 1.0
    return -math.log(left) if left > 0 else math.inf
