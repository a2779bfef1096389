"""Train: recover what pruning cost, learn from a teacher, get used to quantized arithmetic.

``loop.py`` is training without any framework: epochs, schedules, early stopping, checkpoints, what is watched.
A file a framework does the steps; ``STUDENTS`` says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit_converters.data import DataSet
from edgekit_converters.records import Source, SourceRequest
from edgekit_runtime.manifest import InputSpec, OutputSpec

# framework: "module:class", (Source, TrainRequest) -> Student
STUDENTS = {
    "keras": "edgekit_converters.train.keras_student:KerasStudent",
    "torch": "edgekit_converters.train.torch_student:TorchStudent",
}
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
    weight_decay: float = 0.0
    patience: int = 0  # epochs without a better result before it stops; 0 never stops early
    augment: tuple[str, ...] = ()  # keys of augment.AUGMENTATIONS
    temperature: float = 4.0  # of a teacher's logits (Hinton et al., 2015)
    teacher_share: float = 0.7  # of the loss; the labels have the rest, and nothing where there are none
    hints: bool = False  # also match the teacher's features
    quantize: str | None = None  # the scheme whose arithmetic is imitated
    sparsity: str | None = None  # "0.8", or "2:4"
    mixed_precision: bool = False
    seed: int = 0


@dataclass(frozen=True)
class TrainRequest:
    """Train a student on data, with or without labels, with or without a teacher."""

    student: Source
    inputs: tuple[InputSpec, ...]  # with preprocessing
    outputs: tuple[OutputSpec, ...]
    data: DataSet
    settings: Settings
    teacher: Source | None = None  # of any framework that loads
    held_out: DataSet | None = None  # to see which epoch was best; without, a part of ``data``
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
class Trained:
    """The student after its best epoch."""

    request: SourceRequest  # opens it
    metric: str
    history: tuple[Epoch, ...]
    best: int  # number of that epoch
    notes: tuple[str, ...] = ()  # why it stopped, what was resumed


def train(request: TrainRequest, folder: Path) -> Trained:
    """The stage: train, and leave the student as after its best epoch.

    Raises:
        DataError: the data do not fit the model, or labels are out of range.
        ConversionError: the loss is no number any more; the message says when, and where the last good state lies.
    """
    from edgekit_converters.train import loop

    return loop.train(request, folder)
