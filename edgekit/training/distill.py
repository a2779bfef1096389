"""``edgekit distill``: train a student on the outputs of a teacher, of the same or another framework."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

from edgekit.conversion import open_model, stages
from edgekit.conversion.context import EVALUATION
from edgekit.plan.data import DataPlan, plan_data
from edgekit.plan.execution import ExecutionPlan, plan_execution
from edgekit.plan.model import ModelPlan, plan_model
from edgekit.plan.options import StudentOptions, TeacherOptions
from edgekit.training import model_file
from edgekit.training import training as trainings
from edgekit.training.model_file import SavedModelReport
from edgekit.training.training import OpenedModel, TrainingPlan
from edgekit.version import __version__
from edgekit_converters.execution.runner import Runner, StageCost, Watch
from edgekit_converters.load import LOAD
from edgekit_converters.records import EvaluateRequest, Evaluation, Source
from edgekit_converters.train import Epoch, Settings, TrainingResult
from edgekit_converters.verify.metrics import EVALUATE
from edgekit_runtime.errors import PlanError


@dataclass(frozen=True)
class DistillPlan:
    """A student, a teacher, and the training."""

    student: ModelPlan
    student_data: DataPlan
    teacher: ModelPlan
    teacher_data: DataPlan
    training: TrainingPlan
    output: Path | None  # None: the student's name with "-distilled"
    execution: ExecutionPlan


@dataclass(frozen=True)
class DistillReport:
    """The report of ``edgekit distill``. ``before`` and ``after`` are values of the student."""

    edgekit: str
    student: str
    teacher: str
    model: SavedModelReport
    samples: int  # for training, held-out ones included
    metric: str  # on held-out samples
    before: float
    after: float
    best: int  # epoch of the written model; 0 is the student before training
    history: tuple[Epoch, ...]
    evaluated: dict[str, float] | None  # with --evaluate: teacher, before, after
    evaluation_metric: str | None
    settings: Settings
    stages: tuple[StageCost, ...]
    wall_seconds: float
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"


def plan_distill(student: StudentOptions, teacher: TeacherOptions) -> DistillPlan:
    """Decide everything that can be decided without opening the models.

    Args:
        student: with the training and what is written.
        teacher: its model, and its own preprocessing. Its evaluation data are the student's.

    Raises:
        PlanError: options contradict each other, or there are no training data.
    """
    training = trainings.plan_training(student.training)
    if training is None:
        raise PlanError("distillation needs data: give --train DATA; labels are optional")
    if student.training.distillation_weight == 0:
        raise PlanError("--distillation-weight 0 ignores the teacher: give more than 0")
    trained, teaching = plan_model(student.model_input), plan_model(teacher.model_input)
    data = plan_data(student.data, student.preprocessing)
    teacher_data = dataclasses.replace(plan_data(teacher.data, teacher.preprocessing), evaluate=data.evaluate)
    output = model_file.requested_path(student, trained.source, teacher.model_input.model)
    execution = plan_execution(student.execution, engines=1)
    return DistillPlan(trained, data, teaching, teacher_data, training, output, execution)


def distill(plan: DistillPlan, watch: Watch | None = None) -> DistillReport:
    """Compute the teacher's outputs, train the student on them, and write it.

    Raises:
        EdgekitError: a stage refused; only the checkpoints of finished epochs are left.
    """
    started = time.monotonic()
    with open_model.start_runner(plan.execution, watch) as runner:
        student = _load(runner, plan.student, plan.student_data)
        teacher = _load(runner, plan.teacher, plan.teacher_data)
        saved = model_file.save_model(runner, student.source)
        output = model_file.output_path(plan.output, f"{plan.student.name}-distilled", saved)
        data = trainings.prepare_training_data(runner, plan.student_data, student.inputs, plan.training)
        before = _evaluate(runner, plan.student_data, student)
        of_teacher = _evaluate(runner, plan.teacher_data, teacher)
        trained = trainings.train(runner, plan.training, student.source, data, teacher)
        distilled = dataclasses.replace(student.source, request=trained.request)
        after = _evaluate(runner, plan.student_data, OpenedModel(distilled, student.inputs))
        file = model_file.save_model(runner, distilled)
        model_file.copy_to(file, output)
        return DistillReport(
            edgekit=__version__,
            student=plan.student.name,
            teacher=plan.teacher.name,
            model=model_file.report_saved(file, output),
            samples=data.data.count,
            metric=trained.metric,
            before=trained.before,
            after=trained.value,
            best=trained.best,
            history=trained.history,
            evaluated={"teacher": of_teacher.value, "before": before.value, "after": after.value}
            if of_teacher and before and after
            else None,
            evaluation_metric=after.metric if after else None,
            settings=plan.training.settings,
            stages=tuple(runner.costs),
            wall_seconds=round(time.monotonic() - started, 3),
            notes=_notes(student.source, teacher.source, data.data.notes, trained),
        )


def _load(runner: Runner, plan: ModelPlan, data: DataPlan) -> OpenedModel:
    source = runner.run(LOAD, plan.source, plan.name)
    return OpenedModel(source, open_model.with_preprocessing(source, data.preprocessing))


def _evaluate(runner: Runner, plan: DataPlan, model: OpenedModel) -> Evaluation | None:
    data = stages.prepare_data(runner, plan, model.inputs, plan.evaluate, EVALUATION)
    if data is None:
        return None
    request = EvaluateRequest(model.source, model.inputs, model.source.outputs, data, metric=plan.metric)
    return runner.run(EVALUATE, request, model.source.request.path.name)


def _notes(student: Source, teacher: Source, data: tuple[str, ...], trained: TrainingResult) -> tuple[str, ...]:
    return (
        *(f"student: {note}" for note in student.notes),
        *(f"teacher: {note}" for note in teacher.notes),
        *(f"training: {note}" for note in (*data, *trained.notes)),
    )
