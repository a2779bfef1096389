"""Keep a thread's signal stack while a library replaces it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Stack(ctypes.Structure):
    """``stack_t`` of Linux (sigaltstack(2))."""

    _fields_ = (("at", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def keep_signal_stack() -> Iterator[None]:
    """Restore this thread's signal stack after a library has replaced it.

    OpenVINO's CPU plugin installs its own stack, and restores the previous one when its core is deleted. If two cores
    are deleted in the order in which they were made, the second restores the stack of the first, which no longer
    exists, and the next signal that Python handles, such as Ctrl-C, ends the process with SIGSEGV. A plugin that does
    not find its own stack restores nothing.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    system, before = ctypes.CDLL(None), Stack()
    system.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:  # the kernel refuses a stack that is too small for the processor; the library's then stays
        system.sigaltstack(ctypes.byref(before), None)
