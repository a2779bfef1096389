"""TFLite quantization with AI Edge Quantizer."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import calibrator, quantizer, recipe_manager
from ai_edge_quantizer.utils import qsv_utils

from edgekit_converters.foreign_errors import short_message
from edgekit_converters.formats.tflite_metadata import signature
from edgekit_converters.quantize.calibration_samples import samples
from edgekit_converters.quantize.clip_ranges import clip_ranges
from edgekit_converters.quantize.correct_bias import correct_bias
from edgekit_converters.quantize.equalize_tflite import equalize_file
from edgekit_converters.quantize.float_outputs import float_outputs, outputs_of_signature
from edgekit_converters.quantize.tflite_rules import float_tensors, rules
from edgekit_converters.records import QuantizeRequest
from edgekit_runtime.errors import CalibrationError, ToolchainError, UnsupportedOperator

# How the quantizer merges the extremes of a sample with the extremes so far; other statistics need all values.
RANGE_UPDATES = {"min-max": qsv_utils.min_max_update, "moving-average": qsv_utils.moving_average_update}


class NamedSamples(Sequence[dict[str, np.ndarray]]):
    """Calibration samples by signature name, read when needed; the quantizer iterates over them more than once."""

    def __init__(self, request: QuantizeRequest, names: list[str]) -> None:
        self._request, self._names = request, names

    def __len__(self) -> int:
        """Number of samples."""
        return self._request.calibration.count if self._request.calibration else 0

    def __getitem__(self, index: Any) -> Any:
        """Refuse random access, which the quantizer does not use."""
        raise TypeError("calibration samples are read in order")

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield one sample at a time, each array (1, ...) in the artifact's dtype: litert-torch makes int64 int32."""
        dtypes = [bound.dtype for bound in self._request.artifact.inputs]
        for arrays in samples(self._request):
            converted = [array.astype(dtype, copy=False) for array, dtype in zip(arrays, dtypes, strict=True)]
            yield dict(zip(self._names, converted, strict=True))


def quantize(request: QuantizeRequest, folder: Path) -> tuple[Path, ...]:
    """Write ``model.tflite`` in the request's scheme.

    Raises:
        CalibrationError: the calibration data left a tensor without a range.
        UnsupportedOperator: the scheme needs ranges from inside a loop or branch.
        ToolchainError: the quantizer failed otherwise.
    """
    path, corrections = folder / "model.tflite", request.recipe.corrections
    with quantizer_errors(), tempfile.TemporaryDirectory(dir=folder) as scratch:
        if "equalize" in corrections:
            equalized = equalize_file(request.artifact.files[0], Path(scratch) / "equalized.tflite")
            request = replace(request, artifact=replace(request.artifact, files=(equalized,)))
        tool = quantizer.Quantizer(str(request.artifact.files[0]))
        tool.load_quantization_recipe(rules(request))
        ranges = _ranges(request) if tool.need_calibration else None
        result = tool.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
        path.write_bytes(float_outputs(outputs_of_signature(bytes(result.quantized_model)), request.nodes))
        if {"bias", "bias-fast"} & set(corrections):
            correct_bias(request, path, weights_only="bias-fast" in corrections)
    return (path,)


def _ranges(request: QuantizeRequest) -> Any:
    """Return the range of every tensor, by the recipe's statistics over all samples.

    The quantizer's default, a moving average, forgets all but the last samples and clips values above the average: it
    costs 4 to 12 dB on the models of the benchmarks. It is used only if the recipe says so.
    """
    statistics = request.recipe.statistics
    content = request.artifact.files[0].read_bytes()
    if schema.Model.GetRootAs(content, 0).SubgraphsLength() > 1:
        raise UnsupportedOperator(
            f"{request.scheme}: AI Edge Quantizer does not support loops and branches (WHILE, IF), which LSTM and GRU "
            f"layers become",
            stage="quantize",
            subject="litert",
            advice="use --quantize int8-dynamic or int8-weights, or convert for OpenVINO only: --device intel-cpu",
        )
    ports = signature(request.artifact.files[0])
    recipes = recipe_manager.RecipeManager()
    recipes.load_quantization_recipe(rules(request))
    calibration = calibrator.Calibrator(
        content,
        num_threads=1,
        mode=calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED,  # same ranges as the other mode, ten times faster
        qsv_update_func=RANGE_UPDATES.get(statistics, qsv_utils.min_max_update),
    )
    calibration.calibrate({ports.key: NamedSamples(request, [port.name for port in ports.inputs])}, recipes)
    extremes = calibration.get_model_qsvs()
    in_float = float_tensors(request)
    _check_finite({name: ends for name, ends in extremes.items() if name not in in_float})
    return _with_tensor_ranks(content, extremes if statistics in RANGE_UPDATES else clip_ranges(request, extremes))


def _with_tensor_ranks(content: bytes, ranges: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Give each range as many axes as its tensor, as the quantizer needs for constants of arithmetic operators."""
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    tensors = [graph.Tensors(place) for place in range(graph.TensorsLength())]
    ranks = {tensor.Name().decode(): tensor.ShapeLength() for tensor in tensors}
    return {
        name: {
            end: np.reshape(value, (1,) * ranks[name]) if name in ranks and np.size(value) == 1 else value
            for end, value in ends.items()
        }
        for name, ends in ranges.items()
    }


def _check_finite(extremes: dict[str, dict[str, Any]]) -> None:
    """Refuse infinite values and NaN: a scale would be infinite, and statistics would ignore them.

    Raises:
        CalibrationError: naming the tensor; in TFLite that is the names of all layers in it.
    """
    for name, ends in extremes.items():
        if not all(np.isfinite(ends[end]).all() for end in ("min", "max") if end in ends):
            raise CalibrationError(
                f"on the calibration samples tensor {name!r} has infinite values or NaN",
                stage="quantize",
                subject="litert",
                advice="check the samples and their --scale, --mean and --std, or keep its layer in float (--recipe)",
            )


@contextlib.contextmanager
def quantizer_errors() -> Iterator[None]:
    """Map the exceptions of AI Edge Quantizer, which has no error class of its own."""
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
        message = short_message(error)
        if "qsv" in message.lower():
            raise CalibrationError(
                message,
                stage="quantize",
                subject="litert",
                advice="use calibration samples that run all parts of the model",
            ) from error
        raise ToolchainError(message, stage="quantize", subject="litert") from error
