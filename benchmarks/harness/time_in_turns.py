"""Time artifacts in turns, in a fresh process, each in its bare engine on one thread and on the same noise.

Prints as JSON, for each round, the microseconds per call of each artifact (``.tflite`` or ``.xml``).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROUNDS, ROUND_S = 41, 0.02


def main() -> None:
    """Take turns; the first round warms up."""
    calls = [_opened(Path(path)) for path in sys.argv[1:]]
    print(json.dumps([[_call_us(call) for call in calls] for _ in range(ROUNDS + 1)][1:]))


def _call_us(call: Callable[[], None]) -> float:
    """Return the mean microseconds of the calls of one turn."""
    started, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - started < ROUND_S:
        call()
        count += 1
    return (time.perf_counter() - started) / count * 1e6


def _opened(path: Path) -> Callable[[], None]:
    return _tflite(path) if path.suffix == ".tflite" else _ir(path)


def _tflite(path: Path) -> Callable[[], None]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], _noise(detail["shape"]).astype(detail["dtype"]))
    call: Callable[[], None] = interpreter.invoke
    return call


def _ir(path: Path) -> Callable[[], None]:
    import openvino as ov

    from benchmarks.conversion.plain_int8 import ONE_THREAD

    request = ov.Core().compile_model(path, "CPU", ONE_THREAD).create_infer_request()
    for tensor in request.input_tensors:
        tensor.data[...] = _noise(tensor.data.shape)
    call: Callable[[], None] = request.infer
    return call


def _noise(shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers that every dtype can hold: -128 to 127."""
    return np.random.default_rng(0).integers(-128, 128, shape)


if __name__ == "__main__":
    main()
