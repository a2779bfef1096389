"""Report the status of a store. It neither writes nor waits for a lock."""

from __future__ import annotations

import os

from edgekit_runtime.bundle.reader import read_bundle
from edgekit_runtime.errors import BundleError, StoreError
from edgekit_runtime.record import dataclass
from edgekit_runtime.store import state as states
from edgekit_runtime.store.atomic_disk import free_bytes
from edgekit_runtime.store.generations import GENERATIONS, current, generations

EMPTY, ON_TRIAL, COMMITTED = "empty", "on trial", "committed"


@dataclass(frozen=True)
class Generation:
    """One of a store's generations."""

    name: str
    model: str | None  # None if it cannot be opened
    version: str | None
    size_bytes: int
    role: str  # "current", "good", "given up", or "not needed"
    why: str = ""  # why it was given up or cannot be opened


@dataclass(frozen=True)
class Status:
    """The status of a store."""

    store: str
    state: str  # EMPTY, ON_TRIAL or COMMITTED
    current: str | None
    trial: states.GenerationTrial | None
    generations: tuple[Generation, ...]  # the current one first, then the good ones, the newest first
    free_bytes: int


def status(store: str) -> Status:
    """Return the status of a store.

    Raises:
        StoreError: the folder is not a store.
    """
    store = os.path.abspath(store)
    if not os.path.isdir(os.path.join(store, GENERATIONS)):
        raise StoreError(f"{store}: is not a store: install a bundle first")
    now, state = current(store), states.read_state(store)
    trial = states.current_trial(state, now)
    targets = states.rollback_targets(state, now)
    known = [name for name in (now, *targets) if name is not None]
    order = [*known, *(name for name in generations(store) if name not in known)]
    found = [_generation(store, name, _role(name, now, targets, state)) for name in order]
    kind = EMPTY if now is None else ON_TRIAL if trial else COMMITTED
    return Status(store, kind, now, trial, tuple(found), free_bytes(store))


def _role(name: str, now: str | None, targets: tuple[str, ...], state: states.State) -> tuple[str, str]:
    if name == now:
        return "current", ""
    if name in targets:
        return "good", ""
    return ("given up", state.given_up[name]) if name in state.given_up else ("not needed", "")


def _generation(store: str, name: str, role: tuple[str, str]) -> Generation:
    try:
        with read_bundle(os.path.join(store, GENERATIONS, name), trust=False) as bundle:
            manifest = bundle.manifest
            size_bytes = sum(r.size_bytes for r in manifest.files) + sum(map(len, bundle.unlisted().values()))
    except BundleError as error:
        return Generation(name, None, None, 0, role[0], str(error))
    return Generation(name, manifest.model_name, manifest.model_version, size_bytes, *role)
