"""On a command line stderr is for what edgekit has to say; engines write to it even when all is well."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from edgekit_runtime.errors import BundleError, InputMismatch, PlanError, VerificationError
from edgekit_runtime.isolate import memory_file

# How a verb ends when it was not an engine that failed.
NOT_THE_ENGINE = (PlanError, VerificationError, BundleError, InputMismatch, KeyboardInterrupt, BrokenPipeError)
CHATTER = b"INFO: "  # so LiteRT begins what explains no failure


@contextmanager
def quiet_engines() -> Iterator[None]:
    """Hold back what libraries write to descriptor 2, in this process and in its children.

    Python's own stderr leads where it led before. What was held back is shown after all, but for chatter, when an
    engine fails, or when something happens that nobody foresaw. What a library writes just before it takes the
    process down is lost.

    It changes the whole process, so it is for commands, not for applications.
    """
    if sys.__stderr__ is None:  # it was closed from the start, and descriptor 2 may be any file by now
        yield
        return
    sys.__stderr__.flush()
    with memory_file() as held, os.fdopen(os.dup(2), "wb", buffering=0) as stderr:
        os.dup2(held.fileno(), 2)
        foreseen = False
        try:
            with _python_writes_to(stderr.fileno()):
                yield
            foreseen = True
        except NOT_THE_ENGINE:
            foreseen = True
            raise
        finally:
            os.dup2(stderr.fileno(), 2)
            if not foreseen:
                held.seek(0)
                stderr.write(b"".join(line for line in held if not line.startswith(CHATTER)))


@contextmanager
def _python_writes_to(descriptor: int) -> Iterator[None]:
    """Let ``sys.stderr`` write there, unless somebody has put something else in its place, as tests do."""
    if sys.stderr is not sys.__stderr__:
        yield
        return
    with open(descriptor, "w", buffering=1, errors="backslashreplace", closefd=False) as ours, redirect_stderr(ours):
        yield
