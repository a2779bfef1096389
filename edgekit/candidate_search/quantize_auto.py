"""``--quantize auto``: search the engines' candidates, select for each device, reduce the plan to the selection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from edgekit.candidate_search.engine_search import CandidateResult, CandidateSearch, SourceEvaluations
from edgekit.candidate_search.selection import choose, closest, drop_with_unit, explain, finalists, trial_line
from edgekit.conversion import stages
from edgekit.conversion.context import CALIBRATION, ConversionContext, Outcome, VerifiedArtifact
from edgekit.conversion.manifest import BuiltArtifact
from edgekit.conversion.trial import MEASURED, Trial
from edgekit.plan.budget import Budget
from edgekit.plan.profiles import DeviceProfile
from edgekit.plan.targets import TargetPlan, VariantPlan
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import Artifact, Comparison, Evaluation, Latency
from edgekit_runtime.errors import EdgekitError, VerificationError
from edgekit_runtime.host.machine import architecture

Key = tuple[str, str]  # engine, scheme
SUBSET_SAMPLES = 512  # spread over the evaluation data; candidates that lose too much on them are dropped early


@dataclass(frozen=True)
class StageRunner:
    """The stages of one engine; an :class:`edgekit.candidate_search.engine_search.EngineRunner`."""

    context: ConversionContext
    subset: ConversionContext  # the same with a subset of the evaluation data
    lowered: VerifiedArtifact
    schemes: tuple[str, ...]

    @property
    def engine(self) -> str:
        """Name of the engine."""
        return self.lowered.artifact.engine

    def quantize(self, recipe: Recipe) -> Artifact:
        """Quantize the float artifact."""
        return stages.quantize(self.context, self.lowered, recipe)

    def compare(self, artifact: Artifact) -> Comparison:
        """Compare the artifact's outputs with the source's."""
        return stages.compare(self.context, artifact)

    def evaluate(self, artifact: Artifact, *, subset: bool) -> Evaluation:
        """Evaluate the artifact on a subset of the evaluation data, or on all of it."""
        evaluation = stages.evaluate_artifact(self.subset if subset else self.context, artifact)
        assert evaluation is not None
        return evaluation

    def time_artifacts(self, artifacts: Sequence[Artifact]) -> Sequence[Latency]:
        """Time the artifacts in turns."""
        return stages.rank_latency(self.context, artifacts)

    def layers_by_sensitivity(self) -> Sequence[str]:
        """Return the source's layers, the most sensitive to int8 first."""
        return stages.layers_by_sensitivity(self.context, self.lowered)


def search_candidates(
    context: ConversionContext, artifacts: Sequence[Artifact], budget: Budget, *, wait: bool
) -> Outcome:
    """Try the candidates of all engines and select the best for each device.

    Ctrl-C ends the search as the time limit does: running candidates finish, no other one starts, and the best so
    far is selected. A second Ctrl-C ends the command.

    Args:
        context: with evaluation data, or with calibration data only: then agreement with the source is measured.
        artifacts: the float artifacts, one for each engine.
        budget: the limits of a variant, and the time.
        wait: for running candidates after an error, because processes of a cluster are not ended with this one.

    Raises:
        DataError: there are too few evaluation samples to compare candidates.
        VerificationError: nothing fits the budgets of a device; the message names the closest candidates.
    """
    context, notes = _with_evaluation_data(context)
    subset = replace(context, evaluation=stages.evaluation_subset(context, SUBSET_SAMPLES))
    full = stages.evaluate_source(context)
    assert full is not None
    # a metric without scores per sample says nothing about a subset
    source = SourceEvaluations(full, stages.evaluate_source(subset) if full.scores else None)
    interrupted = threading.Event()
    stop_reason = _stop_reason(budget, interrupted)

    def search_engine(artifact: Artifact) -> tuple[VerifiedArtifact, CandidateSearch]:
        schemes = context.targets.schemes_of(artifact.engine)
        lowered = stages.verify_float(context, artifact, schemes)
        runner = StageRunner(context, subset, lowered, schemes)
        search = CandidateSearch(runner, source, budget, stop_reason, context.executor)
        search.run()
        return lowered, search

    searched = _run_in_parallel(search_engine, artifacts, interrupted, wait=wait)
    for _, search in searched:  # one engine after the other, when nothing else of edgekit runs
        search.time_trials([result.trial for result in search.results if result.trial.state == MEASURED])
        # once more among those that may be selected, so that one lucky measurement does not decide
        search.time_trials(finalists([result.trial for result in search.results], budget))
    found = {search.runner.engine: (lowered, search.results) for lowered, search in searched}
    outcome = _select(context.targets, budget, found, full.metric)
    return replace(outcome, baseline=full, notes=(*notes, *_early_end(stop_reason())))


def _run_in_parallel(
    search_engine: Callable[[Artifact], tuple[VerifiedArtifact, CandidateSearch]],
    artifacts: Sequence[Artifact],
    interrupted: threading.Event,
    *,
    wait: bool,
) -> list[tuple[VerifiedArtifact, CandidateSearch]]:
    """Run the searches of all engines; when one fails, or at a second Ctrl-C, the others end with their workers.

    Args:
        search_engine: runs the search of an engine.
        artifacts: one for each engine.
        interrupted: is set at Ctrl-C, so that no further candidate starts.
        wait: for running candidates also then, because processes of a cluster are not ended with this one.
    """
    threads = ThreadPoolExecutor(len(artifacts))
    searches = [threads.submit(search_engine, artifact) for artifact in artifacts]
    try:
        try:
            return [search.result() for search in searches]
        except KeyboardInterrupt:
            interrupted.set()
            return [search.result() for search in searches]
    except EdgekitError:  # without one engine's search there is no bundle, so the others start no further candidate
        interrupted.set()
        raise
    finally:
        threads.shutdown(wait=wait)


def _with_evaluation_data(context: ConversionContext) -> tuple[ConversionContext, tuple[str, ...]]:
    """Return the context with the data that candidates are compared on, and notes about these data."""
    spec = context.data.evaluate or context.data.calibrate
    # without --evaluate all --calibrate data are evaluated, also if fewer of them calibrate
    data = context.evaluation or stages.prepare_data(context.runner, context.data, context.inputs, spec, CALIBRATION)
    assert data is not None
    stages.check_sample_count(data, spec, "which candidate is better")
    if context.data.metric or data.labels is not None or stages.reconstructs_input(context):
        biased = f"--quantize auto: without --evaluate, candidates are compared on {spec}, which is too optimistic"
        return replace(context, evaluation=data), () if context.evaluation else (biased,)
    note = f"--quantize auto: {spec} has no labels, so candidates are compared by agreement with the float model"
    return replace(context, evaluation=stages.pseudo_label(context, data), agreement=True), (note,)


def _early_end(reason: str) -> tuple[str, ...]:
    if not reason:
        return ()
    return (
        f"--quantize auto: ended early: {reason}; finished candidates are cached, run the same command to continue",
    )


def _stop_reason(budget: Budget, interrupted: threading.Event) -> Callable[[], str]:
    """Return a function that says why no further candidate starts; "" while there is time."""
    deadline = time.monotonic() + 60 * budget.minutes

    def reason() -> str:
        if interrupted.is_set():
            return "interrupted"
        return f"--budget-minutes {budget.minutes:g} is over" if time.monotonic() > deadline else ""

    return reason


def _select(
    targets: TargetPlan,
    budget: Budget,
    found: Mapping[str, tuple[VerifiedArtifact, Sequence[CandidateResult]]],
    metric: str,
) -> Outcome:
    """Select an artifact for each device and engine.

    Args:
        targets: with all schemes of each device.
        budget: the limits.
        found: lowered model and results, by engine.
        metric: of the drops.
    """
    trials = tuple(result.trial for _, results in found.values() for result in results)
    selected: dict[Key, CandidateResult] = {}
    variants: dict[str, VariantPlan] = {}
    preferred: dict[str, tuple[str, ...]] = {}
    choices: list[str] = []
    for device in targets.devices:
        of_device: dict[VariantPlan, Trial] = {}
        supported = [trial for trial in trials if trial.recipe.scheme in device.schemes]
        for target in _targets(targets, device):
            results = [result for result in found[target.engine][1] if result.trial in supported]
            best = _best(results, budget, selected)
            if best is not None:
                selected.setdefault((target.engine, best.trial.recipe.scheme), best)
                choices.append(explain(best.trial, [result.trial for result in results], budget, metric))
                variant = replace(target, scheme=best.trial.recipe.scheme)
                of_device[variants.setdefault(variant.name, variant)] = best.trial
        if not of_device:
            raise VerificationError(_nothing_fits(device, supported, budget, metric))
        preferred[device.name] = _in_order(of_device, device, budget)
    built = {key: _built(result, found[key[0]][0]) for key, result in selected.items()}
    reduced = replace(targets, variants=tuple(variants.values()), preferred=preferred)
    return Outcome(reduced, None, built, trials, tuple(dict.fromkeys(choices)))


def _targets(targets: TargetPlan, device: DeviceProfile) -> list[VariantPlan]:
    """Return a variant for each engine and unit of the device, in its order; the scheme is not selected yet."""
    by_target: dict[tuple[str, str], VariantPlan] = {}
    for variant in targets.variants:
        if variant.name in targets.preferred[device.name]:
            by_target.setdefault((variant.engine, variant.device), variant)
    return list(by_target.values())


def _best(
    results: Sequence[CandidateResult], budget: Budget, selected: Mapping[Key, CandidateResult]
) -> CandidateResult | None:
    """Return the best result; if the same scheme was selected for another device, that device's recipe."""
    trial = choose([result.trial for result in results], budget)
    if trial is None:
        return None
    known = selected.get((trial.engine, trial.recipe.scheme))
    return known or next(result for result in results if result.trial is trial)


def _in_order(trials: Mapping[VariantPlan, Trial], device: DeviceProfile, budget: Budget) -> tuple[str, ...]:
    """Return the variants' names in the device's order, or the fastest first where this machine can tell."""
    variants = list(trials)
    same_processor = device.arch == architecture() and all(variant.device == "cpu" for variant in variants)
    if budget.objective == "latency" and same_processor:
        variants.sort(key=lambda variant: trials[variant].latency_ms or 0.0)
    return tuple(variant.name for variant in variants)


def _built(result: CandidateResult, lowered: VerifiedArtifact) -> BuiltArtifact:
    assert result.artifact is not None
    assert result.comparison is not None
    return BuiltArtifact(
        artifact=result.artifact,
        comparison=result.comparison,
        evaluation=result.evaluation,
        latency=result.latency,
        findings=lowered.examination.findings,
        recipe=result.trial.recipe,
    )


def _nothing_fits(device: DeviceProfile, trials: Sequence[Trial], budget: Budget, metric: str) -> str:
    limits = [f"drop at most {drop_with_unit(budget.max_drop, metric)}"]
    limits += [f"{budget.max_latency_ms:g} ms"] if budget.max_latency_ms else []
    limits += [f"{budget.max_size_mib:g} MiB"] if budget.max_size_mib else []
    near = "".join(f"\n  {trial_line(trial, metric)}" for trial in closest(trials, budget))
    facts = f"the closest are:{near}" if near else "no candidate that it supports was evaluated in time"
    return (
        f"--quantize auto: no candidate fits the budgets of {device.name} ({', '.join(limits)}); {facts}\n"
        f"raise a limit, or give more --calibrate samples; no bundle was written"
    )
