"""Training for pruning, distillation and quantization: from options to a plan, and the stages that run it."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgekit.conversion import stages
from edgekit.conversion.context import DataSplit
from edgekit.plan.data import DataPlan
from edgekit.plan.option_declaration import check_paths, flag, given_options
from edgekit.plan.options import TrainingOptions
from edgekit_converters.data import DataSet
from edgekit_converters.execution import stage_cache, toolchains
from edgekit_converters.execution.runner import Runner
from edgekit_converters.recipe.schemes import scheme
from edgekit_converters.records import PseudoLabelRequest, Source
from edgekit_converters.train import (
    Settings,
    TeacherOutputs,
    TeacherOutputsRequest,
    TrainingResult,
    TrainRequest,
    augment,
    checkpoint,
)
from edgekit_converters.train.fake_quantize import ARITHMETICS
from edgekit_converters.train.loop import TRAIN
from edgekit_converters.train.teacher_outputs import TEACHER_OUTPUTS, check_pair
from edgekit_converters.verify.pseudo_labels import PSEUDO_LABEL
from edgekit_runtime.errors import PlanError
from edgekit_runtime.format.manifest import InputSpec

TRAINING, VALIDATION = DataSplit("training", 32, 1000), DataSplit("validation", 16, 200)
# settings that may differ when a training is resumed
RESUMABLE = ("epochs", "learning_rate", "schedule", "warmup_epochs", "patience")
# fields of Settings that options of the same name set; the options of pruning set the others
SETTINGS = tuple(field.name for field in dataclasses.fields(Settings) if field.name not in ("sparsity", "keep"))


@dataclass(frozen=True)
class TrainingPlan:
    """A training, and its data."""

    data: str
    settings: Settings
    validate: str | None = None  # data that select the best epoch; None: a part of ``data``
    resume: bool = False
    log_dir: str | None = None
    wandb: str | None = None


@dataclass(frozen=True)
class OpenedModel:
    """A model, and its inputs with preprocessing."""

    source: Source
    inputs: tuple[InputSpec, ...]


@dataclass(frozen=True)
class TrainingData:
    """Prepared training data."""

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
    typed = {one.name: getattr(options, one.name) for one in given_options(options)}
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
        Settings(**{name: value for name, value in typed.items() if name in SETTINGS}),
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


def prepare_training_data(
    runner: Runner, plan: DataPlan, inputs: tuple[InputSpec, ...], training: TrainingPlan
) -> TrainingData:
    """Prepare the data of a training, for a model with these inputs.

    Raises:
        DataError: the data do not fit the inputs, or are no images and cannot be augmented.
    """
    augment.check(training.settings.augment, inputs)
    data = stages.prepare_data(runner, plan, inputs, training.data, TRAINING)
    assert data is not None
    return TrainingData(inputs, data, stages.prepare_data(runner, plan, inputs, training.validate, VALIDATION))


def train(
    runner: Runner,
    training: TrainingPlan,
    student: Source,
    data: TrainingData,
    teacher: OpenedModel | None = None,
    *,
    begin: bool = False,
) -> TrainingResult:
    """Train a model, on the outputs of a teacher if there is one; they may be of different frameworks.

    The cache keeps checkpoints of this model, data, settings and teacher until all epochs are done.

    Args:
        runner: of the command.
        training: its settings.
        student: the model to train.
        data: to train and validate on.
        teacher: whose outputs the student learns.
        begin: ``--resume`` starts a training without checkpoints, because it is one of several.

    Raises:
        PlanError: there is nothing to resume, or the teacher's outputs do not fit the student's.
        EdgekitError: a stage refused.
    """
    settings = training.settings
    if settings.attention_transfer and teacher is None:
        raise PlanError("--attention-transfer needs a teacher, and there is none")
    teacher_outputs = None
    if teacher and (settings.distillation_weight or settings.attention_transfer or data.data.labels is None):
        check_pair(teacher.source, student)
        teacher_outputs = _teacher_outputs(runner, settings, data, teacher)
        data = dataclasses.replace(data, held_out=_label_held_out(runner, data, teacher))
    request = TrainRequest(student, data.inputs, student.outputs, data.data, settings, teacher_outputs, data.held_out)
    folder = _checkpoint_folder(request, teacher, resume=training.resume, begin=begin)
    request = dataclasses.replace(request, checkpoints=str(folder), log_dir=training.log_dir, wandb=training.wandb)
    trained = runner.run(TRAIN, request)
    shutil.rmtree(folder, ignore_errors=True)
    return trained


def _teacher_outputs(runner: Runner, settings: Settings, data: TrainingData, teacher: OpenedModel) -> TeacherOutputs:
    request = TeacherOutputsRequest(
        teacher.source,
        teacher.inputs,
        data.inputs,
        data.data,
        settings.augment,
        augment.variants(settings),
        settings.seed,
        settings.attention_transfer,
    )
    return runner.run(TEACHER_OUTPUTS, request)


def _label_held_out(runner: Runner, data: TrainingData, teacher: OpenedModel) -> DataSet | None:
    """Return the held-out data, labelled by the teacher if they have no labels."""
    held_out = data.held_out
    if held_out is None or held_out.labels is not None:
        return held_out
    return runner.run(PSEUDO_LABEL, PseudoLabelRequest(teacher.source, teacher.inputs, held_out), "teacher")


def without_resumable(settings: Settings) -> Settings:
    """Return the settings with defaults for those that may differ when a training is resumed."""
    return dataclasses.replace(settings, **{name: getattr(Settings, name) for name in RESUMABLE})


def nothing_to_resume() -> PlanError:
    """Return the error of ``--resume`` without checkpoints."""
    may_differ = ", ".join(flag(name) for name in RESUMABLE)
    return PlanError(
        "--resume: there is no checkpoint of this training; model, data and settings must be the same, only "
        f"{may_differ} may differ. Leave out --resume to start, or if the training had finished"
    )


def _checkpoint_folder(request: TrainRequest, teacher: OpenedModel | None, *, resume: bool, begin: bool) -> Path:
    """Return the checkpoint folder of a training.

    Its key has the teacher and not the teacher's outputs, which grow with the number of epochs.

    Raises:
        PlanError: there is nothing to resume.
    """
    identity = dataclasses.replace(request, settings=without_resumable(request.settings), teacher_outputs=None)
    folder = stage_cache.cache_root() / "training" / stage_cache.key("train", (identity, teacher), {})
    if resume and not begin and not checkpoint.exists(folder):
        raise nothing_to_resume()
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    return folder
