"""TFLite quantization with AI Edge Quantizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import calibrator, quantizer, recipe_manager
from ai_edge_quantizer.utils import qsv_utils

from edgekit_converters.artifact import signature
from edgekit_converters.data import batches
from edgekit_converters.foreign import told
from edgekit_converters.quantize.tflite_rules import rules
from edgekit_converters.records import QuantizeRequest
from edgekit_converters.worker import report_progress
from edgekit_runtime.errors import CalibrationError, ToolchainError, UnsupportedOperator


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
        UnsupportedOperator: the scheme needs ranges from inside a loop or branch.
        ToolchainError: the quantizer failed otherwise.
    """
    path = folder / "model.tflite"
    with quantizer_errors():
        tool = quantizer.Quantizer(str(request.artifact.files[0]))
        tool.load_quantization_recipe(rules(request))
        ranges = _ranges(request) if tool.need_calibration else None
        result = tool.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
        path.write_bytes(result.quantized_model)
    return (path,)


def _ranges(request: QuantizeRequest) -> Any:
    """Return every tensor's least and greatest value over all samples.

    The quantizer's own default, a moving average, forgets all but the last samples and cuts off what is above the
    average: it costs 4 to 12 dB on the models of the benchmarks.
    """
    content = request.artifact.files[0].read_bytes()
    if schema.Model.GetRootAs(content, 0).SubgraphsLength() > 1:
        raise UnsupportedOperator(
            f"{request.scheme}: AI Edge Quantizer cannot see into loops and branches (WHILE, IF), which is what LSTM "
            f"and GRU layers become",
            stage="quantize",
            subject="litert",
            advice="take --quantize int8-dynamic or int8-weights, or convert for OpenVINO alone: --device intel-cpu",
        )
    ports = signature(request.artifact.files[0])
    recipes = recipe_manager.RecipeManager()
    recipes.load_quantization_recipe(rules(request))
    calibration = calibrator.Calibrator(
        content,
        num_threads=1,
        mode=calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED,  # the ranges of the other mode, ten times sooner
        qsv_update_func=qsv_utils.min_max_update,
    )
    calibration.calibrate({ports.key: Samples(request, [port.name for port in ports.inputs])}, recipes)
    return calibration.get_model_qsvs()


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
        if "qsv" in message.lower():
            raise CalibrationError(
                message, stage="quantize", subject="litert", advice="give samples that use all of the model"
            ) from error
        raise ToolchainError(message, stage="quantize", subject="litert") from error
