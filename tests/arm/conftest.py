"""Arm machines under qemu: Debian's Python and the wheels a board installs; a board is the files that describe it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

QEMUS = {"arm64": "qemu-aarch64-static", "armhf": "qemu-arm-static"}
# qemu takes what is not in the machine's root from this machine. The guest's Python believes that this script is
# its executable, so that it can start itself again.
SCRIPT = '#!/bin/sh\nexec {qemu} -L {root} -0 "$0" {root}/usr/bin/python3.11 "$@"\n'


@dataclass(frozen=True)
class Machine:
    """An Arm machine."""

    root: Path
    python: Path
    state: Path  # EDGEKIT_STATE

    def run(self, *args: str | Path, cpu: str) -> subprocess.CompletedProcess[str]:
        """Run its Python with these arguments on a processor that qemu knows."""
        # Whole paths: to open a file qemu looks into the root first, but not everything looks before it opens.
        guest = {"PYTHONHOME": f"{self.root}/usr", "PYTHONPATH": f"{self.root}/site:{self.root}/runtime"}
        env = {"PATH": os.environ["PATH"], "QEMU_CPU": cpu, "EDGEKIT_STATE": str(self.state), **guest}
        command = [str(self.python), *map(str, args)]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


MakeMachine = Callable[..., Machine]


@pytest.fixture(scope="session")
def sysroots(repository: Path) -> Path:
    """The folder with a root folder for each architecture, which `make test-arm` makes."""
    folder = repository / "build" / "arm"
    missing = [arch for arch in QEMUS if not (folder / arch / ".whole").exists()]
    if missing:
        pytest.fail(f"{folder} lacks {', '.join(missing)}: make test-arm makes them", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def runtime(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runtime's wheel, built from this tree and unpacked."""
    folder = tmp_path_factory.mktemp("runtime")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    done = subprocess.run([*pip, str(repository / "runtime")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def make_machine(sysroots: Path, runtime: Path, make_board: Callable[[str], Path], tmp_path: Path) -> MakeMachine:
    """Make the machine that a board's files describe, with an operating system for "arm64" or "armhf"."""

    def make(board: str, arch: str = "arm64") -> Machine:
        root = make_board(board)
        for part in (sysroots / arch / "root").iterdir():
            (root / part.name).symlink_to(part)
        (root / "runtime").symlink_to(runtime)
        python = tmp_path / "python"
        python.write_text(SCRIPT.format(qemu=QEMUS[arch], root=root), encoding="utf-8")
        python.chmod(0o755)
        return Machine(root, python, tmp_path / "state")

    return make


@pytest.fixture(scope="session")
def digits(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as a bundle of int8 and float32 in both formats, made on this machine."""
    path = tmp_path_factory.mktemp("digits") / "digits.edgekit"
    devices = ["--device", "raspberry-pi-4", "--device", "x86-64"]
    schemes = ["--quantize", "int8-static", "--quantize", "float32", "--scale", "0.00390625"]
    data = ["--calibrate", str(demo / "calibration.npz"), "--labels", str(demo / "labels.txt")]
    command = [sys.executable, "-m", "edgekit", "convert", str(demo / "digits.keras"), "-o", str(path)]
    done = subprocess.run([*command, *devices, *schemes, *data], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path
