"""A candidate search on a real Ray cluster: the same selection as on this machine, also when a node is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.parallel import evaluation
from edgekit.parallel.executor import SEQUENTIAL
from edgekit_converters.data import DataSet
from edgekit_converters.execution.runner import Runner, new_log
from edgekit_converters.execution.stage_cache import Cache
from edgekit_converters.records import Artifact, EvaluateRequest
from edgekit_runtime.errors import PlanError
from edgekit_runtime.format.manifest import InputSpec, OutputSpec, TensorBinding

pytestmark = [pytest.mark.needs_ray, pytest.mark.needs_keras]


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core, each with processes of its own."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    made.second = made.add_node(**small)
    yield made
    made.shutdown()


def search(demo, folder, **options):
    report = edgekit.convert(
        demo / "digits.keras",
        folder / "digits.edgekit",
        device="raspberry-pi-5",
        quantize="auto",
        objective="size",
        scale=1 / 256,
        calibrate=demo / "calibration.npz",
        samples=64,
        evaluate=demo / "test.npz",
        **options,
    )
    found = [(trial.recipe, trial.state, trial.value, trial.drop, trial.size_bytes) for trial in report.trials]
    return report, found


def below(pid: int) -> dict[int, bytes]:
    """The processes that one has started, and those that they have: their command lines."""
    of: dict[int, tuple[int, bytes]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "status").read_text().partition("PPid:")[2].split()[0]
            of[int(folder.name)] = int(parent), (folder / "cmdline").read_bytes()
        except OSError:  # gone meanwhile
            continue
    found: dict[int, bytes] = {}
    for _ in of:
        more = {one: line for one, (parent, line) in of.items() if parent in (pid, *found) and one not in found}
        if not more:
            break
        found |= more
    return found


def kill(raylet: int, killed: threading.Event) -> None:
    """Switch a node off as soon as it tries a candidate."""
    while not any(b"edgekit_converters.execution.worker" in line for line in below(raylet).values()):
        time.sleep(0.1)
    for one in (*below(raylet), raylet):
        os.kill(one, signal.SIGKILL)
    killed.set()


def test_a_node_that_does_not_see_the_files_is_refused(cluster, tmp_path):
    from edgekit.parallel import ray_executor

    own = tmp_path / "own"
    own.mkdir()
    with (
        pytest.raises(PlanError, match=rf"node [\d.]+: does not see {own}/model.keras; every node needs"),
        ray_executor.connect(cluster.address, ["litert"], tmp_path, [own / "model.keras"]),
    ):
        raise AssertionError("not reached")
    assert not list(tmp_path.glob(".*"))


def test_an_address_without_a_cluster_is_refused(tmp_path):
    from edgekit.parallel import ray_executor

    with (
        pytest.raises(PlanError, match=r"--ray 127.0.0.1:1: cannot be joined .*ray start --head"),
        ray_executor.connect("127.0.0.1:1", ["litert"], tmp_path, []),
    ):
        raise AssertionError("not reached")


def test_parts_of_a_long_evaluation_are_computed_on_the_cluster(cluster, tmp_path, monkeypatch):
    from edgekit.parallel import ray_executor

    rng = np.random.default_rng(0)
    for name, shape in (("x", (500, 6)), ("matrix", (6, 6))):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal(shape).astype(np.float32))
    matrix = Artifact(
        "null", "float32", (tmp_path / "matrix.npy",), *((TensorBinding(0, name, "float32"),) for name in ("x", "y"))
    )
    data = DataSet((str(tmp_path / "x.npy"),), None, (), 500, "x", ())
    shape = (1, 6)
    specs = (InputSpec("x", shape, "float32"),), (OutputSpec("y", shape, "float32"),)
    request = EvaluateRequest(matrix, *specs, data)
    monkeypatch.setattr(evaluation, "SERIAL_S", 0.0)
    monkeypatch.setattr(ray_executor.RayExecutor, "startup_s", 1e-9)  # worth it, however little is left
    with (
        Runner(new_log(tmp_path), Cache(tmp_path / "there"), scratch=tmp_path) as runner,
        ray_executor.connect(cluster.address, ["null"], tmp_path, []) as there,
    ):
        divided = evaluation.evaluate(runner, there, request, "matrix")
        assert there.notes == ()
        # here runs only the first part, and the evaluation of all parts together
        assert [cost.stage for cost in runner.costs] == ["evaluate_part", "evaluate"]
    assert len([one for one in (tmp_path / "there").iterdir() if (one / "0.npy").exists()]) > 2
    with Runner(new_log(tmp_path), Cache(tmp_path / "here")) as runner:
        whole = evaluation.evaluate(runner, SEQUENTIAL, request, "matrix")
        np.testing.assert_array_equal(np.load(divided.scores), np.load(whole.scores))
        assert (divided.metric, divided.value, divided.samples) == ("reconstruction_error", whole.value, 500)


@pytest.mark.slow
def test_a_killed_node_does_not_change_the_selection(cluster, demo, tmp_path, monkeypatch, capsys):
    raylet = cluster.second.all_processes["raylet"][0].process.pid
    killed = threading.Event()

    threading.Thread(target=kill, args=(raylet, killed), daemon=True).start()
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "there"))
    there, found_there = search(demo, tmp_path, ray=cluster.address)
    assert killed.is_set()
    assert any(note.startswith("the Ray cluster lost processes") for note in there.notes)
    assert capsys.readouterr().out == ""  # where --json writes the report
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "here"))
    here, found_here = search(demo, tmp_path, jobs=2)
    assert found_there == found_here
    assert [variant.name for variant in there.variants] == [variant.name for variant in here.variants]
    assert there.bundle.path == here.bundle.path
