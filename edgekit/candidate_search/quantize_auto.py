"""``--quantize auto``: race the engines side by side, choose for each device, narrow the plan to what was chosen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from edgekit.candidate_search.search import Entry, Race
from edgekit.candidate_search.search import Source as RaceSource
from edgekit.candidate_search.selection import amount, choose, closest, explain, finalists, measured
from edgekit.conversion import stages
from edgekit.conversion.manifest import BuiltArtifact
from edgekit.conversion.stages import ConversionContext, Lowered, Outcome
from edgekit.conversion.trial import MEASURED, Trial
from edgekit.plan.budget import Budget
from edgekit.plan.plan import Plan, VariantPlan
from edgekit.plan.profiles import DeviceProfile
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import Artifact, Comparison, Evaluation, Latency
from edgekit_runtime.errors import EdgekitError, VerificationError
from edgekit_runtime.placement.requirements import machine

Key = tuple[str, str]  # engine, scheme
PART = 512  # samples, spread over all: they decide whether a candidate is hopeless


@dataclass(frozen=True)
class EngineRunner:
    """One engine's steps, as a race asks for them."""

    work: ConversionContext
    part: ConversionContext  # the same, with a part of the evaluation data
    lowered: Lowered
    schemes: tuple[str, ...]

    @property
    def engine(self) -> str:
        """Its name."""
        return self.lowered.artifact.engine

    def make(self, recipe: Recipe) -> Artifact:
        """Quantize the float artifact."""
        return stages.quantize(self.work, self.lowered, recipe)

    def compare(self, artifact: Artifact) -> Comparison:
        """Hold it against the source's outputs."""
        return stages.compare(self.work, artifact)

    def evaluate(self, artifact: Artifact, *, part: bool) -> Evaluation:
        """Evaluate it on a part, or on all."""
        evaluation = stages.evaluate_artifact(self.part if part else self.work, artifact)
        assert evaluation is not None
        return evaluation

    def rank(self, artifacts: Sequence[Artifact]) -> Sequence[Latency]:
        """Time them in turns."""
        return stages.rank(self.work, artifacts)

    def harm(self) -> Sequence[str]:
        """The source's layers, those that int8 harms most first."""
        return stages.harm(self.work, self.lowered)


def search_candidates(work: ConversionContext, artifacts: Sequence[Artifact]) -> Outcome:
    """Race, and choose.

    Ctrl-C ends the race as the end of its time does: what is being tried is finished, nothing new is begun, and the
    best so far is taken. A second one ends the command.

    Args:
        work: with evaluation data, or calibration data alone: then agreement with the source is what counts.
        artifacts: the float artifacts, one an engine.

    Raises:
        DataError: the evaluation data are too few to tell.
        VerificationError: nothing fits the budgets of a device; the message has what comes nearest.
    """
    budget = _budget(work.plan)
    work, notes = _stakes(work)
    part = replace(work, evaluation=stages.part(work, PART))
    whole = stages.evaluate_source(work)
    assert whole is not None
    # a metric that gives one number for the whole set says nothing of its parts
    some = stages.evaluate_source(part) if whole.scores else None
    interrupted = threading.Event()
    stop = _until(budget, interrupted)

    def one(artifact: Artifact) -> tuple[Lowered, Race]:
        schemes = work.plan.schemes_of(artifact.engine)
        lowered = stages.prove(work, artifact, schemes)
        engine = Race(EngineRunner(work, part, lowered, schemes), RaceSource(whole, some), budget, stop, work.executor)
        engine.run()
        return lowered, engine

    raced = _side_by_side(one, artifacts, interrupted, wait=work.plan.ray is not None)
    for _, engine in raced:  # one after the other, when nothing else of ours runs
        engine.rank([entry.trial for entry in engine.entries if entry.trial.state == MEASURED])
        # once more among those that may be chosen: who was first by chance is second now
        engine.rank(finalists([entry.trial for entry in engine.entries], budget))
    found = {engine.lane.engine: (lowered, engine.entries) for lowered, engine in raced}
    return replace(_chosen(work.plan, budget, found, whole.metric), baseline=whole, notes=(*notes, *_ended(stop())))


def _side_by_side(
    one: Callable[[Artifact], tuple[Lowered, Race]],
    artifacts: Sequence[Artifact],
    interrupted: threading.Event,
    *,
    wait: bool,
) -> list[tuple[Lowered, Race]]:
    """Run all engines' races; what is being tried when one fails, or at a second Ctrl-C, ends with its workers.

    Args:
        one: runs an engine's race.
        artifacts: one an engine.
        interrupted: is set at Ctrl-C, so that nothing new is begun.
        wait: for what is being tried even then: what a cluster tries is no process of ours.
    """
    lanes = ThreadPoolExecutor(len(artifacts))
    running = [lanes.submit(one, artifact) for artifact in artifacts]
    try:
        try:
            return [lane.result() for lane in running]
        except KeyboardInterrupt:
            interrupted.set()
            return [lane.result() for lane in running]
    except EdgekitError:  # one engine's race is lost: the other begins nothing new that nobody would see
        interrupted.set()
        raise
    finally:
        lanes.shutdown(wait=wait)


def _stakes(work: ConversionContext) -> tuple[ConversionContext, tuple[str, ...]]:
    """The work with the data that decide, and what is to be said of them."""
    plan, spec = work.plan, work.plan.evaluate or work.plan.calibrate
    # without --evaluate all that was given to calibrate is evaluated, also where less of it calibrates
    whole = work.evaluation or stages.prepare(work.runner, plan, work.inputs, spec, stages.CALIBRATION)
    assert whole is not None
    stages.check_enough(whole, spec, "which candidate is better")
    if plan.metric or whole.labels is not None or stages.reconstructs(work):
        own = () if work.evaluation else (f"race: measured on {spec}, for there is no --evaluate: that flatters",)
        return replace(work, evaluation=whole), own
    note = f"race: {spec} has no labels, so what counts is agreement with the float model"
    return replace(work, evaluation=stages.answer(work, whole), agreement=True), (note,)


def _ended(why: str) -> tuple[str, ...]:
    return (f"race: ended early: {why}; what was tried is kept, the same command goes on from there",) if why else ()


def _budget(plan: Plan) -> Budget:
    assert plan.race is not None
    return plan.race


def _until(budget: Budget, interrupted: threading.Event) -> Callable[[], str]:
    """Why nothing new is to be begun."""
    ends = time.monotonic() + 60 * budget.minutes

    def stop() -> str:
        if interrupted.is_set():
            return "interrupted before its turn"
        return f"the {budget.minutes:g} minutes of --budget-minutes were over" if time.monotonic() > ends else ""

    return stop


def _chosen(plan: Plan, budget: Budget, found: Mapping[str, tuple[Lowered, Sequence[Entry]]], metric: str) -> Outcome:
    trials = tuple(entry.trial for _, entries in found.values() for entry in entries)
    taken: dict[Key, Entry] = {}
    variants: dict[str, VariantPlan] = {}
    preferred: dict[str, tuple[str, ...]] = {}
    said: list[str] = []
    for device in plan.devices:
        mine: dict[VariantPlan, Trial] = {}
        able = [trial for trial in trials if trial.recipe.scheme in device.schemes]
        for variant in _targets(plan, device):
            entries = [entry for entry in found[variant.engine][1] if entry.trial in able]
            entry = _best(entries, budget, taken)
            if entry is not None:
                taken.setdefault((variant.engine, entry.trial.recipe.scheme), entry)
                said.append(explain(entry.trial, [one.trial for one in entries], budget, metric))
                one = replace(variant, scheme=entry.trial.recipe.scheme)
                mine[variants.setdefault(one.name, one)] = entry.trial
        if not mine:
            raise VerificationError(_nothing(device, able, budget, metric))
        preferred[device.name] = _in_order(mine, device, budget)
    made = {key: _made(entry, found[key[0]][0]) for key, entry in taken.items()}
    narrowed = replace(plan, variants=tuple(variants.values()), preferred=preferred)
    return Outcome(narrowed, None, made, trials, tuple(dict.fromkeys(said)))


def _targets(plan: Plan, device: DeviceProfile) -> list[VariantPlan]:
    """A variant for each engine and unit of the device, in its order; the scheme is still open."""
    by_target: dict[tuple[str, str], VariantPlan] = {}
    for variant in plan.variants:
        if variant.name in plan.preferred[device.name]:
            by_target.setdefault((variant.engine, variant.device), variant)
    return list(by_target.values())


def _best(entries: Sequence[Entry], budget: Budget, taken: Mapping[Key, Entry]) -> Entry | None:
    """The best entry; where another device took the same scheme, that device's recipe."""
    trial = choose([entry.trial for entry in entries], budget)
    if trial is None:
        return None
    known = taken.get((trial.engine, trial.recipe.scheme))
    return known or next(entry for entry in entries if entry.trial is trial)


def _in_order(mine: Mapping[VariantPlan, Trial], device: DeviceProfile, budget: Budget) -> tuple[str, ...]:
    """The names in the device's own order; where speed is wanted and was measured on such a machine, in that order."""
    variants = list(mine)
    here = device.arch == machine() and all(variant.device == "cpu" for variant in variants)
    if budget.objective == "latency" and here:
        variants.sort(key=lambda variant: mine[variant].latency_ms or 0.0)
    return tuple(variant.name for variant in variants)


def _made(entry: Entry, lowered: Lowered) -> BuiltArtifact:
    assert entry.artifact is not None
    assert entry.comparison is not None
    return BuiltArtifact(
        artifact=entry.artifact,
        comparison=entry.comparison,
        evaluation=entry.evaluation,
        latency=entry.latency,
        findings=lowered.examined.findings,
        recipe=entry.trial.recipe,
    )


def _nothing(device: DeviceProfile, trials: Sequence[Trial], budget: Budget, metric: str) -> str:
    limits = [f"at most {amount(budget.max_drop, metric)} lost"]
    limits += [f"{budget.max_latency_ms:g} ms"] if budget.max_latency_ms else []
    limits += [f"{budget.max_size_mib:g} MiB"] if budget.max_size_mib else []
    near = "".join(f"\n  {measured(trial, metric)}" for trial in closest(trials, budget))
    why = f"nearest are:{near}" if near else "nothing that it can do was evaluated in time"
    return (
        f"race: nothing fits the budgets of {device.name} ({', '.join(limits)}); {why}\n"
        f"allow more, or give more --calibrate samples; no bundle was written"
    )
