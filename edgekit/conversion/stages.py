"""Run the stages of a conversion: build each stage's request from the context, and combine the records.

Each function runs one stage or a few of them, through the cache. ``edgekit/pipeline.py`` calls them in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgekit.conversion.context import (
    CALIBRATION,
    EVALUATION,
    ConversionContext,
    DataSplit,
    ExaminedArtifact,
    VerifiedArtifact,
)
from edgekit.conversion.manifest import BuiltArtifact
from edgekit.parallel import evaluation as parallel_evaluation
from edgekit.plan.data import DataPlan
from edgekit.plan.options import AUTO
from edgekit_converters.data import PREPARE, SUBSET, DataRequest, DataSet, SubsetRequest
from edgekit_converters.examine import EXAMINE
from edgekit_converters.examine.coverage import CALIBRATION_COVERAGE, Coverage, CoverageRequest
from edgekit_converters.execution.runner import Runner
from edgekit_converters.lower import LOWER
from edgekit_converters.quantize import QUANTIZE
from edgekit_converters.recipe.label import recipe_label
from edgekit_converters.recipe.recipe import Recipe, resolve
from edgekit_converters.recipe.schemes import SCHEMES
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
    PseudoLabelRequest,
    QuantizeRequest,
    RankRequest,
    Source,
    SplitOutputsRequest,
)
from edgekit_converters.sensitivity import SENSITIVITY, Sensitivity, SensitivityRequest
from edgekit_converters.split_outputs import SPLIT_OUTPUTS
from edgekit_converters.trace import MATCH, TRACE, LayerMap, MatchRequest, TraceRequest
from edgekit_converters.verify.acceptance import check_parity
from edgekit_converters.verify.latency import MEASURE, RANK
from edgekit_converters.verify.metrics import reconstructs
from edgekit_converters.verify.parity import COMPARE
from edgekit_converters.verify.pseudo_labels import PSEUDO_LABEL
from edgekit_runtime.errors import CalibrationError, DataError
from edgekit_runtime.format.manifest import InputSpec

MIN_EVALUATION_SAMPLES = 50  # with fewer, a single sample changes the accuracy by more than 2 points
REMEDIED_SCHEME = "int8-static"  # the scheme that an examination is about and that its remedies apply to


def prepare_data(
    runner: Runner, plan: DataPlan, inputs: tuple[InputSpec, ...], spec: str | None, split: DataSplit
) -> DataSet | None:
    """Read the samples that ``spec`` names; without ``spec`` return None."""
    if spec is None:
        return None
    # "auto" reads all samples; ``check_coverage`` then selects as many as are needed
    limit = plan.samples if split is CALIBRATION and isinstance(plan.samples, int) else None
    request = DataRequest(
        spec=spec,
        inputs=inputs,
        samples=split.samples or limit,
        layout=plan.layout,
        minimum=split.minimum,
        recommended=split.recommended,
        purpose=split.name,
    )
    return runner.run(PREPARE, request, split.name)


def check_sample_count(data: DataSet, spec: str | None, question: str) -> None:
    """Reject evaluation data that are too few to resolve a difference of a few points.

    Raises:
        DataError: there are fewer than ``MIN_EVALUATION_SAMPLES``.
    """
    if data.count < MIN_EVALUATION_SAMPLES:
        raise DataError(
            f"{spec}: {data.count} samples are too few to tell {question}; give at least {MIN_EVALUATION_SAMPLES}, "
            f"better several hundred"
        )


def evaluation_subset(context: ConversionContext, count: int) -> DataSet | None:
    """Return at most ``count`` of the evaluation samples, spread evenly over them."""
    data = context.evaluation
    if data is None or data.count <= count:
        return data
    return context.runner.run(SUBSET, SubsetRequest(data, count, "a part"), EVALUATION.name)


def lower(context: ConversionContext, engine: str) -> Artifact:
    """Lower the source to the float artifact of an engine."""
    return context.runner.run(LOWER, LowerRequest(context.source, engine), engine)


def check_coverage(
    context: ConversionContext, artifacts: Sequence[Artifact]
) -> tuple[ConversionContext, Coverage | None]:
    """Check whether the calibration ranges have settled; with ``--samples auto`` keep only the samples needed for it.

    One artifact suffices, because all formats compute the same values. LiteRT's is taken if there is one: it is faster
    when every tensor is read.
    """
    data, targets, calibration = context.data, context.targets, context.calibration
    schemes = (*targets.schemes, *(targets.recipe.schemes if targets.recipe else ()))
    if calibration is None or context.source.quantized or not any(SCHEMES[scheme].calibrated for scheme in schemes):
        return context, None
    artifact = min(artifacts, key=lambda artifact: artifact.engine)
    request = CoverageRequest(artifact, context.inputs, calibration, stop=data.samples == AUTO)
    coverage = context.runner.run(CALIBRATION_COVERAGE, request, artifact.engine)
    if coverage.samples == calibration.count:
        return context, coverage
    subset = SubsetRequest(calibration, coverage.samples, f"--samples {AUTO}")
    return replace(context, calibration=context.runner.run(SUBSET, subset, CALIBRATION.name)), coverage


def verify_float(context: ConversionContext, artifact: Artifact, schemes: Sequence[str]) -> VerifiedArtifact:
    """Compare a float artifact with the source, and examine it for what the schemes would lose.

    Raises:
        VerificationError: its outputs differ too much.
    """
    comparison = compare(context, artifact)
    check_parity(artifact, comparison, stage=LOWER.name)
    verified = VerifiedArtifact(artifact, examine(context, artifact, schemes), comparison)
    if verified.examination.splits:  # part by part too: large values of one part hide the errors of another
        parts = _split_outputs(context, verified)
        check_parity(parts, compare(context, parts), stage=LOWER.name)
    return verified


def examine(context: ConversionContext, artifact: Artifact, schemes: Sequence[str]) -> Examination:
    """Find what makes a float artifact hard to quantize to int8; ``--no-auto-fix`` only lists the findings."""
    if REMEDIED_SCHEME not in schemes or context.calibration is None or context.source.quantized:
        return Examination()
    request = ExamineRequest(artifact, context.inputs, context.calibration)
    examination = context.runner.run(EXAMINE, request, artifact.engine)
    if context.targets.auto_fix:
        return examination
    return Examination(tuple(replace(found, remedy="nothing: --no-auto-fix") for found in examination.findings))


def map_layers(context: ConversionContext, artifact: Artifact) -> LayerMap:
    """Find the nodes of a float artifact that compute each layer of the source, by their values for one sample."""
    trace = context.runner.run(TRACE, TraceRequest(context.source, context.probe))
    return context.runner.run(MATCH, MatchRequest(artifact, context.probe, trace), artifact.engine)


def layers_by_sensitivity(context: ConversionContext, verified: VerifiedArtifact) -> tuple[str, ...]:
    """Return the source's layers, the most sensitive to int8 first."""
    sensitivity = measure_sensitivity(context, verified, Recipe(REMEDIED_SCHEME))
    return tuple(layer.layer for layer in sensitivity.layers)


def measure_sensitivity(context: ConversionContext, verified: VerifiedArtifact, recipe: Recipe) -> Sensitivity:
    """Measure what a recipe without its corrections does to each layer; corrections compensate errors of other layers.

    Raises:
        CalibrationError: there are no calibration data.
    """
    if context.calibration is None:
        raise CalibrationError(
            "the sensitivity of layers is measured on samples", stage=SENSITIVITY.name, advice="add --calibrate DATA"
        )
    recipe = replace(recipe, corrections=())
    artifact = _split_outputs(context, verified) if recipe.scheme == REMEDIED_SCHEME else verified.artifact
    quantized, layers = quantize(context, verified, recipe), map_layers(context, verified.artifact).layers
    request = SensitivityRequest(artifact, quantized, layers, context.inputs, context.calibration)
    return context.runner.run(SENSITIVITY, request, f"{artifact.engine} {recipe_label(recipe)}")


def quantize(context: ConversionContext, examined: ExaminedArtifact, recipe: Recipe) -> Artifact:
    """Quantize a float artifact with a recipe; float32 returns the artifact itself."""
    artifact = examined.artifact
    if recipe == Recipe("float32"):
        return artifact
    nodes = resolve(recipe, map_layers(context, artifact).layers) if recipe.rules else ()
    if recipe.scheme == REMEDIED_SCHEME:
        artifact, nodes = _split_outputs(context, examined), (*examined.examination.nodes, *nodes)
    calibration = context.calibration if any(SCHEMES[scheme].calibrated for scheme in recipe.schemes) else None
    request = QuantizeRequest(artifact, recipe, context.inputs, calibration, nodes)
    return context.runner.run(QUANTIZE, request, f"{artifact.engine} {recipe_label(recipe)}")


def _split_outputs(context: ConversionContext, examined: ExaminedArtifact) -> Artifact:
    """Return the float artifact with the outputs split that need a scale for each part."""
    artifact, splits = examined.artifact, examined.examination.splits
    if not splits:
        return artifact
    return context.runner.run(SPLIT_OUTPUTS, SplitOutputsRequest(artifact, splits), artifact.engine)


def verify_quantized(context: ConversionContext, artifact: Artifact) -> BuiltArtifact:
    """Compare a quantized artifact with the source, and evaluate it.

    Raises:
        VerificationError: its outputs differ too much.
    """
    comparison = compare(context, artifact)
    check_parity(artifact, comparison, stage=QUANTIZE.name)
    return BuiltArtifact(artifact, comparison, evaluate_artifact(context, artifact))


def compare(context: ConversionContext, artifact: Artifact) -> Comparison:
    """Compare an artifact's outputs with the source's, for the samples of the probe."""
    request = CompareRequest(artifact, context.probe, context.source.outputs)
    return context.runner.run(COMPARE, request, f"{artifact.engine} {artifact.scheme}")


def pseudo_label(context: ConversionContext, data: DataSet) -> DataSet:
    """Return the samples with the reference model's outputs as labels."""
    request = PseudoLabelRequest(context.reference, context.inputs, data, classes=context.classes)
    return context.runner.run(PSEUDO_LABEL, request, "source")


def reconstructs_input(context: ConversionContext) -> bool:
    """Tell whether the source is an autoencoder, which can be evaluated on data without labels."""
    return reconstructs(np.load(context.probe.inputs[0]), np.load(context.probe.outputs[0]))


def evaluate_source(context: ConversionContext) -> Evaluation | None:
    """Evaluate the source, or the model that it was pruned from; return None without evaluation data.

    Raises:
        DataError: the data have no labels, and the model is no autoencoder although its output has the input's shape.
    """
    data, output = context.evaluation, context.source.outputs[0]
    same_shape = output.shape == context.inputs[0].shape
    if data and data.labels is None and not context.data.metric and same_shape and not reconstructs_input(context):
        raise DataError(
            f"{context.data.evaluate or context.data.calibrate}: without labels a model is evaluated by how well it "
            f"reconstructs its input, and {output.name!r} does not: give targets, or --metric FILE.py:function"
        )
    return _evaluate(context, context.reference, "source")


def evaluate_artifact(context: ConversionContext, artifact: Artifact) -> Evaluation | None:
    """Evaluate an artifact; return None without evaluation data."""
    return _evaluate(context, artifact, f"{artifact.engine} {artifact.scheme}")


def _evaluate(context: ConversionContext, subject: Source | Artifact, name: str) -> Evaluation | None:
    if context.evaluation is None:
        return None
    request = EvaluateRequest(
        subject,
        context.inputs,
        context.source.outputs,
        context.evaluation,
        metric=context.data.metric,
        agreement=context.agreement,
    )
    return parallel_evaluation.evaluate(context.runner, context.executor, request, name)


def measure_latency(context: ConversionContext, built: BuiltArtifact) -> Latency:
    """Time one artifact on this machine."""
    return context.runner.run(MEASURE, MeasureRequest(built.artifact, context.probe), built.name)


def rank_latency(context: ConversionContext, artifacts: Sequence[Artifact]) -> Sequence[Latency]:
    """Time several artifacts of one engine in turns, so that other load affects all of them alike."""
    return context.runner.run(RANK, RankRequest(tuple(artifacts), context.probe), artifacts[0].engine)
