"""Probe: a few inputs and what the source computes for them, the reference of every comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgekit_converters.data import batches
from edgekit_converters.load import one_by_one, open_source
from edgekit_converters.records import Probe, ProbeRequest
from edgekit_runtime.errors import SourceError
from edgekit_runtime.manifest import InputSpec

SEED = 0


def probe(request: ProbeRequest, folder: Path) -> Probe:
    """The stage: take samples, run the source on them, and keep both.

    Raises:
        SourceError: the source itself computes NaN or infinity for them.
    """
    inputs = _from_data(request) if request.data else _noise(request.inputs, request.samples)
    # one by one, as an artifact runs: a model may look at its whole batch
    outputs = one_by_one(open_source(request.source.request).run, inputs)
    for spec, array in zip(request.source.outputs, outputs, strict=True):
        if not np.all(np.isfinite(array)):
            raise SourceError(
                f"{request.source.request.path}: the model itself computes NaN or infinity in output {spec.name!r}; "
                f"check its weights, and that --scale, --mean and --std are those it was trained with"
            )
    return Probe(_save(inputs, "input", folder), _save(outputs, "output", folder))


def _from_data(request: ProbeRequest) -> list[np.ndarray]:
    assert request.data is not None
    return next(iter(batches(request.data, request.inputs, min(request.samples, request.data.count))))


def _noise(specs: tuple[InputSpec, ...], samples: int) -> list[np.ndarray]:
    """Seeded inputs for a model without data: standard normal reals, and 0 or 1 for integers and booleans."""
    generator = np.random.default_rng(SEED)
    arrays = []
    for spec in specs:
        shape = (samples, *spec.shape[1:])
        dtype = np.dtype(spec.dtype)
        real = generator.standard_normal(shape)
        arrays.append((real if dtype.kind == "f" else real > 0).astype(dtype))
    return arrays


def _save(arrays: list[np.ndarray], name: str, folder: Path) -> tuple[Path, ...]:
    paths = tuple(folder / f"{name}-{index}.npy" for index in range(len(arrays)))
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    return paths
