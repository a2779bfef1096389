"""Split a long evaluation into parts that several workers compute at the same time; the result is bit-identical.

Only engines are split, which run one sample after another on one thread: Keras and PyTorch use all cores anyway.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from edgekit.parallel.executor import Executor
from edgekit_converters.execution.runner import Runner
from edgekit_converters.frameworks import trainable_frameworks
from edgekit_converters.records import EvaluatePartRequest, EvaluateRequest, Evaluation, EvaluationPart, Source
from edgekit_converters.verify.metrics import BATCH, EVALUATE, EVALUATE_PART

SERIAL_S = 1.0  # seconds in one worker first: a shorter evaluation is not split, and a longer one shows its speed
MIN_GAIN = 3  # remaining time, as a multiple of a worker's start-up time, from which splitting is worthwhile
PARTS_PER_JOB = 4  # at most: a worker that starts late or is slow takes fewer
CACHE_SHARE = 1 / 4  # limit of the stored outputs, which a user's metric needs all at once


def evaluate(runner: Runner, executor: Executor, request: EvaluateRequest, name: str) -> Evaluation:
    """Return what :func:`edgekit_converters.verify.metrics.evaluate` returns, faster if several workers can help."""
    splits = executor.jobs > 1 and _can_split(runner, request)
    return runner.run(EVALUATE, request, name, partial(_split, runner, executor, name) if splits else _unchanged)


def _can_split(runner: Runner, request: EvaluateRequest) -> bool:
    """Tell whether an engine runs the subject, and the outputs of the parts fit into the cache."""
    by_framework = isinstance(request.subject, Source) and request.subject.framework in trainable_frameworks()
    values = sum(math.prod(spec.shape) for spec in request.outputs) if request.metric else 1
    limit_bytes = CACHE_SHARE * runner.cache.limit_mib * 2**20
    return not by_framework and request.data.count > BATCH and 4 * values * request.data.count < limit_bytes


def _unchanged(request: EvaluateRequest) -> EvaluateRequest:
    return request


def _split(runner: Runner, executor: Executor, name: str, request: EvaluateRequest) -> EvaluateRequest:
    """Return the request with computed parts: a first one by one worker, then, if much remains, the others by all."""
    count = request.data.count
    first = runner.run(EVALUATE_PART, EvaluatePartRequest(request, 0, count, SERIAL_S), name)
    remaining = count - first.count
    gain = remaining / first.count * first.seconds / executor.startup_s
    if gain < MIN_GAIN:
        return replace(request, parts=(first,))
    size = math.ceil(remaining / min(gain, PARTS_PER_JOB * executor.jobs) / BATCH) * BATCH
    requests = [
        EvaluatePartRequest(request, start, min(start + size, count)) for start in range(first.count, count, size)
    ]
    others = executor.map(partial(_evaluate_part, runner, name), requests, lambda _: "")
    return replace(request, parts=(first, *others))


def _evaluate_part(runner: Runner, name: str, request: EvaluatePartRequest, _skip_reason: str) -> EvaluationPart:
    return runner.run(EVALUATE_PART, request, f"{name} {request.first + 1}–{request.end}")
