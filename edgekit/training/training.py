"""Training, as pruning, distilling and converting ask for it: what may be asked, and the stages that answer."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.conversion import stages
from edgekit.conversion.stages import DataSplit
from edgekit.plan.options import Options, file_of
from edgekit.plan.plan import Plan
from edgekit_converters.data import DataSet
from edgekit_converters.execution import stage_cache, toolchains
from edgekit_converters.execution.runner import Runner
from edgekit_converters.load import LOADERS
from edgekit_converters.recipe.schemes import scheme
from edgekit_converters.records import AnswerRequest, Source
from edgekit_converters.train import (
    OPTIMIZERS,
    SCHEDULES,
    Settings,
    TeacherOutputs,
    TeachRequest,
    Trained,
    TrainRequest,
    augment,
    checkpoint,
)
from edgekit_converters.train.fake_quantize import ARITHMETICS
from edgekit_converters.train.teacher_outputs import check_pair
from edgekit_runtime.errors import DataError, PlanError
from edgekit_runtime.format.manifest import InputSpec

TRAINING, VALIDATION = DataSplit("training", 32, 1000), DataSplit("validation", 16, 200)
# what may differ when a training is gone on with: what was learned so far is worth as much
FREE = ("epochs", "learning_rate", "schedule", "warm_up", "patience")
# settings that are options of the same name
SETTINGS = tuple(
    field.name for field in dataclasses.fields(Settings) if field.name not in ("quantize", "sparsity", "keep")
)
ASKED = ("validate", "resume", "log_dir", "wandb", *SETTINGS)


@dataclass(frozen=True)
class Training:
    """What was asked."""

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


def asked(options: Options) -> Training | None:
    """Return what training the options ask for; None where there is nothing to train on.

    Raises:
        PlanError: a value is out of its range, or belongs to a training but there is none.
        DataError: the data are not there.
        ToolchainError: Weights & Biases is to be told and not installed.
    """
    typed = {name: getattr(options, name) for name in ASKED}
    given: dict[str, Any] = {  # a 0 was typed, too
        name: value for name, value in typed.items() if value is not None and value is not False and value != ()
    }
    if options.train is None:
        for name in given:
            raise PlanError(f"{option(name)} needs --train DATA to train on")
        return None
    for where, spec in (("--train", options.train), ("--validate", options.validate)):
        if spec and not file_of(spec).exists():
            raise DataError(f"{where} {spec}: no such file or folder")
    if options.log_dir and Path(options.log_dir).exists() and not Path(options.log_dir).is_dir():
        raise PlanError(f"--log-dir {options.log_dir}: is a file; give a folder")
    if options.wandb:
        toolchains.require_modules(("wandb",), ("wandb",), "train")
    if options.quantize_aware:
        given["quantize_aware"] = imitated(options.quantize_aware)
    settings = Settings(**{name: given[name] for name in SETTINGS if name in given})
    check(settings)
    return Training(
        options.train,
        settings,
        options.validate,
        options.resume,
        str(Path(options.log_dir).absolute()) if options.log_dir else None,
        options.wandb,
    )


def imitated(name: str) -> str:
    """Return the scheme of a name whose arithmetic training can imitate.

    Raises:
        PlanError: there is none of that name, or nothing of it to get used to.
    """
    found = scheme(name).name
    if found not in ARITHMETICS:
        raise PlanError(f"--quantize-aware {name}: {found} rounds next to nothing; one of {', '.join(ARITHMETICS)}")
    return found


def aware(training: Training | None) -> str:
    """How a training says what it imitates: empty where it imitates nothing."""
    scheme = training.settings.quantize_aware if training else None
    return f"{option('quantize_aware')} {scheme}" if scheme else ""


def check(settings: Settings) -> None:
    """Refuse settings no training can have.

    Raises:
        PlanError: naming the option.
    """
    for name, choices in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        if getattr(settings, name) not in choices:
            raise PlanError(f"{option(name)} {getattr(settings, name)}: {', '.join(choices)}")
    for name in settings.augment:
        if name not in augment.AUGMENTATIONS:
            raise PlanError(f"--augment {name}: {', '.join(augment.AUGMENTATIONS)}")
    if settings.quantize_aware and settings.mixed_precision:
        raise PlanError("--mixed-precision rounds to 8 bits itself, so that no integers can be imitated: leave it out")
    for name, (fits, wanted) in LIMITS.items():
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not fits(value):
            raise PlanError(f"{option(name)} {value}: wanted {wanted}")


def _whole(least: int) -> Callable[[float], bool]:
    return lambda value: isinstance(value, int) and value >= least


# setting: (does a number fit?, what would)
LIMITS: dict[str, tuple[Callable[[float], bool], str]] = {
    "epochs": (_whole(1), "a whole number of 1 or more"),
    "batch_size": (_whole(2), "a whole number of 2 or more: normalization needs some samples"),
    "patience": (_whole(0), "a whole number of epochs, 0 or more"),
    "seed": (_whole(0), "a whole number of 0 or more"),
    "learning_rate": (lambda value: 0 < value < math.inf, "a number above 0, such as 0.001"),
    "temperature": (lambda value: 0 < value < math.inf, "a number above 0, such as 4"),
    "warm_up": (lambda value: 0 <= value < math.inf, "a number of epochs, 0 or more"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "a number of 0 or more"),
    "teacher_share": (lambda value: 0 <= value <= 1, "a number from 0, labels alone, to 1, the teacher alone"),
}


def material(runner: Runner, plan: Plan, inputs: tuple[InputSpec, ...], training: Training) -> TrainingData:
    """Prepare the data, for a student that takes ``inputs``.

    Raises:
        DataError: they do not fit it, or are no images but were to be augmented.
    """
    augment.check(training.settings.augment, inputs)
    data = stages.prepare(runner, plan, inputs, training.data, TRAINING)
    assert data is not None
    return TrainingData(inputs, data, stages.prepare(runner, plan, inputs, training.validate, VALIDATION))


def train(
    runner: Runner,
    training: Training,
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
        raise PlanError("--hints are a teacher's: there is none")
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
    trained: Trained = runner.run("train", LOADERS[student.request.kind].toolchain, request)
    shutil.rmtree(folder, ignore_errors=True)
    return trained


def _taught(runner: Runner, settings: Settings, material: TrainingData, teacher: Teacher) -> TeacherOutputs:
    request = TeachRequest(
        teacher.source,
        teacher.inputs,
        material.inputs,
        material.data,
        settings.augment,
        augment.variants(settings),
        settings.seed,
        settings.hints,
    )
    lessons: TeacherOutputs = runner.run("teach", LOADERS[teacher.source.request.kind].toolchain, request)
    return lessons


def _labelled(runner: Runner, material: TrainingData, teacher: Teacher) -> DataSet | None:
    """The held-out data, with the teacher's answers where they have no labels."""
    held = material.held_out
    if held is None or held.labels is not None:
        return held
    request = AnswerRequest(teacher.source, teacher.inputs, held)
    answered: DataSet = runner.run("answer", LOADERS[teacher.source.request.kind].toolchain, request, "teacher")
    return answered


def lasting(settings: Settings) -> Settings:
    """The settings without those that may differ when a training is gone on with."""
    return dataclasses.replace(settings, **{name: getattr(Settings, name) for name in FREE})


def nothing_there() -> PlanError:
    """The error of a training that is to be gone on with, and of which nothing is there."""
    return PlanError(
        "--resume: nothing of this training is there to go on with; model, data and settings must be the same, "
        f"only {', '.join(map(option, FREE))} may differ. Leave it out to begin, or when the training had ended"
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


def option(name: str) -> str:
    """The command line's name of a setting."""
    return f"--{name.replace('_', '-')}"
