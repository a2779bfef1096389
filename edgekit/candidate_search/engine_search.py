"""Search one engine's candidates: quantize, drop the bad ones early on a subset of the data, evaluate the others.

The search knows no toolchain: an ``EngineRunner`` quantizes, evaluates and times. ``selection.py`` selects the best.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from edgekit.candidate_search import candidates
from edgekit.candidate_search.selection import loses_too_much, standard_error
from edgekit.conversion.trial import BROKEN, DROPPED, FAILED, MEASURED, SKIPPED, Trial, kernel_recipe
from edgekit.parallel.executor import Executor, Threads
from edgekit.plan.budget import Budget
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import Artifact, Comparison, Evaluation, Latency
from edgekit_converters.verify.acceptance import check_parity, drop
from edgekit_converters.verify.metrics import higher_is_better
from edgekit_runtime.errors import ConversionError, DiskFull, EngineError, PlanError, VerificationError

# Errors that reject one candidate, among them a toolchain that ran out of memory. A full disk, bad data and a bug
# are others: they end the search.
REJECTING_ERRORS = (ConversionError, EngineError, PlanError)


class EngineRunner(Protocol):
    """What the search needs from one engine."""

    @property
    def engine(self) -> str:
        """Name of the engine."""

    @property
    def schemes(self) -> tuple[str, ...]:
        """Schemes that at least one of the devices supports."""

    def quantize(self, recipe: Recipe) -> Artifact:
        """Quantize the float artifact."""

    def compare(self, artifact: Artifact) -> Comparison:
        """Compare the artifact's outputs with the source's."""

    def evaluate(self, artifact: Artifact, *, subset: bool) -> Evaluation:
        """Evaluate the artifact on a subset of the evaluation data, or on all of it."""

    def time_artifacts(self, artifacts: Sequence[Artifact]) -> Sequence[Latency]:
        """Time the artifacts in turns."""

    def layers_by_sensitivity(self) -> Sequence[str]:
        """Return the source's layers, the most sensitive to int8 first."""


@dataclass(frozen=True)
class SourceEvaluations:
    """The source's results, which candidates are compared with."""

    full: Evaluation
    subset: Evaluation | None  # None if the metric of a subset says nothing about the full data


@dataclass(frozen=True)
class CandidateResult:
    """A trial, with the artifact and the measurements behind it."""

    trial: Trial
    artifact: Artifact | None = None
    comparison: Comparison | None = None
    evaluation: Evaluation | None = None
    latency: Latency | None = None


@dataclass
class CandidateSearch:
    """The search of one engine. ``results`` holds all finished candidates, also when the search ends early."""

    runner: EngineRunner
    source: SourceEvaluations
    budget: Budget
    stop_reason: Callable[[], str]  # why no further candidate is tried; "" while there is time
    executor: Executor = field(default_factory=Threads)
    results: list[CandidateResult] = field(default_factory=list)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to try one candidate."""
        return vars(self) | {"stop_reason": None, "executor": Threads(), "results": []}

    def run(self) -> None:
        """Try the candidates: first those without a cost at run time, then, if none fits, the slower ones."""
        engine, schemes = self.runner.engine, self.runner.schemes
        self.results += self._try_each(candidates.initial(engine, schemes, small=self.budget.size_matters))
        if self._best_int8() is not None and not self._has_accepted("int8-static"):
            self._try_until_accepted(self._mixed_precision())
        if not self._has_accepted("int"):
            self._try_until_accepted(candidates.fallback(engine, schemes))

    def time_trials(self, trials: Sequence[Trial]) -> None:
        """Time these trials against each other. Call it when edgekit runs nothing else on this machine.

        Candidates that run the same kernels (they differ in constants only) share one measurement, also those that
        are not in ``trials``.
        """
        timed: dict[Recipe, Artifact] = {}
        for result in self.results:
            if result.trial in trials:
                timed.setdefault(kernel_recipe(result.trial.recipe), _artifact(result))
        latencies = self.runner.time_artifacts(list(timed.values())) if timed else ()
        by_kernels = dict(zip(timed, latencies, strict=True))
        for index, result in enumerate(self.results):
            latency = by_kernels.get(kernel_recipe(result.trial.recipe))
            if latency and result.trial.state == MEASURED:
                trial = replace(result.trial, latency_ms=latency.p50)
                self.results[index] = replace(result, trial=trial, latency=latency)

    def _try_until_accepted(self, recipes: Iterable[Recipe]) -> None:
        waiting = list(recipes)
        while waiting:
            batch, waiting = waiting[: self.executor.jobs], waiting[self.executor.jobs :]
            for result in self._try_each(batch):
                self.results.append(result)
                if self._within_max_drop(result.trial):
                    return  # the others of the batch are ignored, so that the result does not depend on --jobs

    def _mixed_precision(self) -> Iterable[Recipe]:
        best = self._best_int8()
        if best is None or self.stop_reason():
            return ()
        try:
            return candidates.mixed_precision(best.recipe, self.runner.layers_by_sensitivity())
        except DiskFull:
            raise
        except ConversionError as error:
            reason = f"the sensitivity of its layers cannot be measured: {_first_line(error)}"
            self.results.append(CandidateResult(Trial(self.runner.engine, best.recipe, FAILED, reason)))
            return ()

    def _within_max_drop(self, trial: Trial) -> bool:
        return trial.state == MEASURED and trial.drop is not None and trial.drop <= self.budget.max_drop

    def _has_accepted(self, scheme: str) -> bool:
        trials = [result.trial for result in self.results]
        return any(trial.recipe.scheme.startswith(scheme) and self._within_max_drop(trial) for trial in trials)

    def _best_int8(self) -> Trial | None:
        """Return the int8-static trial with the smallest drop, on a subset or on all data."""
        known = [result.trial for result in self.results if result.trial.recipe.scheme == "int8-static"]
        known = [trial for trial in known if trial.drop is not None]
        return min(known, key=lambda trial: trial.drop or 0.0, default=None)

    def _try_each(self, recipes: Sequence[Recipe]) -> list[CandidateResult]:
        """Try candidates in parallel; the results are in the order of the recipes."""
        first = not self.results  # float32, the first candidate, is never skipped: there must be something to select
        return self.executor.map(self._try, recipes, lambda index: "" if first and index == 0 else self.stop_reason())

    def _try(self, recipe: Recipe, skip_reason: str) -> CandidateResult:
        trial = Trial(self.runner.engine, recipe, SKIPPED, skip_reason)
        if skip_reason:
            return CandidateResult(trial)
        started = time.monotonic()
        result = self._quantize_and_check(trial)
        return replace(result, trial=replace(result.trial, seconds=round(time.monotonic() - started, 2)))

    def _quantize_and_check(self, trial: Trial) -> CandidateResult:
        try:
            artifact = self.runner.quantize(trial.recipe)
            comparison = self.runner.compare(artifact)
            check_parity(artifact, comparison, stage="quantize")
            return self._evaluate(trial, artifact, comparison)
        except VerificationError as error:
            return CandidateResult(replace(trial, state=BROKEN, reason=_first_line(error)))
        except DiskFull:  # the next candidates would fail, too, and the selection would be among the others
            raise
        except REJECTING_ERRORS as error:
            return CandidateResult(replace(trial, state=FAILED, reason=_first_line(error)))

    def _evaluate(self, trial: Trial, artifact: Artifact, comparison: Comparison) -> CandidateResult:
        trial = replace(trial, size_bytes=artifact.size_bytes)
        if self.source.subset is not None:
            subset = self.runner.evaluate(artifact, subset=True)
            if self._loses_too_much(self.source.subset, subset):
                trial = _with_evaluation(trial, self.source.subset, subset)
                return CandidateResult(
                    replace(trial, state=DROPPED, reason=f"loses too much on {subset.samples} samples")
                )
        full = self.runner.evaluate(artifact, subset=False)
        trial = replace(_with_evaluation(trial, self.source.full, full), state=MEASURED)
        return CandidateResult(trial, artifact, comparison, full)

    def _loses_too_much(self, source: Evaluation, candidate: Evaluation) -> bool:
        assert source.scores is not None
        assert candidate.scores is not None
        better = higher_is_better(candidate.metric)
        scores = np.load(source.scores), np.load(candidate.scores)
        return loses_too_much(*scores, self.budget.max_drop, higher_is_better=better)


def _artifact(result: CandidateResult) -> Artifact:
    assert result.artifact is not None  # every measured trial has one
    return result.artifact


def _with_evaluation(trial: Trial, source: Evaluation, evaluation: Evaluation) -> Trial:
    error = None
    if source.scores and evaluation.scores:
        error = standard_error(np.load(source.scores), np.load(evaluation.scores))
    lost = drop(source, evaluation)
    return replace(trial, samples=evaluation.samples, value=evaluation.value, drop=lost, error=error)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
