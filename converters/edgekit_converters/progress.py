"""Report how far a stage is, from within it."""

from __future__ import annotations

from collections.abc import Callable

Send = Callable[[int, int, str], None]

_send: Send | None = None  # set in a worker process


def send_with(send: Send) -> None:
    """Send all reports of this process with ``send(done, total, state)``."""
    global _send  # noqa: PLW0603 - a process has one parent that it reports to
    _send = send


def report_progress(done: int, total: int, state: str = "") -> None:
    """Report that ``done`` of ``total`` is done; outside a worker process this does nothing.

    Args:
        done: in any unit.
        total: in the same unit; 0 while unknown.
        state: shown beside the progress, such as the loss so far.
    """
    if _send is not None:
        _send(done, total, state)
