"""Measure the time from `python -c` to the first result, and the memory of an opened model, over the bare interpreter.

ResNet-8 for the start, MobileNetV2 int8 for the memory; both as a folder, which a board keeps and whose artifact is
memory-mapped, and as a file, from which the artifact is extracted first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import figures, real_data
from benchmarks.runtime.bundle import interpreter, write_bundle_of

STARTED_MODEL = "mlperf_tiny/image_classification/pretrainedResnet_quant.tflite"
RESIDENT_MODEL = "coral/models/mobilenet_v2_1.0_224_quant.tflite"
STARTS = 15

RAW = """
import sys
import numpy
from ai_edge_litert.interpreter import Interpreter
model = Interpreter(sys.argv[1], num_threads=1)
model.allocate_tensors()
(x,), (y,) = model.get_input_details(), model.get_output_details()
model.set_tensor(x["index"], numpy.zeros(x["shape"], x["dtype"]))
model.invoke()
model.get_tensor(y["index"])
"""
OURS = """
import sys
import numpy
import edgekit_runtime
model = edgekit_runtime.load(sys.argv[1], threads=1)
model(numpy.zeros(model.inputs[0].shape, sys.argv[2]))
"""
RESIDENT = """
import os
with open("/proc/self/statm") as file:
    print(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
"""


def main() -> None:
    """Print both ratios, for a folder and for a file."""
    data = real_data.folder(__doc__)
    real_data.need(data / STARTED_MODEL, data / RESIDENT_MODEL)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "EDGEKIT_STATE": f"{folder}/state", "PYTHONPYCACHEPREFIX": f"{folder}/compiled"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed: compiled
        for kind, as_directory in (("folder", True), ("file", False)):
            started, resident = (Path(folder) / f"{name}-{kind}" for name in ("started", "kept"))
            write_bundle_of(data / STARTED_MODEL, started, interpreter(data / STARTED_MODEL), as_directory=as_directory)
            write_bundle_of(
                data / RESIDENT_MODEL, resident, interpreter(data / RESIDENT_MODEL), as_directory=as_directory
            )
            sides = _command(RAW, data / STARTED_MODEL), _command(OURS, started, "int8")
            figures.show_at_most(f"first result of a {kind} over the interpreter", _times(sides, environment), 1.15)
            sides = _command(RAW + RESIDENT, data / RESIDENT_MODEL), _command(OURS + RESIDENT, resident, "uint8")
            figures.show_at_most(f"memory of a {kind} over the interpreter", _sizes(sides, environment), 1.02)


def _command(code: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def _times(sides: tuple[list[str], list[str]], environment: dict[str, str]) -> list[float]:
    """Return our time divided by theirs, in turns; the first start of each warms caches and is not counted."""
    pairs = [[_start_s(side, environment) for side in sides] for _ in range(STARTS + 1)]
    return [ours / theirs for theirs, ours in pairs[1:]]


def _start_s(command: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def _sizes(sides: tuple[list[str], list[str]], environment: dict[str, str]) -> list[float]:
    pairs = [[_resident_bytes(side, environment) for side in sides] for _ in range(STARTS)]
    return [ours / theirs for theirs, ours in pairs[1:]]


def _resident_bytes(command: list[str], environment: dict[str, str]) -> int:
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
