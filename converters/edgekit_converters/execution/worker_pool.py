"""The worker processes of a command: at most so many of each toolchain, each lent for one call at a time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit_converters.execution import toolchains
from edgekit_converters.execution.worker import Worker
from edgekit_runtime.errors import ToolchainError


class WorkerPool:
    """Starts a worker when none is free, and keeps all workers until the end.

    Args:
        log: file for everything they print.
        scratch: their folder for temporary files.
        limit: workers of one toolchain; when all are lent, the next caller waits.
    """

    def __init__(self, log: Path, scratch: Path, limit: int = 1) -> None:
        self._log, self._scratch, self._limit = log, scratch, limit
        self._all: list[Worker] = []
        self._free: list[Worker] = []
        self._count: Counter[str] = Counter()  # by toolchain
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._all)

    def start(self, toolchain: str, stage: str) -> None:
        """Start the first worker of a toolchain, so that it imports its packages in the background.

        Raises:
            ToolchainError: the toolchain is not installed; the message names the extra that installs it.
        """
        with self._changed:
            if not self._count[toolchain]:
                self._free.append(self._started(toolchain, stage, toolchains.toolchain(toolchain).warm))

    @contextmanager
    def lend(self, toolchain: str, stage: str) -> Iterator[Worker]:
        """Lend a worker; a worker that has died is not lent again.

        Raises:
            ToolchainError: as :meth:`start`, or the pool was closed meanwhile.
        """
        worker = self._take(toolchain, stage)
        try:
            yield worker
        finally:
            with self._changed:
                if worker.process.poll() is None:
                    self._free.append(worker)
                else:
                    self._count[toolchain] -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """End all workers, and let waiting callers start no others."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for worker in self._all:
            worker.close()

    def _take(self, toolchain: str, stage: str) -> Worker:
        with self._changed:
            while True:
                if self._closed:
                    raise ToolchainError("the command has ended", stage=stage, subject=toolchain)
                for worker in self._free:
                    if worker.name == toolchain:
                        self._free.remove(worker)
                        return worker
                if self._count[toolchain] < self._limit:
                    return self._started(toolchain, stage)  # no warm-up: the call that follows imports what it needs
                self._changed.wait()

    def _started(self, toolchain: str, stage: str, warm: str = "") -> Worker:
        toolchains.require(toolchain, stage)
        worker = Worker(toolchain, self._log, self._scratch, warm)
        self._count[toolchain] += 1
        self._all.append(worker)
        return worker
