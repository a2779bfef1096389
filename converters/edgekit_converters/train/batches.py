"""Batches of training data, shuffled and augmented, the same for the same seed and epoch."""

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
    """The samples of one training step."""

    inputs: list[Array]  # an input: (b, *shape), as the model takes it
    labels: Array | None  # int64 (b,), or float targets (b, ...)
    answers: list[Array]  # of the teacher, an output: (b, *shape); empty without a teacher
    attention_maps: list[Array]  # of the teacher, a size of features: (b, height, width)


class BatchLoader:
    """Loads samples of a data set by their rows.

    Args:
        data: the samples.
        inputs: their preprocessing.
        augmentation: applied before it.
        teacher_outputs: the teacher's outputs for them.
    """

    def __init__(
        self,
        data: DataSet,
        inputs: tuple[InputSpec, ...],
        augmentation: Augmentation,
        teacher_outputs: TeacherOutputs | None = None,
    ) -> None:
        self.count = data.count
        self.labels = labels(data)
        self._inputs, self._augmentation = inputs, augmentation
        self._columns = [np.load(path, mmap_mode="r") for path in data.inputs]
        self._answers = [np.load(path, mmap_mode="r") for path in teacher_outputs.outputs] if teacher_outputs else []
        self._hints = (
            [np.load(path, mmap_mode="r") for path in teacher_outputs.attention_maps] if teacher_outputs else []
        )

    def batch(self, rows: Array, variant: int = 0) -> Batch:
        """Return some samples in one of their variants."""
        return Batch(
            inputs=[
                normalize(self._augmentation.apply(column[rows], spec, rows, variant), spec)
                for column, spec in zip(self._columns, self._inputs, strict=True)
            ],
            labels=None if self.labels is None else self.labels[rows],
            answers=[answers[variant, rows] for answers in self._answers],
            attention_maps=[attention_maps[variant, rows] for attention_maps in self._hints],
        )

    def answers(self, rows: Array) -> list[Array]:
        """Return the teacher's outputs for some samples without augmentation."""
        return [answers[0, rows] for answers in self._answers]


def shuffled(rows: Array, size: int, seed: int, epoch: int) -> Iterator[Array]:
    """Yield the rows in whole batches; the remainder differs from epoch to epoch.

    An incomplete last batch would have too much weight, and poor BatchNorm statistics.
    """
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    for start in range(0, len(order) - size + 1, size):
        yield np.sort(order[start : start + size])  # sorted: they lie on disk


def split(count: int, share: float, seed: int) -> tuple[Array, Array]:
    """Return the rows to train on and those held out, ascending: a fraction of all, and at least one."""
    order = np.random.default_rng([seed, count]).permutation(count)
    held = max(1, round(count * share))
    return np.sort(order[held:]), np.sort(order[:held])
