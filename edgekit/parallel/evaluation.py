"""Divide: an evaluation that takes long goes on in several workers side by side, and comes to the same.

Only what an engine runs, one sample after the other on one thread, is divided: Keras and PyTorch use all cores anyhow.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from edgekit.parallel.executor import Executor
from edgekit_converters.execution.runner import Runner
from edgekit_converters.records import EvaluateRequest, Evaluation, Part, PartRequest, Source
from edgekit_converters.verify.metrics import BATCH

ALONE_S = 1.0  # what is through by then is not divided, and what is not tells how much is left
WORTH = 3  # times what another one takes to begin: less is not divided either
PARTS = 4  # a job, at most: who begins late, or is slow, does fewer of them
OF_CACHE = 1 / 4  # that outputs for an own metric, which sees all of them at once, may take


def evaluate(runner: Runner, crew: Executor, toolchain: str, request: EvaluateRequest, name: str) -> Evaluation:
    """Return what :func:`edgekit_converters.verify.metrics.evaluate` gives, sooner where more than one can help."""
    eased = partial(_divided, runner, crew, toolchain, name) if crew.jobs > 1 and _divides(runner, request) else _whole
    evaluation: Evaluation = runner.run("evaluate", toolchain, request, name, eased)
    return evaluation


def _divides(runner: Runner, request: EvaluateRequest) -> bool:
    """Tell whether an engine runs it, and what its parts leave behind has room."""
    by_framework = isinstance(request.subject, Source) and request.subject.framework in ("keras", "torch")
    values = sum(math.prod(spec.shape) for spec in request.outputs) if request.metric else 1
    room_bytes = OF_CACHE * runner.cache.limit_mib * 2**20
    return not by_framework and request.data.count > BATCH and 4 * values * request.data.count < room_bytes


def _whole(request: EvaluateRequest) -> EvaluateRequest:
    return request


def _divided(runner: Runner, crew: Executor, toolchain: str, name: str, request: EvaluateRequest) -> EvaluateRequest:
    """Return the request with what was computed of it: by one for a while, then, if much is left, by all."""
    count = request.data.count
    begun: Part = runner.run("compute", toolchain, PartRequest(request, 0, count, ALONE_S), name)
    left = count - begun.count
    times = left / begun.count * begun.seconds / crew.begins_s
    if times < WORTH:
        return replace(request, parts=(begun,))
    size = math.ceil(left / min(times, PARTS * crew.jobs) / BATCH) * BATCH
    others = [PartRequest(request, first, min(first + size, count)) for first in range(begun.count, count, size)]
    return replace(request, parts=(begun, *crew.each(partial(_compute, runner, toolchain, name), others, lambda _: "")))


def _compute(runner: Runner, toolchain: str, name: str, request: PartRequest, _reason: str) -> Part:
    part: Part = runner.run("compute", toolchain, request, f"{name} {request.first + 1}–{request.end}")
    return part
