"""Many inputs through one model, in order: while some are inferred, others are read and preprocessed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from concurrent.futures import Future


def stream(submit: Callable[[Any], Future[Any]], inputs: Iterable[Any], depth: int) -> Iterator[Any]:
    """Give the result of each input, in the order of the inputs.

    Args:
        submit: starts one call, such as ``Model.submit``.
        inputs: read in the caller's thread, at most ``depth`` ahead of what was taken.
        depth: calls under way at once.

    Raises:
        Exception: whatever a call or ``inputs`` raised, when its turn comes: all results before it are given first.
            What was begun after it is dropped.
    """
    under_way: deque[Future[Any]] = deque()
    futures = map(submit, inputs)
    try:
        while True:
            try:
                future = next(futures, None)
            except Exception:  # whatever the caller's inputs raised comes after the results before it
                yield from _results(under_way)
                raise
            if future is None:
                break
            under_way.append(future)
            if len(under_way) >= depth:
                yield under_way.popleft().result()
        yield from _results(under_way)
    finally:
        for future in under_way:
            future.cancel()


def _results(under_way: deque[Future[Any]]) -> Iterator[Any]:
    while under_way:
        yield under_way.popleft().result()


def cores() -> int:
    """The processor cores this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(allowed(0)) if allowed else os.cpu_count() or 1
