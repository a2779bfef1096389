"""Run tasks on a Ray cluster. When a node is lost, its unfinished tasks are repeated.

A plugin: Ray is imported with ``--ray`` only, and comes with ``edgekit[ray]``. It costs this module, ``Executor`` as an
interface for two implementations, and the tests that start a cluster. It pays when a search evaluates many candidates
on large data and other machines share the cache folder. Drop it when nobody uses ``--ray``, or when Ray no longer
supports the Python version of the tool: :class:`edgekit.parallel.executor.Threads` gives the same results.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TypeVar

from edgekit.parallel.executor import Threads
from edgekit_converters.execution import toolchains
from edgekit_converters.execution.stage_cache import code_version
from edgekit_runtime.errors import PlanError

Item = TypeVar("Item")
Result = TypeVar("Result")

ATTEMPTS = 4  # on the cluster, which needs seconds to notice that a node is lost; then on this machine
CONNECT_TIMEOUT_S = 10
NODE_CHECK_TIMEOUT_S = 120  # a node that does not answer in this time is overloaded
# Ray sends usage statistics by default. Tasks are spread over the nodes; a small fraction of a core keeps them off
# nodes that offer none, and never makes them wait for a node that was lost.
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0"}
TASK_OPTIONS = {"num_cpus": 0.01, "scheduling_strategy": "SPREAD"}


class RayExecutor:
    """Runs tasks on a Ray cluster that :func:`connect` has joined."""

    startup_s = 10.0  # of a process on a node, and its engine's worker

    def __init__(self, engines: int) -> None:
        self._engines = engines
        self._losses: list[str] = []  # Ray's messages
        self._local = threading.Lock()  # of this machine, which takes over one item at a time

    @property
    def jobs(self) -> int:
        """The cluster's cores, divided by the engines."""
        import ray

        return max(1, int(ray.cluster_resources().get("CPU", 1)) // self._engines)

    @property
    def notes(self) -> tuple[str, ...]:
        """Processes that were lost and whose tasks were repeated."""
        if not self._losses:
            return ()
        times = f"{len(self._losses)} time{'s' * (len(self._losses) > 1)}"
        return (f"the Ray cluster lost processes {times}; their tasks were repeated ({self._losses[0]})",)

    def map(
        self, function: Callable[[Item, str], Result], items: Sequence[Item], skip_reason: Callable[[int], str]
    ) -> list[Result]:
        """See :class:`edgekit.parallel.executor.Executor`. An item whose process is lost is repeated."""
        import ray

        task, stored = ray.remote(max_retries=0, **TASK_OPTIONS)(_call), ray.put(function)

        def run(item: Item, reason: str) -> Result:
            for _ in range(ATTEMPTS):
                try:
                    result: Result = ray.get(task.remote(stored, item, reason))
                    return result
                except ray.exceptions.RayTaskError as error:  # the function itself raised
                    raise error.cause from None
                except ray.exceptions.RayError as error:
                    self._losses.append(str(error).strip().partition(". ")[0].splitlines()[0])
            with self._local:
                return function(item, reason)

        return Threads(self.jobs).map(run, items, skip_reason)


def _call(function: Callable[[Item, str], Result], item: Item, reason: str) -> Result:
    return function(item, reason)


@contextmanager
def connect(address: str, engines: Sequence[str], cache: Path, files: Sequence[Path]) -> Iterator[RayExecutor]:
    """Join a running Ray cluster, and leave it at the end.

    Args:
        address: of the head node, such as ``10.0.0.1:6379``, or ``auto``.
        engines: whose candidates are tried; every node needs their toolchains.
        cache: folder of the stage cache, which all nodes must share.
        files: other files that all nodes must see.

    Raises:
        PlanError: Ray is not installed, nothing answers at the address, or a node lacks something.
    """
    os.environ.update(ENVIRONMENT)
    try:
        import ray
    except ImportError as error:
        raise PlanError("--ray needs Ray: pip install 'edgekit[ray]'") from error
    try:
        _check_address(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise PlanError(
            f"--ray {address}: cannot be joined ({cause}); start it with: ray start --head, and use the same "
            f"versions of Ray and Python as here"
        ) from error
    try:
        _check_nodes(engines, cache, files)
        with redirect_stdout(sys.stderr):  # Ray prints messages about lost nodes; stdout is for the report alone
            yield RayExecutor(len(engines))
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuse an address at which nothing listens; Ray itself would wait for minutes.

    Raises:
        OSError: the connection failed.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()


def _check_nodes(engines: Sequence[str], cache: Path, files: Sequence[Path]) -> None:
    """Refuse a cluster in which a node does not see the files, or has other code or toolchains."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token, content = cache / f".{secrets.token_hex(8)}", secrets.token_hex(8)
    token.write_text(content)
    versions = {engine: dict(toolchains.versions(engine)) for engine in engines}
    try:
        for node in ray.nodes():
            if not node["Alive"] or not node["Resources"].get("CPU"):
                continue
            on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            check = ray.remote(num_cpus=0, max_retries=0)(missing_on_node).options(scheduling_strategy=on_node)
            reply = check.remote({token: content}, files, code_version(), versions)
            try:
                missing = ray.get(reply, timeout=NODE_CHECK_TIMEOUT_S)
            except ray.exceptions.RayError as error:
                missing = f"edgekit does not run there ({str(error).strip().splitlines()[-1]})"
            if missing:
                raise PlanError(
                    f"--ray: node {node['NodeManagerAddress']}: {missing}; every node needs this edgekit with its "
                    f"toolchains, and the model, the data and the cache ($EDGEKIT_CACHE) under the same paths"
                )
    finally:
        token.unlink()


def missing_on_node(
    tokens: Mapping[Path, str], files: Sequence[Path], version: str, versions: Mapping[str, Mapping[str, str]]
) -> str:
    """Return what this node lacks to run tasks, for people; "" if it lacks nothing.

    Args:
        tokens: contents of files in shared folders, by path: another disk mounted at the same path differs.
        files: that must exist.
        version: of edgekit's code.
        versions: of the toolchains' packages, by engine.
    """
    for path, content in tokens.items():
        if not path.is_file() or path.read_text() != content:
            return f"does not share {path.parent}"
    missing = [str(path) for path in files if not path.exists()]
    if missing:
        return f"does not see {missing[0]}"
    if code_version() != version:
        return "has another version of edgekit"
    other = [engine for engine, wanted in versions.items() if dict(toolchains.versions(engine)) != wanted]
    return f"has other package versions for {other[0]}" if other else ""
