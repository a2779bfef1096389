"""What one `model(x)` costs over the bare interpreter: both sides interleaved in one process.

The model is MLPerf Tiny's int8 ResNet-8; `--data` or $EDGEKIT_DATA says where it is.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import edgekit_runtime
from edgekit.bundle_writer import write_bundle
from edgekit_runtime.manifest import Golden, InputSpec, Manifest, OutputSpec, TensorBinding, Variant

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
    interpreter = _interpreter(path)
    (detail,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    in_scale, in_zero = detail["quantization"]
    out_scale, out_zero = out["quantization"]
    quantized = np.random.default_rng(0).integers(-128, 128, (1, 32, 32, 3)).astype(np.int8)
    real = (quantized.astype(np.float32) - in_zero) * np.float32(in_scale)  # (1, 32, 32, 3)

    def raw() -> Any:
        interpreter.set_tensor(detail["index"], quantized)
        interpreter.invoke()
        return interpreter.get_tensor(out["index"])

    def by_hand() -> Any:
        steps = np.clip(np.rint(real / in_scale) + in_zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(detail["index"], steps)
        interpreter.invoke()
        return (interpreter.get_tensor(out["index"]).astype(np.float32) - out_zero) * out_scale

    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "resnet8.edgekit"
        _write(bundle, path, real, by_hand().astype(np.float32), (detail, out))
        with edgekit_runtime.load(bundle) as model:
            if not np.allclose(model(quantized), by_hand(), atol=float(out_scale)):
                raise SystemExit("the two sides compute different things")
            _compare("int8 input", "set_tensor+invoke+get_tensor", raw, lambda: model(quantized))
            _compare("float32 input", "quantized by hand with numpy", by_hand, lambda: model(real))


def _interpreter(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def _write(bundle: Path, model: Path, x: np.ndarray, y: np.ndarray, details: tuple[Any, Any]) -> None:
    bindings = [
        TensorBinding(0, d["name"], "int8", float(d["quantization"][0]), int(d["quantization"][1])) for d in details
    ]
    variant = Variant(
        name="litert-int8-static",
        engine="litert",
        device="cpu",
        scheme="int8-static",
        files=("variants/litert-int8-static/model.tflite",),
        inputs=(bindings[0],),
        outputs=(bindings[1],),
        golden=Golden(("golden/y.npy",), (2 * bindings[1].scale,)),
    )
    manifest = Manifest(
        model_name="resnet8",
        model_version="1",
        inputs=(InputSpec("image", x.shape, "float32", "NHWC"),),
        outputs=(OutputSpec("scores", y.shape, "float32"),),
        variants=(variant,),
        files=(),
        golden_inputs=("golden/x.npy",),
    )
    write_bundle(
        manifest, {variant.files[0]: model, "golden/x.npy": _npy(x[None]), "golden/y.npy": _npy(y[None])}, bundle
    )


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


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
