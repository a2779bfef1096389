"""A user's own metric: ``FILE.py:function``, called once with everything that was computed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edgekit_converters.data.generator import load_function, split, users_code
from edgekit_converters.frameworks.user_code import own_files
from edgekit_converters.records import OwnMetric
from edgekit_runtime.errors import DataError

WANTED = "FILE.py:function, a function (outputs, labels) that returns a number, or one a sample; higher is better"
Outputs = dict[str, np.ndarray]  # by output name: (samples, *output shape without batch)


def named(spec: str) -> OwnMetric:
    """Read ``FILE.py:function``.

    Raises:
        DataError: it is not of that form, or there is no such file.
    """
    path, function = split(spec, WANTED)
    return OwnMetric(path.absolute(), function)


def score(metric: OwnMetric, outputs: Outputs, labels: np.ndarray | None) -> float:
    """Return what the function makes of all samples; of one number a sample, the mean.

    Args:
        metric: called once, ``function(outputs, labels)``; it may return a number for the whole set (such as mAP) or
            an array (samples,).
        outputs: what the model computed, as an application sees it.
        labels: as the data have them: (samples,) or (samples, ...); None without.

    Raises:
        DataError: the function raises (with its line), or returns something else, or NaN or infinity. A sample that
            alone makes it do so, where others do not, is named.
    """
    function, _ = load(metric)
    samples = len(next(iter(outputs.values())))
    try:
        values = _called(metric, function, outputs, labels)
    except DataError as error:
        raise DataError(f"{error}{_culprit(metric, function, outputs, labels)}") from error
    if values.shape not in ((), (samples,)):
        raise DataError(f"{metric.name} returned an array of shape {values.shape} for {samples} samples; {WANTED}")
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size and values.ndim:
        raise DataError(f"{metric.name} returned {values[wrong[0]]} for evaluation sample {wrong[0]}")
    if wrong.size:
        raise DataError(f"{metric.name} returned {values}{_culprit(metric, function, outputs, labels)}")
    return float(values.mean())


@lru_cache
def load(metric: OwnMetric) -> tuple[Callable[..., Any], tuple[Path, ...]]:
    """Import the user's file once a process; return the function and the files that it is made of.

    Raises:
        DataError: the file raises, or has no such function.
    """
    before = set(sys.modules)
    function: Callable[..., Any] = load_function(metric.path, metric.function, WANTED)
    return function, own_files(metric.path, before)


def _called(metric: OwnMetric, function: Callable[..., Any], outputs: Outputs, labels: np.ndarray | None) -> np.ndarray:
    with users_code(metric.path):
        returned = function(outputs, labels)
    try:
        if returned is None:  # which numpy takes for NaN
            raise TypeError("nothing is no number")
        return np.asarray(returned, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{metric.name} returned {type(returned).__name__}; {WANTED}") from error


def _culprit(metric: OwnMetric, function: Callable[..., Any], outputs: Outputs, labels: np.ndarray | None) -> str:
    """Name the first sample for which it fails alone; nobody, where it fails for every sample alone."""
    samples = len(next(iter(outputs.values())))
    failed = [i for i in range(samples) if not _works(metric, function, _row(outputs, i), _label(labels, i))]
    return f" (because of evaluation sample {failed[0]})" if 0 < len(failed) < samples else ""


def _works(metric: OwnMetric, function: Callable[..., Any], outputs: Outputs, labels: np.ndarray | None) -> bool:
    try:
        return bool(np.isfinite(_called(metric, function, outputs, labels)).all())
    except DataError:
        return False


def _row(outputs: Outputs, i: int) -> Outputs:
    return {name: array[i : i + 1] for name, array in outputs.items()}


def _label(labels: np.ndarray | None, i: int) -> np.ndarray | None:
    return None if labels is None else labels[i : i + 1]
