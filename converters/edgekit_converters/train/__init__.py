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
    """How to train. Epochs are passes over the training data."""

    epochs: int = 10
    optimizer: str = "adam"
    learning_rate: float = 1e-3  # the highest
    schedule: str = "cosine"
    warm_up: float = 0.5  # epochs over which the rate rises
    batch_size: int = 64
    weight_decay: float = 0.0  # of weights, not of biases and normalization
    patience: int = 0  # epochs without a better result before it stops; 0 never stops early
    augment: tuple[str, ...] = ()  # keys of augment.AUGMENTATIONS
    temperature: float = 4.0  # of a teacher's logits (Hinton et al., 2015)
    teacher_share: float = 0.7  # of the loss; the labels have the rest, and nothing where there are none
    hints: bool = False  # also match where the teacher's features are strong
    quantize_aware: str | None = None  # the scheme whose arithmetic is imitated, of fake_quantize.ARITHMETICS
    sparsity: str | None = None  # "0.8", or "2:4"
    keep: tuple[str, ...] = ()  # patterns of the layers that stay dense then
    mixed_precision: bool = False
    seed: int = 0


@dataclass(frozen=True)
class TeacherOutputsRequest:
    """Have a teacher answer every sample, as it is and augmented, before the student is trained."""

    teacher: Source
    inputs: tuple[InputSpec, ...]  # of the teacher, with its preprocessing
    taken: tuple[InputSpec, ...]  # of the student: ``data`` are laid out as it takes them
    data: DataSet
    augment: tuple[str, ...] = ()
    variants: int = 1  # of each sample: the first is not augmented
    seed: int = 0
    hints: bool = False


@dataclass(frozen=True)
class TeacherOutputs:
    """What a teacher says of every variant of every sample."""

    outputs: tuple[Path, ...]  # an output: .npy (variants, samples, *output shape without batch), float32
    hints: tuple[Path, ...]  # a size of features: .npy (variants, samples, height, width), float32
    variants: int


@dataclass(frozen=True)
class TrainRequest:
    """Train a student on data, with or without labels, with or without a teacher."""

    student: Source
    inputs: tuple[InputSpec, ...]  # with preprocessing
    outputs: tuple[OutputSpec, ...]
    data: DataSet
    settings: Settings
    lessons: TeacherOutputs | None = None  # for ``data``, with the same augmentations and seed
    held_out: DataSet | None = None  # labelled, to see which epoch was best; without, a part of ``data``
    checkpoints: str | None = None  # a folder that outlives the process: what is there already is gone on with
    log_dir: str | None = None  # of TensorBoard's event files
    wandb: str | None = None  # the project that Weights & Biases is told of


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to."""

    number: int  # from 1
    loss: float  # mean over the training data
    value: float  # of the metric, on held-out data
    learning_rate: float  # at its end
    seconds: float


@dataclass(frozen=True)
class SparseLayer:
    """A layer of which some weights are zero."""

    layer: str
    weights: int
    zeros: int


@dataclass(frozen=True)
class Trained:
    """The student after its best epoch."""

    request: SourceRequest  # opens it
    metric: str
    before: float  # of the metric on held-out data, as the student came
    value: float  # likewise, as it left
    history: tuple[Epoch, ...]
    best: int  # number of that epoch; 0 where none was better than what came
    notes: tuple[str, ...] = ()  # why it stopped, what was resumed
    thinned: tuple[SparseLayer, ...] = ()  # where it was made sparse
