"""Run a trial: count its successful checks, then commit the generation or roll back to the last good one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

from edgekit_runtime.errors import StoreError
from edgekit_runtime.record import dataclass
from edgekit_runtime.store import state as states
from edgekit_runtime.store.atomic_disk import Disk, StoreErrors
from edgekit_runtime.store.generations import CURRENT, GENERATIONS, STATE, current, exclusive_lock

NOTHING, COUNTED, COMMITTED, ROLLED_BACK = "nothing to do", "counted", "committed", "rolled back"


@dataclass(frozen=True)
class StoreChange:
    """What a command changed in a store."""

    did: str  # NOTHING, COUNTED, COMMITTED or ROLLED_BACK
    generation: str  # the current generation now
    why: str = ""
    written_bytes: int = 0


Check = Callable[[str], str]  # a generation's folder -> what failed, empty if nothing did


def commit(store: str) -> StoreChange:
    """Commit the current generation and end its trial. Without a trial, nothing is written.

    Raises:
        StoreError: the store does not exist, is empty, or cannot be written.
    """
    with _locked_store(store) as (now, state, disk):
        if states.current_trial(state, now) is None:
            return StoreChange(NOTHING, now, "nothing is on trial")
        _write_state(store, states.with_commit(state, now), disk)
        return StoreChange(COMMITTED, now, "committed by hand", disk.written_bytes)


def rollback(store: str, why: str = "rolled back by hand") -> StoreChange:
    """Roll back the current generation: switch to the newest good one before it that is intact.

    Raises:
        StoreError: there is no such generation, or the store cannot be written.
    """
    with _locked_store(store) as (now, state, disk):
        return _roll_back(store, now, state, why, disk)


def heartbeat(store: str, generation: str | None = None) -> StoreChange:
    """Count a heartbeat from an application that runs a generation; None is the current one.

    Nothing is written if that generation is not on trial.

    Raises:
        StoreError: the store does not exist, is empty, or cannot be written.
    """
    store = os.path.abspath(store)
    now, state = current(store), states.read_state(store)
    if now is not None and (generation not in (None, now) or states.current_trial(state, now) is None):
        return StoreChange(NOTHING, now, "it is not on trial")  # decided without the lock, which needs write permission
    return _count_check(store, generation)


def boot(store: str, check: Check) -> StoreChange:
    """Count a start of the machine or the application, and check the current generation. Run it before the application.

    The start is recorded on the disk before the check, which may crash the machine. The generation is rolled back if
    the check fails, or if the trial has no starts left.

    Args:
        store: the store's path.
        check: checks a generation; the store is not locked while it runs.

    Raises:
        StoreError: the store does not exist, is empty, has no generation to roll back to, or cannot be written.
    """
    with _locked_store(store) as (now, state, disk):
        trial = states.current_trial(state, now)
        if trial is None:
            return StoreChange(NOTHING, now, "nothing is on trial")
        if trial.tries >= trial.most_tries:
            why = f"{trial.tries} starts, and only {trial.good} of {trial.wanted} successful checks"
            return _roll_back(store, now, state, why, disk)
        _write_state(store, states.with_count(state, now, tries=1), disk)
        written_bytes = disk.written_bytes
    problem = check(os.path.join(store, GENERATIONS, now))
    if problem:
        return _with_written_bytes(_give_up(store, now, problem), written_bytes)
    if trial.confirm == states.HEARTBEAT:
        return StoreChange(COUNTED, now, "start counted; waiting for heartbeats of the application", written_bytes)
    return _with_written_bytes(_count_check(store, now), written_bytes)


def _with_written_bytes(change: StoreChange, written_bytes: int) -> StoreChange:
    return StoreChange(change.did, change.generation, change.why, change.written_bytes + written_bytes)


def _count_check(store: str, generation: str | None) -> StoreChange:
    with _locked_store(store) as (now, state, disk):
        trial = states.current_trial(state, now)
        if generation not in (None, now) or trial is None:
            return StoreChange(NOTHING, now, "it is not on trial")
        after = states.with_count(state, now, good=1)
        progress = f"{trial.good + 1} of {trial.wanted} successful checks"
        if trial.good + 1 >= trial.wanted:
            after = states.with_commit(after, now)
        _write_state(store, after, disk)
        return StoreChange(
            COUNTED if states.current_trial(after, now) else COMMITTED, now, progress, disk.written_bytes
        )


def _give_up(store: str, generation: str, why: str) -> StoreChange:
    with _locked_store(store) as (now, state, disk):
        if now != generation:
            return StoreChange(NOTHING, now, f"{generation}, which was checked, is no longer current")
        return _roll_back(store, now, state, why, disk)


def _roll_back(store: str, now: str, state: states.State, why: str, disk: Disk) -> StoreChange:
    """Roll back. The link is switched first: that alone ends the trial, so the state that follows may be lost."""
    from edgekit_runtime.store.self_check import is_intact

    for name in states.rollback_targets(state, now):
        if is_intact(os.path.join(store, GENERATIONS, name)):
            disk.link(os.path.join(store, CURRENT), f"{GENERATIONS}/{name}")
            _write_state(store, states.rolled_back(state, now, name, why), disk)
            return StoreChange(ROLLED_BACK, name, why, disk.written_bytes)
    raise StoreError(
        f"{store}: cannot roll back from {now} ({why}): there is no good generation before it: install a bundle"
    )


def _write_state(store: str, state: states.State, disk: Disk) -> None:
    disk.replace(os.path.join(store, STATE), states.to_bytes(state))


@contextmanager
def _locked_store(store: str) -> Iterator[tuple[str, states.State, Disk]]:
    """Lock the store; yield the current generation, the state, and the disk to write with."""
    with StoreErrors(store), exclusive_lock(store):
        now = current(store)
        if now is None:
            raise StoreError(f"{store}: the store is empty: install a bundle first")
        disk = Disk()
        disk.sync(store)  # the last process that changed it may have been killed before it flushed
        yield now, states.read_state(store), disk
