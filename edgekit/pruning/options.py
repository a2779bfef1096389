"""Options -> PruningPlan, before anything starts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from edgekit.plan.option_declaration import given_options
from edgekit.plan.options import ConversionOptions, DataOptions, PruningOptions, TrainingOptions
from edgekit.plan.plan import ConversionPlan, plan_conversion
from edgekit.plan.targets import TargetPlan
from edgekit.training.training import TrainingPlan, plan_training, quantize_aware_text
from edgekit_converters.prune.channel_selection import Goal, Limits
from edgekit_converters.prune.cost_terms import MEASURES
from edgekit_converters.prune.latency.table import LatencyTable, read_table
from edgekit_converters.train import sparsity as magnitude
from edgekit_runtime.errors import PlanError

MEASURED_IN = "int8-static"  # with data to calibrate on
WITH_SPARSITY = ("sparsity", "exclude_layer")  # options that do not need a goal
CALIBRATION_SAMPLES = 500  # of the training data, without --calibrate


@dataclass(frozen=True)
class PruningPlan:
    """How to prune, and how to recover."""

    goal: Goal | None  # None: no channels are pruned
    sparsity: str | None  # "0.8", or "2:4"
    limits: Limits
    importance: str | None  # None: "taylor" with data, else "l2"
    rounds: int
    depth: bool  # whether residual branches may be removed
    table: LatencyTable | None  # of another machine
    write_table: Path | None
    training: TrainingPlan | None

    @property
    def prunes(self) -> bool:
        """Whether channels or weights are pruned; otherwise the model is only trained."""
        return self.goal is not None or self.sparsity is not None

    def __str__(self) -> str:
        sparse = f"--sparsity {self.sparsity}" if self.sparsity else None
        return " ".join(str(one) for one in (self.goal, sparse, quantize_aware_text(self.training)) if one)


def plan_pruning(options: PruningOptions, training_options: TrainingOptions, data: DataOptions) -> PruningPlan | None:
    """Return the pruning that the options describe; None where they describe none.

    Raises:
        PlanError: options contradict each other, or belong to a pruning but there is none.
        DataError: the latency table cannot be read.
    """
    training = plan_training(training_options)
    goal, sparsity = _goal(options), _sparsity(options)
    if goal is None:
        _refuse_without_goal(options)
        quantize_aware = training is not None and training.settings.quantize_aware
        if sparsity is None and training and not quantize_aware:
            raise PlanError(
                "--train goes with --prune R, --prune-to GOAL=R, --sparsity or --quantize-aware SCHEME: there is "
                "nothing to recover"
            )
        if sparsity is None and not quantize_aware:
            return None
    if options.importance in ("taylor", "gradient") and not (training_options.train or data.calibrate):
        raise PlanError(f"--importance {options.importance} uses gradients: give --train DATA or --calibrate DATA")
    if goal and goal.measure != "latency" and (options.latency_table or options.write_latency_table):
        raise PlanError("a latency table goes with --prune-to latency=R")
    if training and sparsity:
        settings = dataclasses.replace(training.settings, sparsity=sparsity, keep=options.exclude_layer)
        training = dataclasses.replace(training, settings=settings)
    return PruningPlan(
        goal,
        sparsity,
        _limits(options),
        options.importance,
        options.rounds or 1,
        _depth(options, goal, training),
        read_table(Path(options.latency_table)) if options.latency_table else None,
        Path(options.write_latency_table) if options.write_latency_table else None,
        training,
    )


def _refuse_without_goal(options: PruningOptions) -> None:
    """Refuse options that need a goal; some also go with sparsity."""
    for one in given_options(options):
        if options.sparsity is None or one.name not in WITH_SPARSITY:
            raise PlanError(f"{one.flag} goes with --prune R or --prune-to GOAL=R")


def _sparsity(options: PruningOptions) -> str | None:
    if options.sparsity is None:
        return None
    magnitude.read(str(options.sparsity))
    return str(options.sparsity)


def _goal(options: PruningOptions) -> Goal | None:
    if options.prune is not None and options.prune_to is not None:
        raise PlanError("--prune and --prune-to both set a goal; give one")
    if options.prune is not None:
        return Goal("channels", 1 - options.prune)
    if options.prune_to is None:
        return None
    measure, _, text = options.prune_to.partition("=")
    try:
        left = float(text)
    except ValueError:
        left = 0.0
    if measure not in MEASURES[1:] or not 0 < left < 1:
        raise PlanError(
            f"--prune-to {options.prune_to}: expected a fraction to keep, above 0 and below 1: "
            f"{', '.join(f'{one}=0.5' for one in MEASURES[1:])}"
        )
    return Goal(measure, left)


def _depth(options: PruningOptions, goal: Goal | None, training: TrainingPlan | None) -> bool:
    """Tell whether residual branches may be removed; the rest of the model then needs training."""
    counted = goal is not None and goal.measure != "channels" and not options.per_layer
    if options.depth_pruning and not counted:
        raise PlanError("--depth-pruning goes with --prune-to GOAL=R, without --per-layer: it ranks the whole model")
    return counted and (training is not None if options.depth_pruning is None else options.depth_pruning)


def _limits(options: PruningOptions) -> Limits:
    min_ratio = Limits.min_ratio if options.min_channel_ratio is None else options.min_channel_ratio
    return Limits(min_ratio, options.round_to, options.exclude_layer, options.per_layer)


def plan_pruned_conversion(options: ConversionOptions) -> tuple[ConversionPlan, PruningPlan | None]:
    """Plan a conversion, and the pruning and training before it.

    Raises:
        PlanError: options contradict each other, or a file that they name is not there.
    """
    pruning = plan_pruning(options.pruning, options.training, options.data)
    data = calibration_data(options.data, options.pruning, options.training)
    return plan_conversion(dataclasses.replace(options, data=data)), pruning


def calibration_data(data: DataOptions, pruning: PruningOptions, training: TrainingOptions) -> DataOptions:
    """Return data options that calibrate on the training data if no other data do: a pruned model is quantized."""
    goals = (pruning.prune, pruning.prune_to, pruning.sparsity, training.quantize_aware)
    if training.train is None or data.calibrate or goals == (None,) * len(goals):
        return data
    samples = CALIBRATION_SAMPLES if data.samples is None else data.samples
    return dataclasses.replace(data, calibrate=training.train, samples=samples)


def measured_in(targets: TargetPlan, *, calibrated: bool) -> tuple[str, str]:
    """Return the engine and scheme that latency and size are measured in: of the first device, in int8 if possible.

    Args:
        targets: of the command.
        calibrated: whether there are calibration data.
    """
    first = targets.variants[0]
    schemes = targets.schemes_of(first.engine)
    if MEASURED_IN in schemes and calibrated:
        return first.engine, MEASURED_IN
    return first.engine, "float32" if targets.search else schemes[0]
