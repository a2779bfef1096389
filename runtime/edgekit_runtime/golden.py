"""Run a variant on its golden inputs and measure how far it is from its golden outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_runtime.errors import MalformedBundle
from edgekit_runtime.selfcheck import Difference

if TYPE_CHECKING:
    from edgekit_runtime.bundle import Bundle
    from edgekit_runtime.manifest import InputSpec, OutputSpec, Variant
    from edgekit_runtime.session import Session
    from edgekit_runtime.tensors import Array


def check(session: Session, bundle: Bundle, variant: Variant) -> tuple[Difference, ...]:
    """Run the golden inputs and measure how far each output is from its golden values.

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
    worst = np.zeros(len(wanted))  # (outputs,)
    for i in range(samples):
        results = session.run([array[i] for array in inputs])
        # np.maximum, unlike max, keeps a NaN.
        worst = np.maximum(worst, [_distance(have, want[i]) for have, want in zip(results, wanted)])
    return tuple(
        Difference(spec.name, float(far), allowed)
        for spec, far, allowed in zip(manifest.outputs, worst, variant.golden.max_abs)
    )


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
