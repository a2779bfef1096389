"""Remove old generations that no process uses, and leftovers of power cuts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from edgekit_runtime.record import dataclass
from edgekit_runtime.store import state as states
from edgekit_runtime.store.atomic_disk import NEW_SUFFIX, Disk, StoreErrors
from edgekit_runtime.store.generations import (
    CURRENT,
    GENERATIONS,
    NEW_FOLDER,
    REMOVED_PREFIX,
    STATE,
    current,
    exclusive_lock,
    generations,
)

if TYPE_CHECKING:
    from edgekit_runtime.store.state import State

DEFAULT_KEEP = 2  # good generations: the current one, and one to roll back to


@dataclass(frozen=True)
class PruneResult:
    """The result of pruning."""

    removed: tuple[str, ...]
    in_use: tuple[str, ...]  # old, but open in an application
    written_bytes: int


def prune(store: str, keep: int = DEFAULT_KEEP) -> PruneResult:
    """Remove all generations except the current one, the newest ``keep`` good ones, and those in use.

    Raises:
        StoreError: the store does not exist or cannot be written.
    """
    disk = Disk()
    with StoreErrors(store), exclusive_lock(store):
        clear_leftovers(store, disk)
        removed = prune_locked(store, disk, keep)
        in_use = _removable(store, keep)
    return PruneResult(tuple(removed), tuple(in_use), disk.written_bytes)


def prune_locked(store: str, disk: Disk, keep: int, keep_also: Iterable[str] = ()) -> list[str]:
    """Prune a store that the caller has locked. The generations ``keep_also`` stay as well."""
    removed = []
    for name in _removable(store, keep, keep_also):
        with _not_in_use(os.path.join(store, GENERATIONS, name)) as free:
            if free:
                remove(store, name, disk)
                removed.append(name)
    return removed


def _removable(store: str, keep: int, keep_also: Iterable[str] = ()) -> list[str]:
    now, state = current(store), states.read_state(store)
    good = states.good_generations(state, now)
    return [name for name in generations(store) if name not in {now, *good[-keep:], *keep_also}]


def remove(store: str, name: str, disk: Disk) -> None:
    """Remove a generation: first from the state, then by one rename, so that no partial generation is ever used."""
    disk.sync(store)  # flush the last switch first: until then the link on the disk may lead to this generation
    state = states.read_state(store)
    if name in state.good:
        disk.replace(os.path.join(store, STATE), states.to_bytes(_without(state, name)))
    folder = os.path.join(store, GENERATIONS)
    disk.move(os.path.join(folder, name), os.path.join(folder, REMOVED_PREFIX + name))
    disk.remove(os.path.join(folder, REMOVED_PREFIX + name))
    disk.sync(folder)


def _without(state: State, name: str) -> State:
    return states.State(tuple(good for good in state.good if good != name), state.trials, state.given_up)


@contextmanager
def _not_in_use(folder: str) -> Iterator[bool]:
    """Yield whether no application uses the generation. None can open it within the ``with`` block."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _exclusive(descriptor)
    finally:
        os.close(descriptor)


def _exclusive(descriptor: int) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: users in other processes are unknown
        return True
    return True


def clear_leftovers(store: str, disk: Disk) -> None:
    """Remove what an interrupted process left."""
    folder = os.path.join(store, GENERATIONS)
    left = [name for name in os.listdir(folder) if name == NEW_FOLDER or name.startswith(REMOVED_PREFIX)]
    for name in left:
        disk.remove(os.path.join(folder, name))
    if left:
        disk.sync(folder)
    for name in (CURRENT, STATE):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(store, name + NEW_SUFFIX))
