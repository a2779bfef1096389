"""Compare an artifact's outputs with the source's, for the samples of a probe."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekit_converters.artifact.open import OpenArtifact
from edgekit_converters.execution.stage import Stage
from edgekit_converters.recipe.schemes import SCHEMES
from edgekit_converters.records import Artifact, CompareRequest, Comparison, Parity
from edgekit_runtime.errors import ConversionError

LEVELS = 255  # steps of an int8 range
EXACT_DB = 150.0  # of equal outputs: float32 resolves no more


def compare(request: CompareRequest, folder: Path) -> Comparison:
    """Run every sample of the probe, and compare each output, or each part of a joined output.

    Raises:
        EngineError: the engine cannot open or run the artifact.
        ConversionError: an output's shape is not the source's.
    """
    artifact = OpenArtifact(request.artifact, request.precision)
    try:
        computed = run_samples(artifact, [np.load(path) for path in request.probe.inputs])
        parts = [artifact.parts(place) for place in range(len(computed))]
    finally:
        artifact.close()
    parity: list[Parity] = []
    paths = []
    for index, (spec, array) in enumerate(zip(request.outputs, computed, strict=True)):
        reference = np.load(request.probe.outputs[index])
        if array.shape != reference.shape:
            raise ConversionError(
                f"output {spec.name!r} has the shape {array.shape[1:]}, the model's has {reference.shape[1:]}",
                stage="compare",
                subject=request.artifact.engine,
            )
        joined = len(parts[index]) > 1
        parity += [
            replace(
                parity_of(spec.name, reference[where], array[where]),
                part=part if joined else None,
                step=binding.scale or _step(artifact.artifact, index, part),
            )
            for part, (binding, where) in enumerate(parts[index])
        ]
        paths.append(folder / f"computed-{index}.npy")
        np.save(paths[-1], array)
    return Comparison(tuple(parity), tuple(paths))


COMPARE = Stage(compare, toolchain=lambda request: request.artifact.toolchain)


def _step(artifact: Artifact, output: int, part: int) -> float:
    """Return the int8 step for a part that was computed in integers and has no scale of its own; else 0."""
    spans = artifact.part_ranges[output] if artifact.part_ranges and SCHEMES[artifact.scheme].calibrated else ()
    return spans[part] / LEVELS if spans else 0.0


def run_samples(artifact: OpenArtifact, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Run an artifact sample by sample; arrays are (samples, ...) in and out."""
    rows = [artifact.run([array[i : i + 1] for array in inputs]) for i in range(len(inputs[0]))]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def parity_of(output: str, reference: np.ndarray, computed: np.ndarray) -> Parity:
    """Compare two arrays of one shape; NaN and infinity are an infinite error (see :class:`Parity`)."""
    wanted = reference.astype(np.float64).ravel()
    got = computed.astype(np.float64).ravel()
    if not np.all(np.isfinite(got)):
        return Parity(output, math.inf, -EXACT_DB, 0.0, largest=math.inf)
    error = got - wanted
    return Parity(
        output,
        max_abs_error=float(np.abs(error).max(initial=0.0)),
        snr_db=snr_db(float(wanted @ wanted), float(error @ error)),
        cosine=_cosine(wanted, got),
        largest=float(np.abs(got).max(initial=0.0)),
    )


def snr_db(signal: float, noise: float) -> float:
    """Return the ratio of two powers in dB, between -150 and 150; without noise it is 150."""
    if noise == 0.0:
        return EXACT_DB
    if signal == 0.0:
        return -EXACT_DB
    return max(-EXACT_DB, min(EXACT_DB, 10.0 * math.log10(signal / noise)))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    if length == 0.0:
        return 1.0 if np.array_equal(a, b) else 0.0
    return float(a @ b) / length
