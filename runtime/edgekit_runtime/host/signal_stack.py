"""The stack on which a thread handles signals, kept from libraries that replace it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Stack(ctypes.Structure):
    """``stack_t`` of Linux (sigaltstack(2))."""

    _fields_ = (("at", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Give this thread the stack back that it had, whatever a library puts in its place meanwhile.

    OpenVINO's plugin for processors does, and takes it away when its core ends: of two cores that end in the order in
    which they began, the second restores the stack of the first, which is no longer there. The next signal that
    Python handles, such as that of Ctrl-C, would then end the process with SIGSEGV. A plugin that does not find its
    own stack when it ends restores none.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    system, before = ctypes.CDLL(None), Stack()
    system.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:  # refused where it would be too small for what the library computes with; then the library's stays
        system.sigaltstack(ctypes.byref(before), None)
