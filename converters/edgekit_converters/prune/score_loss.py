"""The loss whose gradients score channels; independent of frameworks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit_converters import data as dataset
from edgekit_converters.frameworks.loaded_model import Arrays, LoadedModel
from edgekit_converters.progress import report_progress
from edgekit_converters.prune import ScoreRequest
from edgekit_converters.train.losses import are_probabilities, as_column, check_classes, refuse_one_hot
from edgekit_runtime.errors import DataError

BATCH = 8  # samples per gradient: within a batch, gradients of samples may cancel
SAMPLES, VALUES = 256, 2**24  # at most, of samples and of input values: the order of channels settles with fewer


@dataclass(frozen=True)
class ScoreLoss:
    """The loss of the first output, summed over samples.

    ``classes``: cross-entropy with the labels, or without labels with the classes that the model predicts; ``targets``:
    squared error to the labels; ``inputs``: squared error to the first input; ``nothing``: the square of the output, so
    that the channels with the largest effect on the output score highest.
    """

    kind: str
    probabilities: bool = False  # the output ends in a softmax

    def target(self, taken: Any, given: Any) -> Any:
        """Return the target of the squared error; None stands for zero."""
        return {"inputs": taken, "targets": given}.get(self.kind)


def score_loss(live: LoadedModel, request: ScoreRequest) -> ScoreLoss:
    """Choose the loss that fits the labels and the first output.

    Raises:
        DataError: there are no data, or the labels do not fit the first output.
    """
    if request.data is None:
        raise DataError(
            f"importance {request.importance!r} looks at gradients, for which it needs data: "
            f"give training data, or choose l2"
        )
    spec = live.outputs[0]
    labels = as_column(dataset.labels(request.data), spec)
    if labels is None and (spec.shape == live.inputs[0].shape or len(spec.shape) != 2 or spec.shape[1] == 1):
        return ScoreLoss("inputs" if spec.shape == live.inputs[0].shape else "nothing")
    if labels is not None and not (labels.ndim == 1 and labels.dtype.kind in "iu" and len(spec.shape) == 2):
        refuse_one_hot(labels)
        if labels.shape[1:] != spec.shape[1:]:
            raise DataError(
                f"labels of shape {labels.shape} and dtype {labels.dtype} do not fit output {spec.name!r} "
                f"{spec.shape}: give class numbers for a classifier, targets of the output's shape, or no labels"
            )
        return ScoreLoss("targets")
    if labels is not None:
        check_classes(labels, spec)
    if spec.shape[1] == 1:  # the probability of one of two classes
        return ScoreLoss("targets")
    return ScoreLoss(
        "classes", are_probabilities(live.run(dataset.pick_samples(request.data, request.inputs, BATCH))[0])
    )


def batches(request: ScoreRequest) -> Iterator[tuple[Arrays, np.ndarray | None]]:
    """Yield inputs and labels in batches of BATCH samples.

    At most SAMPLES samples, spread evenly over the data. An incomplete last batch is used only if it is the only one.
    """
    assert request.data is not None
    values = sum(math.prod(spec.shape) for spec in request.inputs)
    count = min(request.data.count, SAMPLES, max(BATCH, VALUES // values))
    rows = np.unique(np.linspace(0, request.data.count - 1, count).astype(int))
    labels = dataset.labels(request.data)
    arrays, labels = dataset.pick_samples(request.data, request.inputs, count), None if labels is None else labels[rows]
    if labels is not None and request.source.outputs[0].shape[1:] == (1,):
        labels = labels.reshape(-1, 1)  # one number a sample, or which of two classes it is
    for start in range(0, max(count - count % BATCH, 1), BATCH):
        report_progress(start, count)
        batch = slice(start, start + BATCH)
        yield [array[batch] for array in arrays], None if labels is None else labels[batch]
