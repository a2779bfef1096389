"""Install a bundle or a delta into a store: write and verify it as a new generation, then switch in one step."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable

from edgekit_runtime.bundle.reader import read_bundle
from edgekit_runtime.errors import (
    BundleError,
    DigestMismatch,
    MalformedBundle,
    PlanError,
    StoreError,
    UnsupportedVersion,
)
from edgekit_runtime.record import dataclass
from edgekit_runtime.store import state as states
from edgekit_runtime.store.atomic_disk import Disk, StoreErrors, content_writer, free_bytes, removed_on_error
from edgekit_runtime.store.delta.apply import delta_target, is_delta, open_delta
from edgekit_runtime.store.generations import (
    CURRENT,
    GENERATIONS,
    NEW_FOLDER,
    REMOVED_PREFIX,
    STATE,
    check_is_store,
    current,
    exclusive_lock,
    generation_name,
    generations,
)
from edgekit_runtime.store.install_checks import check_board, check_update
from edgekit_runtime.store.open_bundle import open_bundle
from edgekit_runtime.store.prune import DEFAULT_KEEP, clear_leftovers, prune_locked, remove
from edgekit_runtime.store.self_check import is_intact

if TYPE_CHECKING:
    from typing import Protocol

    from edgekit_runtime.format.extents import BundlePath
    from edgekit_runtime.format.manifest import Manifest
    from edgekit_runtime.trust.policy import Trust

    class BundleSource(Protocol):
        """A bundle, or a delta that builds one."""

        manifest: Manifest

        def unlisted(self) -> dict[str, bytes]:
            """Return the content of manifest.json, and of model.sig if there is one."""

        def copy(self, path: str, write: Callable[[bytes], Any]) -> None:
            """Pass the content of a listed file to ``write``, and check its digest."""


BLOCK_BYTES, SLACK_BYTES = 4096, 1 << 16  # upper bounds: of a file's last block, and of the folders


@dataclass(frozen=True)
class InstallOptions:
    """How to install a bundle."""

    confirm: str = states.SELF_CHECK  # what the trial counts: SELF_CHECK or HEARTBEAT
    wanted: int = 1  # successful checks that end the trial
    most_tries: int = 3  # starts that the trial may take
    commit: bool = False  # at once, without a trial
    device: str | None = None  # the device profile of this board
    any_board: bool = False  # skip the board check, as when an image is built on another machine
    allow_downgrade: bool = False
    allow_other_model: bool = False
    again: bool = False  # even if this generation was given up before
    keep: int = DEFAULT_KEEP  # good generations to keep, including the current one
    trust: Trust = None  # as for ``open_bundle``


@dataclass(frozen=True)
class InstallResult:
    """The result of an installation."""

    generation: str
    model: str
    version: str
    changed: bool  # False if it was current already; then nothing was written
    on_trial: bool
    written_bytes: int
    bundle_bytes: int  # of all files
    pruned: tuple[str, ...] = ()


Progress = Callable[[int, int], Any]  # bytes written, total


def install_from(
    path: BundlePath, full: BundlePath | None, store: str, options: InstallOptions, progress: Progress | None = None
) -> tuple[InstallResult, str]:
    """Install a bundle or a delta.

    Args:
        path: a bundle or a delta.
        full: the whole new bundle, used if the delta cannot be applied; None if there is none.
        store: the store's folder.
        options: how to install.
        progress: called with the bytes written and the total.

    Returns:
        The result, and the reason why a delta was not used, empty if it was.

    Raises:
        BundleError: as ``install_bundle``; if ``full`` is given, not for a delta that is damaged or of a newer format.
        StoreError: as ``install_bundle``; if ``full`` is given, not for a delta whose old bundle is not in the store.
    """
    note = ""
    if is_delta(path):
        try:
            if delta_target(path) == current(store):  # installed already, from any old bundle
                with open_bundle(store, options.trust) as bundle:
                    return install_bundle(bundle, store, options, progress), note
            with open_delta(path, store, options.trust) as delta:
                return install_bundle(delta, store, options, progress), note
        except (DigestMismatch, MalformedBundle, StoreError, UnsupportedVersion) as error:
            if full is None:
                raise
            path, note = full, f"the delta was not used: {error}"
    with open_bundle(path, options.trust) as bundle:
        return install_bundle(bundle, store, options, progress), note


def install_bundle(
    source: BundleSource, store: str, options: InstallOptions, progress: Progress | None = None
) -> InstallResult:
    """Put a bundle into a store and make it current, on trial.

    Everything is flushed to the disk before the link is switched, so a power cut leaves the old or the new generation.

    Raises:
        IncompatibleDevice: the bundle is not for this board.
        NotAnUpdate: the bundle is older than the current generation, or of another model.
        BundleError: the bundle is damaged.
        PlanError: the number of checks or starts of the trial is out of range.
        StoreError: the bundle was given up before, there is no space, or the store cannot be written.
    """
    if not (1 <= options.wanted <= states.MAX_COUNT and 1 <= options.most_tries <= states.MAX_COUNT):
        raise PlanError(f"a trial has 1 to {states.MAX_COUNT} checks and starts: choose fewer")
    if not options.any_board:
        check_board(source.manifest, options.device)
    unlisted = source.unlisted()
    name = generation_name(unlisted)
    bundle_bytes = sum(r.size_bytes for r in source.manifest.files) + sum(map(len, unlisted.values()))
    disk, store = Disk(), os.path.abspath(store)
    check_is_store(store)
    with StoreErrors(store):
        disk.make_folder(os.path.join(store, GENERATIONS))
        with exclusive_lock(store):
            now, state = current(store), states.read_state(store)
            model, version = source.manifest.model_name, source.manifest.model_version
            is_committed = not (options.commit and states.current_trial(state, now))
            if now == name and is_committed and is_intact(os.path.join(store, GENERATIONS, name), options.trust):
                disk.sync(store)  # the process that switched may have been killed before it flushed
                disk.sync(os.path.dirname(store))
                on_trial = states.current_trial(state, now) is not None
                return InstallResult(name, model, version, False, on_trial, 0, bundle_bytes)
            _check_update(source.manifest, store, now, options)
            if name in state.given_up and not options.again:
                raise StoreError(
                    f"{store}: generation {name} was given up: {state.given_up[name]}: "
                    "to install it all the same, use --again"
                )
            clear_leftovers(store, disk)
            pruned = prune_locked(store, disk, options.keep, keep_also={name})
            _write_generation(_Installation(source, unlisted, options.trust, progress), store, name, disk)
            _make_current(store, name, options, disk)
            on_trial = states.current_trial(states.read_state(store), name) is not None
    content_writer = disk.written_bytes
    return InstallResult(name, model, version, True, on_trial, content_writer, bundle_bytes, tuple(pruned))


def _check_update(new: Manifest, store: str, now: str | None, options: InstallOptions) -> None:
    if now is None or (options.allow_downgrade and options.allow_other_model):
        return
    try:
        installed = read_bundle(os.path.join(store, GENERATIONS, now), trust=False)  # its key may have been replaced
    except BundleError:  # the current bundle is damaged: any bundle may replace it
        return
    with installed:
        check_update(
            new,
            installed.manifest,
            allow_downgrade=options.allow_downgrade,
            allow_other_model=options.allow_other_model,
        )


@dataclass(frozen=True)
class _Installation:
    """The source of a new generation."""

    source: BundleSource
    unlisted: dict[str, bytes]
    trust: Trust
    progress: Progress | None


def _write_generation(installation: _Installation, store: str, name: str, disk: Disk) -> None:
    """Write the generation, flushed to the disk. Use an existing one if it is intact."""
    target = os.path.join(store, GENERATIONS, name)
    if name in generations(store):
        if is_intact(target, installation.trust):
            disk.sync(os.path.dirname(target))  # the process that wrote it may have been killed before it flushed
            return
        if name != current(store):
            remove(store, name, disk)
    files = installation.source.manifest.files
    _check_free_space(store, [*(record.size_bytes for record in files), *map(len, installation.unlisted.values())])
    fresh = os.path.join(store, GENERATIONS, NEW_FOLDER)
    with removed_on_error(disk, fresh):
        os.mkdir(fresh)
        _write_files(installation, fresh, disk)
        with read_bundle(fresh, installation.trust) as installed:  # verifies the digests that the signature covers
            if installed.manifest != installation.source.manifest:
                raise DigestMismatch(f"{store}: the bundle changed while it was installed: install it again")
        disk.sync_tree(fresh)
        damaged = name in generations(store)  # the current one: keep it until the new one is complete
        if damaged:
            os.rename(target, os.path.join(store, GENERATIONS, REMOVED_PREFIX + name))
        disk.move(fresh, target)
    if damaged:
        clear_leftovers(store, disk)


def _write_files(installation: _Installation, fresh: str, disk: Disk) -> None:
    source, progress = installation.source, installation.progress
    total = sum(record.size_bytes for record in source.manifest.files)

    def file_writer(path: str) -> Callable[[Callable[[bytes], Any]], None]:
        def fill(write: Callable[[bytes], Any]) -> None:
            def write_and_report(piece: bytes) -> None:
                write(piece)
                if progress is not None:
                    progress(min(disk.written_bytes, total), total)

            source.copy(path, write_and_report)

        return fill

    for path, content in installation.unlisted.items():
        disk.write(os.path.join(fresh, path), content_writer(content))
    for record in source.manifest.files:
        target = os.path.join(fresh, *record.path.split("/"))
        if not os.path.isdir(os.path.dirname(target)):
            os.makedirs(os.path.dirname(target))
        disk.write(target, file_writer(record.path))


def _check_free_space(store: str, sizes: list[int]) -> None:
    needed = sum(-(-size // BLOCK_BYTES) * BLOCK_BYTES for size in sizes) + SLACK_BYTES
    free = free_bytes(store)
    if free < needed:
        raise StoreError(
            f"{store}: the bundle needs {needed:,} bytes and {free:,} are free; nothing was written: free some space, "
            "or prune the store with --keep 1"
        )


def _make_current(store: str, name: str, options: InstallOptions, disk: Disk) -> None:
    """Record the trial, then switch the link. Without the switch the recorded trial has no effect."""
    now, state = current(store), states.read_state(store)
    if now != name:
        trial = states.GenerationTrial(name, None, options.confirm, options.wanted, options.most_tries)
        state = states.with_trial(state, now, trial)
    if options.commit:
        state = states.with_commit(state, name)
    disk.replace(os.path.join(store, STATE), states.to_bytes(state))
    if now != name:
        disk.sync(os.path.dirname(store))  # flush the name of the store's folder as well
        disk.link(os.path.join(store, CURRENT), f"{GENERATIONS}/{name}")
