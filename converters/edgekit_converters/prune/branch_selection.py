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
from edgekit_converters.prune.channel_selection import Baseline, ChannelScores, Goal, Limits, choose, weight_of
from edgekit_converters.prune.channel_selection import least as narrowest
from edgekit_converters.prune.cost_terms import Term, total
from edgekit_converters.prune.residual_branches import without
from edgekit_converters.records import Cut
from edgekit_runtime.errors import PlanError

TermsAt = Callable[[PruningGraph], Sequence[Term]]


def dropped(
    anatomy: PruningGraph, worth: ChannelScores, terms_at: TermsAt, goal: Goal, limits: Limits, whole: Baseline
) -> tuple[str, ...]:
    """Return the names of the branches to leave out, so that the goal costs the least; none where channels do better.

    Raises:
        PlanError: as :func:`~edgekit_converters.prune.channel_selection.choose`, where no branch helps either.
    """
    taken: tuple[str, ...] = ()
    best: tuple[float, tuple[str, ...]] = (_thinning(anatomy, worth, terms_at, goal, limits, whole), ())
    harm, left = 0.0, anatomy
    while options := list(_options(anatomy, left, worth, terms_at, limits)):
        _, more, name = min(options)
        harm, taken = harm + more, (*taken, name)
        left = without(anatomy, taken)
        best = min(best, (harm + _thinning(left, worth, terms_at, goal, limits, whole), taken))
        if harm >= best[0] or total(terms_at(left), left.widths) <= goal.left * whole.cost:
            break
    if math.isinf(best[0]):
        choose(anatomy, worth, terms_at(anatomy), goal, limits, whole)  # which says why
    return best[1]


def least(anatomy: PruningGraph, terms_at: TermsAt, limits: Limits, whole: Baseline) -> float:
    """Return the smallest goal that can be met, as a part of the dense model's costs."""
    left = without(anatomy, [one.name for one in anatomy.branches if not _is_kept(one, limits)])
    try:
        return narrowest(left, terms_at(left), limits, whole)
    except PlanError:  # nothing of what is left can be cut
        return total(terms_at(left), left.widths) / whole.cost


def _is_kept(branch: Branch, limits: Limits) -> bool:
    return any(fnmatchcase(name, pattern) for name in (branch.name, *branch.layers) for pattern in limits.keep)


def _options(
    anatomy: PruningGraph, left: PruningGraph, worth: ChannelScores, terms_at: TermsAt, limits: Limits
) -> list[tuple[float, float, str]]:
    """What may go next: harm for what it saves, harm, and name."""
    before, now = (Counter(one.stream for one in some.branches) for some in (anatomy, left))
    cost, found = total(terms_at(left), left.widths), []
    for one in left.branches:
        if not _is_kept(one, limits):
            shorter = without(left, (one.name,))
            if not shorter.groups:  # something has to be there that channels can be cut of
                continue
            saved = cost - total(terms_at(shorter), shorter.widths)
            harm = _worth_of(one, left, worth) * before[one.stream] / now[one.stream]
            found += [(harm / saved, harm, one.name)] if saved > 0 else []
    return found


def _worth_of(branch: Branch, anatomy: PruningGraph, worth: ChannelScores) -> float:
    """Of the groups within, the least: without any of them nothing gets through."""
    return min(weight_of(one, worth) for one in anatomy.groups if one.name in branch.groups)


def _thinning(
    anatomy: PruningGraph, worth: ChannelScores, terms_at: TermsAt, goal: Goal, limits: Limits, whole: Baseline
) -> float:
    """What it costs to reach the goal by cutting channels; infinite where that is not enough."""
    terms = terms_at(anatomy)
    if total(terms, anatomy.widths) <= goal.left * whole.cost:
        return 0.0
    try:
        cuts = choose(anatomy, worth, terms, goal, limits, whole)
    except PlanError:
        return math.inf
    groups = {one.name: one for one in anatomy.groups}
    return sum(weight_of(groups[one.group], worth) * _loss(one, worth) for one in cuts)


def _loss(cut: Cut, worth: ChannelScores) -> float:
    scores = worth.scores[cut.group]
    left = float(scores[list(cut.kept)].sum() / scores.sum()) if scores.sum() > 0 else 1.0
    return -math.log(left) if left > 0 else math.inf
