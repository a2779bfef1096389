"""The prune loop: rounds of pruning and fine-tuning, from the original model to one that meets its goal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from edgekit.conversion.context import ConversionContext
from edgekit.pruning.checkpoints import RoundCheckpoints
from edgekit.pruning.options import PruningPlan, measured_in
from edgekit.pruning.search import GoalMeter, PruningResult, PruningTask, load, meet_goal
from edgekit.training import training as trainings
from edgekit.training.training import OpenedModel, TrainingData, TrainingPlan
from edgekit_converters.data import SUBSET, DataSet, SubsetRequest
from edgekit_converters.prune import (
    ANALYZE,
    RECALIBRATE,
    SCORE,
    AnalyzeRequest,
    PruningGraph,
    RecalibrateRequest,
    ScoreRequest,
)
from edgekit_converters.prune.channel_selection import Baseline, ChannelScores, Goal, read_scores, widths_after
from edgekit_converters.prune.cost_terms import Term, overhead_terms, terms_of, total
from edgekit_converters.prune.latency.profile import TIME_LAYERS, TimeLayersRequest
from edgekit_converters.prune.latency.table import LatencyTable
from edgekit_converters.prune.magnitude_sparsity import SPARSIFY, SparsifyRequest
from edgekit_converters.records import Source
from edgekit_converters.train import SparseLayer, TrainingResult
from edgekit_runtime.errors import ConversionError, PlanError, SourceError

SCORE_SAMPLES = 512  # that gradients are averaged over
RECALIBRATION_SAMPLES = 256
NO_DATA = (
    "pruning: there are no data to recover the accuracy with; give --train DATA, or at least --calibrate DATA without "
    "labels"
)


@dataclass(frozen=True)
class PrunedModel:
    """A pruned model, and how it was pruned."""

    source: Source
    original: PruningGraph | None  # None with sparsity alone, if the model cannot be analyzed
    last: PruningGraph | None  # the model before the cuts of the last round
    widths: dict[str, int]  # channels of the groups of ``last`` after these cuts
    importance: str
    counted: float  # fraction left of what the goal counts
    measured: float | None  # fraction left of the latency or size, before training
    measured_in: str  # engine and scheme of ``measured``; empty without
    trained: tuple[TrainingResult, ...]  # one for each round
    notes: tuple[str, ...]
    sparse: tuple[SparseLayer, ...] = ()
    dropped: tuple[str, ...] = ()  # residual branches that were removed
    checkpoints: RoundCheckpoints | None = None  # to be removed when the result is written


def prune_model(context: ConversionContext, pruning: PruningPlan) -> PrunedModel:
    """Prune the model of the context until the goal is met, and recover its accuracy.

    Raises:
        PlanError: the goal cannot be met, nothing can be pruned, or a latency table belongs to another engine.
        EdgekitError: a stage refused.
    """
    training = pruning.training
    data = trainings.prepare_training_data(context.runner, context.data, context.inputs, training) if training else None
    if pruning.goal:
        pruned = _prune_in_rounds(context, pruning, pruning.goal, data)
    else:
        pruned = _train_only(context, pruning, data)
    if data:
        known = {note for other in (context.calibration, context.evaluation) if other for note in other.notes}
        notes = tuple(f"training: {note}" for note in data.data.notes if note not in known)
        pruned = replace(pruned, notes=(*notes, *pruned.notes))
    if pruning.sparsity and not pruned.trained:  # training sparsifies the model itself
        pruned = _sparsify(context, pruning, pruning.sparsity, pruned)
    if pruned.sparse and pruning.goal is None:
        left = 1 - sum(layer.zeros for layer in pruned.sparse) / sum(layer.weights for layer in pruned.sparse)
        pruned = replace(pruned, counted=left)
    return pruned


def _prune_in_rounds(
    context: ConversionContext, pruning: PruningPlan, goal: Goal, data: TrainingData | None
) -> PrunedModel:
    """Prune and fine-tune in rounds; the training of the last round also sparsifies."""
    training = pruning.training
    importance = pruning.importance or ("taylor" if data or context.calibration else "l2")
    original, source = _analyze(context, context.source), context.source
    terms_at, meter = _goal_terms(context, pruning, goal, original)
    baseline = Baseline(original.widths, total(terms_at(original), original.widths))
    score = _Scorer(context, data, importance, training.settings.seed if training else 0)
    checkpoints = RoundCheckpoints(context, pruning)
    results: list[PruningResult] = []
    trained: list[TrainingResult] = []
    for number in range(1, pruning.rounds + 1):
        last = number == pruning.rounds
        result = checkpoints.load(number, source)
        if result is None:
            # before the last round it is enough to count
            task = PruningTask(
                context, source, score, terms_at, baseline, pruning.limits, pruning.depth, meter if last else None
            )
            result = meet_goal(task, replace(goal, left=goal.left ** (number / pruning.rounds)))
            checkpoints.save(number, result)
        results.append(result)
        source = _recalibrate(context, result, data)
        if training and data:
            plan = training if last else _without_sparsity(training)
            trained.append(_train(context, plan, source, data, begin=True))
            source = load(context, trained[-1].request)
    graph = _analyze(context, results[-1].before)
    return PrunedModel(
        source=source,
        original=original,
        last=graph,
        widths=widths_after(graph, results[-1].cuts),
        importance=importance,
        counted=results[-1].counted,
        measured=results[-1].measured,
        measured_in=f"{meter.engine} {meter.scheme}" if meter else "",
        trained=tuple(trained),
        notes=() if data or context.calibration else (NO_DATA,),
        sparse=trained[-1].sparse_layers if trained else (),
        dropped=tuple(name for result in results for name in result.dropped),
        checkpoints=checkpoints,
    )


def _train_only(context: ConversionContext, pruning: PruningPlan, data: TrainingData | None) -> PrunedModel:
    """Prune no channels; training may sparsify the model."""
    trained = (_train(context, pruning.training, context.source, data),) if pruning.training and data else ()
    try:
        graph = _analyze(context, context.source)
    except SourceError:  # it is needed only for parameters and MACs here
        graph = None
    return PrunedModel(
        source=load(context, trained[0].request) if trained else context.source,
        original=graph,
        last=graph,
        widths=graph.widths if graph else {},
        importance="l1",
        counted=1.0,
        measured=None,
        measured_in="",
        trained=trained,
        notes=() if data or context.calibration else (NO_DATA,),
        sparse=trained[0].sparse_layers if trained else (),
    )


def _sparsify(context: ConversionContext, pruning: PruningPlan, sparsity: str, pruned: PrunedModel) -> PrunedModel:
    """Set weights to zero at once, without training."""
    data = _subset(context, context.calibration, RECALIBRATION_SAMPLES)
    request = SparsifyRequest(pruned.source, sparsity, pruning.limits.keep, context.inputs, data)
    sparse = context.runner.run(SPARSIFY, request)
    notes = (*pruned.notes, *(f"pruning: {note}" for note in sparse.notes))
    return replace(pruned, source=load(context, sparse.request), sparse=sparse.sparse_layers, notes=notes)


def _train(
    context: ConversionContext, training: TrainingPlan, source: Source, data: TrainingData, *, begin: bool = False
) -> TrainingResult:
    teacher = OpenedModel(context.source, context.inputs)
    return trainings.train(context.runner, training, source, data, teacher, begin=begin)


def _without_sparsity(training: TrainingPlan) -> TrainingPlan:
    """Return the training of a round that is not the last: its layers may still lose channels."""
    return replace(training, settings=replace(training.settings, sparsity=None, keep=()))


def _analyze(context: ConversionContext, source: Source) -> PruningGraph:
    return context.runner.run(ANALYZE, AnalyzeRequest(source))


@dataclass(frozen=True)
class _Scorer:
    """Scores the channels of a model."""

    context: ConversionContext
    data: TrainingData | None
    importance: str
    seed: int

    def __call__(self, source: Source) -> tuple[PruningGraph, ChannelScores]:
        """Return the channel groups of a model, and their scores."""
        data = _subset(self.context, self.data.data if self.data else self.context.calibration, SCORE_SAMPLES)
        request = ScoreRequest(source, self.context.inputs, self.importance, data, self.seed)
        scores = self.context.runner.run(SCORE, request)
        return _analyze(self.context, source), read_scores(scores, self.importance)


def _recalibrate(context: ConversionContext, result: PruningResult, data: TrainingData | None) -> Source:
    """Fit the layers of the pruned model to the outputs that they had before, where there are data."""
    samples = _subset(context, context.calibration or (data.data if data else None), RECALIBRATION_SAMPLES)
    if samples is None or not (result.cuts or result.dropped):
        return result.source
    request = RecalibrateRequest(result.source, context.inputs, samples, result.before, result.cuts)
    return load(context, context.runner.run(RECALIBRATE, request))


def _subset(context: ConversionContext, data: DataSet | None, count: int) -> DataSet | None:
    if data is None or data.count <= count:
        return data
    return context.runner.run(SUBSET, SubsetRequest(data, count, "a part"), "pruning")


def _goal_terms(
    context: ConversionContext, pruning: PruningPlan, goal: Goal, original: PruningGraph
) -> tuple[Callable[[PruningGraph], tuple[Term, ...]], GoalMeter | None]:
    """Return the cost terms of the goal, and what measures it; latencies of another machine cannot be measured here."""
    engine, scheme = measured_in(context.targets, calibrated=context.data.calibrate is not None)
    meter = GoalMeter(context, goal.measure, engine, scheme)
    measured = meter if goal.measure in ("latency", "size") and not pruning.table else None
    if goal.measure != "latency":
        return lambda graph: terms_of(goal.measure, graph), measured
    if pruning.table and pruning.table.engine != engine:
        raise PlanError(
            f"--latency-table is of {pruning.table.engine}, but the pruned model runs in {engine}\n"
            f"make the table for the same device, or choose the --device that it was made for"
        )
    table = pruning.table or _time_layers(context, pruning, original, meter)
    rest = table.overhead_ms(original)

    def terms(graph: PruningGraph) -> tuple[Term, ...]:
        layers = terms_of(goal.measure, graph, table.layer_latency(graph, graph.widths | original.widths))
        return (*layers, *overhead_terms(rest, graph, original))

    return terms, measured


def _time_layers(
    context: ConversionContext, pruning: PruningPlan, graph: PruningGraph, meter: GoalMeter
) -> LatencyTable:
    """Time the layers of the model on this machine, and write the table if the plan has a path for it."""
    scheme = "int8-static" if meter.scheme == "int8-static" else "float32"  # that single layers are timed in
    request = TimeLayersRequest(graph, meter.artifact(context.source), scheme)
    table = context.runner.run(TIME_LAYERS, request, meter.engine)
    if pruning.write_table:
        try:
            pruning.write_table.write_text(table.to_json(), encoding="utf-8")
        except OSError as error:
            raise ConversionError(
                f"{pruning.write_table} cannot be written: {error.strerror or error}",
                stage=TIME_LAYERS.name,
                advice="give another path with --write-latency-table",
            ) from error
    return table
