"""Reach a goal: choose, cut, and hold the whole model against it as it will be run; correct, and choose again.

What layers take alone is not what a model takes. So where the goal is a time or a size, the pruned model is lowered,
quantized and timed in turns with the dense one, before anything is spent on training it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from edgekit.conversion import stages
from edgekit.conversion.context import ConversionContext, ExaminedArtifact
from edgekit_converters.load import LOAD
from edgekit_converters.prune import CUT_CHANNELS, DROP_BRANCHES, CutChannelsRequest, DropBranchesRequest, PruningGraph
from edgekit_converters.prune.branch_selection import TermsAt, dropped, least
from edgekit_converters.prune.channel_selection import Baseline, ChannelScores, Goal, Limits, choose, widths_after
from edgekit_converters.prune.cost_terms import total
from edgekit_converters.prune.latency.profile import TIME_MODELS, TimeModelsRequest
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import Artifact, Cut, Source, SourceRequest
from edgekit_runtime.errors import PlanError

TRIES = 6
NEAR, AIM = 0.93, 0.98  # of the goal: what is near enough below it, and where a correction aims


@dataclass(frozen=True)
class GoalMeter:
    """What a goal is measured with: the model in one format and arithmetic."""

    context: ConversionContext  # of the dense model
    measure: str  # "latency" or "size"
    engine: str
    scheme: str

    def artifact(self, source: Source) -> Artifact:
        """A model as it will be run."""
        context = replace(self.context, source=source)
        lowered = stages.lower(context, self.engine)
        return lowered if self.scheme == "float32" else quantized(context, lowered, self.scheme)

    def left(self, source: Source) -> float:
        """The part of the dense model's time or size that a pruned one has."""
        dense, pruned = self.artifact(self.context.source), self.artifact(source)
        if self.measure == "size":
            return pruned.size_bytes / dense.size_bytes
        whole, part = self.context.runner.run(TIME_MODELS, TimeModelsRequest((dense, pruned)), self.engine)
        return part / whole


@dataclass(frozen=True)
class PruningTask:
    """A model to be cut, and what cutting it goes by."""

    context: ConversionContext
    source: Source  # as it is: in a later round, what the one before left
    look: Callable[[Source], tuple[PruningGraph, ChannelScores]]  # what of a model can be cut, and what that is worth
    terms_at: TermsAt
    whole: Baseline
    limits: Limits
    depth: bool  # whether residual branches may go
    gauge: GoalMeter | None = None  # without, the goal is held by counting


@dataclass(frozen=True)
class PruningResult:
    """A model that meets its goal."""

    before: Source  # without the branches, uncut
    dropped: tuple[str, ...]
    cuts: tuple[Cut, ...]
    source: Source
    counted: float  # part left, by the terms
    measured: float | None  # part left, as the gauge says


def reach(job: PruningTask, goal: Goal) -> PruningResult:
    """Return the model that loses least and meets the goal; measured, the nearest to it of a few tries.

    Raises:
        PlanError: the goal is out of reach.
    """
    if job.gauge is None:
        return _tried(job, goal)
    anatomy, _ = job.look(job.source)
    some = anatomy if job.depth else replace(anatomy, branches=())
    nearest, best = least(some, job.terms_at, job.limits, job.whole), None
    left = max(goal.left, nearest)
    for _ in range(TRIES):
        one = _tried(job, replace(goal, left=left))
        assert one.measured is not None
        # a busy moment may make a model look quick of which nothing was cut
        meets = one.measured <= goal.left and bool(one.cuts or one.dropped)
        if meets:
            best = one
            if one.measured >= NEAR * goal.left:
                return one
        elif one.counted <= nearest * (1 + 1e-9):
            raise PlanError(
                f"{goal}: out of reach; when everything is cut that may be, {job.gauge.engine} {job.gauge.scheme} was "
                f"measured to need {100 * one.measured:.0f} % of the dense model's {goal.measure}\n"
                f"ask for less, lower --min-channel-ratio or --round-to, or exclude fewer layers"
            )
        elif best is not None:  # one step wider is too wide
            return best
        aimed = left * AIM * goal.left / one.measured
        left = min(1.0, max(nearest, aimed if meets else min(aimed, AIM * one.counted)))
    return best or _last(job, goal, nearest)


def _last(job: PruningTask, goal: Goal, nearest: float) -> PruningResult:
    """What is left of a goal that corrections did not come to: the narrowest model there can be."""
    one = _tried(job, replace(goal, left=nearest))
    assert one.measured is not None
    if one.measured > goal.left:
        raise PlanError(f"{goal}: out of reach; at the least {100 * one.measured:.0f} % was measured to be left")
    return one


def _tried(job: PruningTask, goal: Goal) -> PruningResult:
    anatomy, worth = job.look(job.source)
    gone = dropped(anatomy, worth, job.terms_at, goal, job.limits, job.whole) if job.depth else ()
    before = shortened(job.context, job.source, gone)
    if gone:
        anatomy, worth = job.look(before)
    terms = job.terms_at(anatomy)
    cuts: tuple[Cut, ...] = ()
    if not gone or total(terms, anatomy.widths) > goal.left * job.whole.cost:
        cuts = choose(anatomy, worth, terms, goal, job.limits, job.whole)
    source = cut(job.context, before, cuts)
    counted = total(terms, widths_after(anatomy, cuts)) / job.whole.cost
    return PruningResult(before, gone, cuts, source, counted, job.gauge.left(source) if job.gauge else None)


def shortened(context: ConversionContext, source: Source, branches: tuple[str, ...]) -> Source:
    """Make the model without some of its residual branches, and open it; none leave it as it is."""
    if not branches:
        return source
    return opened(context, context.runner.run(DROP_BRANCHES, DropBranchesRequest(source, branches)))


def cut(context: ConversionContext, source: Source, cuts: tuple[Cut, ...]) -> Source:
    """Make the smaller model, and open it; nothing to cut leaves it as it is."""
    if not cuts:
        return source
    return opened(context, context.runner.run(CUT_CHANNELS, CutChannelsRequest(source, cuts)))


def opened(context: ConversionContext, request: SourceRequest) -> Source:
    """Load what a stage has made."""
    return context.runner.run(LOAD, request)


def quantized(context: ConversionContext, artifact: Artifact, scheme: str) -> Artifact:
    """A float artifact in a scheme, as a conversion makes it that looks for nothing better."""
    examined = ExaminedArtifact(artifact, stages.examine(context, artifact, (scheme,)))
    return stages.quantize(context, examined, Recipe(scheme))
