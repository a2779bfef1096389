"""``edgekit convert``, read from top to bottom: the stages in order, and what travels between them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from edgekit import __version__, assemble, postprocessing
from edgekit import report as reports
from edgekit.assemble import Made
from edgekit.bundle_writer import write_bundle
from edgekit.options import read_labels
from edgekit.plan import Plan, VariantPlan, as_it_came
from edgekit.report import BundleReport, Report, SourceReport, VariantReport
from edgekit_converters import toolchains
from edgekit_converters.cache import Cache, cache_root, digest
from edgekit_converters.data import DataRequest, DataSet
from edgekit_converters.load import LOADERS
from edgekit_converters.recipe import Recipe
from edgekit_converters.records import (
    Artifact,
    CompareRequest,
    Comparison,
    EvaluateRequest,
    Evaluation,
    Examination,
    ExamineRequest,
    Latency,
    LowerRequest,
    MeasureRequest,
    Probe,
    ProbeRequest,
    QuantizeRequest,
    Source,
    SplitRequest,
)
from edgekit_converters.runner import Runner, Watch, new_log
from edgekit_converters.schemes import SCHEMES
from edgekit_converters.verify.verdict import check_drop, check_parity, doubts, drop
from edgekit_runtime.errors import ConversionError, DataError, PlanError
from edgekit_runtime.manifest import InputSpec, Postprocessing

EXAMINED = "int8-static"  # the scheme that findings are about, and that remedies are for
CALIBRATION_MINIMUM, CALIBRATION_ADVISED = 16, 100
EVALUATION_MINIMUM = 50  # below, one sample more or less is a drop of more than 2 points


def convert(plan: Plan, watch: Watch | None = None) -> Report:
    """Convert, verify, and write the bundle, and the report when the plan asks for one.

    Raises:
        EdgekitError: a stage refused; nothing is left behind.
    """
    started = time.monotonic()
    root = cache_root()
    with Runner(new_log(root), Cache(root / "stages", enabled=plan.cache), watch) as runner:
        toolchain = LOADERS[plan.source.kind].toolchain
        for engine in plan.engines:
            runner.start(engine, "quantize")
        source: Source = runner.run("load", toolchain, plan.source)
        plan = as_it_came(plan, source.scheme)
        inputs = _with_preprocessing(source, plan)
        declared = _declared(source, plan)
        calibration = _prepare(runner, plan, inputs, plan.calibrate, "calibration")
        evaluation = _prepare(runner, plan, inputs, plan.evaluate, "evaluation")
        _check_evaluation(plan, evaluation)
        # both sets: artifacts whose ranges come from a calibration set too narrow are right on that set alone
        samples = ProbeRequest(source, inputs, tuple(data for data in (calibration, evaluation) if data))
        probe: Probe = runner.run("probe", toolchain, samples)
        labels, notes = assemble.labels(plan, source, evaluation or calibration, declared)
        if labels and declared is None:
            declared, more = postprocessing.suggest(source.outputs[0], probe.outputs[0])
            notes += more

        work = _Work(runner, plan, source, inputs, probe, calibration, evaluation)
        lowered = [_lower(work, engine, toolchain) for engine in plan.engines]
        branches = ThreadPoolExecutor(len(lowered))
        try:  # the formats are made side by side, while the source is evaluated in its own process
            making = [branches.submit(_make, work, artifact) for artifact in lowered]
            baseline = _evaluate(work, source, toolchain, "source")
            made = {key: one for branch in making for key, one in branch.result().items()}
        finally:
            branches.shutdown(wait=False, cancel_futures=True)
        check_drop(plan.max_drop, baseline, {one.name: one.evaluation for one in made.values()})
        # timed one after the other, when nothing else of ours runs
        made = {key: replace(one, latency=_measure(work, one)) for key, one in made.items()}

        versions = {"edgekit": __version__} | toolchains.versions(toolchain, *plan.engines)
        contents = assemble.Contents(
            plan, source, inputs, probe, made, baseline, calibration, labels, declared, notes, versions
        )
        with reports.to_file(plan.report) as write_report:
            _write(contents)
            report = _report(work, contents, runner, started)
            write_report(report)
    return report


def _report(work: _Work, contents: assemble.Contents, runner: Runner, started: float) -> Report:
    plan, source, made, baseline = work.plan, work.source, contents.made, contents.baseline
    notes = [*plan.notes, *source.notes, *_data_notes(work.calibration, work.evaluation), *contents.notes]
    notes += [note for one in made.values() for note in doubts(source, one.artifact, one.comparison)]
    return Report(
        edgekit=__version__,
        source=_source_report(plan, source, baseline),
        variants=tuple(_variant_report(variant, made[variant.artifact], baseline) for variant in plan.variants),
        bundle=BundleReport(str(plan.output), plan.output.stat().st_size, digest(plan.output)),
        versions=contents.versions,
        stages=tuple(runner.costs),
        wall_seconds=round(time.monotonic() - started, 3),
        notes=tuple(notes),
        findings=tuple(dict.fromkeys(found for one in made.values() for found in one.findings)),
    )


def _write(contents: assemble.Contents) -> None:
    """Write the bundle, whole or not at all.

    Raises:
        ConversionError: the disk is full, or the place cannot be written to.
    """
    output = contents.plan.output
    try:
        write_bundle(assemble.manifest(contents), assemble.files(contents), output)
    except OSError as error:
        raise ConversionError(
            f"{output} cannot be written: {error.strerror or error}",
            stage="bundle",
            advice="free some space, or give another place with -o",
        ) from error


@dataclass(frozen=True)
class _Work:
    """What every branch needs."""

    runner: Runner
    plan: Plan
    source: Source
    inputs: tuple[InputSpec, ...]
    probe: Probe
    calibration: DataSet | None
    evaluation: DataSet | None


def _lower(work: _Work, engine: str, toolchain: str) -> Artifact:
    artifact: Artifact = work.runner.run("lower", toolchain, LowerRequest(work.source, engine), engine)
    return artifact


def _make(work: _Work, lowered: Artifact) -> dict[tuple[str, str], Made]:
    """One format's branch: prove the float artifact, then quantize, verify and evaluate each scheme of the plan."""
    schemes = work.plan.schemes_of(lowered.engine)
    comparison = _compare(work, lowered)
    check_parity(lowered, comparison, stage="lower")
    if work.source.quantized:  # there is nothing left to quantize
        return {(lowered.engine, lowered.scheme): _evaluated(work, lowered, comparison)}
    examined = _examine(work, lowered)
    made = {(lowered.engine, one): _verified(work, _quantize(work, lowered, one, examined)) for one in schemes}
    return {key: replace(one, findings=examined.findings) for key, one in made.items()}


def _examine(work: _Work, lowered: Artifact) -> Examination:
    """Look for what int8 would harm; without remedies it is told and nothing comes of it."""
    if EXAMINED not in work.plan.schemes_of(lowered.engine) or work.calibration is None:
        return Examination()
    request = ExamineRequest(lowered, work.inputs, work.calibration)
    found: Examination = work.runner.run("examine", lowered.engine, request, lowered.engine)
    if work.plan.remedies:
        return found
    return Examination(tuple(replace(one, does="nothing: --no-remedies") for one in found.findings))


def _split(work: _Work, lowered: Artifact, examined: Examination) -> Artifact:
    if not examined.splits:
        return lowered
    split: Artifact = work.runner.run("split", lowered.engine, SplitRequest(lowered, examined.splits), lowered.engine)
    return split


def _quantize(work: _Work, lowered: Artifact, scheme: str, examined: Examination) -> Artifact:
    if scheme == "float32":
        return lowered
    nodes = examined.nodes if scheme == EXAMINED else ()
    lowered = _split(work, lowered, examined) if scheme == EXAMINED else lowered
    calibration = work.calibration if SCHEMES[scheme].calibrated else None
    request = QuantizeRequest(lowered, Recipe(scheme), work.inputs, calibration, nodes)
    artifact: Artifact = work.runner.run("quantize", lowered.engine, request, f"{lowered.engine} {scheme}")
    return artifact


def _verified(work: _Work, artifact: Artifact) -> Made:
    comparison = _compare(work, artifact)
    check_parity(artifact, comparison, stage="quantize")
    return _evaluated(work, artifact, comparison)


def _evaluated(work: _Work, artifact: Artifact, comparison: Comparison) -> Made:
    evaluation = _evaluate(work, artifact, artifact.engine, f"{artifact.engine} {artifact.scheme}")
    return Made(artifact, comparison, evaluation)


def _compare(work: _Work, artifact: Artifact) -> Comparison:
    request = CompareRequest(artifact, work.probe, work.source.outputs)
    comparison: Comparison = work.runner.run("verify", artifact.engine, request, f"{artifact.engine} {artifact.scheme}")
    return comparison


def _evaluate(work: _Work, subject: Source | Artifact, toolchain: str, name: str) -> Evaluation | None:
    if work.evaluation is None:
        return None
    request = EvaluateRequest(subject, work.inputs, work.source.outputs, work.evaluation, metric=work.plan.metric)
    evaluation: Evaluation = work.runner.run("evaluate", toolchain, request, name)
    return evaluation


def _measure(work: _Work, made: Made) -> Latency:
    latency: Latency = work.runner.run(
        "measure", made.artifact.engine, MeasureRequest(made.artifact, work.probe), made.name
    )
    return latency


def _with_preprocessing(source: Source, plan: Plan) -> tuple[InputSpec, ...]:
    """Give the declared preprocessing to the model's image input, or to its only one.

    Raises:
        PlanError: it is not clear which input is meant, or its channels are not as many as the values given.
    """
    if plan.preprocessing is None:
        return source.inputs
    images = [spec for spec in source.inputs if spec.layout] or list(source.inputs)
    if len(images) != 1:
        names = ", ".join(spec.name for spec in images)
        raise PlanError(f"--resize, --scale, --mean and --std are for one input; the model has {names}")
    spec = images[0]
    channels = spec.shape[1] if spec.layout == "NCHW" else spec.shape[-1]
    for option, values in (("--mean", plan.preprocessing.mean), ("--std", plan.preprocessing.std)):
        if len(values) not in (0, 1, channels):
            raise PlanError(f"{option} has {len(values)} values; input {spec.name!r} has {channels} channels")
    if plan.preprocessing.resize:
        _check_resize(spec, plan.preprocessing.resize)
    declared = replace(spec, preprocessing=plan.preprocessing)
    return tuple(declared if one is spec else one for one in source.inputs)


def _declared(source: Source, plan: Plan) -> Postprocessing | None:
    """What was asked for of the outputs, held against those there are."""
    if plan.postprocessing is None:
        return None
    return postprocessing.declare(
        plan.postprocessing, source.outputs, len(read_labels(plan.labels)) if plan.labels else 0
    )


def _check_resize(spec: InputSpec, size: tuple[int, int]) -> None:
    wanted = spec.shape[2:4] if spec.layout == "NCHW" else spec.shape[1:3]
    if spec.layout is None or wanted != size:
        raise PlanError(f"--resize {size[0]},{size[1]}: input {spec.name!r} has the shape {spec.shape}")


def _prepare(
    work_runner: Runner, plan: Plan, inputs: tuple[InputSpec, ...], spec: str | None, purpose: str
) -> DataSet | None:
    if spec is None:
        return None
    calibrating = purpose == "calibration"
    request = DataRequest(
        spec=spec,
        inputs=inputs,
        samples=plan.samples if calibrating else None,
        layout=plan.layout,
        minimum=CALIBRATION_MINIMUM if calibrating else 1,
        recommended=CALIBRATION_ADVISED if calibrating else 1,
        purpose=purpose,
    )
    prepared: DataSet = work_runner.run("prepare", "data", request, purpose)
    return prepared


def _check_evaluation(plan: Plan, data: DataSet | None) -> None:
    if data and plan.max_drop is not None and data.count < EVALUATION_MINIMUM:
        raise DataError(
            f"{plan.evaluate}: {data.count} samples cannot tell whether --max-drop {plan.max_drop} holds; "
            f"at least {EVALUATION_MINIMUM} are needed, and several hundred are advised"
        )


def _data_notes(calibration: DataSet | None, evaluation: DataSet | None) -> tuple[str, ...]:
    """Return the notes of both sets; what holds for both is said once."""
    ours, theirs = (data.notes if data else () for data in (calibration, evaluation))
    both = tuple(note for note in ours if note in theirs)
    return (
        *both,
        *(f"calibration: {note}" for note in ours if note not in both),
        *(f"evaluation: {note}" for note in theirs if note not in both),
    )


def _source_report(plan: Plan, source: Source, baseline: Evaluation | None) -> SourceReport:
    metric, value, samples = (baseline.metric, baseline.value, baseline.samples) if baseline else (None, None, None)
    return SourceReport(plan.name, source.framework, metric, value, value if metric == "accuracy" else None, samples)


def _variant_report(variant: VariantPlan, made: Made, baseline: Evaluation | None) -> VariantReport:
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
