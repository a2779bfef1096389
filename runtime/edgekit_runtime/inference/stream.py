"""Run many inputs through a model, in order, while later ones are read and preprocessed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from concurrent.futures import Future


def stream(submit: Callable[[Any], Future[Any]], inputs: Iterable[Any], depth: int) -> Iterator[Any]:
    """Yield the result of each input, in the order of the inputs.

    Args:
        submit: starts one call, such as ``Model.submit``.
        inputs: read in the caller's thread, at most ``depth`` ahead of the yielded results.
        depth: calls in progress at once.

    Raises:
        Exception: the exception of a call or of ``inputs``, after all results before it. Later calls are cancelled.
    """
    pending: deque[Future[Any]] = deque()
    futures = map(submit, inputs)
    try:
        while True:
            try:
                future = next(futures, None)
            except Exception:  # an exception of the caller's inputs is raised after the results before it
                yield from _results(pending)
                raise
            if future is None:
                break
            pending.append(future)
            if len(pending) >= depth:
                yield pending.popleft().result()
        yield from _results(pending)
    finally:
        for future in pending:
            future.cancel()


def _results(pending: deque[Future[Any]]) -> Iterator[Any]:
    while pending:
        yield pending.popleft().result()


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(allowed(0)) if allowed else os.cpu_count() or 1
