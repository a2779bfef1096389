"""TFLite quantization with AI Edge Quantizer; the only file that imports it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_quantizer import qtyping, quantizer, recipe
from ai_edge_quantizer.algorithm_manager import AlgorithmName

from edgekit_converters.artifact import signature
from edgekit_converters.data import batches
from edgekit_converters.foreign import told
from edgekit_converters.records import QuantizeRequest
from edgekit_converters.worker import report_progress
from edgekit_runtime.errors import CalibrationError, ToolchainError

RECIPES = {
    "int8-static": recipe.static_wi8_ai8,
    "int16x8-static": recipe.static_wi8_ai16,
    "int8-dynamic": recipe.dynamic_wi8_afp32,
    "int8-weights": recipe.weight_only_wi8_afp32,
}


class Samples(Sequence[dict[str, np.ndarray]]):
    """Calibration samples by signature name, read when asked for; the quantizer walks them more than once."""

    def __init__(self, request: QuantizeRequest, names: list[str]) -> None:
        if request.calibration is None:
            raise CalibrationError(
                f"{request.scheme} needs calibration data", stage="quantize", advice="--calibrate DATA"
            )
        self._request, self._data, self._names = request, request.calibration, names

    def __len__(self) -> int:
        """Number of samples."""
        return self._data.count

    def __getitem__(self, index: Any) -> Any:
        """Sequence protocol; iteration is what the quantizer uses."""
        raise TypeError("calibration samples are read in order")

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield one sample at a time, each array (1, ...) as the model takes it."""
        for done, arrays in enumerate(batches(self._data, self._request.inputs, 1)):
            if done % 16 == 0:
                report_progress(done, len(self))
            yield dict(zip(self._names, arrays, strict=True))


def quantize(request: QuantizeRequest, folder: Path) -> tuple[Path, ...]:
    """Write ``model.tflite`` in the request's scheme.

    Raises:
        CalibrationError: the calibration data left a tensor without a range.
        ToolchainError: the quantizer failed otherwise.
    """
    source = request.artifact.files[0]
    path = folder / "model.tflite"
    with quantizer_errors():
        tool = quantizer.Quantizer(str(source))
        if request.scheme == "float16":
            _cast_to_float16(tool)
        else:
            tool.load_quantization_recipe(RECIPES[request.scheme]())
        ranges = None
        if tool.need_calibration:
            key, names, _ = signature(source)
            ranges = tool.calibrate({key: Samples(request, names)}, num_threads=1)
        result = tool.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
        path.write_bytes(result.quantized_model)
    return (path,)


def _cast_to_float16(tool: quantizer.Quantizer) -> None:
    """Store weights as float16; the engine widens them when it loads the model."""
    tool.update_quantization_recipe(
        ".*",
        qtyping.TFLOperationName.ALL_SUPPORTED,
        qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        AlgorithmName.FLOAT_CASTING,
    )


@contextlib.contextmanager
def quantizer_errors() -> Iterator[None]:
    """Map what AI Edge Quantizer raises; it has no error class of its own."""
    try:
        yield
    except (
        ValueError,
        RuntimeError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        NotImplementedError,
    ) as error:
        message = told(error)
        if "QSV" in message or "calibrat" in message.lower():
            raise CalibrationError(
                message, stage="quantize", subject="litert", advice="give samples that use all of the model"
            ) from error
        raise ToolchainError(message, stage="quantize", subject="litert") from error
