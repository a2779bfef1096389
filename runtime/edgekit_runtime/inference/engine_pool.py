"""A pool of engines on one artifact, each lent to one thread at a time, which grows on demand up to a limit."""

from __future__ import annotations

from _thread import allocate_lock
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit_runtime.errors import EngineError

if TYPE_CHECKING:
    from threading import Condition

    from edgekit_runtime.engines import Engine
    from edgekit_runtime.tensors import Array


class EnginePool:
    """Runs arrays through an engine that no other thread is using.

    A thread that finds all engines in use gets a clone of the first one. It waits if there are ``max_engines`` already,
    or if the engine cannot be cloned. Borrowing and returning an engine is one deque operation each, which needs no
    lock; waiting, growing and closing use locks.
    """

    def __init__(self, engine: Engine) -> None:
        self.max_engines = 1
        self._first = engine
        self._idle: deque[Engine] = deque(
            [engine]
        )  # the most recently used, whose data are in the processor's caches, is last
        self._count = 1
        self._closed = False
        self._attention = 0  # waiting threads, plus 1 once closed; else returning needs no lock
        self._condition: Condition | None = None
        self._lock = allocate_lock()

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Run once.

        Raises:
            EngineError: the engine failed, or the pool is closed.
        """
        try:
            engine = self._idle.pop()
        except IndexError:
            engine = self._wait()
        try:
            return engine.run(arrays)
        finally:
            self._idle.append(engine)
            if self._attention:
                self._notify_returned()

    def close(self) -> None:
        """Close the engines: idle ones now, the others when their calls end."""
        with self._get_condition():
            if not self._closed:
                self._closed = True
                self._attention += 1
            self._close_idle()
            self._get_condition().notify_all()

    def _get_condition(self) -> Condition:
        """Return the condition on which threads wait; a process with one thread never imports ``threading`` for it."""
        with self._lock:
            if self._condition is None:
                from threading import Condition

                self._condition = Condition()
            return self._condition

    def _wait(self) -> Engine:
        with self._get_condition():
            self._attention += 1
            try:
                while True:
                    if self._closed:
                        raise EngineError("the model is closed: load the bundle again")
                    engine = self._pop_idle() or self._grow()
                    if engine is not None:
                        return engine
                    self._get_condition().wait()
            finally:
                self._attention -= 1

    def _pop_idle(self) -> Engine | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _grow(self) -> Engine | None:
        """Clone the engine; None at the limit, or if there is no memory or device for another."""
        if self._count >= self.max_engines:
            return None
        try:
            engine = self._first.clone()
        except EngineError:
            engine = None
        if engine is None:
            self.max_engines = self._count
        else:
            self._count += 1
        return engine

    def _notify_returned(self) -> None:
        with self._get_condition():
            if self._closed:
                self._close_idle()
            else:
                self._get_condition().notify()

    def _close_idle(self) -> None:
        while (engine := self._pop_idle()) is not None:
            engine.close()
