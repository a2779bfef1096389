"""Measure: how long one call takes on this machine. Times of another machine, or a busy one, are other times."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from edgekit_converters.artifact import OpenArtifact
from edgekit_converters.records import Latency, MeasureRequest

MIN_RUNS, MAX_RUNS, BUDGET_S = 20, 1000, 1.0


def measure(request: MeasureRequest, _folder: Path) -> Latency:
    """The stage: warm up, then time single calls with one thread for about a second.

    Raises:
        EngineError: the engine cannot open or run the artifact.
    """
    sample = [np.load(path)[:1] for path in request.probe.inputs]
    opened = OpenArtifact(request.artifact, request.precision)
    try:
        for _ in range(3):
            opened.run(sample)
        times_ms: list[float] = []
        deadline = time.perf_counter() + BUDGET_S
        while len(times_ms) < MIN_RUNS or (len(times_ms) < MAX_RUNS and time.perf_counter() < deadline):
            started = time.perf_counter()
            opened.run(sample)
            times_ms.append((time.perf_counter() - started) * 1e3)
    finally:
        opened.close()
    p50, p90 = np.percentile(times_ms, [50, 90])
    return Latency(round(float(p50), 4), round(float(p90), 4), len(times_ms))
