"""``edgekit distill``: a student learns what a teacher answers, whatever framework the teacher is of."""

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
from edgekit.training.training import Teacher, TrainingPlan
from edgekit.version import __version__
from edgekit_converters.execution.runner import Runner, StageCost, Watch
from edgekit_converters.load import LOAD
from edgekit_converters.records import EvaluateRequest, Evaluation, Source
from edgekit_converters.train import Epoch, Settings, Trained
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
    """What the student learned. ``before`` and ``after`` are the student's."""

    edgekit: str
    student: str
    teacher: str
    model: SavedModelReport
    samples: int  # trained on, those held out among them
    metric: str  # on held-out samples
    before: float
    after: float
    best: int  # the epoch that is left; 0: the student as it came
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
    """Have the teacher answer, train the student, and write it.

    Raises:
        EdgekitError: a stage refused; nothing is left behind but the checkpoints of epochs that were finished.
    """
    started = time.monotonic()
    with open_model.start_runner(plan.execution, watch) as runner:
        student = _opened(runner, plan.student, plan.student_data)
        teacher = _opened(runner, plan.teacher, plan.teacher_data)
        saved = model_file.save(runner, student.source)
        output = model_file.place(plan.output, f"{plan.student.name}-distilled", saved)
        material = trainings.material(runner, plan.student_data, student.inputs, plan.training)
        before = _evaluated(runner, plan.student_data, student)
        known = _evaluated(runner, plan.teacher_data, teacher)
        trained = trainings.train(runner, plan.training, student.source, material, teacher)
        learned = dataclasses.replace(student.source, request=trained.request)
        after = _evaluated(runner, plan.student_data, Teacher(learned, student.inputs))
        file = model_file.save(runner, learned)
        model_file.put(file, output)
        return DistillReport(
            edgekit=__version__,
            student=plan.student.name,
            teacher=plan.teacher.name,
            model=model_file.told(file, output),
            samples=material.data.count,
            metric=trained.metric,
            before=trained.before,
            after=trained.value,
            best=trained.best,
            history=trained.history,
            evaluated={"teacher": known.value, "before": before.value, "after": after.value}
            if known and before and after
            else None,
            evaluation_metric=after.metric if after else None,
            settings=plan.training.settings,
            stages=tuple(runner.costs),
            wall_seconds=round(time.monotonic() - started, 3),
            notes=_notes(student.source, teacher.source, material.data.notes, trained),
        )


def _opened(runner: Runner, plan: ModelPlan, data: DataPlan) -> Teacher:
    source = runner.run(LOAD, plan.source, plan.name)
    return Teacher(source, open_model.with_preprocessing(source, data.preprocessing))


def _evaluated(runner: Runner, plan: DataPlan, model: Teacher) -> Evaluation | None:
    data = stages.prepare_data(runner, plan, model.inputs, plan.evaluate, EVALUATION)
    if data is None:
        return None
    request = EvaluateRequest(model.source, model.inputs, model.source.outputs, data, metric=plan.metric)
    return runner.run(EVALUATE, request, model.source.request.path.name)


def _notes(student: Source, teacher: Source, data: tuple[str, ...], trained: Trained) -> tuple[str, ...]:
    return (
        *(f"student: {note}" for note in student.notes),
        *(f"teacher: {note}" for note in teacher.notes),
        *(f"training: {note}" for note in (*data, *trained.notes)),
    )
