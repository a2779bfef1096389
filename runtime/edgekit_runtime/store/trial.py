"""A trial and its end: good signs are counted, then it is committed, or the last good generation is current again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

from edgekit_runtime.errors import StoreError
from edgekit_runtime.record import dataclass
from edgekit_runtime.store import state as states
from edgekit_runtime.store.atomic_disk import Disk, store_errors
from edgekit_runtime.store.generations import CURRENT, GENERATIONS, STATE, current, exclusive_lock

NOTHING, COUNTED, COMMITTED, ROLLED_BACK = "nothing to do", "counted", "committed", "rolled back"


@dataclass(frozen=True)
class StoreChange:
    """What a step did."""

    did: str  # NOTHING, COUNTED, COMMITTED or ROLLED_BACK
    generation: str  # current now
    why: str = ""
    written_bytes: int = 0


Check = Callable[[str], str]  # a generation's folder -> what is wrong with it, empty if nothing


def commit(store: str) -> StoreChange:
    """End the trial well, whatever it has shown. Without one, nothing is written.

    Raises:
        StoreError: there is no store, nothing in it, or it cannot be written.
    """
    with _locked_store(store) as (now, state, disk):
        if states.current_trial(state, now) is None:
            return StoreChange(NOTHING, now, "nothing is on trial")
        _write_state(store, states.with_commit(state, now), disk)
        return StoreChange(COMMITTED, now, "as asked", disk.written_bytes)


def rollback(store: str, why: str = "rolled back by hand") -> StoreChange:
    """Give up the current generation for the last good one before it that is whole.

    Raises:
        StoreError: there is none, or the store cannot be written.
    """
    with _locked_store(store) as (now, state, disk):
        return _roll_back(store, now, state, why, disk)


def heartbeat(store: str, generation: str | None = None) -> StoreChange:
    """Count a good sign from an application that works with a generation; None is the current one.

    Nothing is written where that generation is not on trial.

    Raises:
        StoreError: there is no store, nothing in it, or it cannot be written.
    """
    store = os.path.abspath(store)
    now, state = current(store), states.read_state(store)
    if now is not None and (generation not in (None, now) or states.current_trial(state, now) is None):
        return StoreChange(NOTHING, now, "it is not on trial")  # seen without the lock, which needs no right to write
    return _good_sign(store, generation)


def boot(store: str, check: Check) -> StoreChange:
    """Begin a start of the machine or the application: to be run before it.

    A generation on trial has one try less, which is on the disk before anything else is done with it. Then it is
    checked. It is given up when the check finds something, or when its tries are used up without its good signs.

    Args:
        store: the store's path.
        check: what may take long, or this machine with it; the store is not locked meanwhile.

    Raises:
        StoreError: there is no store, nothing in it, nothing to go back to, or it cannot be written.
    """
    with _locked_store(store) as (now, state, disk):
        trial = states.current_trial(state, now)
        if trial is None:
            return StoreChange(NOTHING, now, "nothing is on trial")
        if trial.tries >= trial.most_tries:
            why = f"{trial.tries} starts, and only {trial.good} of {trial.wanted} good signs"
            return _roll_back(store, now, state, why, disk)
        _write_state(store, states.with_count(state, now, tries=1), disk)
        written_bytes = disk.written_bytes
    problem = check(os.path.join(store, GENERATIONS, now))
    if problem:
        return _with_written_bytes(_give_up(store, now, problem), written_bytes)
    if trial.confirm == states.HEARTBEAT:
        return StoreChange(COUNTED, now, "a try; the application's heartbeats are waited for", written_bytes)
    return _with_written_bytes(_good_sign(store, now), written_bytes)


def _with_written_bytes(change: StoreChange, written_bytes: int) -> StoreChange:
    return StoreChange(change.did, change.generation, change.why, change.written_bytes + written_bytes)


def _good_sign(store: str, generation: str | None) -> StoreChange:
    with _locked_store(store) as (now, state, disk):
        trial = states.current_trial(state, now)
        if generation not in (None, now) or trial is None:
            return StoreChange(NOTHING, now, "it is not on trial")
        after = states.with_count(state, now, good=1)
        told = f"{trial.good + 1} of {trial.wanted} good signs"
        if trial.good + 1 >= trial.wanted:
            after = states.with_commit(after, now)
        _write_state(store, after, disk)
        return StoreChange(COUNTED if states.current_trial(after, now) else COMMITTED, now, told, disk.written_bytes)


def _give_up(store: str, generation: str, why: str) -> StoreChange:
    with _locked_store(store) as (now, state, disk):
        if now != generation:
            return StoreChange(NOTHING, now, f"{generation}, which was checked, is not current any more")
        return _roll_back(store, now, state, why, disk)


def _roll_back(store: str, now: str, state: states.State, why: str, disk: Disk) -> StoreChange:
    """Switch the link first: the trial is over with that, and what is remembered after it may be lost."""
    from edgekit_runtime.store.self_check import is_intact

    for name in states.rollback_targets(state, now):
        if is_intact(os.path.join(store, GENERATIONS, name)):
            disk.link(os.path.join(store, CURRENT), f"{GENERATIONS}/{name}")
            _write_state(store, states.rolled_back(state, now, name, why), disk)
            return StoreChange(ROLLED_BACK, name, why, disk.written_bytes)
    raise StoreError(f"{store}: {now} is to be given up ({why}), and there is no good one to go back to: install one")


def _write_state(store: str, state: states.State, disk: Disk) -> None:
    disk.replace(os.path.join(store, STATE), states.to_bytes(state))


@contextmanager
def _locked_store(store: str) -> Iterator[tuple[str, states.State, Disk]]:
    """The store to oneself: what is current, what is remembered, and what to write with."""
    with store_errors(store), exclusive_lock(store):
        now = current(store)
        if now is None:
            raise StoreError(f"{store}: the store is empty: install a bundle first")
        disk = Disk()
        disk.sync(store)  # whoever changed it last may have been killed before that
        yield now, states.read_state(store), disk
