"""What one `model(x)` costs over the bare interpreter: both sides interleaved in one process.

The model is MLPerf Tiny's int8 ResNet-8; `--data` or $EDGEKIT_DATA says where it is.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from runtime_bundle import interpreter, write_bundle_of

import edgekit_runtime

MODEL = "mlperf_tiny/image_classification/pretrainedResnet_quant.tflite"
ROUNDS = 200
CALLS_A_ROUND = 50


def main() -> None:
    """Print the medians and their ratio, for int8 and for float input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("EDGEKIT_DATA", "../shared/data"), type=Path)
    path = parser.parse_args().data / MODEL
    if not path.is_file():
        raise SystemExit(f"{path} is not there: say with --data where the real models are")
    raw_interpreter = interpreter(path)
    (detail,), (out,) = raw_interpreter.get_input_details(), raw_interpreter.get_output_details()
    in_scale, in_zero = detail["quantization"]
    out_scale, out_zero = out["quantization"]
    quantized = np.random.default_rng(0).integers(-128, 128, (1, 32, 32, 3)).astype(np.int8)
    real = (quantized.astype(np.float32) - in_zero) * np.float32(in_scale)  # (1, 32, 32, 3)

    def raw() -> Any:
        raw_interpreter.set_tensor(detail["index"], quantized)
        raw_interpreter.invoke()
        return raw_interpreter.get_tensor(out["index"])

    def by_hand() -> Any:
        steps = np.clip(np.rint(real / in_scale) + in_zero, -128, 127).astype(np.int8)
        raw_interpreter.set_tensor(detail["index"], steps)
        raw_interpreter.invoke()
        return (raw_interpreter.get_tensor(out["index"]).astype(np.float32) - out_zero) * out_scale

    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "resnet8.edgekit"
        write_bundle_of(path, bundle, raw_interpreter)
        with edgekit_runtime.load(bundle) as model:
            if not np.allclose(model(quantized), by_hand(), atol=float(out_scale)):
                raise SystemExit("the two sides compute different things")
            _compare("int8 input", "set_tensor+invoke+get_tensor", raw, lambda: model(quantized))
            _compare("float32 input", "quantized by hand with numpy", by_hand, lambda: model(real))
        ir = _ir(path, Path(folder))
        write_bundle_of(ir, bundle, raw_interpreter)
        request = _request(ir)
        with edgekit_runtime.load(bundle, threads=1) as model:
            _compare(
                "OpenVINO, int8 input", "filled and read by hand", lambda: request(quantized), lambda: model(quantized)
            )


def _ir(path: Path, folder: Path) -> Path:
    """The same model as OpenVINO reads it, for a batch of one."""
    import openvino

    model = openvino.Core().read_model(path)
    model.reshape([1, *[dim.get_length() for dim in list(model.inputs[0].get_partial_shape())[1:]]])
    openvino.save_model(model, folder / "resnet8.xml", compress_to_fp16=False)
    return folder / "resnet8.xml"


def _request(ir: Path) -> Callable[[np.ndarray], Any]:
    """The least that a call costs by hand: fill the tensor, infer, copy the result out."""
    import openvino

    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    request = openvino.Core().compile_model(str(ir), "CPU", options).create_infer_request()
    tensor = request.get_input_tensor(0).data

    def call(x: np.ndarray) -> Any:
        np.copyto(tensor, x)
        request.infer()
        return request.get_output_tensor(0).data.copy()

    return call


def _compare(what: str, other: str, theirs: Callable[[], Any], ours: Callable[[], Any]) -> None:
    """Median microseconds of each side with the middle half's spread, and the median of the rounds' ratios."""
    times = np.array([[_round_us(theirs), _round_us(ours)] for _ in range(ROUNDS)])  # (rounds, 2)
    low, middle, high = np.percentile(times, [25, 50, 75], axis=0)
    ratios = times[:, 1] / times[:, 0]
    print(
        f"{what}: model(x) {middle[1]:.2f} us ({low[1]:.2f}..{high[1]:.2f}), {other} {middle[0]:.2f} us "
        f"({low[0]:.2f}..{high[0]:.2f}), ratio {np.median(ratios):.3f} "
        f"({np.percentile(ratios, 25):.3f}..{np.percentile(ratios, 75):.3f})"
    )


def _round_us(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    for _ in range(CALLS_A_ROUND):
        call()
    return (time.perf_counter() - start) / CALLS_A_ROUND * 1e6


if __name__ == "__main__":
    main()
