"""Run the source on a few samples; its outputs are the reference of every comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgekit_converters.data import pick_samples
from edgekit_converters.execution.stage import Stage
from edgekit_converters.load import one_by_one, open_source
from edgekit_converters.records import Probe, ProbeRequest
from edgekit_runtime.errors import SourceError
from edgekit_runtime.format.manifest import InputSpec

SEED = 0


def probe(request: ProbeRequest, folder: Path) -> Probe:
    """Select samples, run the source on them, and store inputs and outputs.

    Raises:
        SourceError: the source itself computes NaN or infinity.
    """
    inputs = _from_data(request) if request.data else _noise(request.inputs, request.samples)
    # one by one, as an artifact runs: the outputs of a model may depend on the whole batch
    outputs = one_by_one(open_source(request.source.request).run, inputs)
    for spec, array in zip(request.source.outputs, outputs, strict=True):
        if not np.all(np.isfinite(array)):
            raise SourceError(
                f"{request.source.request.path}: the model itself computes NaN or infinity in output {spec.name!r}; "
                f"check its weights, and that --scale, --mean and --std are those it was trained with"
            )
    return Probe(_save(inputs, "input", folder), _save(outputs, "output", folder))


PROBE = Stage(probe, toolchain=lambda request: request.source.toolchain)


def _from_data(request: ProbeRequest) -> list[np.ndarray]:
    """Take equally many samples from each set, in turns, so that the first few come from all sets."""
    share = -(-request.samples // len(request.data))
    sets = [pick_samples(data, request.inputs, share) for data in request.data]
    turns = [turn for arrays in sets for turn in range(len(arrays[0]))]
    order = np.argsort(turns, kind="stable")[: request.samples]
    return [np.concatenate(column)[order] for column in zip(*sets, strict=True)]


def _noise(specs: tuple[InputSpec, ...], samples: int) -> list[np.ndarray]:
    """Return seeded inputs: standard normal floats, and 0 or 1 for integers and booleans."""
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
