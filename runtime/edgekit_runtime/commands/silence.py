"""Keep the log output of engines off stdout and stderr, which are for the command's own output."""

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

# Errors with which a command ends when no engine failed.
NOT_OF_ENGINES = (PlanError, VerificationError, BundleError, InputMismatch, KeyboardInterrupt, BrokenPipeError)


@contextmanager
def quiet_engines() -> Iterator[None]:
    """Capture what libraries write to descriptors 1 and 2, in this process and in its children.

    Python's own stdout and stderr are not captured. When an engine fails, or on an unexpected error, the captured
    output is printed on stderr, without log lines. What a library writes while the process ends or crashes is lost.

    This changes the whole process, so it is for commands, not for applications.
    """
    expected = False
    with memory_file() as captured, ExitStack() as restore:
        restore.callback(lambda: None if expected else _print_captured(captured))
        for name in ("stdout", "stderr"):
            restore.enter_context(_redirect(captured.fileno(), name))
        try:
            yield
            expected = True
        except NOT_OF_ENGINES:
            expected = True
            raise


@contextmanager
def _redirect(target: int, name: str) -> Iterator[None]:
    """Redirect the descriptor of ``sys.stdout`` or ``sys.stderr`` to ``target``, but not Python's own stream.

    A stream that was closed from the start is not changed: its descriptor may belong to another file now.
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
        if getattr(sys, name) is not stream:  # it was replaced, as tests do
            yield
            return
        if name == "stderr":
            _silence_exit()
        with open(kept, "w", encoding=stream.encoding, errors=stream.errors, closefd=False) as ours:
            setattr(sys, name, ours)
            try:
                yield
            finally:
                setattr(sys, name, stream)
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


def _print_captured(captured: Any) -> None:
    if sys.__stderr__ is not None:
        captured.seek(0)
        os.write(2, b"".join(line for line in captured if not line.startswith(INFO_PREFIX.encode())))


def _silence_exit() -> None:
    """Discard what engines print when they are unloaded at the end of the process."""
    atexit.unregister(_close_stderr)
    atexit.register(_close_stderr)


def _close_stderr() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
