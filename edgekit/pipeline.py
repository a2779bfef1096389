"""``edgekit convert``: the stages in order, and the records that pass between them."""

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
from edgekit.report import conversion_report
from edgekit.report.conversion_report import BundleReport, Report, SourceReport, VariantReport
from edgekit.report.html import page
from edgekit.report.pruning_report import PruningReport
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
    """Run the stages of a conversion, and write the bundle and the report.

    With ``pruning`` the model is pruned first. Artifacts are then compared with the pruned model, and accuracy drops
    are measured against the original model.

    Raises:
        EdgekitError: a stage failed; no file is left.
    """
    started = time.monotonic()
    with open_model.start_runner(plan.execution, watch) as runner, open_model.start_executor(runner, plan) as executor:
        source = open_model.load_source(runner, plan, QUANTIZE.name)
        plan = replace(plan, targets=keep_scheme(plan.targets, plan.model.source.path.name, source.scheme))
        declared = _declared(source, plan)
        original = replace(open_model.prepare_context(runner, plan, source, executor), classes=_has_classes(plan))
        _check_sample_count(plan, original.evaluation)
        labels, declared, notes = _labels_and_postprocessing(plan, original, declared)
        pruned = prune_model(original, pruning) if pruning else None
        context = _pruned_context(original, pruned) if pruned else original
        lowered = [stages.lower(context, engine) for engine in plan.targets.engines]
        context, coverage = stages.check_coverage(context, lowered)
        build = _search if plan.targets.search else _build_all
        outcome = build(plan, context, lowered)
        outcome = replace(outcome, coverage=coverage, notes=(*outcome.notes, *executor.notes))
        parts = _bundle_parts(plan, context, outcome, labels, declared, notes)
        pruning_report = _pruning_report(original, pruning, pruned, outcome)
        with conversion_report.report_writer(plan.report) as write_report:
            _write(parts)
            report = _report(context, parts, outcome, started, pruning_report)
            write_report(_text(report, plan.report))
        if pruned and pruned.checkpoints:
            pruned.checkpoints.remove()
    return report


def _text(report: Report, path: Path | None) -> str:
    if path is None or path.suffix != ".html":
        return report.to_json()
    return page(report.source.name, report.source.metric, report.variants, report.pruning, report.notes)


def _has_classes(plan: ConversionPlan) -> bool:
    """Tell whether the options say that the first output has class scores."""
    return plan.labels is not None or (plan.postprocessing is not None and plan.postprocessing.boxes is None)


def _check_sample_count(plan: ConversionPlan, evaluation: DataSet | None) -> None:
    if evaluation and plan.max_drop is not None:
        stages.check_sample_count(evaluation, plan.data.evaluate, f"whether --max-drop {plan.max_drop} holds")


def _labels_and_postprocessing(
    plan: ConversionPlan, context: ConversionContext, declared: Postprocessing | None
) -> tuple[tuple[str, ...], Postprocessing | None, tuple[str, ...]]:
    """Return the class names, the postprocessing and notes; class names alone can suggest a postprocessing."""
    labels, notes = manifest.labels(plan, context.source, context.evaluation or context.calibration, declared)
    if labels and declared is None:
        declared, more = postprocessing.suggest(context.source.outputs[0], context.probe.outputs[0])
        notes += more
    return labels, declared, notes


def _pruned_context(original: ConversionContext, pruned: PrunedModel) -> ConversionContext:
    """Return the context of the pruned model."""
    data = original.calibration, original.evaluation
    probe = open_model.run_probe(original.runner, pruned.source, original.inputs, data, "pruned")
    return replace(original, source=pruned.source, probe=probe, unpruned=original.source)


def _search(plan: ConversionPlan, context: ConversionContext, lowered: list[Artifact]) -> Outcome:
    """Search the candidates of ``--quantize auto``."""
    assert plan.budget is not None
    wait = plan.execution.ray is not None
    return quantize_auto.search_candidates(context, lowered, plan.budget, wait=wait)


def _build_all(plan: ConversionPlan, context: ConversionContext, lowered: list[Artifact]) -> Outcome:
    """Build every artifact of the plan: the formats in parallel, while the source is evaluated in its own process."""
    threads = ThreadPoolExecutor(len(lowered))
    try:
        futures = [threads.submit(_build, context, artifact) for artifact in lowered]
        baseline = stages.evaluate_source(context)
        built = {key: artifact for future in futures for key, artifact in future.result().items()}
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    check_drop(plan.max_drop, baseline, {artifact.name: artifact.evaluation for artifact in built.values()})
    # timed one after the other, while edgekit runs nothing else
    built = {
        key: replace(artifact, latency=stages.measure_latency(context, artifact)) for key, artifact in built.items()
    }
    return Outcome(context.targets, baseline, built)


def _pruning_report(
    original: ConversionContext, pruning: PruningPlan | None, pruned: PrunedModel | None, outcome: Outcome
) -> PruningReport | None:
    """Compare the pruned model with the original one, if there was pruning."""
    if pruning is None or pruned is None:
        return None
    artifacts = {key: built.artifact for key, built in outcome.built.items()}
    return compare(replace(original, targets=outcome.targets), pruning, pruned, artifacts)


def _bundle_parts(
    plan: ConversionPlan,
    context: ConversionContext,
    outcome: Outcome,
    labels: tuple[str, ...],
    declared: Postprocessing | None,
    notes: tuple[str, ...],
) -> manifest.BundleParts:
    return manifest.BundleParts(
        plan=replace(plan, targets=outcome.targets),
        source=context.source,
        inputs=context.inputs,
        probe=context.probe,
        built=outcome.built,
        baseline=outcome.baseline,
        calibration=context.calibration,
        labels=labels,
        postprocessing=declared,
        notes=(*notes, *outcome.notes),
        versions={"edgekit": __version__} | toolchains.versions(plan.model.source.toolchain, *plan.targets.engines),
    )


def _report(
    context: ConversionContext,
    parts: manifest.BundleParts,
    outcome: Outcome,
    started: float,
    pruning: PruningReport | None,
) -> Report:
    plan, source, built, baseline = parts.plan, context.source, parts.built, parts.baseline
    notes = [*plan.targets.notes, *source.notes, *open_model.data_notes(context)]
    notes += [*conversion_report.coverage_notes(outcome.coverage), *parts.notes]
    for artifact in built.values():
        notes += parity_warnings(source, artifact.artifact, artifact.comparison)
    for artifact in built.values():
        notes += twin_notes(artifact.artifact)
    notes += pruning.notes if pruning else ()
    return Report(
        edgekit=__version__,
        source=_source_report(plan, source, baseline),
        variants=tuple(
            _variant_report(variant, built[variant.artifact], baseline) for variant in plan.targets.variants
        ),
        bundle=BundleReport(str(plan.output), plan.output.stat().st_size, digest(plan.output)),
        versions=parts.versions,
        stages=tuple(context.runner.costs),
        wall_seconds=round(time.monotonic() - started, 3),
        notes=tuple(notes),
        findings=tuple(dict.fromkeys(finding for artifact in built.values() for finding in artifact.findings)),
        coverage=outcome.coverage,
        trials=conversion_report.trial_reports(outcome.trials),
        choices=outcome.choices,
        pruning=pruning,
    )


def _write(parts: manifest.BundleParts) -> None:
    """Write the bundle completely, or nothing.

    Raises:
        ConversionError: the disk is full, or the folder cannot be written to.
    """
    output = parts.plan.output
    try:
        write_bundle(manifest.manifest(parts), manifest.files(parts), output)
    except OSError as error:
        raise ConversionError(
            f"{output} cannot be written: {error.strerror or error}",
            stage="bundle",
            advice="free some space, or write to another folder with -o",
        ) from error


def _build(context: ConversionContext, artifact: Artifact) -> dict[tuple[str, str], BuiltArtifact]:
    """Verify the float artifact of one format, then quantize, verify and evaluate each scheme of the plan."""
    engine = artifact.engine
    schemes = context.targets.schemes_of(engine)
    lowered = stages.verify_float(context, artifact, schemes)
    if context.source.quantized:  # it is bundled unchanged
        unchanged = BuiltArtifact(artifact, lowered.comparison, stages.evaluate_artifact(context, artifact))
        return {(engine, artifact.scheme): unchanged}
    built = {}
    for recipe in map(context.targets.recipe_of, schemes):
        quantized = stages.verify_quantized(context, stages.quantize(context, lowered, recipe))
        findings = lowered.examination.findings
        built[engine, quantized.artifact.scheme] = replace(quantized, findings=findings, recipe=recipe)
    return built


def _declared(source: Source, plan: ConversionPlan) -> Postprocessing | None:
    """Check the requested postprocessing against the model's outputs."""
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


def _variant_report(variant: VariantPlan, built: BuiltArtifact, baseline: Evaluation | None) -> VariantReport:
    value = built.evaluation.value if built.evaluation else None
    assert built.latency is not None
    return VariantReport(
        name=variant.name,
        engine=variant.engine,
        device=variant.device,
        scheme=variant.scheme,
        size_bytes=built.artifact.size_bytes,
        accuracy=value if baseline and baseline.metric == "accuracy" else None,
        value=value,
        drop=drop(baseline, built.evaluation) if baseline and built.evaluation else None,
        parity=built.comparison.worst,
        latency_ms=built.latency,
    )
