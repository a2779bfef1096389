"""Feed: a training set as batches, shuffled and augmented, the same for the same seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgekit_converters.data import DataSet, labels, normalize
from edgekit_converters.data.samples import Array
from edgekit_converters.train import TeacherOutputs
from edgekit_converters.train.augment import Augmentation
from edgekit_runtime.format.manifest import InputSpec


@dataclass(frozen=True)
class Batch:
    """What one step is trained on."""

    inputs: list[Array]  # an input: (b, *shape), as the model takes it
    labels: Array | None  # int64 (b,), or float targets (b, ...)
    answers: list[Array]  # of the teacher, an output: (b, *shape); empty without a teacher
    hints: list[Array]  # of the teacher, a size of features: (b, height, width)


class BatchLoader:
    """The samples of a set by their rows.

    Args:
        data: the samples.
        inputs: what they become.
        augmentation: what is done to them before.
        lessons: what a teacher says of them.
    """

    def __init__(
        self,
        data: DataSet,
        inputs: tuple[InputSpec, ...],
        augmentation: Augmentation,
        lessons: TeacherOutputs | None = None,
    ) -> None:
        self.count = data.count
        self.labels = labels(data)
        self._inputs, self._augmentation = inputs, augmentation
        self._columns = [np.load(path, mmap_mode="r") for path in data.inputs]
        self._answers = [np.load(path, mmap_mode="r") for path in lessons.outputs] if lessons else []
        self._hints = [np.load(path, mmap_mode="r") for path in lessons.hints] if lessons else []

    def batch(self, rows: Array, variant: int = 0) -> Batch:
        """Return some samples in one of their variants."""
        return Batch(
            inputs=[
                normalize(self._augmentation.apply(column[rows], spec, rows, variant), spec)
                for column, spec in zip(self._columns, self._inputs, strict=True)
            ],
            labels=None if self.labels is None else self.labels[rows],
            answers=[answers[variant, rows] for answers in self._answers],
            hints=[hints[variant, rows] for hints in self._hints],
        )

    def answers(self, rows: Array) -> list[Array]:
        """What the teacher says of some samples as they are."""
        return [answers[0, rows] for answers in self._answers]


def shuffled(rows: Array, size: int, seed: int, epoch: int) -> Iterator[Array]:
    """Yield the rows in whole batches; those left over in one epoch are others in the next.

    A last batch of a few samples would count as much as a whole one, and normalize by itself alone.
    """
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    for start in range(0, len(order) - size + 1, size):
        yield np.sort(order[start : start + size])  # sorted: they lie on disk


def split(count: int, share: float, seed: int) -> tuple[Array, Array]:
    """Return the rows to train on and those held out, ascending: a share of all, and at least one."""
    order = np.random.default_rng([seed, count]).permutation(count)
    held = max(1, round(count * share))
    return np.sort(order[held:]), np.sort(order[:held])
