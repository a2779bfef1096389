"""The output of engines is hidden from the user of a command, unless an engine fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle.writer import write_bundle
from edgekit_runtime import open_bundle
from edgekit_runtime.format.manifest import Golden, InputSpec, Manifest, OutputSpec, TensorBinding, Variant

SCRIPT = """
import atexit, os, subprocess, sys
from edgekit_runtime import errors
from edgekit_runtime.commands.silence import quiet_engines

atexit.register(os.write, 2, b"a library leaves, after all that was registered later\\n")

@quiet_engines()
def verb():
    os.write(1, b"INFO: a library is well\\n")
    os.write(2, b"INFO: a library is well\\nERROR: a library is not\\n")
    subprocess.run([sys.executable, "-c", "import os; os.write(2, b'ERROR: nor is its child\\\\n')"], check=True)
    print("an answer")
    print("Python's own", file=sys.stderr)
    {then}

try:
    verb()
except Exception as error:
    print("error:", error, file=sys.stderr)
print("another")
os.write(2, b"the end\\n")
"""
OWN, HELD, END = ["Python's own"], ["ERROR: a library is not", "ERROR: nor is its child"], ["the end"]


@pytest.mark.parametrize(
    ("then", "printed"),
    [
        ("pass", OWN + END),
        ("raise errors.InputMismatch('the shape')", [*OWN, "error: the shape", *END]),
        ("raise errors.DataError('the file')", [*OWN, "error: the file", *END]),
        ("raise errors.EngineUnavailable('no engine')", [*OWN, *HELD, "error: no engine", *END]),
        ("raise ZeroDivisionError('a bug')", [*OWN, *HELD, "error: a bug", *END]),
    ],
)
def test_the_output_of_engines_is_shown_only_when_one_fails(then: str, printed: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(then=then)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.splitlines() == printed
    assert done.stdout.splitlines() == ["an answer", "another"]


def test_a_closed_stderr_stays_closed(bundle_path: Path) -> None:
    command = f'"{sys.executable}" -m edgekit_runtime verify "{bundle_path}" 2>&-'
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert done.stdout.startswith("null-float32: proven")


@pytest.fixture
def litert_bundle(make_tflite: Callable[..., Path], npy: Callable[..., bytes], tmp_path: Path) -> Path:
    """A product of LiteRT, which logs on stderr that it has a delegate for the CPU."""
    weights = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)
    x = np.random.default_rng(4).normal(size=(2, 1, 4)).astype(np.float32)
    ends = [(end, (1, n), "float32", None, None) for end, n in (("x", 4), ("y", 3))]
    artifact = make_tflite("FULLY_CONNECTED", ends[0], ("w", (3, 4), "float32", None, weights), ends[1])
    binding, golden = TensorBinding(0, "x", "float32"), Golden(("y.npy",), (1e-5,))
    cpu = Variant("cpu", "litert", "cpu", "float32", ("model.tflite",), (binding,), (binding,), golden)
    sides = (InputSpec("x", (1, 4), "float32"),), (OutputSpec("y", (1, 3), "float32"),)
    files = {"x.npy": npy(x), "y.npy": npy(x @ weights.T), "model.tflite": artifact.read_bytes()}
    write_bundle(Manifest("product", "1", *sides, (cpu,), (), ("x.npy",)), files, tmp_path / "b.edgekit")
    np.save(tmp_path / "input.npy", x[0])
    return tmp_path / "b.edgekit"


@pytest.mark.needs_litert
def test_load_does_not_redirect_an_applications_stderr(litert_bundle: Path) -> None:
    program = "import sys, edgekit_runtime; edgekit_runtime.load(sys.argv[1]).close()"
    done = subprocess.run([sys.executable, "-c", program, litert_bundle], capture_output=True, text=True, check=True)
    assert "INFO: " in done.stderr


@pytest.mark.needs_litert
@pytest.mark.needs_gpu_driver
def test_output_of_the_gpu_does_not_break_json(litert_bundle: Path, gpu_driver: Path) -> None:
    with open_bundle(litert_bundle) as bundle:
        (cpu,) = bundle.manifest.variants
        files = {record.path: bundle.read(record.path) for record in bundle.manifest.files}
        changed = replace(bundle.manifest, variants=(replace(cpu, name="gpu", device="gpu"),), files=())
    path = litert_bundle.with_name("gpu.edgekit")
    write_bundle(changed, files, path)
    typed = [sys.executable, "-m", "edgekit_runtime", "inspect", str(path), "--json"]
    done = subprocess.run(typed, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["placement"]["variant"] == "gpu"


@pytest.mark.needs_litert
@pytest.mark.parametrize(
    "command",
    [
        ["edgekit_runtime", "inspect", "BUNDLE"],
        ["edgekit_runtime", "verify", "BUNDLE", "--json"],
        ["edgekit_runtime", "run", "BUNDLE", "INPUT"],
        ["edgekit_runtime", "measure", "BUNDLE", "--seconds", "0.01"],
        ["edgekit", "verify", "BUNDLE"],
        ["edgekit", "run", "BUNDLE", "INPUT", "--json"],
    ],
    ids=" ".join,
)
def test_no_command_prints_log_lines_of_an_engine(litert_bundle: Path, command: list[str]) -> None:
    places = {"BUNDLE": str(litert_bundle), "INPUT": str(litert_bundle.with_name("input.npy"))}
    typed = [sys.executable, "-m", *(places.get(word, word) for word in command)]
    done = subprocess.run(typed, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
