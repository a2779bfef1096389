"""A store: the folder on a board that keeps generations of one model's bundle, and says which is current.

    STORE/
      current        a link to the generation that ``load(STORE)`` opens; renaming a new one over it is the switch
      state.json     which generations were good, which is on trial, which were given up, and why
      generations/   a bundle a folder, complete and never changed again

What is current is what the link says, and nothing else; docs/store.md draws how it comes to change. This module is
all that an application needs, which only reads.
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
NEW_FOLDER, REMOVED_PREFIX = ".new", ".old-"  # in GENERATIONS: what is being written, what is being removed


class GenerationLock:
    """Keeps a generation from being pruned, by a shared lock on its folder, until it is closed or the process ends.

    Attributes:
        store: the store's path.
        generation: its name.
        folder: where it is.
    """

    def __init__(self, store: str, generation: str, descriptor: int) -> None:
        self.store, self.generation = store, generation
        self.folder = os.path.join(store, GENERATIONS, generation)
        self._descriptor: int | None = descriptor

    def close(self) -> None:
        """Let go of it. May be called again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    __del__ = close


def lock_current(path: BundlePath) -> GenerationLock:
    """Hold the generation that is current now.

    Raises:
        MalformedBundle: the link leads to no generation of this store.
    """
    store = os.path.abspath(os.fspath(path))
    while True:
        generation = current(store)
        if generation is None:
            raise MalformedBundle(f"{store}: nothing is current in this store: install a bundle")
        held = lock_generation(store, generation)
        if held is not None:
            return held
        if current(store) == generation:  # else it was switched and pruned meanwhile
            raise MalformedBundle(f"{store}: its current generation {generation} cannot be opened: install a bundle")


def lock_generation(store: str, generation: str) -> GenerationLock | None:
    """Hold a generation; None where it is not there, or cannot be read."""
    held = os.path.join(store, GENERATIONS, generation)
    try:
        descriptor = os.open(held, os.O_RDONLY)
    except OSError:
        return None
    kept = GenerationLock(store, generation, descriptor)
    _lock(descriptor, shared=True)
    return kept if _is_same_folder(held, descriptor) else None


def _lock(descriptor: int, *, shared: bool) -> None:
    with suppress(ImportError, OSError):  # a file system or a system without locks: then pruning is the user's care
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def _is_same_folder(folder: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(folder), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def current(store: str) -> str | None:
    """The name of the current generation; None in a store that is empty.

    Raises:
        MalformedBundle: the link leads elsewhere.
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
    """Whether a generation may have this name."""
    return len(name) == NAME_DIGITS and not set(name) - set("0123456789abcdef")


def generation_name(unlisted: Mapping[str, bytes]) -> str:
    """The name of a bundle's generation: of its manifest, which has every file's digest, and its signature."""
    digest = sha256(sum(map(len, unlisted.values())))
    for path in sorted(unlisted):
        digest.update(f"{path} {len(unlisted[path])}\n".encode())
        digest.update(unlisted[path])
    return str(digest.hexdigest()[:NAME_DIGITS])


def generations(store: str) -> list[str]:
    """The names of all generations there are, in no order of age."""
    try:
        return sorted(name for name in os.listdir(os.path.join(store, GENERATIONS)) if is_name(name))
    except FileNotFoundError:
        return []


def check_is_store(store: str) -> None:
    """Refuse a folder that holds something else.

    Raises:
        StoreError: it is no store, nor an empty folder, nor one that can be made.
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
    """Have the store to oneself, waiting for whoever has it. Readers need no lock.

    Raises:
        StoreError: there is no store.
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
