"""A child process that runs the stages of one toolchain, one call at a time.

If a toolchain crashes, leaks or runs out of memory, the user gets one readable error. Its output goes to a log file
instead of the terminal, and two toolchains can run at the same time. A worker imports its toolchain once.
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

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_FULL_MESSAGE = os.strerror(errno.ENOSPC)
LEAST_FREE_BYTES = 1 << 16  # less counts as full: stages write more, and a file system reserves some blocks

Progress = Callable[[int, int, str], None]  # (done, total, status)

# Toolchains send no telemetry (openvino-telemetry reads TF_BUILD), do not look for a CUDA driver, which conversion
# does not use, and order hashes the same way each time, so that equal input gives equal bytes.
ENVIRONMENT = {
    "TF_BUILD": "edgekit",
    "NNCF_CI": "1",
    "CUDA_VISIBLE_DEVICES": "-1",
    "OMP_WAIT_POLICY": "PASSIVE",  # idle threads spin by default and take cores from other workers
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Cost:
    """Time and memory of one call."""

    seconds: float
    peak_mib: float


class Worker:
    """A child process that runs functions of the converters by name.

    Args:
        name: for messages, such as ``"keras"``.
        log: file that receives everything the child prints.
        scratch: the child's folder for temporary files; toolchains leave some behind when they are killed.
        warm: a module that the child imports at once, before the first call.
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
        """Run ``"module:function"`` in the child and return its result and cost.

        Raises:
            EdgekitError: the function raised it.
            DiskFull: the function failed because the disk is full.
            ToolchainError: the function raised another error, or the child died.
        """
        try:
            return self._called(stage, function, arguments, progress)
        except EdgekitError as error:
            if self._disk_is_full():
                raise self._disk_full_error(stage, DISK_FULL_MESSAGE) from error
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
                        raise self._disk_full_error(stage, content[0])
                    elif kind == "failed":
                        raise ToolchainError(content[0], stage=stage, subject=self.name, advice=self._see_log())
            except (EOFError, BrokenPipeError, ConnectionResetError) as error:
                raise self._died(stage) from error

    def _died(self, stage: str) -> ToolchainError:
        code = self.process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            hint = "; the machine may have run out of memory" if -code == signal.SIGKILL else ""
            message = f"the {self.name} toolchain was killed by {name}{hint}"
        else:
            message = f"the {self.name} toolchain ended with exit code {code}"
        return ToolchainError(
            message,
            stage=stage,
            subject=self.name,
            advice=self._see_log(),
        )

    def _disk_is_full(self) -> bool:
        """Check the disk itself: a full disk also shows as truncated files, refused models or a SIGBUS."""
        try:
            return shutil.disk_usage(self._scratch).free < LEAST_FREE_BYTES
        except OSError:  # the folder was removed at the end of the command
            return False

    def _disk_full_error(self, stage: str, message: str) -> DiskFull:
        return DiskFull(
            f"{message}: the disk of {self._scratch} is full",
            stage=stage,
            subject=self.name,
            advice="free some space there, or set TMPDIR to a folder on another disk; finished stages stay cached",
        )

    def _see_log(self) -> str:
        return f"the toolchain's own messages are in {self.log}"

    def close(self) -> None:
        """Kill the child and everything it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._send.close()
        self._receive.close()


def main() -> None:
    """Run the calls that arrive, in the child, until the parent ends."""
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
    """Queue calls; when the parent has ended in any way, end this process at once."""
    while True:
        try:
            calls.put(incoming.recv())
        except (EOFError, OSError):
            os._exit(1)
        except BaseException:  # noqa: BLE001 - the parent would wait for ever for a call that cannot be read
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
        full = "" if isinstance(error, DiskFull) else _disk_full_message(error)  # DiskFull names the disk itself
        return ("full", full) if full else ("error", error)
    except BaseException as error:  # noqa: BLE001 - at the process boundary any error becomes a message
        traceback.print_exc()
        full = _disk_full_message(error)
        return ("full", full) if full else ("failed", _one_line(error))


def _disk_full_message(error: BaseException | None) -> str:
    """Return the system's message if a full disk or quota caused an error, else ""."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS:
            return error.strerror or DISK_FULL_MESSAGE
        error = error.__cause__ or error.__context__
    return ""


def _one_line(error: BaseException) -> str:
    """Return an exception in one line: its type and the first line of its message that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextlib.contextmanager
def _measured() -> Iterator[Callable[[], Cost]]:
    started = time.monotonic()
    _reset_peak()
    yield lambda: Cost(round(time.monotonic() - started, 3), round(_peak_mib(), 1))


def _reset_peak() -> None:
    """Reset this process's peak memory (Linux; elsewhere the peak is that of its whole life)."""
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
