"""The state file of a store, ``state.json``, and its changes. Only ``read_state`` accesses the disk.

The state does not hold the current generation: only the link does, because a power cut may come between writing the
two. So a trial counts only while its generation is current, and the functions here take the current generation.
"""

from __future__ import annotations

import json
import os
from typing import Any

from edgekit_runtime.errors import MalformedBundle, StoreError
from edgekit_runtime.format.strict_json import MAX_MANIFEST_BYTES, decode
from edgekit_runtime.format.validators import any_object, integer, list_of, one_of, optional, record, string_map, text
from edgekit_runtime.record import dataclass, field, replace
from edgekit_runtime.store.generations import NAME_DIGITS, STATE

SELF_CHECK, HEARTBEAT = "self-check", "heartbeat"
MAX_COUNT = 1000  # of the checks or starts of a trial
MAX_REASON_CHARACTERS = 200  # of the reason of a rollback
MAX_REMEMBERED = 16  # of good generations, and of reasons of rollbacks


@dataclass(frozen=True)
class GenerationTrial:
    """A generation on trial: it is committed after enough successful checks."""

    generation: str
    previous: str | None  # the good generation to roll back to; None if there is none
    confirm: str  # what counts as a check: SELF_CHECK (heartbeats count, too), or HEARTBEAT alone
    wanted: int  # successful checks that commit it
    most_tries: int  # starts within which they must come
    good: int = 0  # successful checks so far
    tries: int = 0  # starts so far


@dataclass(frozen=True)
class State:
    """The content of the state file."""

    good: tuple[str, ...] = ()  # committed generations, in the order they became current
    trials: tuple[GenerationTrial, ...] = ()  # of the current generation, and of the one about to become current
    given_up: dict[str, str] = field(default_factory=dict)  # generation -> reason


_generation = text(f"[0-9a-f]{{{NAME_DIGITS}}}", "the name of a generation")
_trial = record(
    GenerationTrial,
    generation=_generation,
    previous=optional(_generation),
    confirm=one_of(SELF_CHECK, HEARTBEAT),
    wanted=integer(1, MAX_COUNT),
    most_tries=integer(1, MAX_COUNT),
    good=integer(0, MAX_COUNT),
    tries=integer(0, MAX_COUNT),
)
_state = record(State, good=list_of(_generation), trials=list_of(_trial, most=2), given_up=string_map)


def read_state(store: str) -> State:
    """Read the state. A missing or damaged file gives an empty state, in which the current generation is good.

    Raises:
        StoreError: the file exists and cannot be read, for example by this user. It must not be overwritten then.
    """
    try:
        with open(os.path.join(store, STATE), "rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
        return _state(any_object(decode(data, STATE), STATE), STATE)
    except (FileNotFoundError, MalformedBundle):
        return State()
    except OSError as error:
        raise StoreError(
            f"{store}: its {STATE} cannot be read: {error.strerror or error}: run as a user who may read the store"
        ) from error


def to_bytes(state: State) -> bytes:
    """Return the content of the state file."""
    trials: list[dict[str, Any]] = [dict(vars(trial)) for trial in state.trials]
    document = {"good": list(state.good), "trials": trials, "given_up": state.given_up}
    return (json.dumps(document, indent=1) + "\n").encode()


def current_trial(state: State, current: str | None) -> GenerationTrial | None:
    """Return the trial of the current generation; None if it is not on trial."""
    return next((trial for trial in state.trials if trial.generation == current), None)


def good_generations(state: State, current: str | None) -> tuple[str, ...]:
    """Return the good generations, the newest last: the current one, or the one to roll back to."""
    trial = current_trial(state, current)
    newest = current if trial is None else trial.previous
    if newest is None:
        return ()
    older = state.good[: state.good.index(newest)] if newest in state.good else state.good
    return (*older, newest)[-MAX_REMEMBERED:]


def with_trial(state: State, current: str | None, trial: GenerationTrial) -> State:
    """Return the state with a new trial, which starts when its generation becomes current.

    Until then the current trial continues. It ends with the switch, and its generation is no rollback target.
    """
    running = current_trial(state, current)
    previous = current if running is None else running.previous
    given_up = {name: why for name, why in state.given_up.items() if name != trial.generation}
    new = replace(trial, previous=previous)
    return State(good_generations(state, current), (new,) if running is None else (running, new), given_up)


def with_commit(state: State, current: str) -> State:
    """Return the state in which the current generation is good and its trial has ended."""
    good = (*(name for name in good_generations(state, current) if name != current), current)
    return replace(state, good=good[-MAX_REMEMBERED:], trials=_others(state, current))


def rollback_targets(state: State, current: str | None) -> tuple[str, ...]:
    """Return the generations to roll back to, the newest first."""
    good = good_generations(state, current)
    return tuple(reversed(good if current_trial(state, current) is not None else good[:-1]))


def rolled_back(state: State, left: str, to: str, reason: str) -> State:
    """Return the state after a rollback from one generation to an older one."""
    older = (*rollback_targets(state, left)[::-1],)
    others = [(name, why) for name, why in state.given_up.items() if name not in (left, to)]
    reason = "".join(filter(str.isprintable, reason))[:MAX_REASON_CHARACTERS] or "no reason given"
    return State(older[: older.index(to) + 1], (), dict([*others, (left, reason)][-MAX_REMEMBERED:]))


def with_count(state: State, current: str, *, good: int = 0, tries: int = 0) -> State:
    """Return the state after another successful check or another start of the trial.

    Raises:
        StoreError: the current generation is not on trial.
    """
    trial = current_trial(state, current)
    if trial is None:
        raise StoreError(f"generation {current} is not on trial")
    more = replace(trial, good=min(trial.good + good, MAX_COUNT), tries=min(trial.tries + tries, MAX_COUNT))
    return replace(state, trials=(*_others(state, current), more))


def _others(state: State, current: str) -> tuple[GenerationTrial, ...]:
    return tuple(trial for trial in state.trials if trial.generation != current)
