"""What is said when a command's output cannot be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgekit_runtime.errors import PlanError


@contextmanager
def writing(output: str) -> Iterator[None]:
    """Turn what the system refuses into an error that names the output.

    Raises:
        PlanError: it cannot be written: there is no such folder, no right, or no room.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise PlanError(f"{output} cannot be written: {why}: make room, or give another place with -o") from error
