"""Switch to the next variant when the process of an isolated engine crashes or hangs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any, Callable

from edgekit_runtime.errors import DelegateCrashed, EdgekitError, EngineError, InputMismatch
from edgekit_runtime.placement.load_options import Event
from edgekit_runtime.placement.place import place

if TYPE_CHECKING:
    from edgekit_runtime.bundle.reader import Bundle
    from edgekit_runtime.placement.load_options import LoadOptions
    from edgekit_runtime.placement.place import PlacedSession, Placement, VariantKey
    from edgekit_runtime.tensors import Array

MAX_EVENTS = 100  # the latest are kept


class Failover:
    """Runs a variant in a child process, and the next variant when that process crashes or hangs.

    A lost variant is not tried again while there is another. When there is none, it is opened again for each call.
    """

    run_one: Callable[[Any], Array] | None = None  # a session's shortcut is bound to one engine, which may be lost

    def __init__(self, bundle: Bundle, placed: PlacedSession, options: LoadOptions) -> None:
        self._bundle, self._placed, self._options = bundle, placed, options
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._lost: dict[VariantKey, str] = {}
        self._engines = 1
        self._lock = RLock()
        self._closed = False

    @property
    def placement(self) -> Placement:
        """The placement of the variant that runs now."""
        return self._placed.placement

    @property
    def events(self) -> tuple[Event, ...]:
        """The variants that were lost, the latest last."""
        return tuple(self._events)

    def run(self, values: Sequence[Any], raw: bool = False) -> list[Array]:
        """Run once; on another variant if this one is lost meanwhile.

        Raises:
            InputMismatch: as ``Session.run``.
            EngineError: the engine failed without crashing, or the model is closed.
            DelegateCrashed: no variant is left that runs, or every one was lost in this call.
        """
        attempts = 0
        while True:
            placed = self._placed
            try:
                return placed.run(values, raw)
            except EngineError as error:
                attempts += 1
                if attempts > len(self._bundle.manifest.variants) + 1:
                    if self._placed is placed or self._closed or isinstance(error, InputMismatch):
                        raise
                    # Another thread replaced and closed this session; "the model is closed" would be wrong.
                    raise DelegateCrashed(
                        f"variants were lost {attempts} times in one call, which is the limit"
                    ) from error
                if not self._replaced(placed, error):
                    raise

    def share(self, engines: int) -> None:
        """Let as many threads run at once, in this session and in the ones that replace it."""
        self._engines = engines
        self._placed.share(engines)

    def close(self) -> None:
        """Close the session. May be called again."""
        with self._lock:
            self._closed = True
            self._placed.close()

    def _replaced(self, placed: PlacedSession, error: EngineError) -> bool:
        """Replace the session that raised the error if it was lost; return whether another one runs now.

        Another thread may have replaced it already.
        """
        event = None
        with self._lock:
            if self._closed:
                return False
            if self._placed is placed and isinstance(error, DelegateCrashed):
                event = self._replace(str(error))
            replaced = self._placed is not placed
        if event is not None:
            self._events.append(event)
            if self._options.on_event is not None:
                self._options.on_event(event)
        return replaced

    def _replace(self, reason: str) -> Event:
        """Open the next variant. If none can be opened, the lost one stays, and the next call tries again."""
        lost = self._placed
        name, delegate = lost.placement.variant, lost.placement.delegate
        self._lost[name, delegate] = reason
        try:
            self._placed = self._next()
        except EdgekitError:
            return Event(name, reason, None, delegate)
        self._placed.share(self._engines)
        lost.close()
        return Event(name, reason, self._placed.placement.variant, delegate)

    def _next(self) -> PlacedSession:
        try:
            return place(self._bundle, self._options, dict(self._lost))
        except EngineError:  # no other variant is left: open the lost ones again
            self._lost.clear()
            return place(self._bundle, self._options)
