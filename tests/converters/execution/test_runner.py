"""The runner: cache before worker, costs for both, nothing left behind."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit_converters.data import PREPARE, DataRequest
from edgekit_converters.execution import toolchains
from edgekit_converters.execution.runner import Runner, new_log
from edgekit_converters.execution.stage_cache import Cache
from edgekit_converters.load import LOAD
from edgekit_converters.records import SourceRequest
from edgekit_runtime.errors import DataError, ToolchainError
from edgekit_runtime.format.manifest import InputSpec

CACHED = replace(PREPARE, pure=True)


@pytest.fixture
def request_for_data(tmp_path):
    np.save(tmp_path / "data.npy", np.random.default_rng(0).random((20, 4), dtype=np.float32))
    return DataRequest(str(tmp_path / "data.npy"), (InputSpec("x", (1, 4), "float32"),))


def test_a_stage_runs_in_a_worker_and_its_cost_is_kept(tmp_path, request_for_data):
    seen = []
    with Runner(new_log(tmp_path), Cache(tmp_path / "c"), lambda *step: seen.append(step)) as runner:
        data = runner.run(PREPARE, request_for_data, "calibration")
        assert data.count == 20
        assert Path(data.inputs[0]).exists()
        assert runner.costs[0].stage == "prepare"
        assert not runner.costs[0].cached
    assert not Path(data.inputs[0]).exists()  # the scratch folder is gone
    assert seen[0] == ("prepare", "calibration", 0, 0)
    assert seen[-1] == ("prepare", "calibration", 1, 1)


def test_a_known_result_starts_no_worker(tmp_path, request_for_data):
    for expected in (False, True):
        with Runner(new_log(tmp_path), Cache(tmp_path / "c")) as runner:
            data = runner.run(CACHED, request_for_data)
            assert data.count == 20
            assert runner.costs[0].cached is expected
            assert bool(runner._workers) is not expected


def test_errors_pass_and_leave_nothing(tmp_path):
    with Runner(new_log(tmp_path), Cache(tmp_path / "c")) as runner:
        scratch = Path(runner._scratch.name)
        with pytest.raises(DataError):
            runner.run(PREPARE, DataRequest("missing.npz", (InputSpec("x", (1, 4), "float32"),)))
    assert not scratch.exists()
    assert list((tmp_path / "c").iterdir()) == []


def test_a_missing_toolchain_names_the_extra(tmp_path, monkeypatch):
    missing = toolchains.Toolchain(("no_such_module",), (), ("keras", "torch"))
    monkeypatch.setattr(toolchains, "toolchain", lambda name: missing)
    with Runner(new_log(tmp_path), Cache(tmp_path / "c")) as runner, pytest.raises(ToolchainError) as caught:
        (tmp_path / "m.pt2").write_bytes(b"")
        runner.run(LOAD, SourceRequest("torch_program", tmp_path / "m.pt2"))
    assert "pip install 'edgekit[keras]' or 'edgekit[torch]'" in str(caught.value)


def test_old_logs_are_removed(tmp_path):
    for number in range(30):
        os.utime(new_log(tmp_path, keep=5), (number, number))
    assert len(list((tmp_path / "logs").iterdir())) == 5


def test_a_log_is_had_even_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    log = new_log(tmp_path / "file")
    assert log.exists()
    log.unlink()
