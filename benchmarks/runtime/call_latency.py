"""Measure the overhead of one `model(x)` over the bare interpreter, or a bare request, in turns in one process.

The models are MLPerf Tiny's int8 ResNet-8, where a call takes microseconds, and Coral's int8 MobileNetV2.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgekit_runtime
from benchmarks.harness import figures, real_data
from benchmarks.runtime.bundle import interpreter, write_bundle_of

Call = Callable[[], Any]


@dataclass(frozen=True)
class Subject:
    """A model, the time to measure it, and the limit of the ratio to the bare call."""

    name: str
    path: str  # below the folder of real data
    rounds: int
    calls: int  # a round and side
    limit: float
    by_hand: bool = False  # with float input, too


SUBJECTS = (
    Subject("ResNet-8", "mlperf_tiny/image_classification/pretrainedResnet_quant.tflite", 200, 50, 1.05, by_hand=True),
    Subject("MobileNetV2", "coral/models/mobilenet_v2_1.0_224_quant.tflite", 40, 5, 1.01),
)


def main() -> None:
    """Print the medians of both sides and of their ratio, for each model and engine."""
    data = real_data.folder(__doc__)
    real_data.need(*(data / subject.path for subject in SUBJECTS))
    for subject in SUBJECTS:
        with tempfile.TemporaryDirectory() as folder:
            measure(subject, data / subject.path, Path(folder))


def measure(subject: Subject, path: Path, folder: Path) -> None:
    """Measure a model in LiteRT, then in OpenVINO."""
    bare = interpreter(path)
    detail, out = bare.get_input_details()[0], bare.get_output_details()[0]
    dtype = np.dtype(detail["dtype"])
    quantized = np.random.default_rng(0).integers(0, 256, detail["shape"]).astype(np.uint8).view(dtype)

    def raw(x: np.ndarray = quantized) -> Any:
        bare.set_tensor(detail["index"], x)
        bare.invoke()
        return bare.get_tensor(out["index"])

    bundle = folder / "model.edgekit"
    write_bundle_of(path, bundle, bare)
    with edgekit_runtime.load(bundle, threads=1) as model:
        compare(f"{subject.name} int8 in LiteRT", subject, raw, lambda: model(quantized))
        if subject.by_hand:
            real, call = by_hand(raw, detail, out, quantized)
            if not np.allclose(model(real), call(), atol=float(out["quantization"][0])):
                raise SystemExit("the two sides compute different things")
            compare(f"{subject.name} float32, quantized by hand", subject, call, lambda: model(real), target=False)
    write_bundle_of(ir(path, folder), bundle, bare)
    request = bare_request(folder / "model.xml")
    with edgekit_runtime.load(bundle, threads=1) as model:
        compare(f"{subject.name} int8 in OpenVINO", subject, lambda: request(quantized), lambda: model(quantized))


def by_hand(
    raw: Callable[[np.ndarray], Any], detail: dict[str, Any], out: dict[str, Any], quantized: np.ndarray
) -> tuple[np.ndarray, Call]:
    """Return the float input, and the hand-written numpy call for it."""
    (scale, zero), (out_scale, out_zero) = detail["quantization"], out["quantization"]
    real = (quantized.astype(np.float32) - zero) * np.float32(scale)

    def call() -> Any:
        steps = np.clip(np.rint(real / scale) + zero, -128, 127).astype(np.int8)
        return (raw(steps).astype(np.float32) - out_zero) * out_scale

    return real, call


def ir(path: Path, folder: Path) -> Path:
    """Write the same model as IR for a batch of one."""
    import openvino

    model = openvino.Core().read_model(path)
    model.reshape([1, *[dim.get_length() for dim in list(model.inputs[0].get_partial_shape())[1:]]])
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    return folder / "model.xml"


def bare_request(path: Path) -> Callable[[np.ndarray], Any]:
    """Return the minimal call by hand: fill the tensor, infer, copy the result."""
    import openvino

    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    request = openvino.Core().compile_model(str(path), "CPU", options).create_infer_request()
    tensor = request.get_input_tensor(0).data

    def call(x: np.ndarray) -> Any:
        np.copyto(tensor, x)
        request.infer(share_outputs=True)  # without it the outputs are copied into a dict as well
        return request.get_output_tensor(0).data.copy()

    return call


def compare(label: str, subject: Subject, theirs: Call, ours: Call, *, target: bool = True) -> None:
    """Print microseconds of each side, and the ratio of the rounds against the target."""
    times = np.array([_round_us(theirs, ours, subject.calls) for _ in range(subject.rounds)])  # (rounds, 2)
    figures.show(
        f"{label}: raw, model(x)", " us, ".join(f"{median:.5g}" for median in np.median(times, axis=0)) + " us"
    )
    ratios = list(times[:, 1] / times[:, 0])
    if target:
        figures.show_at_most(f"{label}: model(x) over raw", ratios, subject.limit)
    else:
        figures.show(f"{label}: model(x) over it", figures.with_spread(ratios))


def _round_us(theirs: Call, ours: Call, calls: int) -> tuple[float, float]:
    """Return the median of each side's calls, in turns, so that other load affects both sides."""
    times: tuple[list[float], list[float]] = [], []
    for _ in range(calls):
        for call, durations in zip((theirs, ours), times, strict=True):
            start = time.perf_counter()
            call()
            durations.append(time.perf_counter() - start)
    return float(np.median(times[0])) * 1e6, float(np.median(times[1])) * 1e6


if __name__ == "__main__":
    main()
