"""The worker processes of a command: of each toolchain up to so many, lent for one call at a time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit_converters.execution import toolchains
from edgekit_converters.execution.worker import Worker
from edgekit_runtime.errors import ToolchainError


class Workers:
    """Workers are started when they are wanted and none is free, and kept until the end.

    Args:
        log: file for everything they print.
        scratch: their folder for temporary files.
        most: how many of one toolchain; who comes when all are lent waits.
    """

    def __init__(self, log: Path, scratch: Path, most: int = 1) -> None:
        self._log, self._scratch, self._most = log, scratch, most
        self._all: list[Worker] = []
        self._free: list[Worker] = []
        self._count: Counter[str] = Counter()  # by toolchain
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._all)

    def start(self, toolchain: str, stage: str) -> None:
        """Start the first worker of a toolchain; it imports while others work.

        Raises:
            ToolchainError: the toolchain is not installed; the message names the extra that brings it.
        """
        with self._changed:
            if not self._count[toolchain]:
                self._free.append(self._started(toolchain, stage, toolchains.toolchain(toolchain).warm))

    @contextmanager
    def lent(self, toolchain: str, stage: str) -> Iterator[Worker]:
        """Lend a worker. One that died meanwhile is not lent again.

        Raises:
            ToolchainError: as :meth:`start`; or all of them were ended meanwhile.
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
        """End all of them at once, and let nobody who waits start others."""
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
                if self._count[toolchain] < self._most:
                    return self._started(toolchain, stage)  # and used at once: it imports what that needs
                self._changed.wait()

    def _started(self, toolchain: str, stage: str, warm: str = "") -> Worker:
        toolchains.require(toolchain, stage)
        worker = Worker(toolchain, self._log, self._scratch, warm)
        self._count[toolchain] += 1
        self._all.append(worker)
        return worker
