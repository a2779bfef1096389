"""Evaluate: what a model, or an artifact of it, is worth on data.

Which metric applies is read off the data and the model, once, from :data:`METRICS`: the first that fits. A user may
bring another: ``own_metric.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit_converters import data as dataset
from edgekit_converters.artifact import OpenArtifact
from edgekit_converters.load import open_source
from edgekit_converters.records import Artifact, EvaluateRequest, Evaluation, OwnMetric, Source
from edgekit_converters.verify import own_metric
from edgekit_converters.worker import report_progress
from edgekit_runtime.errors import DataError
from edgekit_runtime.manifest import InputSpec, OutputSpec

ALIKE = 0.25  # correlation
NEARLY = 1e-2  # how far a probability may be off: quantized, or rounded
BATCH = 32  # samples a step of the source: more take memory and no less time; artifacts take one at a time


@dataclass(frozen=True)
class Metric:
    """A number for a sample: ``score(inputs, outputs, labels)`` gives one value a sample, (n,), to be averaged."""

    name: str
    higher_is_better: bool
    fits: Callable[[tuple[InputSpec, ...], tuple[OutputSpec, ...], np.ndarray | None], bool]
    score: Callable[[list[np.ndarray], list[np.ndarray], np.ndarray | None], np.ndarray]


def _is_classifier(_: object, outputs: tuple[OutputSpec, ...], labels: np.ndarray | None) -> bool:
    if labels is None or len(outputs[0].shape) != 2:
        return False
    if outputs[0].shape[1] == 1:  # one score says which of two classes it is
        return labels.size == len(labels) and bool(np.isin(labels, (0, 1)).all())
    return labels.ndim == 1 and labels.dtype.kind in "iu"


def _has_targets(_: object, outputs: tuple[OutputSpec, ...], labels: np.ndarray | None) -> bool:
    shape = outputs[0].shape[1:]
    return labels is not None and (labels.shape[1:] == shape or (shape == (1,) and labels.ndim == 1))


def _reconstructs(inputs: tuple[InputSpec, ...], outputs: tuple[OutputSpec, ...], labels: np.ndarray | None) -> bool:
    return labels is None and inputs[0].shape == outputs[0].shape


def _top1(_: list[np.ndarray], outputs: list[np.ndarray], labels: np.ndarray | None) -> np.ndarray:
    assert labels is not None
    return np.asarray(_classes(outputs[0]) == labels.ravel(), dtype=np.float64)


def _classes(scores: np.ndarray) -> np.ndarray:
    """The class of each sample: of the greatest score, or of two classes by one probability, (n, 1).

    Raises:
        DataError: the one score is no probability.
    """
    if scores.shape[1] > 1:
        return np.asarray(scores.argmax(axis=1))
    if scores.min(initial=0.0) < -NEARLY or scores.max(initial=0.0) > 1 + NEARLY:
        raise DataError(
            "the model gives one score a sample, and it is no probability, so it is not known where one class ends and "
            "the other begins: end the model with a sigmoid, or measure with --metric FILE.py:function"
        )
    return np.asarray(scores[:, 0] > 0.5)


def _squared_error(_: list[np.ndarray], outputs: list[np.ndarray], labels: np.ndarray | None) -> np.ndarray:
    assert labels is not None
    return _mean_square(outputs[0] - labels.reshape(outputs[0].shape))


def _reconstruction_error(inputs: list[np.ndarray], outputs: list[np.ndarray], _: np.ndarray | None) -> np.ndarray:
    return _mean_square(outputs[0] - inputs[0])


def _mean_square(error: np.ndarray) -> np.ndarray:
    flat = error.reshape(len(error), -1).astype(np.float64)
    return np.asarray(np.mean(flat * flat, axis=1))


def _relative_error(_: list[np.ndarray], outputs: list[np.ndarray], labels: np.ndarray | None) -> np.ndarray:
    """Power of the error over power of the answer, a sample."""
    assert labels is not None
    return np.asarray(_mean_square(outputs[0] - labels) / np.maximum(_mean_square(labels), 1e-12))


def _only_when_asked_for(*_: object) -> bool:
    return False


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", True, _is_classifier, _top1),
        Metric("mean_squared_error", False, _has_targets, _squared_error),
        Metric("reconstruction_error", False, _reconstructs, _reconstruction_error),
        Metric("agreement", True, _only_when_asked_for, _top1),
        Metric("relative_error", False, _only_when_asked_for, _relative_error),
    )
}


def metric_for(inputs: tuple[InputSpec, ...], outputs: tuple[OutputSpec, ...], labels: np.ndarray | None) -> Metric:
    """Return the metric that data and model call for.

    Raises:
        DataError: none fits; the message says what the data would need.
    """
    for metric in METRICS.values():
        if metric.fits(inputs, outputs, labels):
            return metric
    shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in outputs)
    what = "no labels" if labels is None else f"labels of shape {labels.shape} and dtype {labels.dtype}"
    raise DataError(
        f"evaluation data with {what} say nothing about the outputs {shapes}: give class numbers for a classifier, "
        f"targets of the first output's shape, or no labels for a model that reconstructs its input"
    )


def gives_back(inputs: np.ndarray, outputs: np.ndarray) -> bool:
    """Tell whether a model reconstructs its input: both have one shape, and go up and down together.

    How large the error is tells less: an anomaly detector's is meant to be large on what it has not been trained on.
    MLPerf Tiny's, ``ad01``, correlates by 0.6 with speech, which it has never seen, and by 0.4 with random walks.
    """
    if inputs.shape != outputs.shape or not inputs.std() or not outputs.std():
        return False
    return bool(np.corrcoef(inputs.ravel(), outputs.ravel())[0, 1] > ALIKE)


def evaluate(request: EvaluateRequest, folder: Path) -> Evaluation:
    """The stage: average the metric over all samples, or ask the user's own.

    Raises:
        DataError: no metric fits, a label is out of range, or the user's function fails.
    """
    labels = dataset.labels(request.data)
    if request.metric:
        return _own(request, request.metric, labels)
    metric = metric_for(request.inputs, request.outputs, labels)
    if request.agreement:
        metric = METRICS["agreement" if metric.name == "accuracy" else "relative_error"]
    if metric.name == "accuracy" and labels is not None and request.outputs[0].shape[1] > 1:
        _check_range(labels, request.outputs[0])
    scores = []
    done = 0
    for inputs, outputs in _results(request):
        some = None if labels is None else labels[done : done + len(inputs[0])]
        scores.append(metric.score(inputs, outputs, some))
        done += len(inputs[0])
        report_progress(done, request.data.count)
    all_scores = np.concatenate(scores)
    np.save(folder / "scores.npy", all_scores)
    return Evaluation(metric.name, float(all_scores.mean()), done, scores=folder / "scores.npy")


def _own(request: EvaluateRequest, metric: OwnMetric, labels: np.ndarray | None) -> Evaluation:
    own_metric.load(metric)  # what is wrong with it is known before anything is computed
    parts: list[list[np.ndarray]] = []
    for _, outputs in _results(request):
        parts.append(outputs)
        report_progress(len(parts) * BATCH, request.data.count)
    names = [spec.name for spec in request.outputs]
    by_name = {name: np.concatenate(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}
    value = own_metric.score(metric, by_name, labels)
    return Evaluation(metric.name, value, request.data.count, own_metric.load(metric)[1])


def higher_is_better(metric: str) -> bool:
    """Tell for a key of :data:`METRICS`; of a user's own metric it is the rule."""
    return metric not in METRICS or METRICS[metric].higher_is_better


def _check_range(labels: np.ndarray, output: OutputSpec) -> None:
    classes = output.shape[1]
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(
            f"evaluation sample {wrong[0]} has the label {labels[wrong[0]]}, "
            f"but output {output.name!r} has classes 0..{classes - 1}"
        )


def _results(request: EvaluateRequest) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    """Yield inputs and outputs, batch by batch."""
    if isinstance(request.subject, Source):
        run = open_source(request.subject.request).run
        for batch in dataset.batches(request.data, request.inputs, BATCH):
            yield batch, run(batch)
        return
    yield from _artifact_results(request.subject, request)


def _artifact_results(
    artifact: Artifact, request: EvaluateRequest
) -> Iterator[tuple[list[np.ndarray], list[np.ndarray]]]:
    opened = OpenArtifact(artifact, request.precision)
    try:
        for batch in dataset.batches(request.data, request.inputs, BATCH):
            rows = [opened.run([array[i : i + 1] for array in batch]) for i in range(len(batch[0]))]
            yield batch, [np.concatenate(column) for column in zip(*rows, strict=True)]
    finally:
        opened.close()
