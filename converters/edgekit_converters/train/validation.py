"""Validate a student on held-out data, with the metrics of ``--evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from edgekit_converters.data import DataSet, batches, labels
from edgekit_converters.data.samples import Array
from edgekit_converters.frameworks.loaded_model import Arrays
from edgekit_converters.train import TrainRequest
from edgekit_converters.train.batches import BatchLoader
from edgekit_converters.train.losses import Objective
from edgekit_converters.verify.metrics import METRICS, Metric, metric_for

BATCH = 64

# (inputs, labels) of some held-out samples at a time
HeldOutBatches = Callable[[], Iterator[tuple[Arrays, Array | None]]]


class Validator:
    """A metric and the held-out samples that it is computed on."""

    def __init__(self, metric: Metric, held_out_batches: HeldOutBatches) -> None:
        self.metric = metric.name
        self._metric, self._held = metric, held_out_batches

    def value(self, run: Callable[[Arrays], Arrays]) -> float:
        """Return the metric's mean over the held-out samples; not finite where the model's outputs are not."""
        scores = []
        for inputs, targets in self._held():
            outputs = run(inputs)
            if not all(np.isfinite(one).all() for one in outputs):
                return float("nan")
            scores.append(self._metric.score(inputs, outputs, targets))
        return float(np.concatenate(scores).mean())

    def better(self, value: float, than: float) -> bool:
        """Tell whether a value is better than another."""
        return value > than if self._metric.higher_is_better else value < than


def validator_for(request: TrainRequest, objective: Objective, loader: BatchLoader, rows: Array) -> Validator:
    """Return the validator that fits data and model.

    Without labels, the metric is the agreement with the teacher, or the reconstruction error.
    """
    if request.held_out:
        given = labels(request.held_out)
        return Validator(
            metric_for(request.inputs, request.outputs, given), _from_data(request, request.held_out, given)
        )
    if loader.labels is not None or objective.reconstructs or request.teacher_outputs is None:
        return Validator(metric_for(request.inputs, request.outputs, loader.labels), _from_rows(loader, rows))
    if request.inputs[0].shape == request.outputs[0].shape:
        return Validator(METRICS["reconstruction_error"], _from_rows(loader, rows))
    classes = objective.targets[0].classes
    return Validator(
        METRICS["agreement" if classes else "relative_error"], _from_teacher(loader, rows, classes=classes)
    )


def _from_data(request: TrainRequest, data: DataSet, given: Array | None) -> HeldOutBatches:
    def held_out_batches() -> Iterator[tuple[Arrays, Array | None]]:
        done = 0
        for batch in batches(data, request.inputs, BATCH):
            yield batch, None if given is None else given[done : done + len(batch[0])]
            done += len(batch[0])

    return held_out_batches


def _from_rows(loader: BatchLoader, rows: Array) -> HeldOutBatches:
    def held_out_batches() -> Iterator[tuple[Arrays, Array | None]]:
        for start in range(0, len(rows), BATCH):
            batch = loader.batch(rows[start : start + BATCH])
            yield batch.inputs, batch.labels

    return held_out_batches


def _from_teacher(loader: BatchLoader, rows: Array, *, classes: bool) -> HeldOutBatches:
    """Return batches with the teacher's outputs as labels."""

    def held_out_batches() -> Iterator[tuple[Arrays, Array | None]]:
        for start in range(0, len(rows), BATCH):
            batch = loader.batch(rows[start : start + BATCH])
            answers = batch.answers[0]
            yield batch.inputs, answers.argmax(axis=1) if classes else answers

    return held_out_batches
