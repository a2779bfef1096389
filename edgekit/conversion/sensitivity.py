"""``edgekit sensitivity``: which layers cost accuracy when they are quantized, in either format."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from edgekit.conversion import open_model, stages
from edgekit.conversion.context import CALIBRATION, EVALUATION, ConversionContext, VerifiedArtifact
from edgekit.parallel.executor import Threads
from edgekit.plan.plan import ArtifactPlan
from edgekit.plan.targets import TargetPlan
from edgekit_converters.execution.runner import Runner, StageCost, Watch
from edgekit_converters.recipe.recipe import Recipe, Rule
from edgekit_converters.records import Artifact, ProbeRequest
from edgekit_converters.sensitivity import SENSITIVITY, LayerSensitivity, Sensitivity
from edgekit_converters.verify.probe import PROBE
from edgekit_runtime.errors import ConversionError, DiskFull, PlanError

SAMPLES = 64  # of the probe
MIN_SHARE = 0.1  # a layer that causes at least this share of the error stays in float by default


@dataclass(frozen=True)
class MeasuredArtifact:
    """Quality of an artifact with one layer quantized, or all but one; None if it cannot be quantized like that."""

    snr_db: float | None = None  # of the model's worst output
    value: float | None = None  # of the metric


@dataclass(frozen=True)
class LayerResult:
    """The effect of quantizing a layer in one format."""

    sensitivity: LayerSensitivity
    share: float  # of the error of all layers at the model's output, 0..1
    alone: MeasuredArtifact | None = None  # with --exact: only it is quantized
    kept: MeasuredArtifact | None = None  # with --exact: only it stays in float

    @property
    def alone_db(self) -> float:
        """Signal-to-noise ratio of the worst output if only this layer is quantized; estimated unless measured."""
        return self.sensitivity.alone_db if self.alone is None or self.alone.snr_db is None else self.alone.snr_db


@dataclass(frozen=True)
class LayerRow:
    """A layer, in each format where quantizing it changes the model."""

    layer: str
    operator: str
    parameters: int
    macs: int
    figures: dict[str, LayerResult]  # by engine

    @property
    def worst_db(self) -> float:
        """The lowest ``alone_db`` of all formats."""
        return min(result.alone_db for result in self.figures.values())

    @property
    def share(self) -> float:
        """The largest share of all formats."""
        return max(result.share for result in self.figures.values())


@dataclass(frozen=True)
class SensitivityReport:
    """The report of ``edgekit sensitivity``: one row for each layer, the most sensitive first."""

    model: str
    recipe: Recipe
    exact: bool
    metric: str | None
    source: float | None  # the source's value of the metric
    whole: dict[str, MeasuredArtifact]  # by engine: the fully quantized model
    samples: int
    rows: tuple[LayerRow, ...]
    stages: tuple[StageCost, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Return it as JSON."""
        report = dataclasses.asdict(self)
        for row, values in zip(self.rows, report["rows"], strict=True):
            values["figures"] = {engine: _layer_json(result) for engine, result in row.figures.items()}
        return json.dumps(report, indent=2, allow_nan=False) + "\n"


def _layer_json(result: LayerResult) -> dict[str, object]:
    estimated = ("merged_layers", "layer_db", "own_db", "alone_db")
    values: dict[str, object] = {name: getattr(result.sensitivity, name) for name in estimated}
    measured = {name: getattr(result, name) for name in ("alone", "kept")}
    values["share"] = result.share
    return values | {name: dataclasses.asdict(artifact) for name, artifact in measured.items() if artifact}


def measure_sensitivity(plan: ArtifactPlan, *, exact: bool = False, watch: Watch | None = None) -> SensitivityReport:
    """Quantize the model for every engine of the plan, and measure the effect on each layer.

    Args:
        plan: layers are quantized with its recipe, or with its only scheme.
        exact: also build and measure two artifacts for each layer.
        watch: called with the progress.

    Raises:
        EdgekitError: a stage refused.
    """
    recipe = recipe_to_measure(plan.targets)
    with open_model.start_runner(plan.execution, watch) as runner:
        context = _prepare_context(runner, plan)
        with ThreadPoolExecutor(len(plan.targets.engines)) as formats:
            running = [
                formats.submit(_measure_engine, context, recipe, engine, exact=exact) for engine in plan.targets.engines
            ]
            baseline = stages.evaluate_source(context)
            found = [future.result() for future in running]
    return SensitivityReport(
        model=plan.model.name,
        recipe=recipe,
        exact=exact,
        metric=baseline.metric if baseline else None,
        source=baseline.value if baseline else None,
        whole={result.measured.engine: result.whole for result in found},
        samples=found[0].measured.samples,
        rows=merge_engines({result.measured.engine: result.layers for result in found}),
        stages=tuple(runner.costs),
        notes=(*plan.targets.notes, *context.source.notes),
    )


def with_float_layers(report: SensitivityReport, *, count: int | None = None, below_db: float | None = None) -> Recipe:
    """Return the report's recipe with the most sensitive layers in float.

    Args:
        report: of the sensitivity of the layers.
        count: how many layers. Without ``count`` and ``below_db``: layers with a tenth of the error or more in one of
            the formats, at least the most sensitive one.
        below_db: all layers that alone reduce the model's output below this ratio.

    Raises:
        PlanError: no layer is that sensitive.
    """
    chosen: Sequence[LayerRow]
    if count is not None:
        chosen = report.rows[:count]
    elif below_db is not None:
        chosen = [row for row in report.rows if row.worst_db < below_db]
    else:
        chosen = [row for row in report.rows if row.share >= MIN_SHARE] or report.rows[:1]
    if not chosen:
        raise PlanError("--write-recipe: no layer is that sensitive, so none stays in float")
    rule = Rule("float32", layers=tuple(row.layer for row in chosen))
    return dataclasses.replace(report.recipe, rules=(*report.recipe.rules, rule))


def merge_engines(found: dict[str, Sequence[LayerResult]]) -> tuple[LayerRow, ...]:
    """Merge the layers of all engines, the most sensitive first; an engine may merge a layer into another."""
    rows: dict[str, LayerRow] = {}
    for layer in (result.sensitivity for results in found.values() for result in results):
        if layer.layer not in rows:
            by_engine = {engine: _find_layer(layer.layer, results) for engine, results in found.items()}
            present = {engine: result for engine, result in by_engine.items() if result}
            rows[layer.layer] = LayerRow(layer.layer, layer.operator, layer.parameters, layer.macs, present)
    return tuple(sorted(rows.values(), key=lambda row: row.worst_db))


def _find_layer(layer: str, results: Sequence[LayerResult]) -> LayerResult | None:
    own = next((result for result in results if result.sensitivity.layer == layer), None)
    return own or next((result for result in results if layer in result.sensitivity.merged_layers), None)


def error_shares(decibels: Sequence[float]) -> list[float]:
    """Return the share of the total noise power for each of several signal-to-noise ratios to one signal."""
    powers = [10 ** (-ratio / 10) for ratio in decibels]
    return [power / sum(powers) for power in powers]


def recipe_to_measure(targets: TargetPlan) -> Recipe:
    """Return the one recipe that the layers are quantized by.

    Raises:
        PlanError: the plan has several recipes, or quantizes nothing.
    """
    if targets.search:
        raise PlanError("sensitivity is measured for one scheme: give -q int8-static, or a --recipe")
    recipe = targets.recipe or Recipe(targets.schemes[0])
    if recipe.schemes == ("float32",):
        raise PlanError("float32 quantizes nothing: give another scheme, such as -q int8-static")
    return recipe


def _prepare_context(runner: Runner, plan: ArtifactPlan) -> ConversionContext:
    source = open_model.load_source(runner, plan, SENSITIVITY.name)
    if source.quantized:
        raise PlanError(f"{plan.model.source.path.name} is already {source.scheme}: there is nothing left to quantize")
    inputs = open_model.with_preprocessing(source, plan.data.preprocessing)
    calibration = stages.prepare_data(runner, plan.data, inputs, plan.data.calibrate, CALIBRATION)
    evaluation = stages.prepare_data(runner, plan.data, inputs, plan.data.evaluate, EVALUATION)
    data = (calibration,) if calibration else ()
    probe = runner.run(PROBE, ProbeRequest(source, inputs, data, SAMPLES))
    return ConversionContext(
        runner, plan.data, plan.targets, source, inputs, probe, calibration, evaluation, executor=Threads(runner.jobs)
    )


@dataclass(frozen=True)
class _EngineResult:
    """The results of one engine."""

    measured: Sensitivity
    whole: MeasuredArtifact
    layers: tuple[LayerResult, ...]


def _measure_engine(context: ConversionContext, recipe: Recipe, engine: str, *, exact: bool) -> _EngineResult:
    lowered = stages.verify_float(context, stages.lower(context, engine), (recipe.scheme,))
    measured = stages.measure_sensitivity(context, lowered, recipe)
    whole = MeasuredArtifact(measured.model_db)
    if exact or context.evaluation:
        whole = _measure(context, lambda: stages.quantize(context, lowered, recipe))
    shares = error_shares([layer.alone_db for layer in measured.layers])
    results = [LayerResult(layer, share) for layer, share in zip(measured.layers, shares, strict=True)]
    if exact:
        results = context.executor.map(partial(_measure_layer, context, lowered, recipe), results, lambda _: "")
    return _EngineResult(measured, whole, tuple(results))


def _measure_layer(
    context: ConversionContext, lowered: VerifiedArtifact, recipe: Recipe, result: LayerResult, _skip_reason: str
) -> LayerResult:
    layer = Rule(recipe.scheme, layers=(result.sensitivity.layer,))
    everything = Rule("float32", layers=("*",))
    alone = dataclasses.replace(recipe, rules=(everything, layer))
    kept = dataclasses.replace(recipe, rules=(*recipe.rules, dataclasses.replace(layer, scheme="float32")))
    return dataclasses.replace(
        result,
        alone=_measure(context, lambda: stages.quantize(context, lowered, alone)),
        kept=_measure(context, lambda: stages.quantize(context, lowered, kept)),
    )


def _measure(context: ConversionContext, quantize: Callable[[], Artifact]) -> MeasuredArtifact:
    """Quantize and measure an artifact; return no values if the quantizer rejects the recipe."""
    try:
        artifact = quantize()
    except DiskFull:
        raise
    except ConversionError:
        return MeasuredArtifact()
    evaluation = stages.evaluate_artifact(context, artifact)
    return MeasuredArtifact(stages.compare(context, artifact).worst.snr_db, evaluation.value if evaluation else None)
