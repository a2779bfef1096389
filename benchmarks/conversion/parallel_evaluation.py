"""Time a long evaluation with two workers and with one: ResNet-8 on CIFAR-10's 10,000 test images, once and six times.

One worker and two evaluate the same artifact in turns, in float32 and int8, both formats; one worker has started
already, as after quantizing. Values must be bit-identical.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import figures, real_data
from benchmarks.harness.commands import RESNET8
from edgekit.parallel import evaluation as parallel_evaluation
from edgekit.parallel.executor import Threads
from edgekit_converters.data import PREPARE, DataRequest, DataSet
from edgekit_converters.execution.runner import Runner, new_log
from edgekit_converters.execution.stage_cache import Cache
from edgekit_converters.load import LOAD
from edgekit_converters.lower import LOWER
from edgekit_converters.quantize import QUANTIZE
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import (
    Artifact,
    EvaluatePartRequest,
    EvaluateRequest,
    LowerRequest,
    QuantizeRequest,
    Source,
    SourceRequest,
)
from edgekit_converters.verify.metrics import EVALUATE_PART

ROUNDS, TIMES = 3, (1, 6)


def main() -> None:
    """Print the time of two workers divided by the time of one."""
    data = real_data.folder(__doc__)
    real_data.need(data / RESNET8[0], data / "cifar10/test.npz")
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("not measured: there is one core alone")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        with Runner(new_log(work), Cache(work, enabled=False)) as runner:
            source, artifacts = _load_and_quantize(runner, data)
            for times in TIMES:
                images = _images(runner, source, data, work, times)
                for name, artifact in artifacts.items():
                    request = EvaluateRequest(artifact, source.inputs, source.outputs, images)
                    ratios = [_seconds(request, work, 2) / _seconds(request, work, 1) for _ in range(ROUNDS)]
                    figures.show(f"{name}, {images.count} images: two over one", figures.with_spread(ratios))


def _load_and_quantize(runner: Runner, data: Path) -> tuple[Source, dict[str, Artifact]]:
    """Return ResNet-8 and the artifacts to evaluate."""
    source = runner.run(LOAD, SourceRequest("keras", data / RESNET8[0]))
    samples = runner.run(PREPARE, DataRequest(str(data / "cifar10/calibration.npz"), source.inputs))
    artifacts = {}
    for engine in ("litert", "openvino"):
        artifacts[f"{engine} float32"] = lowered = runner.run(LOWER, LowerRequest(source, engine))
        request = QuantizeRequest(lowered, Recipe("int8-static"), source.inputs, samples)
        artifacts[f"{engine} int8-static"] = runner.run(QUANTIZE, request)
    return source, artifacts


def _images(runner: Runner, source: Source, data: Path, work: Path, times: int) -> DataSet:
    """Return the test images, repeated."""
    with np.load(data / "cifar10/test.npz") as test:
        np.savez(work / "test.npz", x=np.tile(test["x"], (times, 1, 1, 1)), y=np.tile(test["y"], times))
    return runner.run(PREPARE, DataRequest(str(work / "test.npz"), source.inputs, purpose="evaluation"))


def _seconds(request: EvaluateRequest, work: Path, jobs: int) -> float:
    """Return the time of an evaluation by this number of workers; its value must equal that of the others."""
    assert isinstance(request.subject, Artifact)
    engine = request.subject.engine
    with Runner(new_log(work), Cache(work, enabled=False), jobs=jobs) as runner:
        runner.run(EVALUATE_PART, EvaluatePartRequest(request, 0, 1))
        started = time.perf_counter()
        evaluation = parallel_evaluation.evaluate(runner, Threads(jobs), request, engine)
        took = time.perf_counter() - started
    if _values.setdefault(request, evaluation.value) != evaluation.value:
        raise SystemExit(f"{engine}: {jobs} workers give {evaluation.value}, others {_values[request]}")
    return took


_values: dict[EvaluateRequest, float] = {}

if __name__ == "__main__":
    main()
