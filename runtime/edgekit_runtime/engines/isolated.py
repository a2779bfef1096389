"""An engine in a process of its own: when it crashes or hangs, the application does not.

Arrays travel through memory that both processes map; through the pipes go the numbers of runs: when
one is asked for, and, with what the engine raised if it did, when it is done.
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

from edgekit_runtime.engines import EngineInfo, TensorInfo
from edgekit_runtime.errors import DelegateCrashed, EdgekitError, EngineError, EngineUnavailable
from edgekit_runtime.host.subprocesses import (
    asked_bundle,
    asked_variant,
    end_child,
    how_it_ended,
    last_words,
    limit_memory,
    own_stdout,
    start_child,
    timeout_s,
    to_request,
)

if TYPE_CHECKING:
    from edgekit_runtime.bundle.reader import Bundle
    from edgekit_runtime.format.manifest import Variant
    from edgekit_runtime.tensors import Array

NUMBER_BYTES, ANSWER_BYTES = 8, 1024  # the number of a run; it with a message: small enough for a pipe to keep whole
ALIGNED_BYTES = 64
NOISE_BYTES = 1 << 20  # of what the child prints, the last so many bytes are kept
LOOK_EVERY = 256  # runs after which that is looked at
GRACE_S = 1.0  # the parent ends a child that hangs; the child ends itself only when there is no parent any more


def open_isolated(
    variant: Variant, bundle: Bundle, threads: int | None, run_timeout_s: float, *, cache: bool = True
) -> IsolatedEngine:
    """Open a variant in a child process.

    Raises:
        EngineUnavailable: the system lacks what it takes, or the child refused the variant.
        DelegateUnavailable: likewise, for the variant's delegate.
        DelegateCrashed: the child crashed or hung while opening.
    """
    if sys.platform == "win32":
        raise EngineUnavailable("isolate=True hands file descriptors to a child, which needs a Unix")
    request = {**to_request(bundle, variant, threads, cache), "timeout_s": run_timeout_s + GRACE_S}
    with ExitStack() as unless_open:
        shared = unless_open.enter_context(memory_file())
        noise = unless_open.enter_context(tempfile.TemporaryFile("a+b"))
        number = shared.fileno()
        child = start_child(
            "edgekit_runtime.engines.isolated", noise, bundle.scratch(), str(number), pass_fds=(number,)
        )
        unless_open.callback(end_child, child)
        engine = IsolatedEngine(child, noise, _first_answer(child, noise, request), shared, run_timeout_s)
        unless_open.pop_all()
        return engine


def memory_file() -> Any:
    """A file that is only memory, where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("edgekit"), "w+b")
    return tempfile.TemporaryFile()


def _first_answer(child: subprocess.Popen[bytes], noise: Any, request: dict[str, Any]) -> dict[str, Any]:
    """What the child opened, or the error with which it refused."""
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # it is gone already; the answer says how
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()
    line = b""
    while not line.endswith(b"\n"):
        line += _read(child, noise, timeout_s(), 1 << 16)
    told: dict[str, Any] = json.loads(line)
    if "error" in told:
        from edgekit_runtime import errors

        kind = getattr(errors, str(told["kind"]), EngineUnavailable)
        raise kind(str(told["error"]))
    return told


def _read(child: subprocess.Popen[bytes], noise: Any, within_s: float, most_bytes: int) -> bytes:
    """The child's next bytes.

    Raises:
        DelegateCrashed: it ended, or said nothing in time.
    """
    assert child.stdout is not None
    waiting = select.poll()
    waiting.register(child.stdout, select.POLLIN)
    if not waiting.poll(within_s * 1000):
        end_child(child)
        raise DelegateCrashed(f"hung: no answer within {within_s:g} s{last_words(noise)}")
    answer = os.read(child.stdout.fileno(), most_bytes)
    if not answer:
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=5)
        ended = how_it_ended(child.returncode) if child.returncode is not None else "its process closed its pipes"
        end_child(child)
        raise DelegateCrashed(f"crashed: {ended}{last_words(noise)}")
    return answer


class IsolatedEngine:
    """An engine in a child process, to be used like any other."""

    def __init__(
        self, child: subprocess.Popen[bytes], noise: Any, told: dict[str, Any], shared: Any, run_timeout_s: float
    ) -> None:
        self.inputs, self.outputs = (_infos(told[side]) for side in ("inputs", "outputs"))
        taken = told["facts"]["delegated"]
        self.facts = EngineInfo(**{**told["facts"], "delegated": tuple(taken) if taken else None})
        with shared:  # a mapping outlives its file
            views = _views(shared.fileno(), (*self.inputs, *self.outputs))
        self._in, self._out = views[: len(self.inputs)], views[len(self.inputs) :]
        self._child: subprocess.Popen[bytes] | None = child
        self._noise = noise
        self._timeout_s = run_timeout_s
        self._runs = 0

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Copy in, let the child run, copy out.

        Raises:
            DelegateCrashed: the child crashed, or hung for longer than the timeout and was ended.
            EngineError: the engine failed and lives, or is closed.
        """
        child = self._child
        if child is None:
            raise DelegateCrashed("crashed: its process is gone")
        if child.poll() is not None:
            raise DelegateCrashed(f"crashed: {how_it_ended(child.returncode)}{last_words(self._noise)}")
        for view, array in zip(self._in, arrays):
            np.copyto(view, array)
        self._runs += 1
        asked = self._runs.to_bytes(NUMBER_BYTES, "little")
        assert child.stdin is not None
        with suppress(BrokenPipeError):  # it has just died; reading says how
            os.write(child.stdin.fileno(), asked)
        problem = self._answer(child, asked)
        self._bound_noise()
        if problem:
            raise EngineError(problem)
        return [view.copy() for view in self._out]

    def twin(self) -> None:
        """None: each would be one more process with one more copy of the weights."""

    def close(self) -> None:
        """End the child. May be called again."""
        if self._child is not None:
            assert self._child.stdin is not None
            with suppress(OSError, subprocess.TimeoutExpired):
                self._child.stdin.close()  # at which it closes its engine and leaves
                self._child.wait(timeout=GRACE_S)
            end_child(self._child)
            self._child = None
            self._noise.close()

    def _answer(self, child: subprocess.Popen[bytes], asked: bytes) -> str:
        """What the engine raised, or "". Answers to runs that were left, as by KeyboardInterrupt, are passed over."""
        while True:
            last = _read(child, self._noise, self._timeout_s, 1 << 16)[-ANSWER_BYTES:]
            if last[:NUMBER_BYTES] == asked:
                return last[NUMBER_BYTES:].rstrip(b"\0").decode(errors="replace")

    def _bound_noise(self) -> None:
        if self._runs % LOOK_EVERY == 0 and os.fstat(self._noise.fileno()).st_size > NOISE_BYTES:
            os.ftruncate(self._noise.fileno(), 0)


def _infos(records: Iterable[dict[str, Any]]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(**{**record, "shape": tuple(record["shape"])}) for record in records)


def _views(shared: int, infos: Sequence[TensorInfo]) -> list[Array]:
    """An array a tensor, one behind the other in the shared file, which is made large enough."""
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
    """Open what the first line of stdin asks for, then run whenever a byte comes, until stdin ends."""
    from edgekit_runtime.engines import open_engine

    report, shared = own_stdout(), int(sys.argv[1])
    limit_memory()
    request = json.loads(_first_line())
    with asked_bundle(request) as bundle:
        variant = asked_variant(bundle, request)
        signal.setitimer(signal.ITIMER_REAL, timeout_s() + GRACE_S)  # SIGALRM ends it, wherever it hangs
        try:
            engine = open_engine(variant, bundle, request["threads"], keep=request["cache"])
        except EdgekitError as error:
            _tell(report, {"error": str(error), "kind": type(error).__name__})
            return
        inputs, outputs = engine.inputs, engine.outputs
        views = _views(shared, (*inputs, *outputs))
        _tell(report, {"inputs": _told(inputs), "outputs": _told(outputs), "facts": asdict(engine.facts)})
        signal.setitimer(signal.ITIMER_REAL, 0)
        while asked := os.read(0, NUMBER_BYTES):
            signal.setitimer(signal.ITIMER_REAL, request["timeout_s"])
            try:
                for view, result in zip(views[len(inputs) :], engine.run(views[: len(inputs)])):
                    np.copyto(view, result)
                problem = b""
            except EngineError as error:
                problem = str(error).encode()
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.write(report, (asked + problem)[:ANSWER_BYTES].ljust(ANSWER_BYTES, b"\0"))
        engine.close()


def _first_line() -> bytes:
    """Read without a buffer, so that what comes later is still there."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1 << 16)
        if not piece:
            sys.exit("there is no request on stdin")
        line += piece
    return line


def _told(infos: Sequence[TensorInfo]) -> list[dict[str, Any]]:
    return [asdict(info) for info in infos]


def _tell(report: int, record: dict[str, Any]) -> None:
    os.write(report, json.dumps(record).encode() + b"\n")


if __name__ == "__main__":
    main()
