"""A session whose variant may be lost while it runs: the next one takes over, and the caller is told."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any, Callable

from edgekit_runtime.errors import DelegateCrashed, EdgekitError, EngineError, InputMismatch
from edgekit_runtime.placement.place import key_of, place
from edgekit_runtime.record import dataclass, replace

if TYPE_CHECKING:
    from edgekit_runtime.bundle.reader import Bundle
    from edgekit_runtime.inference.session import Session
    from edgekit_runtime.placement.place import How, Placement
    from edgekit_runtime.tensors import Array

KEPT = 100  # events, the last ones


@dataclass(frozen=True)
class Event:
    """A variant that was lost while it ran."""

    lost: str  # the variant's name
    reason: str  # how its process crashed or hung
    now: str | None  # the variant that runs instead; its own name where it was opened again; None where none could
    delegate: str | None = None  # that drove the variant that was lost


@dataclass(frozen=True)
class Wish:
    """What was asked of ``place``, to be asked again."""

    device: str
    require: str | None
    threads: int | None
    how: How


class Failover:
    """A session that replaces itself when the process of its engine crashes or hangs.

    A variant that was lost is not tried again, unless there is no other: then it is opened once more for each call.
    """

    run_one: Callable[[Any], Array] | None = None  # a session's short way leads into one engine, which may be lost

    def __init__(
        self,
        bundle: Bundle,
        session: Session,
        placement: Placement,
        wish: Wish,
        on_event: Callable[[Event], Any] | None,
    ) -> None:
        self.placement = placement
        self.events: deque[Event] = deque(maxlen=KEPT)
        self._bundle, self._session, self._wish, self._on_event = bundle, session, wish, on_event
        self._fallen: dict[tuple[str, str | None], str] = {}
        self._engines = 1
        self._lock = RLock()
        self._closed = False

    def run(self, values: Sequence[Any], raw: bool = False) -> list[Array]:
        """Run once, on another variant if this one is lost meanwhile.

        Raises:
            InputMismatch: as of a session.
            EngineError: the engine failed and lives, or the session is closed.
            DelegateCrashed: nothing is left that runs, or whatever took over was lost, too.
        """
        tried = 0
        while True:
            session = self._session
            try:
                return session.run(values, raw)
            except EngineError as error:
                tried += 1
                if tried > len(self._bundle.manifest.variants) + 1:
                    if self._session is session or self._closed or isinstance(error, InputMismatch):
                        raise
                    # another thread has closed what this one ran in; to say "closed" would be wrong
                    raise DelegateCrashed(f"lost {tried} times in one call, as often as is tried") from error
                if not self._replaced(session, error):
                    raise

    def share(self, engines: int) -> None:
        """As of a session; the next ones share as much."""
        self._engines = engines
        self._session.share(engines)

    def close(self) -> None:
        """Close what runs. May be called again."""
        with self._lock:
            self._closed = True
            self._session.close()

    def _replaced(self, session: Session, error: EngineError) -> bool:
        """Whether something else runs now than what gave the error: it was lost, here or in another thread."""
        event = None
        with self._lock:
            if self._closed:
                return False
            if self._session is session and isinstance(error, DelegateCrashed):
                event = self._replace(str(error))
            replaced = self._session is not session
        if event is not None:
            self.events.append(event)
            if self._on_event is not None:
                self._on_event(event)
        return replaced

    def _replace(self, reason: str) -> Event:
        """Open what comes next. Where nothing can be opened the lost one stays, and the next call tries again."""
        lost, (name, delegate) = self._session, key_of(self.placement)
        self._fallen[name, delegate] = reason
        try:
            self._session, self.placement = self._next()
        except EdgekitError:
            return Event(name, reason, None, delegate)
        self._session.share(self._engines)
        lost.close()
        return Event(name, reason, self.placement.variant, delegate)

    def _next(self) -> tuple[Session, Placement]:
        wish = self._wish
        again = (self._bundle, wish.device, wish.require, wish.threads)
        try:
            return place(*again, replace(wish.how, fallen=dict(self._fallen)))
        except EngineError:  # nothing else: then what was lost, once more
            self._fallen.clear()
            return place(*again, wish.how)
