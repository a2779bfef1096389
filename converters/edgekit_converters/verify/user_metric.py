"""A user's metric: ``FILE.py:function``, called once with all outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edgekit_converters.data.generator import load_function, split_spec, user_errors
from edgekit_converters.frameworks.user_code import own_files
from edgekit_converters.records import UserMetric
from edgekit_runtime.errors import DataError

WANTED = "FILE.py:function, a function (outputs, labels) that returns a number, or one a sample; higher is better"
Outputs = dict[str, np.ndarray]  # by output name: (samples, *output shape without batch)


def parse_metric(spec: str) -> UserMetric:
    """Read ``FILE.py:function``.

    Raises:
        DataError: the text has another form, or there is no such file.
    """
    path, function = split_spec(spec, WANTED)
    return UserMetric(path.absolute(), function)


def score(metric: UserMetric, outputs: Outputs, labels: np.ndarray | None) -> float:
    """Return the function's value for all samples; if it returns one number a sample, their mean.

    Args:
        metric: called once, ``function(outputs, labels)``; it may return a number for the whole set (such as mAP) or
            an array (samples,).
        outputs: of the model, as an application sees them.
        labels: of the data, (samples,) or (samples, ...), or None.

    Raises:
        DataError: the function raises (the message has the line), or returns something else, NaN or infinity. If
            it fails for some samples only, the message names the first of them.
    """
    function, _ = load(metric)
    samples = len(next(iter(outputs.values())))
    try:
        values = _call(metric, function, outputs, labels)
    except DataError as error:
        raise DataError(f"{error}{_failing_sample(metric, function, outputs, labels)}") from error
    if values.shape not in ((), (samples,)):
        raise DataError(f"{metric.name} returned an array of shape {values.shape} for {samples} samples; {WANTED}")
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size and values.ndim:
        raise DataError(f"{metric.name} returned {values[wrong[0]]} for evaluation sample {wrong[0]}")
    if wrong.size:
        raise DataError(f"{metric.name} returned {values}{_failing_sample(metric, function, outputs, labels)}")
    return float(values.mean())


@lru_cache
def load(metric: UserMetric) -> tuple[Callable[..., Any], tuple[Path, ...]]:
    """Import the user's file once in a process; return the function and the files it consists of.

    Raises:
        DataError: the file raises, or has no such function.
    """
    before = set(sys.modules)
    function: Callable[..., Any] = load_function(metric.path, metric.function, WANTED)
    return function, own_files(metric.path, before)


def _call(metric: UserMetric, function: Callable[..., Any], outputs: Outputs, labels: np.ndarray | None) -> np.ndarray:
    with user_errors(metric.path):
        returned = function(outputs, labels)
    try:
        if returned is None:  # numpy would convert None to NaN
            raise TypeError("None is no number")
        return np.asarray(returned, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{metric.name} returned {type(returned).__name__}; {WANTED}") from error


def _failing_sample(
    metric: UserMetric, function: Callable[..., Any], outputs: Outputs, labels: np.ndarray | None
) -> str:
    """Return text that names the first sample the function fails for; "" if it fails for each one or for none."""
    samples = len(next(iter(outputs.values())))
    failed = [i for i in range(samples) if not _works(metric, function, _row(outputs, i), _label(labels, i))]
    return f" (because of evaluation sample {failed[0]})" if 0 < len(failed) < samples else ""


def _works(metric: UserMetric, function: Callable[..., Any], outputs: Outputs, labels: np.ndarray | None) -> bool:
    try:
        return bool(np.isfinite(_call(metric, function, outputs, labels)).all())
    except DataError:
        return False


def _row(outputs: Outputs, i: int) -> Outputs:
    return {name: array[i : i + 1] for name, array in outputs.items()}


def _label(labels: np.ndarray | None, i: int) -> np.ndarray | None:
    return None if labels is None else labels[i : i + 1]
