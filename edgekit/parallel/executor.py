"""Run independent tasks at the same time on threads that drive worker processes; see also ``ray_executor.py``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs tasks at the same time, up to ``jobs`` of them."""

    @property
    def jobs(self) -> int:
        """Number of tasks that run at the same time."""

    @property
    def startup_s(self) -> float:
        """Estimated time until one more worker is ready, in seconds."""

    @property
    def notes(self) -> Sequence[str]:
        """Failures that were recovered from, for the report."""

    def map(
        self, function: Callable[[Item, str], Result], items: Sequence[Item], skip_reason: Callable[[int], str]
    ) -> list[Result]:
        """Return ``function(item, skip_reason(index))`` for every item, in order.

        ``skip_reason`` is called in the calling thread when a worker is free to start that item, and not earlier.
        The first exception ends the call: no further item is started.
        """


@dataclass(frozen=True)
class Threads:
    """Runs tasks on threads of this process; the tasks do their work in worker processes."""

    jobs: int = 1
    startup_s: float = 1.0  # of an engine's worker
    notes: tuple[str, ...] = ()

    def map(
        self, function: Callable[[Item, str], Result], items: Sequence[Item], skip_reason: Callable[[int], str]
    ) -> list[Result]:
        """See :class:`Executor`. After an exception it does not wait for tasks that still run."""
        if self.jobs == 1:
            return [function(item, skip_reason(index)) for index, item in enumerate(items)]
        free, futures = threading.Semaphore(self.jobs), list[Future[Result]]()
        pool = ThreadPoolExecutor(self.jobs)
        try:
            for index, item in enumerate(items):
                free.acquire()
                _raise_failure(futures)
                futures.append(pool.submit(function, item, skip_reason(index)))
                futures[-1].add_done_callback(lambda _: free.release())
            wait(futures, return_when=FIRST_EXCEPTION)
            _raise_failure(futures)
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False)


SEQUENTIAL = Threads()


def _raise_failure(futures: Sequence[Future[Any]]) -> None:
    """Raise the exception of the first task that failed, if one did."""
    for future in futures:
        if future.done():
            future.result()
