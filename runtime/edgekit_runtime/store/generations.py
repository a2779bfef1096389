"""The layout of a store: a folder on a board that keeps generations of one model's bundle.

    STORE/
      current        a link to the generation that ``load(STORE)`` opens; a new link is renamed over it
      state.json     the good generations, the one on trial, those given up and why
      generations/   one folder for each bundle, complete, never changed

Only the link determines the current generation; docs/store.md describes how it changes. This module has all that an
application needs, which only reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from edgekit_runtime.errors import MalformedBundle, StoreError
from edgekit_runtime.host.sha256 import sha256

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgekit_runtime.format.extents import BundlePath

CURRENT, GENERATIONS, STATE = "current", "generations", "state.json"
NAME_DIGITS = 16
NEW_FOLDER, REMOVED_PREFIX = (
    ".new",
    ".old-",
)  # in GENERATIONS: a folder being written, and the prefix of one being removed


class GenerationLock:
    """A shared lock on a generation's folder: it is not pruned until the lock is closed or the process ends.

    Attributes:
        store: the store's path.
        generation: the name of the generation.
        folder: the path of its folder.
    """

    def __init__(self, store: str, generation: str, descriptor: int) -> None:
        self.store, self.generation = store, generation
        self.folder = os.path.join(store, GENERATIONS, generation)
        self._descriptor: int | None = descriptor

    def close(self) -> None:
        """Release the lock. Later calls do nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    __del__ = close


def lock_current(path: BundlePath) -> GenerationLock:
    """Lock the current generation.

    Raises:
        MalformedBundle: the link does not lead to a generation of this store.
    """
    store = os.path.abspath(os.fspath(path))
    while True:
        generation = current(store)
        if generation is None:
            raise MalformedBundle(f"{store}: this store has no current generation: install a bundle")
        lock = lock_generation(store, generation)
        if lock is not None:
            return lock
        if current(store) == generation:  # else it was switched and pruned in between
            raise MalformedBundle(f"{store}: its current generation {generation} cannot be opened: install a bundle")


def lock_generation(store: str, generation: str) -> GenerationLock | None:
    """Lock a generation; return None if it does not exist or cannot be read."""
    folder = os.path.join(store, GENERATIONS, generation)
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    lock = GenerationLock(store, generation, descriptor)
    _lock(descriptor, shared=True)
    return lock if _is_same_folder(folder, descriptor) else None


def _lock(descriptor: int, *, shared: bool) -> None:
    with suppress(ImportError, OSError):  # no locks here: users must not prune generations in use
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def _is_same_folder(folder: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(folder), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def current(store: str) -> str | None:
    """Return the name of the current generation; None if the store is empty.

    Raises:
        MalformedBundle: the link does not lead to a generation.
    """
    try:
        target = os.readlink(os.path.join(store, CURRENT))
    except OSError:
        return None
    folder, _, name = target.partition("/")
    if folder != GENERATIONS or not is_name(name):
        raise MalformedBundle(f"{store}: its link {CURRENT!r} leads to {target!r}, not to a generation of it")
    return name


def is_name(name: str) -> bool:
    """Return whether this is a valid name of a generation."""
    return len(name) == NAME_DIGITS and not set(name) - set("0123456789abcdef")


def generation_name(unlisted: Mapping[str, bytes]) -> str:
    """Return the name of a bundle's generation: a digest of the manifest, which has all digests, and the signature."""
    digest = sha256(sum(map(len, unlisted.values())))
    for path in sorted(unlisted):
        digest.update(f"{path} {len(unlisted[path])}\n".encode())
        digest.update(unlisted[path])
    return str(digest.hexdigest()[:NAME_DIGITS])


def generations(store: str) -> list[str]:
    """Return the names of all generations, sorted by name."""
    try:
        return sorted(name for name in os.listdir(os.path.join(store, GENERATIONS)) if is_name(name))
    except FileNotFoundError:
        return []


def check_is_store(store: str) -> None:
    """Refuse a folder that holds other files.

    Raises:
        StoreError: it is neither a store nor an empty or missing folder.
    """
    try:
        found = set(os.listdir(store))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{store}: cannot be a store: {error.strerror or error}") from error
    if found and GENERATIONS not in found:
        raise StoreError(f"{store}: is not a store, and not empty: name another folder")


@contextmanager
def exclusive_lock(store: str) -> Iterator[None]:
    """Lock the store for writing; wait while another process has the lock. Readers need no lock.

    Raises:
        StoreError: the folder does not exist.
    """
    try:
        descriptor = os.open(store, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError as error:
        raise StoreError(f"{store}: is not a store: {error.strerror or error}: install a bundle first") from error
    try:
        _lock(descriptor, shared=False)
        yield
    finally:
        os.close(descriptor)
