"""Goal search: select channels, prune them, measure the pruned model as it will run, and correct the selection.

The latencies of layers do not add up to that of the model. So for a goal of latency or size the pruned model is
lowered, quantized and timed in turns with the original, before it is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from edgekit.conversion import stages
from edgekit.conversion.context import ConversionContext, ExaminedArtifact
from edgekit_converters.load import LOAD
from edgekit_converters.prune import CUT_CHANNELS, DROP_BRANCHES, CutChannelsRequest, DropBranchesRequest, PruningGraph
from edgekit_converters.prune.branch_selection import TermsAt, select_branches, smallest_goal
from edgekit_converters.prune.channel_selection import (
    Baseline,
    ChannelScores,
    Goal,
    Limits,
    select_channels,
    widths_after,
)
from edgekit_converters.prune.cost_terms import total
from edgekit_converters.prune.latency.profile import TIME_MODELS, TimeModelsRequest
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import Artifact, ChannelCut, Source, SourceRequest
from edgekit_runtime.errors import PlanError

MAX_TRIES = 6
CLOSE_ENOUGH, AIM = 0.93, 0.98  # of the goal: no further try from here on, and where a correction aims


@dataclass(frozen=True)
class GoalMeter:
    """Measures latency or size of a model in one engine and scheme."""

    context: ConversionContext  # of the original model
    measure: str  # "latency" or "size"
    engine: str
    scheme: str

    def artifact(self, source: Source) -> Artifact:
        """Lower and quantize a model as it will run."""
        context = replace(self.context, source=source)
        lowered = stages.lower(context, self.engine)
        return lowered if self.scheme == "float32" else quantize_examined(context, lowered, self.scheme)

    def left(self, source: Source) -> float:
        """Return the fraction of the original's latency or size that a model has."""
        original, pruned = self.artifact(self.context.source), self.artifact(source)
        if self.measure == "size":
            return pruned.size_bytes / original.size_bytes
        before, after = self.context.runner.run(TIME_MODELS, TimeModelsRequest((original, pruned)), self.engine)
        return after / before


@dataclass(frozen=True)
class PruningTask:
    """A model to prune in one round, and by which costs and limits."""

    context: ConversionContext
    source: Source  # the original, or the result of the round before
    score: Callable[[Source], tuple[PruningGraph, ChannelScores]]
    terms_at: TermsAt
    baseline: Baseline
    limits: Limits
    depth: bool  # whether residual branches may be removed
    meter: GoalMeter | None = None  # None: the goal is counted, not measured


@dataclass(frozen=True)
class PruningResult:
    """A pruned model."""

    before: Source  # without the dropped branches, all channels left
    dropped: tuple[str, ...]  # branches
    cuts: tuple[ChannelCut, ...]
    source: Source
    counted: float  # fraction left by the cost terms
    measured: float | None  # fraction left by the meter


def meet_goal(task: PruningTask, goal: Goal) -> PruningResult:
    """Return the pruned model that meets the goal with the least loss; if measured, the closest of a few tries.

    Raises:
        PlanError: the goal cannot be met.
    """
    if task.meter is None:
        return _prune(task, goal)
    graph, _ = task.score(task.source)
    graph = graph if task.depth else replace(graph, branches=())
    minimum, best = smallest_goal(graph, task.terms_at, task.limits, task.baseline), None
    left = max(goal.left, minimum)
    for _ in range(MAX_TRIES):
        result = _prune(task, replace(goal, left=left))
        assert result.measured is not None
        # other load may make an unpruned model look faster
        meets = result.measured <= goal.left and bool(result.cuts or result.dropped)
        if meets:
            best = result
            if result.measured >= CLOSE_ENOUGH * goal.left:
                return result
        elif result.counted <= minimum * (1 + 1e-9):
            raise PlanError(
                f"{goal}: out of reach; with everything pruned that can be, {task.meter.engine} {task.meter.scheme} "
                f"still needs {100 * result.measured:.0f} % of the original's {goal.measure}\n"
                f"ask for less, lower --min-channel-ratio or --round-to, or exclude fewer layers"
            )
        elif best is not None:  # the next wider model misses the goal
            return best
        aimed = left * AIM * goal.left / result.measured
        left = min(1.0, max(minimum, aimed if meets else min(aimed, AIM * result.counted)))
    return best or _smallest(task, goal, minimum)


def _smallest(task: PruningTask, goal: Goal, minimum: float) -> PruningResult:
    """Return the smallest possible model, after corrections did not meet the goal."""
    result = _prune(task, replace(goal, left=minimum))
    assert result.measured is not None
    if result.measured > goal.left:
        raise PlanError(f"{goal}: out of reach; the smallest model still needs {100 * result.measured:.0f} %")
    return result


def _prune(task: PruningTask, goal: Goal) -> PruningResult:
    """Select branches and channels by the cost terms, and remove them."""
    graph, scores = task.score(task.source)
    branches = select_branches(graph, scores, task.terms_at, goal, task.limits, task.baseline) if task.depth else ()
    before = drop_branches(task.context, task.source, branches)
    if branches:
        graph, scores = task.score(before)
    terms = task.terms_at(graph)
    cuts: tuple[ChannelCut, ...] = ()
    if not branches or total(terms, graph.widths) > goal.left * task.baseline.cost:
        cuts = select_channels(graph, scores, terms, goal, task.limits, task.baseline)
    source = cut_channels(task.context, before, cuts)
    counted = total(terms, widths_after(graph, cuts)) / task.baseline.cost
    return PruningResult(before, branches, cuts, source, counted, task.meter.left(source) if task.meter else None)


def drop_branches(context: ConversionContext, source: Source, branches: tuple[str, ...]) -> Source:
    """Remove residual branches and load the model; without any return it unchanged."""
    if not branches:
        return source
    return load(context, context.runner.run(DROP_BRANCHES, DropBranchesRequest(source, branches)))


def cut_channels(context: ConversionContext, source: Source, cuts: tuple[ChannelCut, ...]) -> Source:
    """Remove channels and load the model; without any return it unchanged."""
    if not cuts:
        return source
    return load(context, context.runner.run(CUT_CHANNELS, CutChannelsRequest(source, cuts)))


def load(context: ConversionContext, request: SourceRequest) -> Source:
    """Load a model that a stage has saved."""
    return context.runner.run(LOAD, request)


def quantize_examined(context: ConversionContext, artifact: Artifact, scheme: str) -> Artifact:
    """Examine and quantize a float artifact, without a search for a better recipe."""
    examined = ExaminedArtifact(artifact, stages.examine(context, artifact, (scheme,)))
    return stages.quantize(context, examined, Recipe(scheme))
