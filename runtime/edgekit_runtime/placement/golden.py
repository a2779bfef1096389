"""Run a variant on its golden inputs and measure how far it is from its golden outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_runtime.errors import MalformedBundle
from edgekit_runtime.format.manifest import JoinedBinding
from edgekit_runtime.placement.golden_check import Difference, limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgekit_runtime.bundle.reader import Bundle
    from edgekit_runtime.format.manifest import InputSpec, OutputSpec, Variant
    from edgekit_runtime.inference.session import Session
    from edgekit_runtime.tensors import Array


def check(session: Session, bundle: Bundle, variant: Variant) -> tuple[Difference, ...]:
    """Run the golden inputs and measure how far each output, or each part of one, is from its golden values.

    Raises:
        MalformedBundle: the golden arrays are not those of the manifest's inputs and outputs, or are none.
        DigestMismatch: a golden array is not the one that was packed.
        EngineError: the engine failed.
    """
    manifest = bundle.manifest
    inputs = [_golden(bundle, path, spec) for path, spec in zip(manifest.golden_inputs, manifest.inputs)]
    wanted = [_golden(bundle, path, spec) for path, spec in zip(variant.golden.outputs, manifest.outputs)]
    samples = len(inputs[0])
    if samples == 0 or any(len(array) != samples for array in (*inputs, *wanted)):
        raise MalformedBundle("the golden arrays do not all hold the same number of samples, at least one")
    allowed = limits(manifest, variant)
    pieces = list(_pieces(session, variant))
    worst = np.zeros(len(pieces))
    for i in range(samples):
        results = session.run([array[i] for array in inputs])
        # np.maximum, unlike max, keeps a NaN.
        worst = np.maximum(worst, [_distance(results[at][where], wanted[at][i][where]) for at, where in pieces])
    return tuple(Difference(name, float(far), limit) for (name, limit), far in zip(allowed.items(), worst))


def _pieces(session: Session, variant: Variant) -> Iterator[tuple[int, tuple[slice, ...]]]:
    """What has a tolerance of its own, in the order of ``limits``: which output, and where in it."""
    for place, (bound, limit) in enumerate(zip(variant.outputs, variant.golden.max_abs)):
        if not isinstance(limit, tuple) or not isinstance(bound, JoinedBinding):
            yield place, ()
            continue
        start = 0
        for part in bound.parts:
            end = start + session.outputs[part.index].shape[bound.axis]
            yield place, (*(slice(None),) * bound.axis, slice(start, end))
            start = end


def _golden(bundle: Bundle, path: str, spec: InputSpec | OutputSpec) -> Array:
    """A golden array, (samples, *shape)."""
    array = bundle.array(path)
    if array.shape[1:] != spec.shape or array.dtype != np.dtype(spec.dtype):
        raise MalformedBundle(
            f"{path} is {array.dtype} {list(array.shape)}, wanted {spec.dtype} samples of {list(spec.shape)}"
        )
    return array


def _distance(have: Array, want: Array) -> Any:
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, and NaN does not hold
        return np.max(np.abs(have.astype(np.float64) - want.astype(np.float64)), initial=0.0)
