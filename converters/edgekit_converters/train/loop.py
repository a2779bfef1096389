"""The training loop, independent of frameworks: epochs, the best of which is kept, checkpoints and logging."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgekit_converters.data.samples import Array
from edgekit_converters.execution.stage import Stage
from edgekit_converters.frameworks.loaded_model import Arrays
from edgekit_converters.progress import report_progress
from edgekit_converters.train import Epoch, TrainingResult, TrainRequest, augment, checkpoint, sparsity
from edgekit_converters.train.batches import Batch, BatchLoader, shuffled, split
from edgekit_converters.train.loggers import LogEpoch, open_loggers
from edgekit_converters.train.losses import Objective, as_column, build_objective
from edgekit_converters.train.schedules import learning_rate
from edgekit_converters.train.sparsity import SparsityTraining
from edgekit_converters.train.student import State, Student, open_student
from edgekit_converters.train.validation import Validator, validator_for
from edgekit_runtime.errors import ConversionError, DataError, SourceError

HELD_OUT = 0.1  # fraction of the training data that is held out if no held-out data are given
MIN_SAMPLES = 8  # to train on
PROBE_SAMPLES = 64  # samples whose outputs decide the kind of loss
STATISTICS_SAMPLES = 2048  # samples for the final BatchNorm statistics


@dataclass
class Run:
    """The state of a running training."""

    request: TrainRequest
    student: Student
    objective: Objective
    loader: BatchLoader
    rows: Array  # of the samples to train on
    validator: Validator
    before: float = math.nan
    history: list[Epoch] = field(default_factory=list)
    best: int = 0
    best_value: float = math.nan
    best_weights: State = field(default_factory=dict)
    sparsity: SparsityTraining | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def batch_size(self) -> int:
        """Samples in a step; never more than there are."""
        return min(self.request.settings.batch_size, len(self.rows))

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return len(self.rows) // self.batch_size

    @property
    def patient(self) -> bool:
        """Whether the last improvement is recent enough to continue."""
        patience = self.request.settings.patience
        waits = self.sparsity is not None and not self.best  # no sparse epoch yet
        return not patience or waits or len(self.history) - self.best < patience

    def is_better(self, value: float, number: int) -> bool:
        """Tell whether an epoch is the best so far; with sparsity, only epochs with all zeros in place count."""
        if self.sparsity:
            sparse = self.sparsity.done(number * self.steps)
            return sparse and (not self.best or self.validator.better(value, self.best_value))
        return self.validator.better(value, self.best_value)


def train(request: TrainRequest, folder: Path) -> TrainingResult:
    """Train the student, and return it as after its best epoch.

    Raises:
        DataError: the data do not fit the model, or labels are out of range.
        SourceError: the student cannot be trained.
        ConversionError: the loss is NaN or infinite; the message says when, and where the last good state is.
    """
    augment.check(request.settings.augment, request.inputs)
    with closing(open_student(request.student, request.settings)) as student:
        run = _set_up(request, student)
        _start_or_resume(run)
        with open_loggers(request, run.validator.metric) as log:
            for number in range(len(run.history) + 1, request.settings.epochs + 1):
                if not run.patient:
                    break
                _epoch(run, number, log)
        if len(run.history) < request.settings.epochs:
            run.notes.append(f"stopped after epoch {len(run.history)}: no improvement since epoch {run.best}")
        return _finish(run, folder)


TRAIN = Stage(train, toolchain=lambda request: request.student.toolchain)


def _set_up(request: TrainRequest, student: Student) -> Run:
    """Create the batch loader, the objective and the validator."""
    settings = request.settings
    whole = augment.Augmentation(settings.augment, settings.seed, request.data.count)
    loader = BatchLoader(request.data, request.inputs, whole, request.teacher_outputs)
    loader.labels = as_column(loader.labels, request.outputs[0])
    rows, held = _rows(request)
    probe = loader.batch(rows[:PROBE_SAMPLES])
    objective = build_objective(request, loader.labels, student.run(probe.inputs), probe.answers)
    student.set_objective(objective)
    run = Run(
        request,
        student,
        objective,
        loader,
        rows,
        validator_for(request, objective, loader, held),
        notes=[*student.notes],
    )
    if settings.sparsity:
        steps = sparsity.schedule(settings.epochs * run.steps)
        run.sparsity = SparsityTraining(sparsity.read(settings.sparsity), student, steps, settings.keep)
        run.notes += run.sparsity.notes
    return run


def _rows(request: TrainRequest) -> tuple[Array, Array]:
    """Return the rows to train on, and those held out.

    Raises:
        DataError: hardly any are left.
    """
    count = request.data.count
    rows, held = split(count, HELD_OUT, request.settings.seed) if count > 1 else (np.arange(count), np.arange(0))
    if request.held_out:
        rows, held = np.arange(count), np.arange(0)
    if len(rows) < MIN_SAMPLES:
        raise DataError(f"{count} training samples are too few; give at least several hundred")
    return rows, held


def _start_or_resume(run: Run) -> None:
    folder = run.request.checkpoints
    if folder and checkpoint.exists(folder):
        saved = checkpoint.read(folder)
        run.student.restore({name: array for name, array in saved.now.items() if not name.startswith(sparsity.MASKS)})
        if run.sparsity:
            run.sparsity.restore(saved.now)
        run.before, run.history = saved.before, list(saved.history)
        run.best, run.best_value, run.best_weights = saved.best, saved.best_value, saved.best_weights
        run.notes.append(f"resumed after epoch {len(run.history)}")
        return
    run.before = run.best_value = run.validator.value(run.student.run)
    if not math.isfinite(run.before):
        raise SourceError(
            f"{run.request.student.request.path}: the model computes NaN or infinity for held-out samples before the "
            f"training; check its weights and the preprocessing of the data"
        )
    run.best_weights = _weights(run.student)


def _epoch(run: Run, number: int, log: LogEpoch) -> None:
    """Train for one epoch, validate, and log the result."""
    started = time.monotonic()
    settings = run.request.settings
    run.student.start_epoch(number)
    total, rate = 0.0, 0.0
    for index, batch in enumerate(_batches(run, number)):
        rate = learning_rate(settings, (number - 1) * run.steps + index, run.steps)
        loss = run.student.step(batch, rate)
        if not math.isfinite(loss):
            raise _diverged(run, f"the loss is {loss} at step {index + 1} of {run.steps} of epoch {number}")
        if run.sparsity:
            run.sparsity.after((number - 1) * run.steps + index + 1)
        total += loss
        _report(run, number, index + 1, total / (index + 1))
    value = run.validator.value(run.student.run)
    if not math.isfinite(value):
        raise _diverged(run, f"after epoch {number} the model computes NaN or infinity for held-out samples")
    epoch = Epoch(number, total / run.steps, value, rate, round(time.monotonic() - started, 3))
    run.history.append(epoch)
    if run.is_better(value, number):
        run.best, run.best_value, run.best_weights = number, value, _weights(run.student)
    _save_checkpoint(run)
    log(epoch)


def _batches(run: Run, number: int) -> Iterator[Batch]:
    """Yield the batches of an epoch in their variant, with the teacher's outputs."""
    settings = run.request.settings
    variant = (number - 1) % augment.variants(settings)
    for rows in shuffled(run.rows, run.batch_size, settings.seed, number):
        batch = run.loader.batch(rows, variant)
        labels = batch.inputs[0] if run.objective.reconstructs else batch.labels
        yield replace(batch, labels=labels, answers=run.objective.soften(batch.answers))


def _report(run: Run, number: int, step: int, loss: float) -> None:
    epochs = run.request.settings.epochs
    state = f"epoch {number}/{epochs}, loss {loss:.4f}"
    if run.history:
        state += f", {run.validator.metric.replace('_', ' ')} {run.history[-1].value:.4f}"
    report_progress((number - 1) * run.steps + step, epochs * run.steps, state)


def _save_checkpoint(run: Run) -> None:
    if run.request.checkpoints:
        now = run.student.state() | (run.sparsity.state() if run.sparsity else {})
        checkpoint.write(
            checkpoint.TrainingState(run.before, tuple(run.history), run.best, run.best_value, now, run.best_weights),
            run.request.checkpoints,
        )


def _diverged(run: Run, what: str) -> ConversionError:
    """Return the error of a training whose loss is not finite."""
    rate = run.request.settings.learning_rate
    advice = f"lower --learning-rate (it is {rate:g}), or lengthen --warmup-epochs"
    if run.history and run.request.checkpoints:
        path = Path(run.request.checkpoints) / checkpoint.NAME
        advice += (
            f"; with --resume beside it training goes on after epoch {len(run.history)}, whose state is kept in {path}"
        )
    return ConversionError(what, stage="train", advice=advice)


def _finish(run: Run, folder: Path) -> TrainingResult:
    """Restore the best epoch, average BatchNorm's statistics if that helps, and save."""
    student, value = run.student, run.best_value
    student.restore(run.best_weights)
    if student.estimate_statistics(_unaugmented(run)):
        estimated = run.validator.value(student.run)
        if run.validator.better(estimated, value):
            value = estimated
            run.notes.append("BatchNorm statistics were estimated again from training data")
        else:
            student.restore(run.best_weights)
    if run.best == 0:
        run.notes.append("no epoch improved the original model, which is kept")
    return TrainingResult(
        request=student.save(folder),
        metric=run.validator.metric,
        before=run.before,
        value=value,
        history=tuple(run.history),
        best=run.best,
        notes=tuple(run.notes),
        sparse_layers=run.sparsity.count_zeros() if run.sparsity else (),
    )


def _unaugmented(run: Run) -> Iterator[Arrays]:
    """Yield some of the training data without augmentation, in whole batches."""
    rows = run.rows[np.linspace(0, len(run.rows) - 1, min(STATISTICS_SAMPLES, len(run.rows))).astype(int)]
    for some in shuffled(rows, run.batch_size, run.request.settings.seed, 0):
        yield run.loader.batch(some).inputs


def _weights(student: Student) -> State:
    return {name: array for name, array in student.state().items() if not name.startswith("optimizer/")}
