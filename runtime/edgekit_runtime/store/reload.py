"""What a model that was loaded from a store has to do with it afterwards: newer generations, and heartbeats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit_runtime.errors import StoreError
from edgekit_runtime.model import load
from edgekit_runtime.store.generations import current

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgekit_runtime.bundle.reader import Bundle
    from edgekit_runtime.format.manifest import Manifest
    from edgekit_runtime.model import Model
    from edgekit_runtime.store.generations import GenerationLock


def newer(bundle: Bundle, asked: Mapping[str, Any], passed_over: set[str]) -> Model | None:
    """Load the store's current generation, as the model was loaded, if that is another.

    Args:
        bundle: the generation that runs.
        asked: the arguments of ``load``.
        passed_over: generations that could not be switched to, which are not tried again; one more if this cannot.

    Raises:
        StoreError: the bundle is in no store, or the new one has other inputs or outputs.
        EdgekitError: as of ``load``.
    """
    held = _held(bundle)
    now = current(held.store)
    if now is None or now == held.generation or now in passed_over:
        return None
    passed_over.add(now)
    other = load(**{**asked, "path": held.store})
    if _interface(other.manifest) != _interface(bundle.manifest):
        other.close()
        raise StoreError(f"{held.store}: generation {now} has other inputs or outputs: load the store again")
    passed_over.clear()
    return other


def beat(bundle: Bundle) -> bool:
    """Send the store a heartbeat for the generation that runs; tell whether it was on trial.

    Raises:
        StoreError: the bundle is in no store, or that cannot be written.
    """
    from edgekit_runtime.store.trial import NOTHING, heartbeat

    held = _held(bundle)
    return heartbeat(held.store, held.generation).did != NOTHING


def _held(bundle: Bundle) -> GenerationLock:
    if bundle.hold is None:
        raise StoreError(f"{bundle.path}: was not loaded from a store: load the store's folder, the one with 'current'")
    return bundle.hold


def _interface(manifest: Manifest) -> object:
    """What calls that are under way depend on: the names, shapes and dtypes of inputs, and the outputs' names."""
    inputs = [(spec.name, spec.shape, spec.dtype) for spec in manifest.inputs]
    return inputs, [spec.name for spec in manifest.outputs]
