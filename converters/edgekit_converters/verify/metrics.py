"""Evaluate a model, or an artifact of it, on data.

The first metric of :data:`METRICS` that fits the data and the model applies, unless the user gives another one
(``user_metric.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit_converters import data as dataset
from edgekit_converters.artifact.open import OpenArtifact
from edgekit_converters.execution.stage import Stage
from edgekit_converters.load import open_source
from edgekit_converters.progress import report_progress
from edgekit_converters.records import (
    Artifact,
    EvaluatePartRequest,
    EvaluateRequest,
    Evaluation,
    EvaluationPart,
    Source,
    UserMetric,
)
from edgekit_converters.verify import user_metric
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import InputSpec, OutputSpec

Arrays = list[np.ndarray]

MIN_CORRELATION = 0.25  # of inputs and outputs of an autoencoder
TOLERANCE = 1e-2  # of a probability, which quantization and rounding change
BATCH = 32  # samples a call of the source: more take memory but no less time; artifacts run one at a time


@dataclass(frozen=True)
class Metric:
    """``score(inputs, outputs, labels)`` returns one value for each sample, (n,); their mean is the metric."""

    name: str
    higher_is_better: bool
    fits: Callable[[tuple[InputSpec, ...], tuple[OutputSpec, ...], np.ndarray | None], bool]
    score: Callable[[list[np.ndarray], list[np.ndarray], np.ndarray | None], np.ndarray]


def _is_classifier(_: object, outputs: tuple[OutputSpec, ...], labels: np.ndarray | None) -> bool:
    if labels is None or len(outputs[0].shape) != 2:
        return False
    if outputs[0].shape[1] == 1:  # one score for two classes
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
    """Return the class of each sample: of the greatest score, or class 1 if its probability, (n, 1), is over 0.5.

    Raises:
        DataError: the only score is no probability.
    """
    if scores.shape[1] > 1:
        return np.asarray(scores.argmax(axis=1))
    if scores.min(initial=0.0) < -TOLERANCE or scores.max(initial=0.0) > 1 + TOLERANCE:
        raise DataError(
            "the model gives one score a sample and no probability, so the threshold between the classes is unknown: "
            "end the model with a sigmoid, or use --metric FILE.py:function"
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
    """Return the power of the error over the power of the label, for each sample."""
    assert labels is not None
    return np.asarray(_mean_square(outputs[0] - labels) / np.maximum(_mean_square(labels), 1e-12))


def _never(*_: object) -> bool:
    return False


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", True, _is_classifier, _top1),
        Metric("mean_squared_error", False, _has_targets, _squared_error),
        Metric("reconstruction_error", False, _reconstructs, _reconstruction_error),
        Metric("agreement", True, _never, _top1),
        Metric("relative_error", False, _never, _relative_error),
    )
}


def metric_for(inputs: tuple[InputSpec, ...], outputs: tuple[OutputSpec, ...], labels: np.ndarray | None) -> Metric:
    """Return the first metric that fits the data and the model.

    Raises:
        DataError: none fits, or the labels are one-hot; the message says which labels are needed.
    """
    if labels is not None and _one_hot(labels):
        raise DataError(
            f"the labels, {labels.dtype} of shape {labels.shape}, are one-hot: give class indices, their argmax, so "
            f"that accuracy is measured and not a distance"
        )
    for metric in METRICS.values():
        if metric.fits(inputs, outputs, labels):
            return metric
    shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in outputs)
    found = "no labels" if labels is None else f"labels of shape {labels.shape} and dtype {labels.dtype}"
    raise DataError(
        f"no metric fits evaluation data with {found} and the outputs {shapes}: give class indices for a classifier, "
        f"targets of the first output's shape, or no labels for a model that reconstructs its input"
    )


def _one_hot(labels: np.ndarray) -> bool:
    rows = labels.ndim == 2 and labels.shape[1] > 1
    return rows and bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all())


def reconstructs(inputs: np.ndarray, outputs: np.ndarray) -> bool:
    """Tell whether a model reconstructs its input: inputs and outputs have one shape and correlate.

    The size of the error says less: for an anomaly detector it should be large on data unlike its training data. The
    outputs of ``ad01`` of MLPerf Tiny correlate by 0.6 with speech, which it was not trained on, and by 0.4 with random
    walks.
    """
    if inputs.shape != outputs.shape or not inputs.std() or not outputs.std():
        return False
    return bool(np.corrcoef(inputs.ravel(), outputs.ravel())[0, 1] > MIN_CORRELATION)


def evaluate(request: EvaluateRequest, folder: Path) -> Evaluation:
    """Average the metric over all samples, or call the user's metric with all outputs.

    Parts that were computed before change only the time it takes.

    Raises:
        DataError: no metric fits, a label is out of range, or the user's function fails.
    """
    labels = dataset.labels(request.data)
    metric = _metric(request, labels)
    known = [part for part in request.parts if _exists(part)]
    columns = []
    for arrays in _in_order(request, metric, labels, known):
        columns.append(arrays)
        report_progress(sum(len(arrays[0]) for arrays in columns), request.data.count)
    results = [np.concatenate(column) for column in zip(*columns, strict=True)]
    if isinstance(metric, UserMetric):
        by_name = dict(zip([spec.name for spec in request.outputs], results, strict=True))
        value = user_metric.score(metric, by_name, labels)
        return Evaluation(metric.name, value, request.data.count, user_metric.load(metric)[1])
    (scores,) = results
    np.save(folder / "scores.npy", scores)
    return Evaluation(metric.name, float(scores.mean()), len(scores), scores=folder / "scores.npy")


EVALUATE = Stage(evaluate, toolchain=lambda request: request.subject.toolchain)


def evaluate_part(request: EvaluatePartRequest, folder: Path) -> EvaluationPart:
    """Compute some consecutive samples as :func:`evaluate` does.

    Raises:
        DataError: as there; but a user's metric function is not called, since it needs all outputs at once.
    """
    started, done, found = time.monotonic(), 0, []
    labels = dataset.labels(request.evaluation.data)
    metric = _metric(request.evaluation, labels)
    for arrays in _computed(request.evaluation, metric, labels, request.first, request.end):
        found.append(arrays)
        done += len(arrays[0])
        report_progress(done, request.end - request.first)
        if request.limit_s is not None and time.monotonic() - started > request.limit_s:
            break
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    paths = tuple(folder / f"{place}.npy" for place in range(len(columns)))
    for path, column in zip(paths, columns, strict=True):
        np.save(path, column)
    return EvaluationPart(request.first, done, paths, time.monotonic() - started)


# although a part with a time limit may end elsewhere
EVALUATE_PART = Stage(evaluate_part, toolchain=lambda request: request.evaluation.subject.toolchain)


def _metric(request: EvaluateRequest, labels: np.ndarray | None) -> Metric | UserMetric:
    """Return the metric, after checking it and the labels, before anything is computed."""
    if request.metric:
        user_metric.load(request.metric)
        return request.metric
    metric = metric_for(request.inputs, request.outputs, labels)
    if request.agreement:
        metric = METRICS["agreement" if metric.name == "accuracy" else "relative_error"]
    if metric.name == "accuracy" and labels is not None and request.outputs[0].shape[1] > 1:
        _check_range(labels, request.outputs[0])
    return metric


def _exists(part: EvaluationPart) -> bool:
    """Tell whether its files are still in the cache."""
    return all(path.is_file() for path in part.arrays)


def _in_order(
    request: EvaluateRequest, metric: Metric | UserMetric, labels: np.ndarray | None, known: list[EvaluationPart]
) -> Iterator[Arrays]:
    """Yield the results of all samples in order: known parts are read, the others computed."""
    done = 0
    for part in known:
        yield from _computed(request, metric, labels, done, part.first)
        yield [np.load(path) for path in part.arrays]
        done = part.first + part.count
    yield from _computed(request, metric, labels, done, request.data.count)


def _computed(
    request: EvaluateRequest, metric: Metric | UserMetric, labels: np.ndarray | None, first: int, end: int
) -> Iterator[Arrays]:
    """Yield the scores batch by batch; for a user's metric the outputs."""
    for inputs, outputs in _results(request, first, end) if first < end else ():
        if isinstance(metric, UserMetric):
            yield outputs
        else:
            batch_labels = None if labels is None else labels[first : first + len(inputs[0])]
            yield [metric.score(inputs, outputs, batch_labels)]
        first += len(inputs[0])


def higher_is_better(metric: str) -> bool:
    """Tell whether a higher value is better; of a user's metric it always is."""
    return metric not in METRICS or METRICS[metric].higher_is_better


def _check_range(labels: np.ndarray, output: OutputSpec) -> None:
    classes = output.shape[1]
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(
            f"evaluation sample {wrong[0]} has the label {labels[wrong[0]]}, "
            f"but output {output.name!r} has classes 0..{classes - 1}"
        )


def _results(request: EvaluateRequest, first: int, end: int) -> Iterator[tuple[Arrays, Arrays]]:
    """Yield inputs and outputs batch by batch."""
    subject, batches = request.subject, dataset.batches(request.data, request.inputs, BATCH, first, end)
    if isinstance(subject, Source):
        run = open_source(subject.request).run
        for batch in batches:
            yield batch, run(batch)
        return
    yield from _artifact_results(subject, request.precision, batches)


def _artifact_results(artifact: Artifact, precision: str, batches: Iterator[Arrays]) -> Iterator[tuple[Arrays, Arrays]]:
    opened = OpenArtifact(artifact, precision)
    try:
        for batch in batches:
            rows = [opened.run([array[i : i + 1] for array in batch]) for i in range(len(batch[0]))]
            yield batch, [np.concatenate(column) for column in zip(*rows, strict=True)]
    finally:
        opened.close()
