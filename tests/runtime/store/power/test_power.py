"""A power cut or a full disk at every change of every store command: the current generation stays intact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle.delta import make_delta
from edgekit.bundle.writer import write_bundle

HERE = Path(__file__).parent
SCENARIOS = (
    "first install",
    "install",
    "install without a trial",
    "install without a trial over one",
    "install over a trial",
    "install after a cut, pruning",
    "install what is there",
    "install what is there and damaged",
    "install what is current and damaged",
    "delta",
    "commit",
    "heartbeat",
    "rollback of a trial",
    "rollback of what was good",
    "boot",
    "boot that fails",
    "boot once too often",
    "prune",
)
pytestmark = [pytest.mark.needs_cc]


@pytest.fixture(scope="module")
def bundles(linear: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions of a model whose weights take several writes, and the delta from the first to the second."""
    folder = tmp_path_factory.mktemp("bundles")
    weights = np.random.default_rng(0).normal(size=(96, 96)).astype(np.float32)
    for number, letter in enumerate("abc"):
        weights[90:, :] += number  # the last layer was trained on
        write_bundle(*linear(weights, model_version=f"1.{number}"), folder / f"{letter}.edgekit")
    make_delta(folder / "a.edgekit", folder / "b.edgekit", folder / "ab.delta", codec="zlib")
    return folder


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled cut.c, to be preloaded."""
    library = tmp_path_factory.mktemp("shim") / "cut.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, HERE / "cut.c", "-ldl"], check=True)
    return library


def drive(shim: Path, bundles: Path, scenario: str, *ways: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, HERE / "driver.py", bundles, scenario, *ways],
        env={**os.environ, "LD_PRELOAD": str(shim)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    return results


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_after_every_power_cut_the_current_generation_is_intact(scenario: str, shim: Path, bundles: Path) -> None:
    results = drive(shim, bundles, scenario, "kill", "half", "full", "fail", "lost")
    changes = results["changes"]
    assert changes["rename"] >= 1
    assert changes["fsync"] >= 2
    assert {way: found["wrong"] for way, found in results["ways"].items()} == {way: [] for way in results["ways"]}
    assert results["ways"]["kill"]["states"] == results["ways"]["fail"]["states"] == sum(changes.values()) + 1
    assert results["ways"]["half"]["states"] == changes.get("write", 0)


@pytest.mark.parametrize(
    ("scenario", "way"),
    [
        ("install without a trial", "pruned"),
        ("rollback of a trial", "pruned"),
        ("first install", "retried"),
        ("install", "retried"),
        ("install what is there", "retried"),
    ],
)
def test_a_command_after_a_killed_one_flushes_its_changes_first(
    scenario: str, way: str, shim: Path, bundles: Path
) -> None:
    found = drive(shim, bundles, scenario, way)["ways"][way]
    assert found["states"] > 20
    assert found["wrong"] == []


def test_a_store_without_flushes_fails_these_tests(shim: Path, bundles: Path) -> None:
    found = drive(shim, bundles, "install", "careless")["ways"]["careless"]
    assert any("all names, and contents as flushed" in problem for problem in found["wrong"])
    assert any("change" in problem and "alone" in problem for problem in found["wrong"])


def test_a_full_file_system_keeps_the_current_generation(bundles: Path, tmp_path: Path) -> None:
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*own, "mount", "-t", "tmpfs", "none", tmp_path], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system of its own")
    command = [*own, sys.executable, HERE / "full.py", bundles, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["wrong"] == []
    assert results["refused"] > 10
    assert results["fitted"]
