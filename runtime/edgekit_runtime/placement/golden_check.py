"""Compare a variant's outputs on this machine with its golden outputs, and cache the result.

The check runs when a variant is first opened on a machine, and again when anything in its cache key has changed: the
files, the library, the processor, the threads or the settings.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_runtime.errors import MalformedBundle, VerificationError
from edgekit_runtime.format.manifest import JoinedBinding
from edgekit_runtime.host.machine import processor
from edgekit_runtime.host.sha256 import sha256
from edgekit_runtime.record import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgekit_runtime.bundle.reader import Bundle
    from edgekit_runtime.engines import EngineInfo, Library
    from edgekit_runtime.format.manifest import InputSpec, Manifest, OutputSpec, Variant
    from edgekit_runtime.inference.session import Session
    from edgekit_runtime.tensors import Array


@dataclass(frozen=True)
class Difference:
    """How far one output was from its golden values, in the output's unit."""

    output: str  # its name, followed by the part if parts have tolerances of their own
    max_abs: float  # NaN if either side had a value that is not finite
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance; false for NaN."""
        return self.max_abs <= self.allowed

    def __str__(self) -> str:
        return f"output {self.output!r} differs by {self.max_abs:.3g}, allowed is {self.allowed:.3g}"


NATIVE_SUFFIXES = (".so", ".dylib", ".dll", ".pyd")
TOPIC = "selfcheck"  # in the state cache


def cached_check(
    session: Session, bundle: Bundle, variant: Variant, key: dict[str, str], check: str
) -> tuple[Difference, ...]:
    """Return the differences from the golden outputs, from the state cache if they passed under the same key.

    Args:
        session: the opened variant.
        bundle: the variant's bundle.
        variant: the variant that was opened.
        key: the result of ``cache_key``.
        check: ``"auto"``, ``"always"`` to ignore the cache, or ``"never"``, which returns no differences.

    Raises:
        VerificationError: an output differs by more than its tolerance.
        BundleError: as ``golden_differences``.
        EngineError: as ``golden_differences``.
    """
    if check == "never":
        return ()
    from edgekit_runtime.host import state_cache

    entry = state_cache.get(TOPIC, key) if check == "auto" else None
    differences = _from_cache(entry, bundle, variant) if entry else None
    if differences is None:
        differences = golden_differences(session, bundle, variant)
        if not failures(differences):
            state_cache.put(TOPIC, key, {each.output: each.max_abs for each in differences})
    problem = failures(differences)
    if problem:
        state_cache.delete(TOPIC, key)
        raise VerificationError(f"the outputs differ from the golden outputs on this machine: {problem}")
    return differences


def cache_key(bundle: Bundle, variant: Variant, library: Library, facts: EngineInfo) -> dict[str, str]:
    """Return everything that the result of a check depends on: files, library, processor, threads and settings."""
    digests = {record.path: record.sha256 for record in bundle.manifest.files}
    used = (*variant.files, *variant.golden.outputs, *bundle.manifest.golden_inputs)
    return {
        "files": " ".join(digests[path] for path in used),
        "bindings": repr((variant.inputs, variant.outputs, variant.golden.max_abs)),
        "library": f"{library.name} {library.version} {library.path} {_build_digest(library.path)}",
        "facts": repr(facts),
        "delegate": f"{variant.delegate} {sorted(variant.settings.items())}",
        "cpu": processor(),
    }


def _build_digest(path: str) -> str:
    """Identify the build of a library, which may change without its version, by size and time of its native files.

    Looks in the library's folder and in ``libs`` below it, where OpenVINO keeps its own.
    """
    found = []
    for folder in (path, os.path.join(path, "libs")):
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(NATIVE_SUFFIXES) or ".so." in entry.name:
                    status = entry.stat()
                    found.append(f"{entry.name} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}")
    digest = sha256(len(found))
    digest.update("\n".join(sorted(found)).encode())
    return str(digest.hexdigest()[:32])


def failures(differences: tuple[Difference, ...]) -> str:
    """Describe the outputs that differ by more than their tolerance; empty if all pass."""
    return "; ".join(str(difference) for difference in differences if not difference.holds)


def _from_cache(entry: dict[str, Any], bundle: Bundle, variant: Variant) -> tuple[Difference, ...] | None:
    """Return the cached differences; None if the entry, a file that may have been damaged, is not valid."""
    wanted = tolerances(bundle.manifest, variant)
    if sorted(entry) != sorted(wanted) or not all(isinstance(value, float) for value in entry.values()):
        return None
    return tuple(Difference(name, entry[name], allowed) for name, allowed in wanted.items())


def tolerances(manifest: Manifest, variant: Variant) -> dict[str, float]:
    """Return the tolerance of each output, or of each part of one, by the name in ``Difference.output``; in order."""
    found = {}
    for spec, limit in zip(manifest.outputs, variant.golden.max_abs):
        if isinstance(limit, tuple):
            found.update({f"{spec.name} part {part}": allowed for part, allowed in enumerate(limit)})
        else:
            found[spec.name] = limit
    return found


def golden_differences(session: Session, bundle: Bundle, variant: Variant) -> tuple[Difference, ...]:
    """Run the golden inputs and measure how far each output, or each part of one, is from its golden values.

    Raises:
        MalformedBundle: the golden arrays do not match the manifest's inputs and outputs, or have no samples.
        DigestMismatch: the digest of a golden array is wrong.
        EngineError: the engine failed.
    """
    manifest = bundle.manifest
    inputs = [_golden_array(bundle, path, spec) for path, spec in zip(manifest.golden_inputs, manifest.inputs)]
    wanted = [_golden_array(bundle, path, spec) for path, spec in zip(variant.golden.outputs, manifest.outputs)]
    samples = len(inputs[0])
    if samples == 0 or any(len(array) != samples for array in (*inputs, *wanted)):
        raise MalformedBundle("the golden arrays do not all hold the same number of samples, at least one")
    allowed = tolerances(manifest, variant)
    parts = list(_parts(session, variant))
    worst = np.zeros(len(parts))
    for i in range(samples):
        results = session.run([array[i] for array in inputs])
        # np.maximum, unlike max, keeps a NaN.
        worst = np.maximum(worst, [_max_abs(results[at][region], wanted[at][i][region]) for at, region in parts])
    return tuple(Difference(name, float(far), limit) for (name, limit), far in zip(allowed.items(), worst))


def _parts(session: Session, variant: Variant) -> Iterator[tuple[int, tuple[slice, ...]]]:
    """Yield an output's index and a region of it for each tolerance, in the order of ``tolerances``."""
    for index, (bound, limit) in enumerate(zip(variant.outputs, variant.golden.max_abs)):
        if not isinstance(limit, tuple) or not isinstance(bound, JoinedBinding):
            yield index, ()
            continue
        start = 0
        for part in bound.parts:
            end = start + session.outputs[part.index].shape[bound.axis]
            yield index, (*(slice(None),) * bound.axis, slice(start, end))
            start = end


def _golden_array(bundle: Bundle, path: str, spec: InputSpec | OutputSpec) -> Array:
    """Read a golden array, (samples, *shape)."""
    array = bundle.array(path)
    if array.shape[1:] != spec.shape or array.dtype != np.dtype(spec.dtype):
        raise MalformedBundle(
            f"{path} is {array.dtype} {list(array.shape)}, wanted {spec.dtype} samples of {list(spec.shape)}"
        )
    return array


def _max_abs(have: Array, want: Array) -> Any:
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which fails the check
        return np.max(np.abs(have.astype(np.float64) - want.astype(np.float64)), initial=0.0)
