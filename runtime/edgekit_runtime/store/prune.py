"""Remove from a store what is not needed any more: old generations that nobody has open, and what a power cut left."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from edgekit_runtime.record import dataclass
from edgekit_runtime.store import state as states
from edgekit_runtime.store.atomic_disk import NEW_SUFFIX, Disk, store_errors
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

DEFAULT_KEEP = 2  # good generations: the current one, and one to go back to


@dataclass(frozen=True)
class Pruned:
    """What became of the generations that are not needed."""

    removed: tuple[str, ...]
    in_use: tuple[str, ...]  # an application has them open
    written_bytes: int


def prune(store: str, keep: int = DEFAULT_KEEP) -> Pruned:
    """Remove all generations but the current one, those open somewhere, and the newest ``keep`` good ones.

    Raises:
        StoreError: there is no store, or it cannot be written.
    """
    disk = Disk()
    with store_errors(store), exclusive_lock(store):
        clear_leftovers(store, disk)
        removed = prune_locked(store, disk, keep)
        in_use = _removable(store, keep)
    return Pruned(tuple(removed), tuple(in_use), disk.written_bytes)


def prune_locked(store: str, disk: Disk, keep: int, keep_also: Iterable[str] = ()) -> list[str]:
    """``prune`` for who has the lock; ``keep_also`` are generations that stay."""
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
    """Take it out of the good ones, then out of the generations in one step: no part of it is ever taken for it."""
    disk.sync(store)  # whoever switched may have been killed before that: what the link leaves must stay until then
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
    """Whether no application has the generation open; none can open it meanwhile."""
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
    except OSError:  # a file system without locks: nobody can say that it has it
        return True
    return True


def clear_leftovers(store: str, disk: Disk) -> None:
    """Remove what was being written or removed when the power went. Nothing is done where there is none."""
    folder = os.path.join(store, GENERATIONS)
    left = [name for name in os.listdir(folder) if name == NEW_FOLDER or name.startswith(REMOVED_PREFIX)]
    for name in left:
        disk.remove(os.path.join(folder, name))
    if left:
        disk.sync(folder)
    for name in (CURRENT, STATE):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(store, name + NEW_SUFFIX))
