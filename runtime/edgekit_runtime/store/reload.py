"""Switch a running model to a newer generation of its store, and send heartbeats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Protocol, TypeVar

from edgekit_runtime.errors import StoreError
from edgekit_runtime.store.generations import current

if TYPE_CHECKING:
    from edgekit_runtime.bundle.reader import Bundle, FolderLock
    from edgekit_runtime.format.manifest import Manifest


class LoadedGeneration(Protocol):
    """A generation that was loaded and can run."""

    @property
    def bundle(self) -> Bundle:
        """Its bundle."""

    def close(self) -> None:
        """Close the engines and the bundle."""


AnyGeneration = TypeVar("AnyGeneration", bound=LoadedGeneration)


def newer(bundle: Bundle, load: Callable[[str], AnyGeneration], failed: set[str]) -> AnyGeneration | None:
    """Load the store's current generation if it is not the one that runs.

    Args:
        bundle: the generation that runs.
        load: loads a store's current generation, with the model's options.
        failed: generations that could not be loaded, which are not tried again; extended if this one fails.

    Returns:
        The new generation; None if there is none, or if it failed before.

    Raises:
        StoreError: the bundle is in no store, or the new generation has other inputs or outputs.
        EdgekitError: as ``load``.
    """
    lock = _lock_of(bundle)
    name = current(lock.store)
    if name is None or name == lock.generation or name in failed:
        return None
    failed.add(name)
    loaded = load(lock.store)
    if _interface(loaded.bundle.manifest) != _interface(bundle.manifest):
        loaded.close()
        raise StoreError(f"{lock.store}: generation {name} has other inputs or outputs: load the store again")
    failed.clear()
    return loaded


def beat(bundle: Bundle) -> bool:
    """Send the store a heartbeat for the generation that runs; return whether it was on trial.

    Raises:
        StoreError: the bundle is in no store, or the store cannot be written.
    """
    from edgekit_runtime.store.trial import NOTHING, heartbeat

    lock = _lock_of(bundle)
    return heartbeat(lock.store, lock.generation).did != NOTHING


def _lock_of(bundle: Bundle) -> FolderLock:
    if bundle.lock is None:
        raise StoreError(f"{bundle.path}: was not loaded from a store: load the store's folder, the one with 'current'")
    return bundle.lock


def _interface(manifest: Manifest) -> object:
    """Return what callers depend on: the inputs' names, shapes and dtypes, and the outputs' names."""
    inputs = [(spec.name, spec.shape, spec.dtype) for spec in manifest.inputs]
    return inputs, [spec.name for spec in manifest.outputs]
