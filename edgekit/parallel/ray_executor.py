"""Done by the processes of a Ray cluster. Nodes may die: what they had not finished is done again."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TypeVar

from edgekit.parallel.executor import Threads, through_joblib
from edgekit_converters.execution import toolchains
from edgekit_converters.execution.stage_cache import code_version
from edgekit_runtime.errors import PlanError

Given = TypeVar("Given")
Gives = TypeVar("Gives")

ATTEMPTS = 4  # on the cluster, which takes seconds to know that a node is gone; then here
REACH_SECONDS = 10
ANSWER_SECONDS = 120  # a node that does not answer in this time has other things to do
# Ray reports home unless told otherwise. Processes are spread over the nodes; a small part of a core keeps them off
# nodes that lend none, and never lets them wait for one that has gone.
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0"}
PLACED = {"num_cpus": 0.01, "scheduling_strategy": "SPREAD"}


class Cluster:
    """Processes of a Ray cluster that :func:`joined` has opened."""

    begins_s = 10.0  # a process there, and its engine's worker

    def __init__(self, engines: int) -> None:
        self._engines = engines
        self._local = Threads()
        self._lost: list[str] = []  # what Ray said of it

    @property
    def jobs(self) -> int:
        """The cluster's cores, shared among the engines."""
        import ray

        return max(1, int(ray.cluster_resources().get("CPU", 1)) // self._engines)

    @property
    def notes(self) -> tuple[str, ...]:
        """What went wrong and was made up for."""
        if not self._lost:
            return ()
        times = f"{len(self._lost)} time{'s' * (len(self._lost) > 1)}"
        return (f"the Ray cluster lost processes {times}; what they did was done again ({self._lost[0]})",)

    def each(
        self, try_it: Callable[[Given, str], Gives], given: Sequence[Given], reason: Callable[[int], str]
    ) -> list[Gives]:
        """See :class:`edgekit.parallel.executor.Executor`.

        When a process of the cluster is lost all is asked for again: what was finished is in the cache by then.
        """
        import ray
        from joblib import parallel_config
        from ray.util.joblib import register_ray

        begun: dict[int, str] = {}  # what was begun is finished, also the second time

        def asked_once(place: int) -> str:
            return begun.setdefault(place, reason(place)) if place not in begun else begun[place]

        register_ray()
        for _ in range(ATTEMPTS):
            try:
                with parallel_config(backend="ray", ray_remote_args=PLACED):
                    return through_joblib(self.jobs, try_it, given, asked_once)
            except ray.exceptions.RayError as error:
                self._lost.append(str(error).strip().partition(". ")[0].splitlines()[0])
        return self._local.each(try_it, given, asked_once)


@contextmanager
def joined(address: str, engines: Sequence[str], shared: Path, files: Sequence[Path]) -> Iterator[Cluster]:
    """Join a running Ray cluster, and leave it at the end.

    Args:
        address: of its head, such as ``10.0.0.1:6379``, or ``auto``.
        engines: that race; each node needs their toolchains.
        shared: a folder that all nodes must see: the cache is in it.
        files: that they must see, too.

    Raises:
        PlanError: Ray is not installed, nothing answers at the address, or a node lacks what it needs.
    """
    os.environ.update(ENVIRONMENT)
    try:
        import ray
    except ImportError as error:
        raise PlanError("--ray needs Ray: pip install 'edgekit[ray]'") from error
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise PlanError(
            f"--ray {address}: cannot be joined ({said}); start it with: ray start --head, and with the same "
            f"versions of Ray and Python as here"
        ) from error
    try:
        _check(engines, shared, files)
        with redirect_stdout(sys.stderr):  # Ray tells there of nodes that it lost; the report is to stand there alone
            yield Cluster(len(engines))
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Refuse an address at which nothing listens; Ray itself would wait for minutes.

    Raises:
        OSError: likewise.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()


def _check(engines: Sequence[str], shared: Path, files: Sequence[Path]) -> None:
    """Ask every node whether it sees the files, and has the same code and toolchains."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token, content = shared / f".{secrets.token_hex(8)}", secrets.token_hex(8)
    token.write_text(content)
    versions = {engine: dict(toolchains.versions(engine)) for engine in engines}
    try:
        for node in ray.nodes():
            if not node["Alive"] or not node["Resources"].get("CPU"):
                continue
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ask = ray.remote(num_cpus=0, max_retries=0)(lacks).options(scheduling_strategy=here)
            try:
                found = ray.get(ask.remote({token: content}, files, code_version(), versions), timeout=ANSWER_SECONDS)
            except ray.exceptions.RayError as error:
                found = f"edgekit does not run there ({str(error).strip().splitlines()[-1]})"
            if found:
                raise PlanError(
                    f"--ray: node {node['NodeManagerAddress']}: {found}; every node needs this edgekit with its "
                    f"toolchains, and the model, the data and the cache ($EDGEKIT_CACHE) under the same paths"
                )
    finally:
        token.unlink()


def lacks(
    tokens: Mapping[Path, str], files: Sequence[Path], version: str, versions: Mapping[str, Mapping[str, str]]
) -> str:
    """What the node that runs this lacks to try candidates; nothing is "".

    Args:
        tokens: files and what they hold, so that another disk under the same path is noticed.
        files: that must be there.
        version: of the code that makes results.
        versions: of the toolchains, by engine.
    """
    for path, content in tokens.items():
        if not path.is_file() or path.read_text() != content:
            return f"does not share {path.parent}"
    missing = [str(path) for path in files if not path.exists()]
    if missing:
        return f"does not see {missing[0]}"
    if code_version() != version:
        return "has another edgekit"
    other = [engine for engine, wanted in versions.items() if dict(toolchains.versions(engine)) != wanted]
    return f"has other versions of what {other[0]} needs" if other else ""
