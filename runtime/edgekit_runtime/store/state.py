"""What a store remembers of its generations, and how that changes. Nothing here touches the disk but ``read_state``.

Which generation is current is not remembered here but told by the link: a power cut may fall between the two. So a
trial counts only while its generation is the current one, and each function is given what is current.
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
MAX_COUNT = 1000  # good signs wanted, or tries, of a trial
MAX_REASON_CHARACTERS = 200  # of a reason
MAX_REMEMBERED = 16  # good generations, and reasons why others were given up


@dataclass(frozen=True)
class Trial:
    """A generation that has yet to show that it works."""

    generation: str
    previous: str | None  # the good one to go back to; None where there is none
    confirm: str  # what counts as a good sign: SELF_CHECK (and heartbeats), or HEARTBEAT alone
    wanted: int  # good signs until it is committed
    most_tries: int  # starts it may take for them
    good: int = 0
    tries: int = 0


@dataclass(frozen=True)
class State:
    """All that is remembered."""

    good: tuple[str, ...] = ()  # generations that were committed, in the order they became current
    trials: tuple[Trial, ...] = ()  # of what is current, and of what is about to be
    given_up: dict[str, str] = field(default_factory=dict)  # generation -> why


_name = text(f"[0-9a-f]{{{NAME_DIGITS}}}", "the name of a generation")
_trial = record(
    Trial,
    generation=_name,
    previous=optional(_name),
    confirm=one_of(SELF_CHECK, HEARTBEAT),
    wanted=integer(1, MAX_COUNT),
    most_tries=integer(1, MAX_COUNT),
    good=integer(0, MAX_COUNT),
    tries=integer(0, MAX_COUNT),
)
_state = record(State, good=list_of(_name), trials=list_of(_trial, most=2), given_up=string_map)


def read_state(store: str) -> State:
    """What a store remembers. A file that is missing or damaged is nothing remembered: what is current then is good.

    Raises:
        StoreError: it cannot be read, by this user for one; then nothing is known, and it must not be written anew.
    """
    try:
        with open(os.path.join(store, STATE), "rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
        return _state(any_object(decode(data, STATE), STATE), STATE)
    except (FileNotFoundError, MalformedBundle):
        return State()
    except OSError as error:
        raise StoreError(
            f"{store}: its {STATE} cannot be read: {error.strerror or error}: ask as a user who may read the store"
        ) from error


def to_bytes(state: State) -> bytes:
    """The content of the file."""
    trials: list[dict[str, Any]] = [dict(vars(trial)) for trial in state.trials]
    told = {"good": list(state.good), "trials": trials, "given_up": state.given_up}
    return (json.dumps(told, indent=1) + "\n").encode()


def current_trial(state: State, current: str | None) -> Trial | None:
    """The trial that is under way; one whose generation never became current, or is not any more, is none."""
    return next((trial for trial in state.trials if trial.generation == current), None)


def good_generations(state: State, current: str | None) -> tuple[str, ...]:
    """The good generations up to the newest: the current one, or the one to go back to."""
    trial = current_trial(state, current)
    newest = current if trial is None else trial.previous
    if newest is None:
        return ()
    older = state.good[: state.good.index(newest)] if newest in state.good else state.good
    return (*older, newest)[-MAX_REMEMBERED:]


def with_trial(state: State, current: str | None, trial: Trial) -> State:
    """A trial begins once its generation is current; until then the one that is under way goes on.

    Then that is over, and its generation is not gone back to.
    """
    under_way = current_trial(state, current)
    previous = current if under_way is None else under_way.previous
    given_up = {name: why for name, why in state.given_up.items() if name != trial.generation}
    begins = replace(trial, previous=previous)
    return State(good_generations(state, current), (begins,) if under_way is None else (under_way, begins), given_up)


def with_commit(state: State, current: str) -> State:
    """What is current is good."""
    good = (*(name for name in good_generations(state, current) if name != current), current)
    return replace(state, good=good[-MAX_REMEMBERED:], trials=_others(state, current))


def rollback_targets(state: State, current: str | None) -> tuple[str, ...]:
    """The generations to go back to, the newest first."""
    good = good_generations(state, current)
    return tuple(reversed(good if current_trial(state, current) is not None else good[:-1]))


def rolled_back(state: State, left: str, to: str, why: str) -> State:
    """A generation is given up for an older one."""
    older = (*rollback_targets(state, left)[::-1],)
    others = [(name, reason) for name, reason in state.given_up.items() if name not in (left, to)]
    told = "".join(filter(str.isprintable, why))[:MAX_REASON_CHARACTERS] or "for no reason given"
    return State(older[: older.index(to) + 1], (), dict([*others, (left, told)][-MAX_REMEMBERED:]))


def with_count(state: State, current: str, *, good: int = 0, tries: int = 0) -> State:
    """A trial has had another good sign, or another try.

    Raises:
        StoreError: nothing is on trial.
    """
    trial = current_trial(state, current)
    if trial is None:
        raise StoreError(f"generation {current} is not on trial")
    more = replace(trial, good=min(trial.good + good, MAX_COUNT), tries=min(trial.tries + tries, MAX_COUNT))
    return replace(state, trials=(*_others(state, current), more))


def _others(state: State, current: str) -> tuple[Trial, ...]:
    return tuple(trial for trial in state.trials if trial.generation != current)
