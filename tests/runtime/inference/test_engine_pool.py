"""The pool lends engines to one thread at a time, grows up to a limit, and closes all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from edgekit_runtime.errors import EngineError, EngineUnavailable
from edgekit_runtime.inference.engine_pool import EnginePool


class Counted:
    """An engine that doubles, knows its clones, and fails when two threads use it at once."""

    def __init__(self, family: list[Counted], clones: int = 99, hold: threading.Barrier | None = None) -> None:
        self.family, self.clones, self.hold, self.closed = family, clones, hold, 0
        self._alone = threading.Lock()
        family.append(self)

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        assert self._alone.acquire(blocking=False), "two threads in one engine"
        try:
            assert not self.closed, "used after it was closed"
            if self.hold is not None:
                self.hold.wait(timeout=20)
            if arrays[0][0] < 0:
                raise EngineError("no negative numbers")
            return [arrays[0] * 2]
        finally:
            self._alone.release()

    def clone(self) -> Counted | None:
        if self.clones < 0:
            raise EngineUnavailable("no memory")
        return Counted(self.family, self.clones, self.hold) if len(self.family) <= self.clones else None

    def close(self) -> None:
        self.closed += 1


def at_once(count: int, work: Callable[[int], Any]) -> list[BaseException]:
    """Run ``work(0..count-1)`` in as many threads, and return their exceptions."""
    raised: list[BaseException] = []

    def guarded(which: int) -> None:
        try:
            work(which)
        except BaseException as error:  # noqa: BLE001  # a thread's error is the test's result
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(which,)) for which in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads), "a thread waits for ever"
    return raised


def call_repeatedly(pool: EnginePool, calls: int) -> Callable[[int], None]:
    def work(which: int) -> None:
        for call in range(calls):
            value = which * calls + call
            assert pool.run([np.array([value])])[0][0] == 2 * value

    return work


def test_one_thread_needs_one_engine() -> None:
    family: list[Counted] = []
    pool = EnginePool(Counted(family))
    pool.max_engines = 4
    call_repeatedly(pool, 100)(0)
    assert len(family) == 1


def test_the_pool_grows_with_concurrent_threads() -> None:
    family: list[Counted] = []
    pool = EnginePool(Counted(family, hold=threading.Barrier(3)))  # every call waits until three run at once
    pool.max_engines = 3
    assert at_once(3, call_repeatedly(pool, 5)) == []
    assert len(family) == 3


@pytest.mark.parametrize(("most", "clones", "engines"), [(1, 99, 1), (3, 99, 3), (8, 0, 1), (8, 1, 2), (8, -1, 1)])
def test_the_pool_stays_within_its_limit_and_every_thread_runs(most: int, clones: int, engines: int) -> None:
    family: list[Counted] = []
    pool = EnginePool(Counted(family, clones))
    pool.max_engines = most
    assert at_once(8, call_repeatedly(pool, 2000)) == []
    assert 1 <= len(family) <= engines


def test_an_error_leaves_the_engine_in_the_pool() -> None:
    family: list[Counted] = []
    pool = EnginePool(Counted(family))
    for _ in range(3):
        with pytest.raises(EngineError, match="negative"):
            pool.run([np.array([-1])])
    assert pool.run([np.array([4])])[0][0] == 8
    assert len(family) == 1


def test_closed_while_threads_run_and_wait() -> None:
    for round_ in range(20):
        family: list[Counted] = []
        pool = EnginePool(Counted(family))
        pool.max_engines = 1 + round_ % 3
        begun = threading.Barrier(9)

        def work(which: int, pool: EnginePool = pool, begun: threading.Barrier = begun) -> None:
            begun.wait(timeout=20)
            while True:
                pool.run([np.array([which])])

        closer = threading.Thread(target=lambda begun=begun, pool=pool: (begun.wait(timeout=20), pool.close()))
        closer.start()
        raised = at_once(8, work)
        closer.join()
        assert [str(error) for error in raised] == ["the model is closed: load the bundle again"] * 8
        assert [engine.closed for engine in family] == [1] * len(family)
        pool.close()
