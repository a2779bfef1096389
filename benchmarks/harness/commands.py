"""Run benchmark modules, and `edgekit` as a user would, each in a process of its own; a failure ends the benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[1]
MODELS = BENCHMARKS / "models"
CIFAR10 = ("--calibrate", "cifar10/calibration.npz", "--evaluate", "cifar10/test.npz")
RESNET8 = ("mlperf_tiny/image_classification/pretrainedResnet.h5", *CIFAR10)


class Failure(SystemExit):
    """A command failed. It ends the benchmark unless it is caught."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Conversion:
    """The result and the cost of one `edgekit convert`."""

    bundle: Path
    report: dict[str, Any]
    wall_seconds: float  # of the whole process, from outside


def convert(data: Path, work: Path, *arguments: str) -> Conversion:
    """Run one conversion that writes its bundle and its report into ``work``, and keeps its cache there.

    Args:
        data: folder of the real data; the command runs in it, so arguments name files as they are called there.
        work: folder for everything the command writes.
        arguments: of ``edgekit convert``, without ``-o`` and ``--report``.
    """
    bundle, report = work / "made.edgekit", work / "report.json"
    environment = {"EDGEKIT_CACHE": str(work / "cache"), "EDGEKIT_DATA": str(data)}
    started = time.perf_counter()
    edgekit("convert", *arguments, "-o", str(bundle), "--report", str(report), folder=data, **environment)
    return Conversion(bundle, json.loads(report.read_text()), time.perf_counter() - started)


def edgekit(*arguments: str, folder: Path | None = None, **environment: str) -> str:
    """Run an edgekit command and return what it prints."""
    return _run("-m", "edgekit", *arguments, folder=folder, **environment)


def script(name: str, *arguments: str) -> str:
    """Run a module of the benchmarks, such as ``harness.time_in_turns``, and return what it prints."""
    return _run("-m", f"benchmarks.{name}", *arguments, folder=BENCHMARKS.parent)


def _run(*arguments: str, folder: Path | None = None, **environment: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, check=False, cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )
    if done.returncode != 0:
        message = f"{done.stderr}not measured: exit code {done.returncode} of {' '.join(command)}"
        raise Failure(message, done.returncode)
    return done.stdout
