"""WorkerPool are started when none is free, lent to one at a time, and never again once they died."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest

from edgekit_converters.data import PREPARE, DataRequest
from edgekit_converters.execution.runner import Runner, new_log
from edgekit_converters.execution.stage_cache import Cache
from edgekit_converters.execution.worker_pool import WorkerPool
from edgekit_runtime.errors import ToolchainError
from edgekit_runtime.format.manifest import InputSpec

CACHED = replace(PREPARE, pure=True)


@pytest.fixture
def workers(tmp_path):
    made = WorkerPool(tmp_path / "log", tmp_path, 2)
    yield made
    made.close()


def test_no_more_are_started_than_are_wanted(workers):
    with workers.lend("data", "prepare") as first:
        with workers.lend("data", "prepare") as second:
            assert first is not second
            waiting = threading.Thread(target=lambda: workers.lend("data", "prepare").__enter__())
            waiting.start()
            waiting.join(0.2)
            assert waiting.is_alive()
        waiting.join(30)
        assert not waiting.is_alive()
    assert len(workers) == 2


def test_a_free_worker_is_reused(workers):
    workers.start("data", "prepare")
    for _ in range(3):
        with workers.lend("data", "prepare"):
            pass
    assert len(workers) == 1


def test_a_dead_worker_is_replaced(workers):
    with pytest.raises(ToolchainError, match="SIGKILL"), workers.lend("data", "prepare") as worker:
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.call("prepare", "os:getpid")
    with workers.lend("data", "prepare") as other:
        assert other.call("prepare", "os:getpid")[0] == other.process.pid != worker.process.pid


def test_when_all_are_ended_who_waits_gets_no_other(workers):
    refused = []

    def wait():
        try:
            with workers.lend("data", "prepare"):
                pass
        except ToolchainError as error:
            refused.append(str(error))

    with workers.lend("data", "prepare"), workers.lend("data", "prepare"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
        workers.close()
        waiting.join(30)
    assert len(workers) == 2
    assert refused == ["prepare (data): the command has ended"]


def data_request(folder):
    np.save(folder / "data.npy", np.random.default_rng(0).random((20, 4), dtype=np.float32))
    return DataRequest(str(folder / "data.npy"), (InputSpec("x", (1, 4), "float32"),))


def test_equal_requests_of_two_threads_run_once(tmp_path):
    request = data_request(tmp_path)
    with Runner(new_log(tmp_path), Cache(tmp_path / "c"), jobs=2) as runner:
        threads = [threading.Thread(target=runner.run, args=(CACHED, request)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(cost.cached for cost in runner.costs) == [False, True, True, True]


def test_an_unpickled_runner_uses_the_same_cache(tmp_path):
    request = data_request(tmp_path)
    (tmp_path / "shared").mkdir()
    with Runner(new_log(tmp_path), Cache(tmp_path / "c"), scratch=tmp_path / "shared") as runner:
        made = runner.run(CACHED, request)
        other = pickle.loads(pickle.dumps(runner))
        with other:
            assert other is not runner
            assert other is pickle.loads(pickle.dumps(runner))  # one a process
            assert other.run(CACHED, request) == made
            assert other.costs[0].cached
            assert other.run(CACHED, replace(request, samples=18)).count == 18
            assert other.scratch.is_relative_to(runner.scratch)
    assert not list((tmp_path / "shared").iterdir())
