"""The race: make many candidates, drop the hopeless early, measure the rest, and let ``choice.py`` take the best.

It runs once an engine, and knows no toolchain: a ``EngineRunner`` makes, evaluates and times what it asks for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from edgekit.candidate_search import candidates
from edgekit.candidate_search.selection import hopeless, standard_error
from edgekit.conversion.trial import BROKEN, DROPPED, FAILED, MEASURED, SKIPPED, Trial, arithmetic
from edgekit.parallel.executor import Executor, Threads
from edgekit.plan.budget import Budget
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import Artifact, Comparison, Evaluation, Latency
from edgekit_converters.verify.acceptance import check_parity, drop
from edgekit_converters.verify.metrics import higher_is_better
from edgekit_runtime.errors import ConversionError, DiskFull, EngineError, PlanError, VerificationError

# What takes a candidate out of the race, a toolchain that died for want of memory among it. A full disk, bad data or a
# bug are none of these: they end it.
REASONS = (ConversionError, EngineError, PlanError)


class EngineRunner(Protocol):
    """What a race needs of one engine."""

    @property
    def engine(self) -> str:
        """Its name."""

    @property
    def schemes(self) -> tuple[str, ...]:
        """Those that some device allows."""

    def make(self, recipe: Recipe) -> Artifact:
        """Quantize the float artifact."""

    def compare(self, artifact: Artifact) -> Comparison:
        """Hold it against the source's outputs."""

    def evaluate(self, artifact: Artifact, *, part: bool) -> Evaluation:
        """Evaluate it on a part of the samples, or on all."""

    def rank(self, artifacts: Sequence[Artifact]) -> Sequence[Latency]:
        """Time them in turns."""

    def harm(self) -> Sequence[str]:
        """The source's layers, those that int8 harms most first."""


@dataclass(frozen=True)
class Source:
    """What candidates are held against."""

    whole: Evaluation
    part: Evaluation | None  # None where parts say nothing of the whole


@dataclass(frozen=True)
class Entry:
    """A trial, and what was made for it."""

    trial: Trial
    artifact: Artifact | None = None
    comparison: Comparison | None = None
    evaluation: Evaluation | None = None
    latency: Latency | None = None


@dataclass
class Race:
    """One engine's race. ``entries`` holds what was found, also when it ends early."""

    lane: EngineRunner
    source: Source
    budget: Budget
    stop: Callable[[], str]  # why no further candidate is to be tried; "" while there is time
    executor: Executor = field(default_factory=Threads)
    entries: list[Entry] = field(default_factory=list)

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: enough to try one candidate there."""
        return vars(self) | {"stop": None, "executor": Threads(), "entries": []}

    def run(self) -> None:
        """Try the candidates: first what costs nothing at run time, then, if none fits, what does."""
        engine, schemes = self.lane.engine, self.lane.schemes
        self._try_all(candidates.first(engine, schemes, small=self.budget.size_matters))
        if self._best_int8() is not None and not self._fits("int8-static"):
            self._try_until_one_fits(self._partial())
        if not self._fits("int"):
            self._try_until_one_fits(candidates.last(engine, schemes))

    def rank(self, trials: Sequence[Trial]) -> None:
        """Time these against each other; to be called when nothing else of ours runs.

        Statistics and corrections change constants and no kernel, so one candidate is timed for all that differ in
        nothing else, whether they are named or not.
        """
        timed: dict[Recipe, Artifact] = {}
        for entry in self.entries:
            if entry.trial in trials:
                timed.setdefault(arithmetic(entry.trial.recipe), _artifact(entry))
        latencies = dict(zip(timed, self.lane.rank(list(timed.values())) if timed else (), strict=True))
        for place, entry in enumerate(self.entries):
            latency = latencies.get(arithmetic(entry.trial.recipe))
            if latency and entry.trial.state == MEASURED:
                trial = replace(entry.trial, latency_ms=latency.p50)
                self.entries[place] = replace(entry, trial=trial, latency=latency)

    def _try_all(self, recipes: Iterable[Recipe]) -> None:
        self.entries += self._tried(list(recipes))

    def _try_until_one_fits(self, recipes: Iterable[Recipe]) -> None:
        waiting = list(recipes)
        while waiting:
            some, waiting = waiting[: self.executor.jobs], waiting[self.executor.jobs :]
            for entry in self._tried(some):
                self.entries.append(entry)
                if self._keeps(entry.trial):
                    return  # what was tried beside it does not count: with fewer jobs it would not have been

    def _partial(self) -> Iterable[Recipe]:
        best = self._best_int8()
        if best is None or self.stop():
            return ()
        try:
            return candidates.partial(best.recipe, self.lane.harm())
        except DiskFull:
            raise
        except ConversionError as error:
            why = f"which of its layers to keep in float is not known: {_line(error)}"
            self.entries.append(Entry(Trial(self.lane.engine, best.recipe, FAILED, why)))
            return ()

    def _keeps(self, trial: Trial) -> bool:
        return trial.state == MEASURED and trial.drop is not None and trial.drop <= self.budget.max_drop

    def _fits(self, scheme: str) -> bool:
        return any(one.trial.recipe.scheme.startswith(scheme) and self._keeps(one.trial) for one in self.entries)

    def _best_int8(self) -> Trial | None:
        """The int8-static candidate that lost least, on a part or on all."""
        known = [one.trial for one in self.entries if one.trial.recipe.scheme == "int8-static"]
        known = [trial for trial in known if trial.drop is not None]
        return min(known, key=lambda trial: trial.drop or 0.0, default=None)

    def _tried(self, recipes: Sequence[Recipe]) -> list[Entry]:
        """Try candidates side by side; in their order, whoever is done first."""
        first = not self.entries  # there is always something to take: float32, the first
        return self.executor.map(self._try, recipes, lambda place: "" if first and place == 0 else self.stop())

    def _try(self, recipe: Recipe, reason: str) -> Entry:
        if reason:
            return Entry(Trial(self.lane.engine, recipe, SKIPPED, reason))
        trial = Trial(self.lane.engine, recipe, SKIPPED)
        started = time.monotonic()
        entry = self._made(trial)
        return replace(entry, trial=replace(entry.trial, seconds=round(time.monotonic() - started, 2)))

    def _made(self, trial: Trial) -> Entry:
        try:
            artifact = self.lane.make(trial.recipe)
            comparison = self.lane.compare(artifact)
            check_parity(artifact, comparison, stage="quantize")
            return self._evaluated(trial, artifact, comparison)
        except VerificationError as error:
            return Entry(replace(trial, state=BROKEN, reason=_line(error)))
        except DiskFull:  # the next candidates would fail, too, and the choice would be among what is left
            raise
        except REASONS as error:
            return Entry(replace(trial, state=FAILED, reason=_line(error)))

    def _evaluated(self, trial: Trial, artifact: Artifact, comparison: Comparison) -> Entry:
        trial = replace(trial, size_bytes=artifact.size_bytes)
        if self.source.part is not None:
            part = self.lane.evaluate(artifact, part=True)
            if self._hopeless(self.source.part, part):
                known = _measured(trial, self.source.part, part)
                return Entry(replace(known, state=DROPPED, reason=f"loses too much on {part.samples} samples"))
        whole = self.lane.evaluate(artifact, part=False)
        return Entry(replace(_measured(trial, self.source.whole, whole), state=MEASURED), artifact, comparison, whole)

    def _hopeless(self, source: Evaluation, part: Evaluation) -> bool:
        assert source.scores is not None
        assert part.scores is not None
        better = higher_is_better(part.metric)
        return hopeless(np.load(source.scores), np.load(part.scores), self.budget.max_drop, higher_is_better=better)


def _artifact(entry: Entry) -> Artifact:
    assert entry.artifact is not None  # every measured trial has one
    return entry.artifact


def _measured(trial: Trial, source: Evaluation, evaluation: Evaluation) -> Trial:
    error = None
    if source.scores and evaluation.scores:
        error = standard_error(np.load(source.scores), np.load(evaluation.scores))
    lost = drop(source, evaluation)
    return replace(trial, samples=evaluation.samples, value=evaluation.value, drop=lost, error=error)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0]
