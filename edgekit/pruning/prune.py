"""Prune and recover, round after round: a straight function from a dense model to one that meets its goal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from edgekit.conversion.context import ConversionContext
from edgekit.pruning.checkpoints import Memory
from edgekit.pruning.options import PruningPlan, measured_in
from edgekit.pruning.search import GoalMeter, PruningResult, PruningTask, opened, reach
from edgekit.training import training as trainings
from edgekit.training.training import Teacher, TrainingData, TrainingPlan
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
from edgekit_converters.prune.channel_selection import Baseline, ChannelScores, Goal, read, widths_after
from edgekit_converters.prune.cost_terms import Term, spread, terms_of, total
from edgekit_converters.prune.latency.profile import TIME_LAYERS, TimeLayersRequest
from edgekit_converters.prune.latency.table import Table
from edgekit_converters.prune.magnitude_sparsity import SPARSIFY, SparsifyRequest
from edgekit_converters.records import Source
from edgekit_converters.train import SparseLayer, Trained
from edgekit_runtime.errors import ConversionError, PlanError, SourceError

SCORED, MENDED = 512, 256  # samples: that gradients are averaged over, that layers are mended with
UNMENDED = (
    "pruning: there are no data to recover with, so accuracy will have suffered; give --train DATA, or --calibrate "
    "DATA at least"
)


@dataclass(frozen=True)
class PrunedModel:
    """A pruned model, and how it came to be."""

    source: Source
    dense: PruningGraph | None  # none where only weights go, and the model's computation cannot be followed
    left: PruningGraph | None  # the same after everything but the last cuts
    widths: dict[str, int]  # of the groups of ``left``, after them
    importance: str
    counted: float  # part left of what the goal is counted in
    measured: float | None  # part left of the time or size, before training
    gauge: str  # what that was measured in
    trained: tuple[Trained, ...]  # a round each
    notes: tuple[str, ...]
    thinned: tuple[SparseLayer, ...] = ()  # layers that were made sparse
    dropped: tuple[str, ...] = ()  # branches that went whole
    memory: Memory | None = None  # of what was chosen, for a run that goes on with this one


def slim(context: ConversionContext, pruning: PruningPlan) -> PrunedModel:
    """Prune the model of ``context`` until the goal is met, and recover what that cost.

    Raises:
        PlanError: the goal is out of reach, nothing may be cut, or a latency table is of another engine.
        EdgekitError: a stage refused.
    """
    training = pruning.training
    material = trainings.material(context.runner, context.data, context.inputs, training) if training else None
    made = _cut(context, pruning, pruning.goal, material) if pruning.goal else _thinned_only(context, pruning, material)
    if material:
        said = {note for data in (context.calibration, context.evaluation) if data for note in data.notes}
        told = tuple(f"training: {note}" for note in material.data.notes if note not in said)
        made = replace(made, notes=(*told, *made.notes))
    if pruning.sparsity and not made.trained:  # training has made it sparse
        made = _thinned(context, pruning, pruning.sparsity, made)
    if made.thinned and pruning.goal is None:
        left = 1 - sum(one.zeros for one in made.thinned) / sum(one.weights for one in made.thinned)
        made = replace(made, counted=left)
    return made


def _cut(context: ConversionContext, pruning: PruningPlan, whole: Goal, material: TrainingData | None) -> PrunedModel:
    """Rounds of cutting and recovering; the last of which makes sparse, too."""
    training = pruning.training
    importance = pruning.importance or ("taylor" if material or context.calibration else "l2")
    dense, source = _dissected(context, context.source), context.source
    terms_at, gauge = _measures(context, pruning, whole, dense)
    cost = Baseline(dense.widths, total(terms_at(dense), dense.widths))
    look = _Look(context, material, importance, training.settings.seed if training else 0)
    memory = Memory(context, pruning)
    reached: list[PruningResult] = []
    trained: list[Trained] = []
    for number in range(1, pruning.rounds + 1):
        one = memory.recall(number, source)
        if one is None:
            goal = replace(whole, left=whole.left ** (number / pruning.rounds))
            held = gauge if number == pruning.rounds else None  # on the way there, counting is enough
            job = PruningTask(context, source, look, terms_at, cost, pruning.limits, pruning.depth, held)
            one = memory.keep(number, reach(job, goal))
        reached.append(one)
        source = _mended(context, one, material)
        if training and material:
            last = number == pruning.rounds
            asked = training if last else _dense(training)
            trained.append(_trained(context, asked, source, material, begin=True))
            source = opened(context, trained[-1].request)
    left = _dissected(context, reached[-1].before)
    return PrunedModel(
        source=source,
        dense=dense,
        left=left,
        widths=widths_after(left, reached[-1].cuts),
        importance=importance,
        counted=reached[-1].counted,
        measured=reached[-1].measured,
        gauge=f"{gauge.engine} {gauge.scheme}" if gauge else "",
        trained=tuple(trained),
        notes=() if material or context.calibration else (UNMENDED,),
        thinned=trained[-1].thinned if trained else (),
        dropped=tuple(name for one in reached for name in one.dropped),
        memory=memory,
    )


def _thinned_only(context: ConversionContext, pruning: PruningPlan, material: TrainingData | None) -> PrunedModel:
    """A model of which nothing is cut; training makes it sparse."""
    trained = (_trained(context, pruning.training, context.source, material),) if pruning.training and material else ()
    try:
        dense = _dissected(context, context.source)
    except SourceError:  # which says what can be cut, and how much there is to compute
        dense = None
    return PrunedModel(
        source=opened(context, trained[0].request) if trained else context.source,
        dense=dense,
        left=dense,
        widths=dense.widths if dense else {},
        importance="l1",
        counted=1.0,
        measured=None,
        gauge="",
        trained=trained,
        notes=() if material or context.calibration else (UNMENDED,),
        thinned=trained[0].thinned if trained else (),
    )


def _thinned(context: ConversionContext, pruning: PruningPlan, sparsity: str, made: PrunedModel) -> PrunedModel:
    """Set weights to zero at once, where there is no training to do it."""
    data = _some(context, context.calibration, MENDED)
    request = SparsifyRequest(made.source, sparsity, pruning.limits.keep, context.inputs, data)
    sparse = context.runner.run(SPARSIFY, request)
    notes = (*made.notes, *(f"pruning: {note}" for note in sparse.notes))
    return replace(made, source=opened(context, sparse.request), thinned=sparse.thinned, notes=notes)


def _trained(
    context: ConversionContext, training: TrainingPlan, source: Source, material: TrainingData, *, begin: bool = False
) -> Trained:
    return trainings.train(
        context.runner, training, source, material, Teacher(context.source, context.inputs), begin=begin
    )


def _dense(training: TrainingPlan) -> TrainingPlan:
    """The training of a round that is not the last: a layer may still lose its channels."""
    return replace(training, settings=replace(training.settings, sparsity=None, keep=()))


def _dissected(context: ConversionContext, source: Source) -> PruningGraph:
    return context.runner.run(ANALYZE, AnalyzeRequest(source))


@dataclass(frozen=True)
class _Look:
    """What of a model can be cut, and what that is worth."""

    context: ConversionContext
    material: TrainingData | None
    importance: str
    seed: int

    def __call__(self, source: Source) -> tuple[PruningGraph, ChannelScores]:
        """Look at the model of this work as it has become."""
        data = _some(self.context, self.material.data if self.material else self.context.calibration, SCORED)
        request = ScoreRequest(source, self.context.inputs, self.importance, data, self.seed)
        scores = self.context.runner.run(SCORE, request)
        return _dissected(self.context, source), read(scores, self.importance)


def _mended(context: ConversionContext, reached: PruningResult, material: TrainingData | None) -> Source:
    """What was cut, repaired towards what it was, where there are data."""
    data = _some(context, context.calibration or (material.data if material else None), MENDED)
    if data is None or not (reached.cuts or reached.dropped):
        return reached.source
    request = RecalibrateRequest(reached.source, context.inputs, data, reached.before, reached.cuts)
    return opened(context, context.runner.run(RECALIBRATE, request))


def _some(context: ConversionContext, data: DataSet | None, count: int) -> DataSet | None:
    if data is None or data.count <= count:
        return data
    return context.runner.run(SUBSET, SubsetRequest(data, count, "a part"), "pruning")


def _measures(
    context: ConversionContext, pruning: PruningPlan, goal: Goal, dense: PruningGraph
) -> tuple[Callable[[PruningGraph], tuple[Term, ...]], GoalMeter | None]:
    """What the goal is counted in, and what it is measured with; another machine's times cannot be measured here."""
    measure, (engine, scheme) = (
        goal.measure,
        measured_in(context.targets, calibrated=context.data.calibrate is not None),
    )
    gauge = (
        GoalMeter(context, measure, engine, scheme) if measure in ("latency", "size") and not pruning.table else None
    )
    if measure != "latency":
        return lambda anatomy: terms_of(measure, anatomy), gauge
    if pruning.table and pruning.table.engine != engine:
        raise PlanError(
            f"--latency-table is of {pruning.table.engine}, and what is pruned will run in {engine}\n"
            f"make the table for the same device, or choose the --device it was made for"
        )
    table = pruning.table or _tabulated(context, pruning, dense, GoalMeter(context, measure, engine, scheme))
    rest = table.rest(dense)

    def terms(anatomy: PruningGraph) -> tuple[Term, ...]:
        layers = terms_of(measure, anatomy, table.clock(anatomy, anatomy.widths | dense.widths))
        return (*layers, *spread(rest, anatomy, dense))

    return terms, gauge


def _tabulated(context: ConversionContext, pruning: PruningPlan, dense: PruningGraph, gauge: GoalMeter) -> Table:
    """The times of this model's layers on this machine, written where the user wants them."""
    scheme = "int8-static" if gauge.scheme == "int8-static" else "float32"  # what layers are timed in alone
    request = TimeLayersRequest(dense, gauge.artifact(context.source), scheme)
    table = context.runner.run(TIME_LAYERS, request, gauge.engine)
    if pruning.write_table:
        try:
            pruning.write_table.write_text(table.to_json(), encoding="utf-8")
        except OSError as error:
            raise ConversionError(
                f"{pruning.write_table} cannot be written: {error.strerror or error}",
                stage=TIME_LAYERS.name,
                advice="give another place with --write-latency-table",
            ) from error
    return table
