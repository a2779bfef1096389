"""Train: recover accuracy after pruning, distill a teacher, or train with fake quantization.

Two stages. ``teacher_outputs.py`` stores a teacher's outputs for every sample, in the teacher's own process and
framework; :func:`train` then trains the student in its own. ``loop.py`` is the part without any framework: epochs,
early stopping, checkpoints, logging. The training step of a framework is in its student class, which its record in
``frameworks`` names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit_converters.data import DataSet
from edgekit_converters.records import Source, SourceRequest
from edgekit_runtime.format.manifest import InputSpec, OutputSpec

OPTIMIZERS = ("adam", "rmsprop", "sgd")
SCHEDULES = ("cosine", "step", "constant")


@dataclass(frozen=True)
class Settings:
    """Training settings. Epochs are passes over the training data."""

    epochs: int = 10
    optimizer: str = "adam"
    learning_rate: float = 1e-3  # the highest of the schedule
    schedule: str = "cosine"
    warmup_epochs: float = 0.5  # epochs in which the rate rises
    batch_size: int = 64
    weight_decay: float = 0.0  # for weights, not for biases and normalization
    patience: int = 0  # epochs without improvement before it stops; 0: never
    augment: tuple[str, ...] = ()  # keys of augment.AUGMENTATIONS
    temperature: float = 4.0  # of a teacher's logits (Hinton et al., 2015)
    distillation_weight: float = 0.7  # of the loss; the labels have the rest
    attention_transfer: bool = False  # also match the teacher's attention maps
    quantize_aware: str | None = None  # scheme of the fake quantization, a key of ARITHMETICS
    sparsity: str | None = None  # "0.8", or "2:4"
    keep: tuple[str, ...] = ()  # name patterns of the layers that stay dense
    mixed_precision: bool = False
    seed: int = 0


@dataclass(frozen=True)
class TeacherOutputsRequest:
    """Compute a teacher's outputs for every sample, original and augmented, before the student is trained."""

    teacher: Source
    inputs: tuple[InputSpec, ...]  # of the teacher, with preprocessing
    taken: tuple[InputSpec, ...]  # of the student: the layout of ``data``
    data: DataSet
    augment: tuple[str, ...] = ()
    variants: int = 1  # of each sample; the first is not augmented
    seed: int = 0
    attention_transfer: bool = False


@dataclass(frozen=True)
class TeacherOutputs:
    """A teacher's outputs for every variant of every sample."""

    outputs: tuple[Path, ...]  # one for each output: .npy (variants, samples, *output shape without batch), float32
    attention_maps: tuple[
        Path, ...
    ]  # one attention map for each feature size: .npy (variants, samples, height, width), float32
    variants: int


@dataclass(frozen=True)
class TrainRequest:
    """Train a student on data, with or without labels, with or without a teacher."""

    student: Source
    inputs: tuple[InputSpec, ...]  # with preprocessing
    outputs: tuple[OutputSpec, ...]
    data: DataSet
    settings: Settings
    teacher_outputs: TeacherOutputs | None = None  # for ``data``, with the same augmentations and seed
    held_out: DataSet | None = None  # labelled, to find the best epoch; None: a part of ``data``
    checkpoints: str | None = None  # a folder that outlives the process; a checkpoint in it is resumed
    log_dir: str | None = None  # for TensorBoard event files
    wandb: str | None = None  # Weights & Biases project


@dataclass(frozen=True)
class Epoch:
    """The result of one epoch."""

    number: int  # from 1
    loss: float  # mean over the training data
    value: float  # of the metric, on held-out data
    learning_rate: float  # at its end
    seconds: float


@dataclass(frozen=True)
class SparseLayer:
    """A layer with zero weights."""

    layer: str
    weights: int
    zeros: int


@dataclass(frozen=True)
class TrainingResult:
    """The student after its best epoch."""

    request: SourceRequest  # opens it
    metric: str
    before: float  # metric of the original student on held-out data
    value: float  # metric of the trained student
    history: tuple[Epoch, ...]
    best: int  # number of that epoch; 0 if none was better than the original
    notes: tuple[str, ...] = ()  # why it stopped, whether it was resumed
    sparse_layers: tuple[SparseLayer, ...] = ()  # layers that were made sparse
