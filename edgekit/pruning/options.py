"""What may be asked of pruning, checked before anything starts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from edgekit.plan.options import PRUNING_KEYS, Options
from edgekit.plan.plan import Plan
from edgekit.training import training as trainings
from edgekit.training.training import Training, option
from edgekit_converters.prune import IMPORTANCES
from edgekit_converters.prune.channel_selection import Goal, Limits
from edgekit_converters.prune.cost_terms import MEASURES
from edgekit_converters.prune.latency.table import Table, read_table
from edgekit_converters.train import sparsity
from edgekit_runtime.errors import PlanError

MEASURED_IN = "int8-static"  # where there are data to quantize with: what a pruned model is for
WITH_SPARSITY = ("sparsity", "keep")  # of the options, what goes without cutting, too
CALIBRATION_SAMPLES = 500  # of the training data, where nothing was given to calibrate on


@dataclass(frozen=True)
class Pruning:
    """What was asked."""

    goal: Goal | None  # of cutting; without, there are only single weights to go
    sparsity: str | None  # "0.8", or "2:4"
    limits: Limits
    importance: str | None  # without, "taylor" where there are data, else "l2"
    rounds: int
    depth: bool  # whether residual branches may go whole
    table: Table | None  # of another machine
    write_table: Path | None
    training: Training | None

    @property
    def prunes(self) -> bool:
        """Whether anything is cut or becomes zero; else the model is only trained."""
        return self.goal is not None or self.sparsity is not None

    def __str__(self) -> str:
        sparse = f"--sparsity {self.sparsity}" if self.sparsity else None
        return " ".join(str(one) for one in (self.goal, sparse, trainings.aware(self.training)) if one)


def asked(options: Options) -> Pruning | None:
    """Return what pruning the options ask for; None where they do not.

    Raises:
        PlanError: a value is out of its range, or belongs to a pruning but there is none.
        DataError: a table is none.
    """
    training = trainings.asked(options)
    goal, sparse = _goal(options), _sparsity(options)
    if goal is None:
        typed = [name for name in PRUNING_KEYS if getattr(options, name) not in (None, False, ())]
        needless = [name for name in typed if not (sparse and name in WITH_SPARSITY)]
        if needless:
            raise PlanError(f"{option(needless[0])} goes with --prune R or --prune-to WHAT=R")
        aware = training is not None and training.settings.quantize_aware
        if sparse is None and training and not aware:
            raise PlanError(
                "--train goes with --prune R, --prune-to WHAT=R, --sparsity or --quantize-aware SCHEME: there is "
                "nothing to recover"
            )
        if sparse is None and not aware:
            return None
    if options.importance not in (None, *IMPORTANCES):
        raise PlanError(f"--importance {options.importance}: {', '.join(IMPORTANCES)}")
    if options.importance in ("taylor", "gradient") and not (options.train or options.calibrate):
        raise PlanError(f"--importance {options.importance} looks at gradients: give --train DATA or --calibrate DATA")
    rounds = 1 if options.rounds is None else options.rounds
    if type(rounds) is not int or rounds < 1:
        raise PlanError(f"--rounds {rounds}: 1 or more")
    if goal and goal.measure != "latency" and (options.latency_table or options.write_latency_table):
        raise PlanError("a latency table goes with --prune-to latency=R")
    if training and sparse:
        settings = dataclasses.replace(training.settings, sparsity=sparse, keep=options.keep)
        training = dataclasses.replace(training, settings=settings)
    return Pruning(
        goal,
        sparse,
        _limits(options),
        options.importance,
        rounds,
        _depth(options, goal, training),
        read_table(Path(options.latency_table)) if options.latency_table else None,
        Path(options.write_latency_table) if options.write_latency_table else None,
        training,
    )


def _sparsity(options: Options) -> str | None:
    if options.sparsity is None:
        return None
    sparsity.read(str(options.sparsity))
    return str(options.sparsity)


def _goal(options: Options) -> Goal | None:
    if options.prune is None and options.prune_to is None:
        return None
    if options.prune is not None and options.prune_to is not None:
        raise PlanError("--prune and --prune-to are two ways to say how much; take one")
    if options.prune is not None:
        if not 0 < options.prune < 1:
            raise PlanError(f"--prune {options.prune}: a part of the channels, above 0 and below 1, such as 0.5")
        return Goal("channels", 1 - options.prune)
    measure, _, text = str(options.prune_to).partition("=")
    try:
        left = float(text)
    except ValueError:
        left = 0.0
    if measure not in MEASURES[1:] or not 0 < left < 1:
        raise PlanError(
            f"--prune-to {options.prune_to}: what is to be left, above 0 and below 1: "
            f"{', '.join(f'{one}=0.5' for one in MEASURES[1:])}"
        )
    return Goal(measure, left)


def _depth(options: Options, goal: Goal | None, training: Training | None) -> bool:
    """Whether branches may go: what is left then has to be trained."""
    counted = goal is not None and goal.measure != "channels" and not options.per_layer
    if options.depth and not counted:
        raise PlanError("--depth goes with --prune-to WHAT=R, without --per-layer: only there is a choice to make")
    return counted and (training is not None if options.depth is None else options.depth)


def _limits(options: Options) -> Limits:
    floor = Limits.floor if options.floor is None else options.floor
    if not 0 <= floor < 1:
        raise PlanError(f"--floor {floor}: the least part left of a layer, 0 or more and below 1")
    if options.round_to is not None and not (type(options.round_to) is int and options.round_to >= 1):
        raise PlanError(f"--round-to {options.round_to}: 1 or more")
    return Limits(floor, options.round_to, options.keep, options.per_layer)


def with_calibration(options: Options) -> Options:
    """Calibrate on training data where nothing else was given: what is pruned is quantized to be timed."""
    goals = (options.prune, options.prune_to, options.sparsity, options.quantize_aware)
    if options.train is None or options.calibrate or goals == (None,) * len(goals):
        return options
    samples = CALIBRATION_SAMPLES if options.samples is None else options.samples
    return dataclasses.replace(options, calibrate=options.train, samples=samples)


def timed_in(plan: Plan) -> tuple[str, str]:
    """Engine and scheme that times and sizes are of: what the first device would rather run, int8 where it can."""
    first = plan.variants[0]
    schemes = plan.schemes_of(first.engine)
    able = MEASURED_IN in schemes and plan.calibrate is not None
    return first.engine, MEASURED_IN if able else "float32" if plan.race else schemes[0]
