"""Time calls of the engine on this machine; other machines, and a busy one, need other times.

Inputs and outputs have the artifact's own dtypes, so converting an application's data is not included.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from edgekit_converters.artifact.open import OpenArtifact, artifact_inputs
from edgekit_converters.execution.stage import Stage
from edgekit_converters.progress import report_progress
from edgekit_converters.records import Artifact, Latency, MeasureRequest, Probe, RankRequest

MIN_RUNS, MAX_RUNS, BUDGET_S = 20, 1000, 1.0
ROUNDS, ROUND_S = 15, 0.03  # of a ranking: turns of each artifact, and seconds of a turn


def measure(request: MeasureRequest, _folder: Path) -> Latency:
    """Warm up, then time single calls with one thread for about a second.

    Raises:
        EngineError: the engine cannot open or run the artifact.
    """
    opened = OpenArtifact(request.artifact, request.precision)
    sample = _first_sample(opened.artifact, request.probe)
    try:
        for _ in range(3):
            opened.engine.run(sample)
        times_ms: list[float] = []
        deadline = time.perf_counter() + BUDGET_S
        while len(times_ms) < MIN_RUNS or (len(times_ms) < MAX_RUNS and time.perf_counter() < deadline):
            started = time.perf_counter()
            opened.engine.run(sample)
            times_ms.append((time.perf_counter() - started) * 1e3)
    finally:
        opened.close()
    p50, p90 = np.percentile(times_ms, [50, 90])
    return Latency(round(float(p50), 4), round(float(p90), 4), len(times_ms))


# times differ from run to run
MEASURE = Stage(measure, toolchain=lambda request: request.artifact.toolchain, pure=False)


def rank(request: RankRequest, _folder: Path) -> tuple[Latency, ...]:
    """Time the artifacts in turns, so that other load on the machine affects all of them alike.

    Returns:
        A latency for each artifact: median and 90th percentile of the mean times of its turns.

    Raises:
        EngineError: the engine cannot open or run one of them.
    """
    opened: list[OpenArtifact] = []
    try:
        for artifact in request.artifacts:
            opened.append(OpenArtifact(artifact, request.precision))
        samples = [_first_sample(one.artifact, request.probe) for one in opened]
        turns_ms: list[list[float]] = [[] for _ in opened]
        for done in range(ROUNDS + 1):  # the first one warms up
            for turns, one, sample in zip(turns_ms, opened, samples, strict=True):
                turns.append(_turn_ms(one, sample))
            report_progress(done, ROUNDS + 1)
    finally:
        for one in opened:
            one.close()
    percentiles = [np.percentile(turns[1:], [50, 90]) for turns in turns_ms]
    return tuple(Latency(round(float(p50), 4), round(float(p90), 4), ROUNDS) for p50, p90 in percentiles)


# times differ from run to run
RANK = Stage(rank, toolchain=lambda request: request.artifacts[0].toolchain, pure=False)


def _turn_ms(opened: OpenArtifact, sample: list[np.ndarray]) -> float:
    """Return the mean time of the calls of one turn, in milliseconds."""
    started, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - started < ROUND_S:
        opened.engine.run(sample)
        calls += 1
    return (time.perf_counter() - started) * 1e3 / calls


def _first_sample(artifact: Artifact, probe: Probe) -> list[np.ndarray]:
    """Return the probe's first sample in the artifact's own dtypes."""
    return artifact_inputs(artifact, [np.load(path)[:1] for path in probe.inputs])
