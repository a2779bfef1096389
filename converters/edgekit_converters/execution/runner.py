"""Runs stages: returns the cached result if there is one, else calls the toolchain's worker; records the cost."""

from __future__ import annotations

import functools
import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from edgekit_converters.execution import stage_cache as caching
from edgekit_converters.execution import toolchains
from edgekit_converters.execution.stage import Record, Request, Stage
from edgekit_converters.execution.worker import Cost
from edgekit_converters.execution.worker_pool import WorkerPool


class Watch(Protocol):
    """Receives progress. Stages that can describe it pass a fifth argument, such as the loss while training."""

    def __call__(self, stage: str, subject: str, done: int, total: int, status: str = "", /) -> None:
        """Receive that ``done`` of ``total`` is done; ``total`` is 0 while unknown, and 1 of 1 is the end."""


@dataclass(frozen=True)
class StageCost:
    """Time and memory of one call of a stage; a cached result has no peak memory."""

    stage: str
    subject: str
    seconds: float
    peak_mib: float | None
    cached: bool


class Runner:
    """The workers, cache, log and costs of one command; a context manager that ends all processes and removes files.

    Args:
        log: file for everything the toolchains print.
        cache: stores results.
        watch: called with the progress of stages, from any thread.
        jobs: at most so many workers of one toolchain, so that as many threads can run its stages at once.
        scratch: the parent of the folder for temporary files; by default the system's.

    Unpickled in another process, it is that process's own runner, with its own workers and the same cache.
    """

    def __init__(
        self,
        log: Path,
        cache: caching.Cache,
        watch: Watch | None = None,
        *,
        jobs: int = 1,
        scratch: Path | None = None,
    ) -> None:
        self.log = log
        self.cache = cache
        self.jobs = jobs
        self.version = caching.code_version() if cache.enabled else ""
        self.costs: list[StageCost] = []
        self._watch: Watch = watch or (lambda *_: None)
        self._running: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # by key
        self._scratch = tempfile.TemporaryDirectory(prefix="edgekit-", dir=scratch, ignore_cleanup_errors=True)
        self._workers = WorkerPool(log, Path(self._scratch.name), jobs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _runner_of_other_process, (self.log.parent.parent, self.cache.root, self.scratch)

    @property
    def scratch(self) -> Path:
        """The folder for temporary files."""
        return Path(self._scratch.name)

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.close()
        self._scratch.cleanup()

    def run(
        self,
        stage: Stage[Request, Record],
        request: Request,
        subject: str = "",
        complete: Callable[[Request], Request] = lambda request: request,
    ) -> Record:
        """Return the record of a stage for a request.

        Args:
            stage: the function, and the toolchain whose worker runs it.
            request: its input; the cache key is made of it.
            subject: names the model or artifact in progress lines.
            complete: called when the cache has no result; may add to the request what only saves time.

        Raises:
            EdgekitError: the stage refused the request, or its toolchain failed.
        """
        self._watch(stage.name, subject, 0, 0)
        toolchain = stage.toolchain(request)
        if not (stage.pure and self.cache.enabled):
            return self._run(stage, toolchain, complete(request), subject)[0]
        key = caching.key(stage.name, request, toolchains.versions(toolchain) | {"edgekit": self.version})
        with self._running[key]:  # a second thread with the same request waits here and then finds the result
            cached: Record | None = self.cache.get(key)
            if cached is not None:
                self._finish(stage.name, subject, None)
                return cached
            kept: Record = self.cache.put(key, *self._run(stage, toolchain, complete(request), subject))
            return kept

    def start(self, toolchain: str, stage: str) -> None:
        """Start a toolchain's worker if none is running; it imports its packages meanwhile.

        Args:
            toolchain: its name.
            stage: the name of the stage that will need it, for the error.

        Raises:
            ToolchainError: the toolchain is not installed; the message names the extra that installs it.
        """
        self._workers.start(toolchain, stage)

    def _run(
        self, stage: Stage[Request, Record], toolchain: str, request: Request, subject: str
    ) -> tuple[Record, Path]:
        def progress(done: int, total: int, status: str) -> None:
            self._watch(stage.name, subject, done, total, *([status] if status else []))

        folder = Path(tempfile.mkdtemp(prefix=f"{stage.name}-", dir=self._scratch.name))
        with self._workers.lend(toolchain, stage.name) as worker:
            record, cost = worker.call(stage.name, stage.location, request, folder, progress=progress)
        self._finish(stage.name, subject, cost)
        return record, folder

    def _finish(self, stage: str, subject: str, cost: Cost | None) -> None:
        taken = cost or Cost(0.0, 0.0)
        self.costs.append(
            StageCost(stage, subject, taken.seconds, cost.peak_mib if cost else None, cached=cost is None)
        )
        self._watch(stage, subject, 1, 1)


@functools.cache
def _runner_of_other_process(root: Path, stages: Path, scratch: Path) -> Runner:
    """Return the one runner of this process for a command of another process; its workers end with it."""
    return Runner(new_log(root), caching.Cache(stages), scratch=scratch)


def new_log(root: Path, keep: int = 20) -> Path:
    """Return a new, empty log file under ``root``, after removing all but the newest ones.

    Where nothing can be written, the log goes to the system's temporary folder.
    """
    folder = root / "logs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(folder.glob("*.log"), key=_modified)[: -keep + 1]:
            old.unlink(missing_ok=True)
        handle, name = tempfile.mkstemp(prefix="edgekit-", suffix=".log", dir=folder)
    except OSError:
        handle, name = tempfile.mkstemp(prefix="edgekit-", suffix=".log")
    os.close(handle)
    return Path(name)


def _modified(path: Path) -> float:
    """Return when a file was last written; one that has just gone counts as oldest."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
