"""Reach a goal: choose, cut, and hold the whole model against it as it will be run; correct, and choose again.

What layers take alone is not what a model takes. So where the goal is a time or a size, the pruned model is lowered,
quantized and timed in turns with the dense one, before anything is spent on training it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit import steps
from edgekit.steps import Work
from edgekit_converters.load import LOADERS
from edgekit_converters.prune import Anatomy, CutRequest, Widths
from edgekit_converters.prune.choose import Goal, Limits, Worth, choose, least, widths_after
from edgekit_converters.prune.costs import Term, total
from edgekit_converters.recipe import Recipe
from edgekit_converters.records import Artifact, Cut, QuantizeRequest, Source, SourceRequest
from edgekit_converters.schemes import SCHEMES
from edgekit_runtime.errors import PlanError

TRIES = 6
NEAR, AIM = 0.93, 0.98  # of the goal: what is near enough below it, and where a correction aims


@dataclass(frozen=True)
class Gauge:
    """What a goal is measured with: the model in one format and arithmetic."""

    work: Work  # of the dense model
    measure: str  # "latency" or "size"
    engine: str
    scheme: str

    def artifact(self, source: Source) -> Artifact:
        """A model as it will be run."""
        work = replace(self.work, source=source)
        lowered = steps.lower(work, self.engine)
        return lowered if self.scheme == "float32" else quantized(work, lowered, self.scheme)

    def left(self, source: Source) -> float:
        """The part of the dense model's time or size that a pruned one has."""
        dense, pruned = self.artifact(self.work.source), self.artifact(source)
        if self.measure == "size":
            return pruned.size_bytes / dense.size_bytes
        whole, part = steps.rank(self.work, [dense, pruned])
        return part.p50 / whole.p50


@dataclass(frozen=True)
class Job:
    """A model to be cut, and what cutting it goes by."""

    work: Work
    source: Source  # as it is: in a later round, what the one before left
    anatomy: Anatomy  # of it
    dense: Widths
    worth: Worth
    terms: Sequence[Term]
    limits: Limits
    gauge: Gauge | None = None  # without, the goal is held by counting


@dataclass(frozen=True)
class Reached:
    """A model that meets its goal."""

    cuts: tuple[Cut, ...]
    source: Source
    counted: float  # part left, by the terms
    measured: float | None  # part left, as the gauge says


def reach(job: Job, goal: Goal) -> Reached:
    """Return the model that loses least and meets the goal; measured, the nearest to it of a few tries.

    Raises:
        PlanError: the goal is out of reach.
    """
    if job.gauge is None:
        return _tried(job, goal)
    nearest, best = least(job.anatomy, job.terms, job.limits, job.dense), None
    left = max(goal.left, nearest)
    for _ in range(TRIES):
        one = _tried(job, replace(goal, left=left))
        assert one.measured is not None
        if one.measured <= goal.left:
            best = one
            if one.measured >= NEAR * goal.left:
                return one
        elif one.counted <= nearest * (1 + 1e-9):
            raise PlanError(
                f"{goal}: out of reach; when everything is cut that may be, {job.gauge.engine} {job.gauge.scheme} was "
                f"measured to need {100 * one.measured:.0f} % of the dense model's {goal.measure}\n"
                f"ask for less, lower --floor or --round-to, or --keep fewer layers"
            )
        elif best is not None:  # one step wider is too wide
            return best
        aimed = left * AIM * goal.left / one.measured
        left = min(1.0, max(nearest, min(aimed, AIM * one.counted) if one.measured > goal.left else aimed))
    return best or _last(job, goal, nearest)


def _last(job: Job, goal: Goal, nearest: float) -> Reached:
    """What is left of a goal that corrections did not come to: the narrowest model there can be."""
    one = _tried(job, replace(goal, left=nearest))
    assert one.measured is not None
    if one.measured > goal.left:
        raise PlanError(f"{goal}: out of reach; at the least {100 * one.measured:.0f} % was measured to be left")
    return one


def _tried(job: Job, goal: Goal) -> Reached:
    cuts = choose(job.anatomy, job.worth, job.terms, goal, job.limits, job.dense)
    source = cut(job.work, job.source, cuts)
    counted = total(job.terms, widths_after(job.anatomy, cuts)) / total(job.terms, job.dense)
    return Reached(cuts, source, counted, job.gauge.left(source) if job.gauge else None)


def cut(work: Work, source: Source, cuts: tuple[Cut, ...]) -> Source:
    """Make the smaller model, and open it; nothing to cut leaves it as it is."""
    if not cuts:
        return source
    request: SourceRequest = work.runner.run("cut", LOADERS[source.request.kind].toolchain, CutRequest(source, cuts))
    return opened(work, request)


def opened(work: Work, request: SourceRequest) -> Source:
    """Load what a stage has made."""
    source: Source = work.runner.run("load", LOADERS[request.kind].toolchain, request)
    return source


def quantized(work: Work, artifact: Artifact, scheme: str) -> Artifact:
    """A float artifact in a scheme, without anything that looks for better."""
    calibration = work.calibration if SCHEMES[scheme].calibrated else None
    request = QuantizeRequest(artifact, Recipe(scheme), work.inputs, calibration)
    made: Artifact = work.runner.run("quantize", artifact.engine, request, f"{artifact.engine} {scheme}")
    return made
