"""Toolchains live in child processes: one worker a toolchain, started on first use, fed one call at a time.

A toolchain that aborts, leaks or eats the memory thus becomes one readable error, its output goes to a log file
instead of the terminal, and two of them can work side by side. A worker imports its toolchain once and keeps it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import queue
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from edgekit_converters import progress
from edgekit_runtime.errors import DiskFull, EdgekitError, ToolchainError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ROOM = os.strerror(errno.ENOSPC)
LEAST_FREE_BYTES = 1 << 16  # less is none: what stages write is larger, and a file system keeps some blocks back

Progress = Callable[[int, int, str], None]  # (done, total, how it fares)

# Toolchains never report home from here (TF_BUILD is the switch openvino-telemetry honours), never look for a
# CUDA driver that conversion does not use, and order hashes the same way each time: equal input gives equal bytes.
ENVIRONMENT = {
    "TF_BUILD": "edgekit",
    "NNCF_CI": "1",
    "CUDA_VISIBLE_DEVICES": "-1",
    "OMP_WAIT_POLICY": "PASSIVE",  # idle threads spin by default, and take the cores from the other branches
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Cost:
    """What one call took."""

    seconds: float
    peak_mib: float


class Worker:
    """A child process that runs functions of the converters by name.

    Args:
        name: for messages, such as ``"keras"``.
        log: file that receives everything the child prints.
        scratch: the child's folder for temporary files; toolchains leave some behind when they are ended.
        warm: a module the child imports at once, while nobody waits for it.
    """

    def __init__(self, name: str, log: Path, scratch: Path, warm: str = "") -> None:
        self.name = name
        self.log = log
        self._scratch = scratch
        self._lock = threading.Lock()
        ours, theirs = os.pipe(), os.pipe()  # (read, write): child → parent, parent → child
        environment = os.environ | ENVIRONMENT | {"TMPDIR": str(scratch)}
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "edgekit_converters.execution.worker", str(theirs[0]), str(ours[1]), warm],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=environment,
                pass_fds=(theirs[0], ours[1]),
                start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends its children
            )
        os.close(theirs[0])
        os.close(ours[1])
        self._receive = Connection(ours[0], writable=False)
        self._send = Connection(theirs[1], readable=False)

    def call(self, stage: str, function: str, *arguments: Any, progress: Progress | None = None) -> tuple[Any, Cost]:
        """Run ``"module:function"`` in the child and return its result and what it took.

        Raises:
            EdgekitError: raised by the function, as it was.
            DiskFull: the function failed, and there is no room left for what it writes.
            ToolchainError: the function failed in any other way, or the child died.
        """
        try:
            return self._called(stage, function, arguments, progress)
        except EdgekitError as error:
            if self._is_full():
                raise self._full(stage, NO_ROOM) from error
            raise

    def _called(
        self, stage: str, function: str, arguments: tuple[Any, ...], progress: Progress | None
    ) -> tuple[Any, Cost]:
        with self._lock:
            try:
                self._send.send((function, arguments))
                while True:
                    kind, *content = self._receive.recv()
                    if kind == "progress" and progress:
                        progress(*content)
                    elif kind == "done":
                        return content[0], content[1]
                    elif kind == "error":
                        raise content[0]
                    elif kind == "full":
                        raise self._full(stage, content[0])
                    elif kind == "failed":
                        raise ToolchainError(content[0], stage=stage, subject=self.name, advice=self._see_log())
            except (EOFError, BrokenPipeError, ConnectionResetError) as error:
                raise self._died(stage) from error

    def _died(self, stage: str) -> ToolchainError:
        code = self.process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            hint = "; the machine may have run out of memory" if -code == signal.SIGKILL else ""
            what = f"the {self.name} toolchain was ended by {name}{hint}"
        else:
            what = f"the {self.name} toolchain ended with exit code {code}"
        return ToolchainError(
            what,
            stage=stage,
            subject=self.name,
            advice=self._see_log(),
        )

    def _is_full(self) -> bool:
        """A full disk has many faces: files cut short, engines that refuse them, children ended by SIGBUS."""
        try:
            return shutil.disk_usage(self._scratch).free < LEAST_FREE_BYTES
        except OSError:  # the folder is gone, with the command that it was for
            return False

    def _full(self, stage: str, what: str) -> DiskFull:
        return DiskFull(
            f"{what}: the disk of {self._scratch} is full",
            stage=stage,
            subject=self.name,
            advice="free some space there, or set TMPDIR to a folder on another disk; what was finished is kept",
        )

    def _see_log(self) -> str:
        return f"the toolchain's own messages are in {self.log}"

    def close(self) -> None:
        """End the child and everything it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._send.close()
        self._receive.close()


def main() -> None:
    """The child: run what arrives until the parent goes away."""
    incoming = Connection(int(sys.argv[1]), writable=False)
    channel = Connection(int(sys.argv[2]), readable=False)
    progress.send_with(lambda done, total, state: channel.send(("progress", done, total, state)))
    calls: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue()
    threading.Thread(target=_read_calls, args=(incoming, calls), daemon=True).start()
    if sys.argv[3]:
        with contextlib.suppress(ImportError):  # the call that needs it will say so
            importlib.import_module(sys.argv[3])
    while True:
        function, arguments = calls.get()
        channel.send(_run(function, arguments))


def _read_calls(incoming: Connection, calls: queue.Queue[tuple[str, tuple[Any, ...]]]) -> None:
    """Queue calls; when the parent is gone, however it ended, end at once instead of working for nobody."""
    while True:
        try:
            calls.put(incoming.recv())
        except (EOFError, OSError):
            os._exit(1)
        except BaseException:  # noqa: BLE001 - a call that cannot be read, whatever is thrown, would be waited for
            traceback.print_exc()
            os._exit(1)


def _run(function: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    module, _, name = function.partition(":")
    try:
        with _measured() as cost:
            result = getattr(importlib.import_module(module), name)(*arguments)
        return "done", result, cost()
    except EdgekitError as error:
        traceback.print_exc()
        full = "" if isinstance(error, DiskFull) else _no_room(error)  # which says itself where
        return ("full", full) if full else ("error", error)
    except BaseException as error:  # noqa: BLE001 - the seam of the process: whatever is thrown becomes a message
        traceback.print_exc()
        full = _no_room(error)
        return ("full", full) if full else ("failed", _one_line(error))


def _no_room(error: BaseException | None) -> str:
    """What the system said of a full disk or quota, where that is at the root of an error; else ""."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return error.strerror or NO_ROOM
        error = error.__cause__ or error.__context__
    return ""


def _one_line(error: BaseException) -> str:
    """A toolchain's exception in one line: its type and the first line of its message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextlib.contextmanager
def _measured() -> Iterator[Callable[[], Cost]]:
    started = time.monotonic()
    _reset_peak()
    yield lambda: Cost(round(time.monotonic() - started, 3), round(_peak_mib(), 1))


def _reset_peak() -> None:
    """Start counting this process's peak memory anew (Linux; elsewhere the peak is that of the whole life)."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_mib() -> float:
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    # Run as the module that the parent imports: a pickled Cost names its module.
    from edgekit_converters.execution.worker import main as run

    run()
