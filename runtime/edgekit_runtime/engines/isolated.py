"""An engine in a child process: when it crashes or hangs, the application does not.

Arrays are exchanged through shared memory. The pipes carry the numbers of the runs: the parent sends one to start a
run, and the child sends it back, with the engine's error message if the run failed.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_runtime import errors
from edgekit_runtime.engines import EngineInfo, TensorInfo
from edgekit_runtime.engines.child_request import bundle_of, make_request, variant_of
from edgekit_runtime.errors import DelegateCrashed, EdgekitError, EngineError, EngineUnavailable
from edgekit_runtime.host.subprocesses import (
    describe_exit,
    end_child,
    last_line,
    limit_memory,
    own_stdout,
    start_child,
    timeout_s,
)

if TYPE_CHECKING:
    from edgekit_runtime.bundle.reader import Bundle
    from edgekit_runtime.format.manifest import Variant
    from edgekit_runtime.tensors import Array

NUMBER_BYTES = 8  # of a run's number
ANSWER_BYTES = 1024  # of a number and an error message: small enough for a pipe to write in one piece
ALIGNED_BYTES = 64
MAX_STDERR_BYTES = 1 << 20  # the child's stderr is emptied when it is larger
CHECK_STDERR_EVERY = 256  # runs
GRACE_S = 1.0  # the parent ends a hung child; this much later the child ends itself, in case the parent is gone


def open_isolated(
    variant: Variant, bundle: Bundle, threads: int | None, run_timeout_s: float, *, cache: bool = True
) -> IsolatedEngine:
    """Open a variant in a child process.

    Raises:
        EngineUnavailable: the system does not support it, or the engine refused the variant.
        DelegateUnavailable: the variant's delegate is missing or refused the model.
        DelegateCrashed: the child crashed or hung while opening.
    """
    if sys.platform == "win32":
        raise EngineUnavailable("isolate passes file descriptors to a child process, which needs a Unix system")
    request = {**make_request(bundle, variant, threads, cache), "timeout_s": run_timeout_s + GRACE_S}
    with ExitStack() as cleanup:
        shared = cleanup.enter_context(memory_file())
        stderr = cleanup.enter_context(tempfile.TemporaryFile("a+b"))
        number = shared.fileno()
        child = start_child(
            "edgekit_runtime.engines.isolated", stderr, bundle.temp_folder(), str(number), pass_fds=(number,)
        )
        cleanup.callback(end_child, child)
        engine = IsolatedEngine(child, stderr, _first_answer(child, stderr, request), shared, run_timeout_s)
        cleanup.pop_all()
        return engine


def memory_file() -> Any:
    """Open a file in memory; a temporary file if the system has none."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("edgekit"), "w+b")
    return tempfile.TemporaryFile()


def _first_answer(child: subprocess.Popen[bytes], stderr: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Send the request and return the child's description of the engine, or raise the error of its refusal."""
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # it has ended already; the answer tells how
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()
    line = b""
    while not line.endswith(b"\n"):
        line += _read(child, stderr, timeout_s(), 1 << 16)
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        kind = getattr(errors, str(answer["kind"]), EngineUnavailable)
        raise kind(str(answer["error"]))
    return answer


def _read(child: subprocess.Popen[bytes], stderr: Any, within_s: float, most_bytes: int) -> bytes:
    """Read the child's next bytes.

    Raises:
        DelegateCrashed: the child ended, or did not answer in time.
    """
    assert child.stdout is not None
    waiting = select.poll()
    waiting.register(child.stdout, select.POLLIN)
    if not waiting.poll(within_s * 1000):
        end_child(child)
        raise DelegateCrashed(f"hung: no answer within {within_s:g} s{last_line(stderr)}")
    answer = os.read(child.stdout.fileno(), most_bytes)
    if not answer:
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=5)
        ended = describe_exit(child.returncode) if child.returncode is not None else "its process closed its pipes"
        end_child(child)
        raise DelegateCrashed(f"crashed: {ended}{last_line(stderr)}")
    return answer


class IsolatedEngine:
    """An engine in a child process, used like any other."""

    def __init__(
        self, child: subprocess.Popen[bytes], stderr: Any, engine: dict[str, Any], shared: Any, run_timeout_s: float
    ) -> None:
        self.inputs, self.outputs = (_infos(engine[side]) for side in ("inputs", "outputs"))
        delegated = engine["facts"]["delegated"]
        self.facts = EngineInfo(**{**engine["facts"], "delegated": tuple(delegated) if delegated else None})
        with shared:  # the mapping stays valid after the file is closed
            views = _views(shared.fileno(), (*self.inputs, *self.outputs))
        self._in, self._out = views[: len(self.inputs)], views[len(self.inputs) :]
        self._child: subprocess.Popen[bytes] | None = child
        self._stderr = stderr
        self._timeout_s = run_timeout_s
        self._runs = 0

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Copy in, let the child run, copy out.

        Raises:
            DelegateCrashed: the child crashed or was closed, or it hung for longer than the timeout and was killed.
            EngineError: the engine failed, and its process goes on.
        """
        child = self._child
        if child is None:
            raise DelegateCrashed("crashed: its process has ended")
        if child.poll() is not None:
            raise DelegateCrashed(f"crashed: {describe_exit(child.returncode)}{last_line(self._stderr)}")
        for view, array in zip(self._in, arrays):
            np.copyto(view, array)
        self._runs += 1
        number = self._runs.to_bytes(NUMBER_BYTES, "little")
        assert child.stdin is not None
        with suppress(BrokenPipeError):  # it has just died; reading tells how
            os.write(child.stdin.fileno(), number)
        problem = self._answer(child, number)
        self._limit_stderr()
        if problem:
            raise EngineError(problem)
        return [view.copy() for view in self._out]

    def clone(self) -> None:
        """Return None: another process would load another copy of the weights."""

    def close(self) -> None:
        """End the child. May be called again."""
        if self._child is not None:
            assert self._child.stdin is not None
            with suppress(OSError, subprocess.TimeoutExpired):
                self._child.stdin.close()  # on which it closes its engine and ends
                self._child.wait(timeout=GRACE_S)
            end_child(self._child)
            self._child = None
            self._stderr.close()

    def _answer(self, child: subprocess.Popen[bytes], number: bytes) -> str:
        """Return the engine's error message of a run, or "".

        Answers to earlier runs are skipped: the caller may have left one, as with KeyboardInterrupt.
        """
        while True:
            last = _read(child, self._stderr, self._timeout_s, 1 << 16)[-ANSWER_BYTES:]
            if last[:NUMBER_BYTES] == number:
                return last[NUMBER_BYTES:].rstrip(b"\0").decode(errors="replace")

    def _limit_stderr(self) -> None:
        if self._runs % CHECK_STDERR_EVERY == 0 and os.fstat(self._stderr.fileno()).st_size > MAX_STDERR_BYTES:
            os.ftruncate(self._stderr.fileno(), 0)


def _infos(records: Iterable[dict[str, Any]]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(**{**record, "shape": tuple(record["shape"])}) for record in records)


def _views(shared: int, infos: Sequence[TensorInfo]) -> list[Array]:
    """Map the shared file, after making it large enough, and return an array in it for each tensor."""
    offsets, end = [], 0
    for info in infos:
        offsets.append(end)
        size_bytes = int(np.prod(info.shape)) * np.dtype(info.dtype).itemsize
        end += -(-size_bytes // ALIGNED_BYTES) * ALIGNED_BYTES
    os.ftruncate(shared, max(end, 1))
    memory = mmap.mmap(shared, max(end, 1))
    return [np.ndarray(info.shape, info.dtype, memory, offset) for info, offset in zip(infos, offsets)]


# In the child. ---------------------------------------------------------------------------------------


def main() -> None:
    """Open the variant of the request on the first line of stdin, then run once for each number, until stdin ends."""
    from edgekit_runtime.engines import open_engine

    report, shared = own_stdout(), int(sys.argv[1])
    limit_memory()
    request = json.loads(_first_line())
    with bundle_of(request) as bundle:
        variant = variant_of(bundle, request)
        signal.setitimer(signal.ITIMER_REAL, timeout_s() + GRACE_S)  # SIGALRM ends this process if opening hangs
        try:
            engine = open_engine(variant, bundle, request["threads"], keep=request["cache"])
        except EdgekitError as error:
            _send(report, {"error": str(error), "kind": type(error).__name__})
            return
        inputs, outputs = engine.inputs, engine.outputs
        views = _views(shared, (*inputs, *outputs))
        _send(report, {"inputs": _as_dicts(inputs), "outputs": _as_dicts(outputs), "facts": asdict(engine.facts)})
        signal.setitimer(signal.ITIMER_REAL, 0)
        while number := os.read(0, NUMBER_BYTES):
            signal.setitimer(signal.ITIMER_REAL, request["timeout_s"])
            try:
                for view, result in zip(views[len(inputs) :], engine.run(views[: len(inputs)])):
                    np.copyto(view, result)
                problem = b""
            except EngineError as error:
                problem = str(error).encode()
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.write(report, (number + problem)[:ANSWER_BYTES].ljust(ANSWER_BYTES, b"\0"))
        engine.close()


def _first_line() -> bytes:
    """Read the first line of stdin unbuffered, so that the bytes after it stay in the pipe."""
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.read(0, 1 << 16)
        if not chunk:
            sys.exit("there is no request on stdin")
        line += chunk
    return line


def _as_dicts(infos: Sequence[TensorInfo]) -> list[dict[str, Any]]:
    return [asdict(info) for info in infos]


def _send(report: int, record: dict[str, Any]) -> None:
    os.write(report, json.dumps(record).encode() + b"\n")


if __name__ == "__main__":
    main()
