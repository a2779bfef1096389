"""How stages run: workers, a Ray cluster, the cache."""

from __future__ import annotations

import os
from dataclasses import dataclass

from edgekit.plan.options import AUTO, ExecutionOptions
from edgekit_runtime.errors import PlanError

MAX_DEFAULT_JOBS = 4  # per engine: a toolchain takes up to a GiB in each


@dataclass(frozen=True)
class ExecutionPlan:
    """Where stages run, and whether their results are cached."""

    jobs: int  # workers per engine, for candidates or for parts of an evaluation
    ray: str | None  # address of the cluster that does these instead
    cache: bool


def plan_execution(options: ExecutionOptions, engines: int, *, parallel: bool = True) -> ExecutionPlan:
    """Decide how many workers each engine has.

    Args:
        options: of the command.
        engines: how many share the cores.
        parallel: whether the command evaluates or searches; nothing else runs in parallel.

    Raises:
        PlanError: options contradict each other, or have nothing to act on.
    """
    for flag, value in (("--jobs", options.jobs), ("--ray", options.ray)):
        if value is not None and not parallel:
            raise PlanError(f"{flag} goes with --evaluate or --quantize {AUTO}: nothing else runs in parallel")
    if options.ray is not None and options.jobs is not None:
        raise PlanError("--ray runs as many jobs as its cluster has cores: leave out --jobs")
    if options.ray is not None and not options.cache:
        raise PlanError("--ray needs the cache, through which nodes share results: leave out --no-cache")
    jobs = 1 if options.ray else options.jobs or default_jobs(engines)
    return ExecutionPlan(jobs, options.ray, options.cache)


def default_jobs(engines: int) -> int:
    """Return how many workers each engine has by default: its share of the cores, at most ``MAX_DEFAULT_JOBS``."""
    return min(MAX_DEFAULT_JOBS, max(1, len(os.sched_getaffinity(0)) // max(1, engines)))
