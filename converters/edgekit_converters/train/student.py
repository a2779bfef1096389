"""The student: what a framework has to do for the loop, and nothing more."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgekit_converters.data.samples import Array
from edgekit_converters.frameworks.live_model import Arrays
from edgekit_converters.load import trainable
from edgekit_converters.records import Source, SourceRequest
from edgekit_converters.train import Settings
from edgekit_converters.train.batches import Batch
from edgekit_converters.train.losses import Objective

# "weights/...", and "ranges/..." of imitated integers, are what the model computes with; "optimizer/..." is what
# training goes on with
State = dict[str, Array]


@dataclass(frozen=True)
class Kernel:
    """The weights that one layer multiplies by."""

    layer: str
    weights: Array  # not to be written to
    inputs: int  # axis along which the inputs of one output lie
    dense_reason: str | None = None  # why none of them may become zero


class Student(Protocol):
    """A model that is being trained. It is its own copy of the source: nobody else in the process sees it change."""

    notes: tuple[str, ...]  # what of it is not trained

    def set_objective(self, objective: Objective) -> None:
        """Get ready to be trained towards an objective."""

    def start_epoch(self, epoch: int) -> None:
        """Begin an epoch: draw whatever is random in the model by the seed and the epoch's number."""

    def step(self, batch: Batch, learning_rate: float) -> float:
        """Train on a batch, whose answers are softened already; return the loss before."""

    def run(self, inputs: Arrays) -> Arrays:
        """What it gives in use, for a batch of any size; with imitated integers, the first batch gives their ranges."""

    def state(self) -> State:
        """Everything a later process needs to go on as if nothing had happened."""

    def restore(self, state: State) -> None:
        """Become what it was when ``state`` was taken; without the optimizer's part, that stays as it is."""

    def kernels(self) -> list[Kernel]:
        """The weights of convolutions and dense layers that are trained, always in the same order."""

    def apply_masks(self, masks: dict[int, Array]) -> None:
        """Set to zero what masks leave out, by the places of :meth:`kernels`."""

    def estimate_statistics(self, batches: Iterable[Arrays]) -> bool:
        """Set BatchNorm's statistics to the plain averages over batches; False where there are none to set."""

    def save(self, folder: Path) -> SourceRequest:
        """Write the weights, or the model, into ``folder``; return what opens it.

        Where integers are imitated the weights are rounded to them, so that those to come say just these.
        """

    def close(self) -> None:
        """Leave the process as it was."""


def open_student(source: Source, settings: Settings) -> Student:
    """Open a source to be trained.

    Raises:
        SourceError: it cannot be.
    """
    student: Student = pkgutil.resolve_name(trainable(source).student)(source.request, settings)
    return student
