"""The student: what the training loop needs from a framework."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgekit_converters.data.samples import Array
from edgekit_converters.frameworks.loaded_model import Arrays
from edgekit_converters.load import trainable
from edgekit_converters.records import Source, SourceRequest
from edgekit_converters.train import Settings
from edgekit_converters.train.batches import Batch
from edgekit_converters.train.losses import Objective

# "weights/..." and the "ranges/..." of fake quantization are used in inference, "optimizer/..." only in training.
State = dict[str, Array]


@dataclass(frozen=True)
class Kernel:
    """The weights of one layer that are multiplied by its inputs."""

    layer: str
    weights: Array  # read-only
    inputs: int  # axis of the inputs of one output
    dense_reason: str | None = None  # why the layer stays dense; None: it can be sparse


class Student(Protocol):
    """A model that is trained. It is a copy of its own, which no other code in the process uses."""

    notes: tuple[str, ...]  # about parts that are not trained

    def set_objective(self, objective: Objective) -> None:
        """Set the objective, and create the optimizer."""

    def start_epoch(self, epoch: int) -> None:
        """Seed everything random in the model by the seed and the epoch number."""

    def step(self, batch: Batch, learning_rate: float) -> float:
        """Train on a batch, whose teacher outputs are softened already; return the loss before the step."""

    def run(self, inputs: Arrays) -> Arrays:
        """Return the outputs in inference mode, for any batch size; fake quantization calibrates on the first batch."""

    def state(self) -> State:
        """Return everything that a later process needs to continue."""

    def restore(self, state: State) -> None:
        """Restore a state; without its optimizer part, the optimizer is not changed."""

    def kernels(self) -> list[Kernel]:
        """Return the trained weights of convolutions and dense layers, always in the same order."""

    def apply_masks(self, masks: dict[int, Array]) -> None:
        """Set to zero the weights outside of the masks, by index in :meth:`kernels`."""

    def estimate_statistics(self, batches: Iterable[Arrays]) -> bool:
        """Set BatchNorm's statistics to plain averages over batches; return False if there are none."""

    def save(self, folder: Path) -> SourceRequest:
        """Write the weights, or the model, into ``folder``; return the request that opens it.

        With fake quantization, the weights are rounded, so that quantization represents them exactly.
        """

    def close(self) -> None:
        """Undo what was changed in the process."""


def open_student(source: Source, settings: Settings) -> Student:
    """Open a source as a student.

    Raises:
        SourceError: it cannot be trained.
    """
    student: Student = pkgutil.resolve_name(trainable(source).student)(source.request, settings)
    return student
