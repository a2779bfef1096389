"""On a command line stdout and stderr are for what edgekit has to say; engines write there even when all is well."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from edgekit_runtime.engines.isolated import memory_file
from edgekit_runtime.errors import BundleError, InputMismatch, PlanError, VerificationError
from edgekit_runtime.host.subprocesses import INFO_PREFIX

# How a verb ends when it was not an engine that failed.
NOT_THE_ENGINE = (PlanError, VerificationError, BundleError, InputMismatch, KeyboardInterrupt, BrokenPipeError)


@contextmanager
def quiet_engines() -> Iterator[None]:
    """Hold back what libraries write to descriptors 1 and 2, in this process and in its children.

    Python's own stdout and stderr lead where they led before. What was held back is shown on stderr after all, but
    for chatter, when an engine fails, or when something happens that nobody foresaw. What a library writes while the
    process ends, or just before it takes it down, is lost.

    It changes the whole process, so it is for commands, not for applications.
    """
    foreseen = False
    with memory_file() as held, ExitStack() as restore:
        restore.callback(lambda: None if foreseen else _show(held))
        for name in ("stdout", "stderr"):
            restore.enter_context(_descriptor_leads_to(held.fileno(), name))
        try:
            yield
            foreseen = True
        except NOT_THE_ENGINE:
            foreseen = True
            raise


@contextmanager
def _descriptor_leads_to(target: int, name: str) -> Iterator[None]:
    """Let the descriptor of ``sys.stdout`` or ``sys.stderr`` lead elsewhere, and Python's stream where it led before.

    One that was closed from the start is left alone: its number may be any file's by now.
    """
    stream = getattr(sys, f"__{name}__")
    if stream is None:
        yield
        return
    stream.flush()
    descriptor = stream.fileno()
    kept = os.dup(descriptor)
    os.dup2(target, descriptor)
    try:
        if getattr(sys, name) is not stream:  # somebody has put something else in its place, as tests do
            yield
            return
        if name == "stderr":
            _silence_the_end()
        with open(kept, "w", encoding=stream.encoding, errors=stream.errors, closefd=False) as ours:
            setattr(sys, name, ours)
            try:
                yield
            finally:
                setattr(sys, name, stream)
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


def _show(held: Any) -> None:
    if sys.__stderr__ is not None:
        held.seek(0)
        os.write(2, b"".join(line for line in held if not line.startswith(INFO_PREFIX.encode())))


def _silence_the_end() -> None:
    """Engines say farewell when they are unloaded, after all that is ours."""
    atexit.unregister(_close_stderr)
    atexit.register(_close_stderr)


def _close_stderr() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
