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

SAMPLES = 64  # that artifacts are compared on
SHARE = 0.1  # of the error: a layer that brings this much is kept in float unless it is said how many


@dataclass(frozen=True)
class Trial:
    """An artifact that was really made, with only one layer quantized or all but it; None where it cannot be made."""

    snr_db: float | None = None  # of the model's worst output
    value: float | None = None  # of the metric


@dataclass(frozen=True)
class Figures:
    """What quantizing a layer does in one format."""

    harm: LayerSensitivity
    share: float  # of the error of all layers at the model's output, 0..1
    alone: Trial | None = None  # with --exact: only it is quantized
    kept: Trial | None = None  # with --exact: only it stays in float

    @property
    def alone_db(self) -> float:
        """The model's worst output when only this layer is quantized: measured, else as it was sensed."""
        return self.harm.alone_db if self.alone is None or self.alone.snr_db is None else self.alone.snr_db


@dataclass(frozen=True)
class Row:
    """A layer in each format where it does harm."""

    layer: str
    operator: str
    parameters: int
    macs: int
    figures: dict[str, Figures]  # by engine

    @property
    def worst_db(self) -> float:
        """``alone_db`` in the format that is harmed most."""
        return min(one.alone_db for one in self.figures.values())

    @property
    def share(self) -> float:
        """In the format where it is largest."""
        return max(one.share for one in self.figures.values())


@dataclass(frozen=True)
class SensitivityReport:
    """What ``edgekit sensitivity`` tells: one layer a row, the most harmful first."""

    model: str
    recipe: Recipe
    exact: bool
    metric: str | None
    source: float | None  # what the metric gives the source
    whole: dict[str, Trial]  # by engine: all of it quantized
    samples: int
    rows: tuple[Row, ...]
    stages: tuple[StageCost, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Return it as JSON."""
        whole = dataclasses.asdict(self)
        for row, told in zip(self.rows, whole["rows"], strict=True):
            told["figures"] = {engine: _told(one) for engine, one in row.figures.items()}
        return json.dumps(whole, indent=2, allow_nan=False) + "\n"


def _told(one: Figures) -> dict[str, object]:
    told: dict[str, object] = {
        name: getattr(one.harm, name) for name in ("merged_layers", "layer_db", "own_db", "alone_db")
    }
    told["share"] = one.share
    return told | {name: dataclasses.asdict(trial) for name in ("alone", "kept") if (trial := getattr(one, name))}


def sense(plan: ArtifactPlan, *, exact: bool = False, watch: Watch | None = None) -> SensitivityReport:
    """Quantize the model for every engine of the plan, and tell what that does to each layer.

    Args:
        plan: its recipe, else its one scheme, is what layers are quantized to.
        exact: make two artifacts for each layer besides, and measure them.
        watch: told of progress.

    Raises:
        EdgekitError: a stage refused.
    """
    recipe = recipe_of(plan.targets)
    with open_model.start_runner(plan.execution, watch) as runner:
        context = _work(runner, plan)
        with ThreadPoolExecutor(len(plan.targets.engines)) as formats:
            running = [
                formats.submit(_sense_one, context, recipe, engine, exact=exact) for engine in plan.targets.engines
            ]
            baseline = stages.evaluate_source(context)
            found = [one.result() for one in running]
    return SensitivityReport(
        model=plan.model.name,
        recipe=recipe,
        exact=exact,
        metric=baseline.metric if baseline else None,
        source=baseline.value if baseline else None,
        whole={one.sensed.engine: one.whole for one in found},
        samples=found[0].sensed.samples,
        rows=merge({one.sensed.engine: one.figures for one in found}),
        stages=tuple(runner.costs),
        notes=(*plan.targets.notes, *context.source.notes),
    )


def keeping(report: SensitivityReport, *, count: int | None = None, below_db: float | None = None) -> Recipe:
    """Return the report's recipe with its worst layers in float.

    Args:
        report: what was sensed.
        count: how many layers; without, and without ``below_db``, those that bring a tenth of the error or more in one
            of the formats, and the worst one in any case.
        below_db: every layer that alone leaves the model's output with less.

    Raises:
        PlanError: no layer does harm, so none is to be kept.
    """
    chosen: Sequence[Row]
    if count is not None:
        chosen = report.rows[:count]
    elif below_db is not None:
        chosen = [row for row in report.rows if row.worst_db < below_db]
    else:
        chosen = [row for row in report.rows if row.share >= SHARE] or report.rows[:1]
    if not chosen:
        raise PlanError("--write-recipe: no layer does that much harm, so there is none to keep in float")
    rule = Rule("float32", layers=tuple(row.layer for row in chosen))
    return dataclasses.replace(report.recipe, rules=(*report.recipe.rules, rule))


def merge(found: dict[str, Sequence[Figures]]) -> tuple[Row, ...]:
    """Bring the engines' layers together, the most harmful first; a layer may be a part of another in one of them."""
    rows: dict[str, Row] = {}
    for figures in found.values():
        for one in figures:
            harm = one.harm
            if harm.layer not in rows:
                by_engine = {engine: twin for engine, others in found.items() if (twin := _of(harm.layer, others))}
                rows[harm.layer] = Row(harm.layer, harm.operator, harm.parameters, harm.macs, by_engine)
    return tuple(sorted(rows.values(), key=lambda row: row.worst_db))


def _of(layer: str, figures: Sequence[Figures]) -> Figures | None:
    own = next((one for one in figures if one.harm.layer == layer), None)
    return own or next((one for one in figures if layer in one.harm.merged_layers), None)


def shares(decibels: Sequence[float]) -> list[float]:
    """Return which part of the noise each of several ratios to one signal brings; they add up as powers do."""
    powers = [10 ** (-one / 10) for one in decibels]
    return [power / sum(powers) for power in powers]


def recipe_of(targets: TargetPlan) -> Recipe:
    """Return the one recipe that the layers are quantized by.

    Raises:
        PlanError: there are several, or it quantizes nothing.
    """
    if targets.search:
        raise PlanError("sensitivity is measured for one scheme: give -q int8-static, or a --recipe")
    recipe = targets.recipe or Recipe(targets.schemes[0])
    if recipe.schemes == ("float32",):
        raise PlanError("float32 quantizes nothing: give another scheme, such as -q int8-static")
    return recipe


def _work(runner: Runner, plan: ArtifactPlan) -> ConversionContext:
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
class _Found:
    """One engine's part of the report."""

    sensed: Sensitivity
    whole: Trial
    figures: tuple[Figures, ...]


def _sense_one(context: ConversionContext, recipe: Recipe, engine: str, *, exact: bool) -> _Found:
    lowered = stages.verify_float(context, stages.lower(context, engine), (recipe.scheme,))
    sensed = stages.measure_sensitivity(context, lowered, recipe)
    whole = Trial(sensed.model_db)
    if exact or context.evaluation:
        whole = _tried(context, lambda: stages.quantize(context, lowered, recipe))
    figures = [
        Figures(harm, share)
        for harm, share in zip(sensed.layers, shares([harm.alone_db for harm in sensed.layers]), strict=True)
    ]
    if exact:
        figures = context.executor.map(partial(_exact, context, lowered, recipe), figures, lambda _: "")
    return _Found(sensed, whole, tuple(figures))


def _exact(
    context: ConversionContext, lowered: VerifiedArtifact, recipe: Recipe, figures: Figures, _reason: str
) -> Figures:
    layer = Rule(recipe.scheme, layers=(figures.harm.layer,))
    everything = Rule("float32", layers=("*",))
    alone = dataclasses.replace(recipe, rules=(everything, layer))
    kept = dataclasses.replace(recipe, rules=(*recipe.rules, dataclasses.replace(layer, scheme="float32")))
    return dataclasses.replace(
        figures,
        alone=_tried(context, lambda: stages.quantize(context, lowered, alone)),
        kept=_tried(context, lambda: stages.quantize(context, lowered, kept)),
    )


def _tried(context: ConversionContext, make: Callable[[], Artifact]) -> Trial:
    """Make an artifact and measure it; what a quantizer refuses of a single layer is no more than unknown."""
    try:
        artifact = make()
    except DiskFull:
        raise
    except ConversionError:
        return Trial()
    evaluation = stages.evaluate_artifact(context, artifact)
    return Trial(stages.compare(context, artifact).worst.snr_db, evaluation.value if evaluation else None)
