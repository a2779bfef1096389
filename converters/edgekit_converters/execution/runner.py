"""Runs stages: through the cache where the result is known, else in the toolchain's worker, and counts the cost."""

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
from edgekit_converters.execution.worker import Cost
from edgekit_converters.execution.worker_pool import Workers

# stage: (function, does the result depend on nothing but the request and the versions?)
STAGES = {
    "load": ("edgekit_converters.load:load", True),
    "prepare": ("edgekit_converters.data:prepare", False),  # reading is as quick as checking a copy
    "probe": ("edgekit_converters.verify.probe:probe", True),
    "dissect": ("edgekit_converters.prune:dissect", True),
    "score": ("edgekit_converters.prune:score", True),
    "tabulate": ("edgekit_converters.prune.latency.profile:tabulate", False),  # as "measure"
    "clock": ("edgekit_converters.prune.latency.profile:clock", False),
    "drop": ("edgekit_converters.prune:drop", True),
    "cut": ("edgekit_converters.prune:cut", True),
    "mend": ("edgekit_converters.prune:mend", True),
    "thin": ("edgekit_converters.prune.magnitude_sparsity:thin", True),
    "teach": ("edgekit_converters.train.teacher_outputs:teach", True),
    "train": ("edgekit_converters.train:train", True),
    "save": ("edgekit_converters.load.save:save", True),
    "lower": ("edgekit_converters.lower:lower", True),
    "trace": ("edgekit_converters.trace:trace", True),
    "match": ("edgekit_converters.trace:match", True),
    "examine": ("edgekit_converters.examine:examine", True),
    "cover": ("edgekit_converters.examine.coverage:cover", True),
    "take": ("edgekit_converters.data:take", False),  # as "prepare"
    "split": ("edgekit_converters.split_outputs:split", True),
    "quantize": ("edgekit_converters.quantize:quantize", True),
    "sense": ("edgekit_converters.sensitivity:sense", True),
    "verify": ("edgekit_converters.verify.parity:compare", True),
    "answer": ("edgekit_converters.verify.pseudo_labels:answer", False),  # as "prepare": it only adds to that
    "compute": ("edgekit_converters.verify.metrics:compute", True),  # how far it comes in its time may differ
    "evaluate": ("edgekit_converters.verify.metrics:evaluate", True),
    "rank": ("edgekit_converters.verify.latency:rank", False),
    "measure": ("edgekit_converters.verify.latency:measure", False),  # the machine changes by the minute
}


class Watch(Protocol):
    """Is told of progress. The fifth argument, how it fares, is given by stages that have something to say of it."""

    def __call__(self, stage: str, subject: str, done: int, total: int, says: str = "", /) -> None:
        """Hear that ``done`` of ``total`` is done; ``total`` is 0 while unknown, and 1 of 1 is the end."""


@dataclass(frozen=True)
class StageCost:
    """What one stage took; a result from the cache has no peak memory."""

    stage: str
    subject: str
    seconds: float
    peak_mib: float | None
    cached: bool


class Runner:
    """One command's workers, cache, log and costs; a context manager that leaves no process and no file behind.

    Args:
        log: file for everything the toolchains print.
        cache: where results are looked up and kept.
        watch: told of stages and their progress, from any thread.
        jobs: workers of one toolchain, at most: as many threads may run its stages at once.
        scratch: where its folder for temporary files is made; without, where the system has them.

    Pickled, it becomes in another process that process's own runner, with workers of its own, on the same cache.
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
        self._workers = Workers(log, Path(self._scratch.name), jobs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _elsewhere, (self.log.parent.parent, self.cache.root, self.scratch)

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
        stage: str,
        toolchain: str,
        request: Any,
        subject: str = "",
        eased: Callable[[Any], Any] = lambda request: request,
    ) -> Any:
        """Return the record of a stage for a request.

        Args:
            stage: a key of ``STAGES``.
            toolchain: whose worker runs it.
            request: what it is asked.
            subject: for people.
            eased: what becomes of the request where its result is not known: filled in is what changes no result.

        Raises:
            EdgekitError: what the stage refused, or how its toolchain failed.
        """
        _, pure = STAGES[stage]
        self._watch(stage, subject, 0, 0)
        if not (pure and self.cache.enabled):
            return self._run(stage, toolchain, eased(request), subject)[0]
        key = caching.key(stage, request, toolchains.versions(toolchain) | {"edgekit": self.version})
        with self._running[key]:  # who asks for the same meanwhile waits, and finds it
            known = self.cache.get(key)
            if known is not None:
                self._finish(stage, subject, None)
                return known
            return self.cache.put(key, *self._run(stage, toolchain, eased(request), subject))

    def start(self, toolchain: str, stage: str) -> None:
        """Start a toolchain's worker, when none is running yet; it imports while others work.

        Raises:
            ToolchainError: the toolchain is not installed; the message names the extra that brings it.
        """
        self._workers.start(toolchain, stage)

    def _run(self, stage: str, toolchain: str, request: Any, subject: str) -> tuple[Any, Path]:
        folder = Path(tempfile.mkdtemp(prefix=f"{stage}-", dir=self._scratch.name))
        with self._workers.lent(toolchain, stage) as worker:
            record, cost = worker.call(
                stage,
                STAGES[stage][0],
                request,
                folder,
                progress=lambda done, total, says: self._watch(stage, subject, done, total, *([says] if says else [])),
            )
        self._finish(stage, subject, cost)
        return record, folder

    def _finish(self, stage: str, subject: str, cost: Cost | None) -> None:
        taken = cost or Cost(0.0, 0.0)
        self.costs.append(
            StageCost(stage, subject, taken.seconds, cost.peak_mib if cost else None, cached=cost is None)
        )
        self._watch(stage, subject, 1, 1)


@functools.cache
def _elsewhere(root: Path, stages: Path, scratch: Path) -> Runner:
    """The one runner of this process for a command that another one runs; its workers end with it."""
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
