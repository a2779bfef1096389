"""Training, as pruning, distilling and converting ask for it: what may be asked, and the stages that answer."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgekit.conversion import stages
from edgekit.conversion.context import DataSplit
from edgekit.plan.data import DataPlan
from edgekit.plan.declaration import check_paths, flag, given
from edgekit.plan.options import TrainingOptions
from edgekit_converters.data import DataSet
from edgekit_converters.execution import stage_cache, toolchains
from edgekit_converters.execution.runner import Runner
from edgekit_converters.recipe.schemes import scheme
from edgekit_converters.records import PseudoLabelRequest, Source
from edgekit_converters.train import (
    TRAIN,
    Settings,
    TeacherOutputs,
    TeacherOutputsRequest,
    Trained,
    TrainRequest,
    augment,
    checkpoint,
)
from edgekit_converters.train.fake_quantize import ARITHMETICS
from edgekit_converters.train.teacher_outputs import TEACHER_OUTPUTS, check_pair
from edgekit_converters.verify.pseudo_labels import PSEUDO_LABEL
from edgekit_runtime.errors import PlanError
from edgekit_runtime.format.manifest import InputSpec

TRAINING, VALIDATION = DataSplit("training", 32, 1000), DataSplit("validation", 16, 200)
# what may differ when a training is gone on with: what was learned so far is worth as much
FREE = ("epochs", "learning_rate", "schedule", "warm_up", "patience")
# field of Settings: the option that sets it, where their names differ
RENAMED = {"warm_up": "warmup_epochs", "teacher_share": "distillation_weight", "hints": "attention_transfer"}
# option: field of Settings
SETTINGS = {
    RENAMED.get(field.name, field.name): field.name
    for field in dataclasses.fields(Settings)
    if field.name not in ("sparsity", "keep")  # set by options of pruning
}


@dataclass(frozen=True)
class TrainingPlan:
    """A training, and its data."""

    data: str
    settings: Settings
    validate: str | None = None  # data that say which epoch was best; without, a part of ``data``
    resume: bool = False
    log_dir: str | None = None
    wandb: str | None = None


@dataclass(frozen=True)
class Teacher:
    """A model to learn from."""

    source: Source
    inputs: tuple[InputSpec, ...]  # with its preprocessing


@dataclass(frozen=True)
class TrainingData:
    """What a student learns from, as it takes it."""

    inputs: tuple[InputSpec, ...]  # of the student, with preprocessing
    data: DataSet
    held_out: DataSet | None = None


def plan_training(options: TrainingOptions) -> TrainingPlan | None:
    """Return the training that the options describe; None where there are no training data.

    Raises:
        PlanError: options of a training are given without training data, or contradict each other.
        DataError: the data are not there.
        ToolchainError: Weights & Biases is not installed.
    """
    typed = {one.name: getattr(options, one.name) for one in given(options)}
    if options.train is None:
        for name in typed:
            raise PlanError(f"{flag(name)} needs --train DATA to train on")
        return None
    check_paths(options)
    if options.log_dir and Path(options.log_dir).exists() and not Path(options.log_dir).is_dir():
        raise PlanError(f"--log-dir {options.log_dir}: is a file; give a folder")
    if options.wandb:
        toolchains.require_modules(("wandb",), ("wandb",), "train")
    if options.quantize_aware:
        typed["quantize_aware"] = trainable_scheme(options.quantize_aware)
        if options.mixed_precision:
            raise PlanError("--mixed-precision already rounds to 8 bits, which hides --quantize-aware: leave one out")
    return TrainingPlan(
        options.train,
        Settings(**{SETTINGS[name]: value for name, value in typed.items() if name in SETTINGS}),
        options.validate,
        options.resume,
        str(Path(options.log_dir).absolute()) if options.log_dir else None,
        options.wandb,
    )


def trainable_scheme(name: str) -> str:
    """Return the scheme of a name, if training can simulate its arithmetic.

    Raises:
        PlanError: the scheme is unknown, or its rounding is too small to train for.
    """
    found = scheme(name).name
    if found not in ARITHMETICS:
        known = ", ".join(ARITHMETICS)
        raise PlanError(f"--quantize-aware {name}: {found} rounds too little to train for; use one of {known}")
    return found


def quantize_aware_text(training: TrainingPlan | None) -> str:
    """Return the option of quantization-aware training as typed; empty without it."""
    scheme = training.settings.quantize_aware if training else None
    return f"{flag('quantize_aware')} {scheme}" if scheme else ""


def material(runner: Runner, plan: DataPlan, inputs: tuple[InputSpec, ...], training: TrainingPlan) -> TrainingData:
    """Prepare the data, for a student that takes ``inputs``.

    Raises:
        DataError: they do not fit it, or are no images but were to be augmented.
    """
    augment.check(training.settings.augment, inputs)
    data = stages.prepare_data(runner, plan, inputs, training.data, TRAINING)
    assert data is not None
    return TrainingData(inputs, data, stages.prepare_data(runner, plan, inputs, training.validate, VALIDATION))


def train(
    runner: Runner,
    training: TrainingPlan,
    student: Source,
    material: TrainingData,
    teacher: Teacher | None = None,
    *,
    begin: bool = False,
) -> Trained:
    """Train a student, after the teacher has answered every sample; both may be of any framework that can.

    Checkpoints are kept in the cache, by what is trained on what, and are gone when all epochs are done.

    Args:
        runner: of the command.
        training: what was asked.
        student: the model to be trained.
        material: what it learns from.
        teacher: the model it learns to answer like.
        begin: ``--resume`` begins where there is nothing to go on with: this is one of several trainings.

    Raises:
        PlanError: ``--resume`` without anything to go on with, or a teacher of another kind of model.
        EdgekitError: a stage refused.
    """
    settings = training.settings
    if settings.hints and teacher is None:
        raise PlanError("--attention-transfer needs a teacher, and there is none")
    lessons = None
    if teacher and (settings.teacher_share or settings.hints or material.data.labels is None):
        check_pair(teacher.source, student)
        lessons = _taught(runner, settings, material, teacher)
        material = dataclasses.replace(material, held_out=_labelled(runner, material, teacher))
    request = TrainRequest(
        student, material.inputs, student.outputs, material.data, settings, lessons, material.held_out
    )
    folder = _checkpoints(request, teacher, resume=training.resume, begin=begin)
    request = dataclasses.replace(request, checkpoints=str(folder), log_dir=training.log_dir, wandb=training.wandb)
    trained = runner.run(TRAIN, request)
    shutil.rmtree(folder, ignore_errors=True)
    return trained


def _taught(runner: Runner, settings: Settings, material: TrainingData, teacher: Teacher) -> TeacherOutputs:
    request = TeacherOutputsRequest(
        teacher.source,
        teacher.inputs,
        material.inputs,
        material.data,
        settings.augment,
        augment.variants(settings),
        settings.seed,
        settings.hints,
    )
    return runner.run(TEACHER_OUTPUTS, request)


def _labelled(runner: Runner, material: TrainingData, teacher: Teacher) -> DataSet | None:
    """The held-out data, with the teacher's answers where they have no labels."""
    held = material.held_out
    if held is None or held.labels is not None:
        return held
    return runner.run(PSEUDO_LABEL, PseudoLabelRequest(teacher.source, teacher.inputs, held), "teacher")


def lasting(settings: Settings) -> Settings:
    """The settings without those that may differ when a training is gone on with."""
    return dataclasses.replace(settings, **{name: getattr(Settings, name) for name in FREE})


def nothing_there() -> PlanError:
    """The error of a training that is to be gone on with, and of which nothing is there."""
    may_differ = ", ".join(flag(RENAMED.get(name, name)) for name in FREE)
    return PlanError(
        "--resume: there is no checkpoint of this training; model, data and settings must be the same, only "
        f"{may_differ} may differ. Leave out --resume to start, or if the training had finished"
    )


def _checkpoints(request: TrainRequest, teacher: Teacher | None, *, resume: bool, begin: bool) -> Path:
    """The folder of what is trained on what; the teacher stands for its lessons, which are more for more epochs.

    Raises:
        PlanError: it is to be gone on with, and nothing is there.
    """
    what = dataclasses.replace(request, settings=lasting(request.settings), lessons=None)
    folder = stage_cache.cache_root() / "training" / stage_cache.key("train", (what, teacher), {})
    if resume and not begin and not checkpoint.exists(folder):
        raise nothing_there()
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    return folder
