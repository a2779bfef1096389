"""Run many inputs through OpenVINO: `model.stream` against its AsyncInferQueue, each in its fastest setting.

The models are the int8 ResNet-8 and MobileNetV2 of `call_latency.py`, as IR. All sides copy every result.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import edgekit_runtime
from benchmarks.harness import figures, real_data
from benchmarks.runtime.bundle import interpreter, write_bundle_of
from benchmarks.runtime.call_latency import SUBJECTS, ir

FRAMES = {"ResNet-8": 400, "MobileNetV2": 12}
ROUNDS = 12
# The hint for throughput with twice as many jobs as cores, as OpenVINO advises; and as many streams as jobs.
QUEUES = {"throughput": (4, {"PERFORMANCE_HINT": "THROUGHPUT"}), "two streams": (2, {"NUM_STREAMS": 2})}
MODELS = {"one thread an engine": {"threads": 1, "concurrency": 2}, "as loaded by default": {}}


def main() -> None:
    """Print frames per second of every side, and the ratio of the best ones."""
    data = real_data.folder(__doc__)
    real_data.need(*(data / subject.path for subject in SUBJECTS))
    for subject in SUBJECTS:
        with tempfile.TemporaryDirectory() as folder:
            measure(subject.name, data / subject.path, Path(folder), FRAMES[subject.name])


def measure(name: str, path: Path, folder: Path, frames: int) -> None:
    """Measure one model on all sides in turns."""
    reference = interpreter(path)
    detail = reference.get_input_details()[0]
    images = np.random.default_rng(0).integers(0, 256, (frames, *detail["shape"])).astype(np.uint8)
    inputs = images.view(np.dtype(detail["dtype"]))
    write_bundle_of(ir(path, folder), folder / "model.edgekit", reference)
    queues = {key: queue(folder / "model.xml", jobs, options, inputs) for key, (jobs, options) in QUEUES.items()}
    models = {key: edgekit_runtime.load(folder / "model.edgekit", **how) for key, how in MODELS.items()}
    theirs = {f"queue, {key}": go for key, go in queues.items()}
    ours = {f"stream, {key}": lambda model=model: list(model.stream(inputs)) for key, model in models.items()}
    sides = theirs | ours
    for go in sides.values():
        go()
    rounds = [{key: _rate(go, frames) for key, go in sides.items()} for _ in range(ROUNDS)]
    for key in sides:
        figures.show(f"{name}, {key}", f"{figures.with_spread([each[key] for each in rounds])} /s")
    best = [max(each[key] for key in ours) / max(each[key] for key in theirs) for each in rounds]
    figures.show(f"{name}, best stream over best queue", f"{figures.with_spread(best)} x")
    for model in models.values():
        model.close()


def queue(path: Path, jobs: int, options: dict[str, Any], inputs: np.ndarray) -> Callable[[], Sequence[Any]]:
    """Return a function that sends all inputs through an AsyncInferQueue and returns the results in order."""
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32", **options})
    waiting = openvino.AsyncInferQueue(compiled, jobs)
    results: list[Any] = [None] * len(inputs)

    def keep(request: Any, place: int) -> None:
        results[place] = request.get_output_tensor(0).data.copy()

    waiting.set_callback(keep)

    def go() -> Sequence[Any]:
        for place, x in enumerate(inputs):
            waiting.start_async({0: x}, place)
        waiting.wait_all()
        return results

    return go


def _rate(go: Callable[[], Any], frames: int) -> float:
    start = time.perf_counter()
    go()
    return frames / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
