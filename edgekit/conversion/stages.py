"""The steps of a conversion: each asks the runner for one stage, and knows what that stage is to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgekit.conversion.manifest import BuiltArtifact
from edgekit.conversion.trial import Trial
from edgekit.parallel import evaluation as parallel_evaluation
from edgekit.parallel.executor import SEQUENTIAL, Executor
from edgekit.plan.data import DataPlan
from edgekit.plan.options import AUTO
from edgekit.plan.targets import TargetPlan
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
    Probe,
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
from edgekit_converters.verify.metrics import gives_back
from edgekit_converters.verify.parity import COMPARE
from edgekit_converters.verify.pseudo_labels import PSEUDO_LABEL
from edgekit_runtime.errors import CalibrationError, DataError
from edgekit_runtime.format.manifest import InputSpec

EVALUATION_MINIMUM = 50  # below, one sample more or less is a drop of more than 2 points
EXAMINED = "int8-static"  # the scheme that findings are about, and that remedies are for


@dataclass(frozen=True)
class DataSplit:
    """What samples are for, and how many that takes."""

    name: str
    minimum: int = 1
    recommended: int = 1
    samples: int | None = None  # at most, spread over all


CALIBRATION, EVALUATION = DataSplit("calibration", 16, 100), DataSplit("evaluation")


@dataclass(frozen=True)
class ConversionContext:
    """What every step needs."""

    runner: Runner
    data: DataPlan
    targets: TargetPlan
    source: Source
    inputs: tuple[InputSpec, ...]
    probe: Probe
    calibration: DataSet | None
    evaluation: DataSet | None
    classes: bool = False  # the first output has class scores
    agreement: bool = False  # the labels of the evaluation data are the source's own answers
    dense: Source | None = None  # what the source was pruned from: losses are counted from what that is worth
    executor: Executor = SEQUENTIAL

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process, which does all alone."""
        return vars(self) | {"executor": SEQUENTIAL}

    @property
    def whole(self) -> Source:
        """What losses are counted from."""
        return self.dense or self.source


@dataclass(frozen=True)
class Outcome:
    """What was made, and how it was come by."""

    targets: TargetPlan  # with the variants that were made
    baseline: Evaluation | None  # of the source
    made: dict[tuple[str, str], BuiltArtifact]  # by (engine, scheme)
    trials: tuple[Trial, ...] = ()  # of a race
    choices: tuple[str, ...] = ()  # of a race: a paragraph each
    notes: tuple[str, ...] = ()
    coverage: Coverage | None = None  # of the calibration data


@dataclass(frozen=True)
class Examined:
    """A float artifact, and what is known of it before it is quantized."""

    artifact: Artifact
    examined: Examination


@dataclass(frozen=True)
class Lowered(Examined):
    """The same of one that was proven."""

    comparison: Comparison


def prepare(
    runner: Runner, plan: DataPlan, inputs: tuple[InputSpec, ...], spec: str | None, purpose: DataSplit
) -> DataSet | None:
    """The samples that a user named; None where none were."""
    if spec is None:
        return None
    most = plan.samples if purpose is CALIBRATION and isinstance(plan.samples, int) else None  # of "auto", all
    request = DataRequest(
        spec=spec,
        inputs=inputs,
        samples=purpose.samples or most,
        layout=plan.layout,
        minimum=purpose.minimum,
        recommended=purpose.recommended,
        purpose=purpose.name,
    )
    return runner.run(PREPARE, request, purpose.name)


def check_enough(data: DataSet, spec: str | None, question: str) -> None:
    """Refuse evaluation data that cannot answer a question of a few points.

    Raises:
        DataError: they are fewer than ``EVALUATION_MINIMUM``.
    """
    if data.count < EVALUATION_MINIMUM:
        raise DataError(
            f"{spec}: {data.count} samples cannot tell {question}; at least {EVALUATION_MINIMUM} are needed, and "
            f"several hundred are advised"
        )


def part(work: ConversionContext, count: int) -> DataSet | None:
    """At most so many of the evaluation data, spread evenly over them, also where a function yields them in order."""
    data = work.evaluation
    if data is None or data.count <= count:
        return data
    return work.runner.run(SUBSET, SubsetRequest(data, count, "a part"), EVALUATION.name)


def lower(work: ConversionContext, engine: str) -> Artifact:
    """The source in one format."""
    return work.runner.run(LOWER, LowerRequest(work.source, engine), engine)


def cover(work: ConversionContext, artifacts: Sequence[Artifact]) -> tuple[ConversionContext, Coverage | None]:
    """See whether ranges have settled; with ``--samples auto`` the work goes on with the samples that took.

    All formats compute the same, so one is enough; LiteRT is the quicker one when every tensor is looked at.
    """
    targets, data = work.targets, work.calibration
    schemes = (*targets.schemes, *(targets.recipe.schemes if targets.recipe else ()))
    if data is None or work.source.quantized or not any(SCHEMES[scheme].calibrated for scheme in schemes):
        return work, None
    artifact = min(artifacts, key=lambda one: one.engine)
    request = CoverageRequest(artifact, work.inputs, data, stop=work.data.samples == AUTO)
    coverage = work.runner.run(CALIBRATION_COVERAGE, request, artifact.engine)
    if coverage.samples == data.count:
        return work, coverage
    taken = work.runner.run(SUBSET, SubsetRequest(data, coverage.samples, f"--samples {AUTO}"), CALIBRATION.name)
    return replace(work, calibration=taken), coverage


def prove(work: ConversionContext, artifact: Artifact, schemes: Sequence[str]) -> Lowered:
    """Hold a float artifact against the source, and look for what the schemes would harm.

    Raises:
        VerificationError: it computes something else.
    """
    comparison = compare(work, artifact)
    check_parity(artifact, comparison, stage="lower")
    lowered = Lowered(artifact, examine(work, artifact, schemes), comparison)
    if lowered.examined.splits:  # once more part by part: wide numbers drown what is wrong with narrow ones
        parts = _split(work, lowered)
        check_parity(parts, compare(work, parts), stage="lower")
    return lowered


def examine(work: ConversionContext, artifact: Artifact, schemes: Sequence[str]) -> Examination:
    """Look for what int8 would harm; without remedies it is told and nothing comes of it."""
    if EXAMINED not in schemes or work.calibration is None or work.source.quantized:
        return Examination()
    request = ExamineRequest(artifact, work.inputs, work.calibration)
    found = work.runner.run(EXAMINE, request, artifact.engine)
    if work.targets.auto_fix:
        return found
    return Examination(tuple(replace(one, remedy="nothing: --no-remedies") for one in found.findings))


def layers(work: ConversionContext, artifact: Artifact) -> LayerMap:
    """The source's layers, and the nodes of a float artifact that compute them: the same for the first sample."""
    trace = work.runner.run(TRACE, TraceRequest(work.source, work.probe))
    return work.runner.run(MATCH, MatchRequest(artifact, work.probe, trace), artifact.engine)


def harm(work: ConversionContext, lowered: Lowered) -> tuple[str, ...]:
    """The source's layers that int8 harms, the worst first."""
    return tuple(one.layer for one in sensitivity(work, lowered, Recipe(EXAMINED)).harms)


def sensitivity(work: ConversionContext, lowered: Lowered, recipe: Recipe) -> Sensitivity:
    """What a recipe does to each layer. Its corrections are left out: they hide, and make up for, what others do.

    Raises:
        CalibrationError: there are no calibration data to run.
    """
    if work.calibration is None:
        raise CalibrationError("layers are compared on samples", stage=SENSITIVITY.name, advice="add --calibrate DATA")
    plain = replace(recipe, corrections=())
    artifact = _split(work, lowered) if recipe.scheme == EXAMINED else lowered.artifact
    request = SensitivityRequest(
        artifact, quantize(work, lowered, plain), layers(work, lowered.artifact).layers, work.inputs, work.calibration
    )
    return work.runner.run(SENSITIVITY, request, f"{artifact.engine} {recipe_label(plain)}")


def quantize(work: ConversionContext, lowered: Examined, recipe: Recipe) -> Artifact:
    """A float artifact as a recipe says; float32 is the artifact itself."""
    artifact = lowered.artifact
    if recipe == Recipe("float32"):
        return artifact
    nodes = resolve(recipe, layers(work, artifact).layers) if recipe.rules else ()
    if recipe.scheme == EXAMINED:
        artifact, nodes = _split(work, lowered), (*lowered.examined.nodes, *nodes)
    calibration = work.calibration if any(SCHEMES[scheme].calibrated for scheme in recipe.schemes) else None
    request = QuantizeRequest(artifact, recipe, work.inputs, calibration, nodes)
    return work.runner.run(QUANTIZE, request, f"{artifact.engine} {recipe_label(recipe)}")


def _split(work: ConversionContext, lowered: Examined) -> Artifact:
    """The float artifact with the outputs in parts that are better apart."""
    artifact, splits = lowered.artifact, lowered.examined.splits
    if not splits:
        return artifact
    return work.runner.run(SPLIT_OUTPUTS, SplitOutputsRequest(artifact, splits), artifact.engine)


def verified(work: ConversionContext, artifact: Artifact) -> BuiltArtifact:
    """A quantized artifact, held against the source and evaluated.

    Raises:
        VerificationError: it computes something else.
    """
    comparison = compare(work, artifact)
    check_parity(artifact, comparison, stage="quantize")
    return BuiltArtifact(artifact, comparison, evaluate_artifact(work, artifact))


def compare(work: ConversionContext, artifact: Artifact) -> Comparison:
    """How far an artifact is from the source."""
    request = CompareRequest(artifact, work.probe, work.source.outputs)
    return work.runner.run(COMPARE, request, f"{artifact.engine} {artifact.scheme}")


def answer(work: ConversionContext, data: DataSet) -> DataSet:
    """The same samples, with what the source says of them as their labels."""
    request = PseudoLabelRequest(work.whole, work.inputs, data, classes=work.classes)
    return work.runner.run(PSEUDO_LABEL, request, "source")


def reconstructs(work: ConversionContext) -> bool:
    """Tell whether the source gives back its input, so that data without labels say what it is worth."""
    return gives_back(np.load(work.probe.inputs[0]), np.load(work.probe.outputs[0]))


def evaluate_source(work: ConversionContext) -> Evaluation | None:
    """What the source is worth, or the dense model that it was pruned from; None without evaluation data.

    Raises:
        DataError: there are no labels, and its output has the input's shape and is something else.
    """
    data, spec = work.evaluation, work.source.outputs[0]
    same = spec.shape == work.inputs[0].shape
    if data and data.labels is None and not work.data.metric and same and not reconstructs(work):
        raise DataError(
            f"{work.data.evaluate or work.data.calibrate}: without labels a model is measured by how it gives back "
            f"what it was given, and {spec.name!r} is something else: give targets, or --metric FILE.py:function"
        )
    return _evaluate(work, work.whole, "source")


def evaluate_artifact(work: ConversionContext, artifact: Artifact) -> Evaluation | None:
    """What an artifact is worth; None without evaluation data."""
    return _evaluate(work, artifact, f"{artifact.engine} {artifact.scheme}")


def _evaluate(work: ConversionContext, subject: Source | Artifact, name: str) -> Evaluation | None:
    if work.evaluation is None:
        return None
    request = EvaluateRequest(
        subject, work.inputs, work.source.outputs, work.evaluation, metric=work.data.metric, agreement=work.agreement
    )
    return parallel_evaluation.evaluate(work.runner, work.executor, request, name)


def measure(work: ConversionContext, made: BuiltArtifact) -> Latency:
    """Time one artifact."""
    return work.runner.run(MEASURE, MeasureRequest(made.artifact, work.probe), made.name)


def rank(work: ConversionContext, artifacts: Sequence[Artifact]) -> Sequence[Latency]:
    """Time several artifacts of one engine in turns."""
    return work.runner.run(RANK, RankRequest(tuple(artifacts), work.probe), artifacts[0].engine)
