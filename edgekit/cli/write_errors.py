"""Errors of a command whose output cannot be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgekit_runtime.errors import PlanError


@contextmanager
def writing(output: str) -> Iterator[None]:
    """Turn errors of the operating system into an error that names the output.

    Raises:
        PlanError: the output cannot be written.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise PlanError(f"{output} cannot be written: {why}: free some space, or give another path with -o") from error
