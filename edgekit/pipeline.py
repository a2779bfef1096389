"""``edgekit convert``, read from top to bottom: the stages in order, and what travels between them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from edgekit.bundle.writer import write_bundle
from edgekit.candidate_search import quantize_auto
from edgekit.conversion import manifest, open_model, stages
from edgekit.conversion.context import ConversionContext, Outcome
from edgekit.conversion.manifest import BuiltArtifact
from edgekit.plan import postprocessing
from edgekit.plan.plan import ConversionPlan
from edgekit.plan.targets import VariantPlan, keep_scheme
from edgekit.pruning.comparison import compare
from edgekit.pruning.options import PruningPlan
from edgekit.pruning.prune import PrunedModel, prune_model
from edgekit.report import report as reports
from edgekit.report.html import page
from edgekit.report.pruning_report import PruningReport
from edgekit.report.report import BundleReport, Report, SourceReport, VariantReport
from edgekit.version import __version__
from edgekit_converters.data import DataSet
from edgekit_converters.execution import toolchains
from edgekit_converters.execution.runner import Watch
from edgekit_converters.execution.stage_cache import digest
from edgekit_converters.quantize import QUANTIZE
from edgekit_converters.records import Artifact, Evaluation, Source
from edgekit_converters.verify.acceptance import check_drop, drop, parity_warnings, twin_notes
from edgekit_runtime.errors import ConversionError
from edgekit_runtime.format.manifest import Postprocessing


def convert(plan: ConversionPlan, watch: Watch | None = None, pruning: PruningPlan | None = None) -> Report:
    """Convert, verify, and write the bundle, and the report when the plan asks for one.

    What is to be pruned is pruned first; then artifacts are held against the pruned model, and what is lost is counted
    from the dense one.

    Raises:
        EdgekitError: a stage refused; nothing is left behind.
    """
    started = time.monotonic()
    with open_model.start_runner(plan.execution, watch) as runner, open_model.start_executor(runner, plan) as executor:
        source = open_model.load_source(runner, plan, QUANTIZE.name)
        plan = replace(plan, targets=keep_scheme(plan.targets, plan.model.source.path.name, source.scheme))
        declared = _declared(source, plan)
        dense = replace(open_model.prepare_context(runner, plan, source, executor), classes=_has_classes(plan))
        _check_enough(plan, dense.evaluation)
        labels, declared, notes = _meaning(plan, dense, declared)
        made = prune_model(dense, pruning) if pruning else None
        context = _pruned(dense, made) if made else dense
        lowered = [stages.lower(context, engine) for engine in plan.targets.engines]
        context, coverage = stages.check_coverage(context, lowered)
        outcome = _search(plan, context, lowered) if plan.targets.search else _make_all(context, lowered, plan.max_drop)
        outcome = replace(outcome, coverage=coverage, notes=(*outcome.notes, *executor.notes))
        contents = _contents(plan, context, outcome, labels, declared, notes)
        told = _told(dense, pruning, made, outcome)
        with reports.report_writer(plan.report) as write_report:
            _write(contents)
            report = _report(context, contents, outcome, started, told)
            write_report(_text(report, plan.report))
        if made and made.checkpoints:
            made.checkpoints.remove()
    return report


def _text(report: Report, path: Path | None) -> str:
    if path is None or path.suffix != ".html":
        return report.to_json()
    return page(report.source.name, report.source.metric, report.variants, report.pruning, report.notes)


def _has_classes(plan: ConversionPlan) -> bool:
    """Tell whether the options say that the first output has class scores."""
    return plan.labels is not None or (plan.postprocessing is not None and plan.postprocessing.boxes is None)


def _check_enough(plan: ConversionPlan, evaluation: DataSet | None) -> None:
    if evaluation and plan.max_drop is not None:
        stages.check_sample_count(evaluation, plan.data.evaluate, f"whether --max-drop {plan.max_drop} holds")


def _meaning(
    plan: ConversionPlan, context: ConversionContext, declared: Postprocessing | None
) -> tuple[tuple[str, ...], Postprocessing | None, tuple[str, ...]]:
    """Names of the classes, what the outputs mean, and notes; names alone may tell the meaning of the first output."""
    labels, notes = manifest.labels(plan, context.source, context.evaluation or context.calibration, declared)
    if labels and declared is None:
        declared, more = postprocessing.suggest(context.source.outputs[0], context.probe.outputs[0])
        notes += more
    return labels, declared, notes


def _pruned(dense: ConversionContext, made: PrunedModel) -> ConversionContext:
    """The work that goes on with the pruned model."""
    probe = open_model.run_probe(
        dense.runner, made.source, dense.inputs, (dense.calibration, dense.evaluation), "pruned"
    )
    return replace(dense, source=made.source, probe=probe, unpruned=dense.source)


def _search(plan: ConversionPlan, context: ConversionContext, lowered: list[Artifact]) -> Outcome:
    """Search the candidates of ``--quantize auto``."""
    assert plan.budget is not None
    wait = plan.execution.ray is not None
    return quantize_auto.search_candidates(context, lowered, plan.budget, wait=wait)


def _make_all(context: ConversionContext, lowered: list[Artifact], max_drop: float | None) -> Outcome:
    """Make every variant of the plan: the formats side by side, while the source is evaluated in its own process."""
    branches = ThreadPoolExecutor(len(lowered))
    try:
        making = [branches.submit(_make, context, artifact) for artifact in lowered]
        baseline = stages.evaluate_source(context)
        made = {key: one for branch in making for key, one in branch.result().items()}
    finally:
        branches.shutdown(wait=False, cancel_futures=True)
    check_drop(max_drop, baseline, {one.name: one.evaluation for one in made.values()})
    # timed one after the other, when nothing else of ours runs
    made = {key: replace(one, latency=stages.measure_latency(context, one)) for key, one in made.items()}
    return Outcome(context.targets, baseline, made)


def _told(
    dense: ConversionContext, pruning: PruningPlan | None, made: PrunedModel | None, outcome: Outcome
) -> PruningReport | None:
    """What pruning bought, where anything was pruned."""
    if pruning is None or made is None:
        return None
    artifacts = {key: one.artifact for key, one in outcome.built.items()}
    return compare(replace(dense, targets=outcome.targets), pruning, made, artifacts)


def _contents(
    plan: ConversionPlan,
    context: ConversionContext,
    outcome: Outcome,
    labels: tuple[str, ...],
    declared: Postprocessing | None,
    notes: tuple[str, ...],
) -> manifest.Contents:
    return manifest.Contents(
        plan=replace(plan, targets=outcome.targets),
        source=context.source,
        inputs=context.inputs,
        probe=context.probe,
        made=outcome.built,
        baseline=outcome.baseline,
        calibration=context.calibration,
        labels=labels,
        postprocessing=declared,
        notes=(*notes, *outcome.notes),
        versions={"edgekit": __version__} | toolchains.versions(plan.model.source.toolchain, *plan.targets.engines),
    )


def _report(
    context: ConversionContext,
    contents: manifest.Contents,
    outcome: Outcome,
    started: float,
    pruning: PruningReport | None,
) -> Report:
    plan, source, made, baseline = contents.plan, context.source, contents.made, contents.baseline
    notes = [*plan.targets.notes, *source.notes, *open_model.data_notes(context)]
    notes += [*reports.coverage_notes(outcome.coverage), *contents.notes]
    notes += [note for one in made.values() for note in parity_warnings(source, one.artifact, one.comparison)]
    notes += [note for one in made.values() for note in twin_notes(one.artifact)]
    notes += pruning.notes if pruning else ()
    return Report(
        edgekit=__version__,
        source=_source_report(plan, source, baseline),
        variants=tuple(_variant_report(variant, made[variant.artifact], baseline) for variant in plan.targets.variants),
        bundle=BundleReport(str(plan.output), plan.output.stat().st_size, digest(plan.output)),
        versions=contents.versions,
        stages=tuple(context.runner.costs),
        wall_seconds=round(time.monotonic() - started, 3),
        notes=tuple(notes),
        findings=tuple(dict.fromkeys(found for one in made.values() for found in one.findings)),
        coverage=outcome.coverage,
        trials=reports.trial_reports(outcome.trials),
        choices=outcome.choices,
        pruning=pruning,
    )


def _write(contents: manifest.Contents) -> None:
    """Write the bundle, whole or not at all.

    Raises:
        ConversionError: the disk is full, or the place cannot be written to.
    """
    output = contents.plan.output
    try:
        write_bundle(manifest.manifest(contents), manifest.files(contents), output)
    except OSError as error:
        raise ConversionError(
            f"{output} cannot be written: {error.strerror or error}",
            stage="bundle",
            advice="free some space, or give another place with -o",
        ) from error


def _make(context: ConversionContext, artifact: Artifact) -> dict[tuple[str, str], BuiltArtifact]:
    """One format: prove the float artifact, then quantize, verify and evaluate each scheme of the plan."""
    engine = artifact.engine
    schemes = context.targets.schemes_of(engine)
    lowered = stages.verify_float(context, artifact, schemes)
    if context.source.quantized:  # there is nothing left to quantize
        return {
            (engine, artifact.scheme): BuiltArtifact(
                artifact, lowered.comparison, stages.evaluate_artifact(context, artifact)
            )
        }
    made = {}
    for recipe in map(context.targets.recipe_of, schemes):
        one = stages.verify_quantized(context, stages.quantize(context, lowered, recipe))
        made[engine, one.artifact.scheme] = replace(one, findings=lowered.examination.findings, recipe=recipe)
    return made


def _declared(source: Source, plan: ConversionPlan) -> Postprocessing | None:
    """What was asked for of the outputs, held against those there are."""
    if plan.postprocessing is None:
        return None
    return postprocessing.declare(
        plan.postprocessing, source.outputs, len(postprocessing.read_labels(plan.labels)) if plan.labels else 0
    )


def _source_report(plan: ConversionPlan, source: Source, baseline: Evaluation | None) -> SourceReport:
    metric, value, samples = (baseline.metric, baseline.value, baseline.samples) if baseline else (None, None, None)
    return SourceReport(
        plan.model.name, source.framework, metric, value, value if metric == "accuracy" else None, samples
    )


def _variant_report(variant: VariantPlan, made: BuiltArtifact, baseline: Evaluation | None) -> VariantReport:
    value = made.evaluation.value if made.evaluation else None
    assert made.latency is not None
    return VariantReport(
        name=variant.name,
        engine=variant.engine,
        device=variant.device,
        scheme=variant.scheme,
        size_bytes=made.artifact.size_bytes,
        accuracy=value if baseline and baseline.metric == "accuracy" else None,
        value=value,
        drop=drop(baseline, made.evaluation) if baseline and made.evaluation else None,
        parity=made.comparison.worst,
        latency_ms=made.latency,
    )
