"""Put a bundle into a store: whole and verified beside what is there, then switched to in one step."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable

from edgekit_runtime.bundle.reader import read_bundle
from edgekit_runtime.errors import BundleError, DigestMismatch, PlanError, StoreError
from edgekit_runtime.record import dataclass
from edgekit_runtime.store import state as states
from edgekit_runtime.store.admission import check_board, check_update
from edgekit_runtime.store.atomic_disk import Disk, free_bytes, undone, writing, written
from edgekit_runtime.store.generations import (
    CURRENT,
    FRESH,
    GENERATIONS,
    GONE,
    STATE,
    current,
    generations,
    locked,
    name_of,
    refuse_other,
)
from edgekit_runtime.store.prune import KEEP, clear_leftovers, prune_locked, remove
from edgekit_runtime.store.self_check import is_whole

if TYPE_CHECKING:
    from typing import Protocol

    from edgekit_runtime.format.manifest import Manifest
    from edgekit_runtime.trust.policy import Trust

    class Source(Protocol):
        """A bundle, or what makes one."""

        manifest: Manifest

        def unlisted(self) -> dict[str, bytes]:
            """manifest.json, and model.sig if there is one."""

        def copy(self, path: str, write: Callable[[bytes], Any]) -> None:
            """Give a listed file's content to ``write``, and hold it against its digest."""


BLOCK_BYTES, SLACK_BYTES = 4096, 1 << 16  # what a file's last block and the folders take at most


@dataclass(frozen=True)
class TrialPolicy:
    """What is asked of an installation."""

    confirm: str = states.SELF_CHECK  # what counts as a good sign of the trial
    wanted: int = 1  # good signs
    most_tries: int = 3
    commit: bool = False  # without a trial
    device: str | None = None  # the profile that this board is
    any_board: bool = False  # install for another machine, as when an image is built
    allow_downgrade: bool = False
    allow_other_model: bool = False
    again: bool = False  # what was given up before
    keep: int = KEEP  # good generations that stay, the current one included
    trust: Trust = None  # as of ``open_bundle``


@dataclass(frozen=True)
class Installed:
    """What became of an installation."""

    generation: str
    model: str
    version: str
    changed: bool  # False where it was current already: then nothing was written
    on_trial: bool
    written_bytes: int
    bundle_bytes: int  # of all files
    pruned: tuple[str, ...] = ()


Watch = Callable[[int, int], Any]  # bytes written, of how many


def install(source: Source, store: str, terms: TrialPolicy, watch: Watch | None = None) -> Installed:
    """Put a bundle into a store and make it current, on trial.

    Everything is on the disk before the link is switched, so that a power cut leaves the old generation or the new.

    Raises:
        IncompatibleDevice: it is not for this board.
        NotAnUpdate: it is older than what is current, or another model.
        BundleError: it is damaged.
        PlanError: more good signs or tries are asked for than can be counted.
        StoreError: it was given up before, there is no room, or the store cannot be written.
    """
    if not (1 <= terms.wanted <= states.MOST and 1 <= terms.most_tries <= states.MOST):
        raise PlanError(f"good signs and tries of a trial are 1 to {states.MOST}: ask for fewer")
    if not terms.any_board:
        check_board(source.manifest, terms.device)
    unlisted = source.unlisted()
    name = name_of(unlisted)
    bundle_bytes = sum(r.size_bytes for r in source.manifest.files) + sum(map(len, unlisted.values()))
    disk, store = Disk(), os.path.abspath(store)
    refuse_other(store)
    with writing(store):
        disk.make_folder(os.path.join(store, GENERATIONS))
        with locked(store):
            now, state = current(store), states.read_state(store)
            model, version = source.manifest.model_name, source.manifest.model_version
            as_asked = not (terms.commit and states.trial_of(state, now))
            if now == name and as_asked and is_whole(os.path.join(store, GENERATIONS, name), terms.trust):
                disk.sync(store)  # whoever made it current may have been killed before that
                disk.sync(os.path.dirname(store))
                on_trial = states.trial_of(state, now) is not None
                return Installed(name, model, version, False, on_trial, 0, bundle_bytes)
            _refuse_no_update(source.manifest, store, now, terms)
            if name in state.given_up and not terms.again:
                raise StoreError(f"{store}: generation {name} was given up: {state.given_up[name]}: install it --again")
            clear_leftovers(store, disk)
            pruned = prune_locked(store, disk, terms.keep, also={name})
            _put(_Making(source, unlisted, terms.trust, watch), store, name, disk)
            _switch(store, name, terms, disk)
            on_trial = states.trial_of(states.read_state(store), name) is not None
    written = disk.written_bytes
    return Installed(name, model, version, True, on_trial, written, bundle_bytes, tuple(pruned))


def _refuse_no_update(new: Manifest, store: str, now: str | None, terms: TrialPolicy) -> None:
    if now is None or (terms.allow_downgrade and terms.allow_other_model):
        return
    try:
        have = read_bundle(os.path.join(store, GENERATIONS, now), trust=False)  # its key may have been replaced since
    except BundleError:  # then nothing runs here, and a store that took no other bundle could never be mended
        return
    with have:
        check_update(
            new,
            have.manifest,
            allow_downgrade=terms.allow_downgrade,
            allow_other_model=terms.allow_other_model,
        )


@dataclass(frozen=True)
class _Making:
    """What a generation is made of."""

    source: Source
    unlisted: dict[str, bytes]
    trust: Trust
    watch: Watch | None


def _put(making: _Making, store: str, name: str, disk: Disk) -> None:
    """Have the generation in the store, complete and on the disk; one that is there already is taken if it is whole."""
    place = os.path.join(store, GENERATIONS, name)
    if name in generations(store):
        if is_whole(place, making.trust):
            disk.sync(os.path.dirname(place))  # whoever put it there may have been killed before that
            return
        if name != current(store):
            remove(store, name, disk)
    files = making.source.manifest.files
    _refuse_without_room(store, [*(record.size_bytes for record in files), *map(len, making.unlisted.values())])
    fresh = os.path.join(store, GENERATIONS, FRESH)
    with undone(disk, fresh):
        os.mkdir(fresh)
        _fill(making, fresh, disk)
        with read_bundle(fresh, making.trust) as made:  # a delta's signature was not there to be verified before
            if made.manifest != making.source.manifest:
                raise DigestMismatch(f"{store}: the bundle changed while it was installed: install it again")
        disk.sync_tree(fresh)
        damaged = name in generations(store)  # the current one: what still runs of it stays until it can be replaced
        if damaged:
            os.rename(place, os.path.join(store, GENERATIONS, GONE + name))
        disk.move(fresh, place)
    if damaged:
        clear_leftovers(store, disk)


def _fill(making: _Making, fresh: str, disk: Disk) -> None:
    source, watch = making.source, making.watch
    total = sum(record.size_bytes for record in source.manifest.files)

    def copied(path: str) -> Callable[[Callable[[bytes], Any]], None]:
        def fill(write: Callable[[bytes], Any]) -> None:
            def write_and_tell(piece: bytes) -> None:
                write(piece)
                if watch is not None:
                    watch(min(disk.written_bytes, total), total)

            source.copy(path, write_and_tell)

        return fill

    for path, content in making.unlisted.items():
        disk.write(os.path.join(fresh, path), written(content))
    for record in source.manifest.files:
        place = os.path.join(fresh, *record.path.split("/"))
        if not os.path.isdir(os.path.dirname(place)):
            os.makedirs(os.path.dirname(place))
        disk.write(place, copied(record.path))


def _refuse_without_room(store: str, sizes: list[int]) -> None:
    needed = sum(-(-size // BLOCK_BYTES) * BLOCK_BYTES for size in sizes) + SLACK_BYTES
    have = free_bytes(store)
    if have < needed:
        raise StoreError(
            f"{store}: the bundle needs {needed:,} bytes and {have:,} are free: make room, or prune the store with "
            "--keep 1; nothing was written"
        )


def _switch(store: str, name: str, terms: TrialPolicy, disk: Disk) -> None:
    """Make the generation current: first what it then is is remembered, which counts for nothing without the link."""
    now, state = current(store), states.read_state(store)
    if now != name:
        trial = states.Trial(name, None, terms.confirm, terms.wanted, terms.most_tries)
        state = states.begun(state, now, trial)
    if terms.commit:
        state = states.committed(state, name)
    disk.replace(os.path.join(store, STATE), states.to_bytes(state))
    if now != name:
        disk.sync(os.path.dirname(store))  # likewise, the store's own folder
        disk.link(os.path.join(store, CURRENT), f"{GENERATIONS}/{name}")
