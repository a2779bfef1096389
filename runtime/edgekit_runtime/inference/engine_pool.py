"""Engines on one artifact, each lent to one thread at a time: as many as are needed, up to a bound."""

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


class Pool:
    """Runs arrays through an engine that no other thread is using.

    A thread that finds all engines taken gets a clone of the first one, and waits once there are ``most``, or where
    an engine cannot be cloned. Taking and giving back cost one step of a deque each, which needs no lock; locks are for
    those who wait, for growing and for closing.
    """

    def __init__(self, engine: Engine) -> None:
        self.most = 1
        self._first = engine
        self._idle: deque[Engine] = deque([engine])  # the engine that was used last, and is still in caches, is last
        self._count = 1
        self._closed = False
        self._alert = 0  # threads that wait, and one more once closed: whoever gives back has to look
        self._waiting: Condition | None = None
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
            if self._alert:
                self._returned()

    def close(self) -> None:
        """Close every engine: those that are idle now, the others when the calls that use them end."""
        with self._changed():
            if not self._closed:
                self._closed = True
                self._alert += 1
            self._close_idle()
            self._changed().notify_all()

    def _changed(self) -> Condition:
        """What those who wait are told by; a process with a single thread never imports it."""
        with self._lock:
            if self._waiting is None:
                from threading import Condition

                self._waiting = Condition()
            return self._waiting

    def _wait(self) -> Engine:
        with self._changed():
            self._alert += 1
            try:
                while True:
                    if self._closed:
                        raise EngineError("the model is closed: load the bundle again")
                    engine = self._free() or self._grown()
                    if engine is not None:
                        return engine
                    self._changed().wait()
            finally:
                self._alert -= 1

    def _free(self) -> Engine | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _grown(self) -> Engine | None:
        """One more engine, while there may be more; None where there is no memory or no unit for another."""
        if self._count >= self.most:
            return None
        try:
            engine = self._first.clone()
        except EngineError:
            engine = None
        if engine is None:
            self.most = self._count
        else:
            self._count += 1
        return engine

    def _returned(self) -> None:
        with self._changed():
            if self._closed:
                self._close_idle()
            else:
                self._changed().notify()

    def _close_idle(self) -> None:
        while (engine := self._free()) is not None:
            engine.close()
