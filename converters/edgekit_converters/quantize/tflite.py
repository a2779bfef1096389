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
from edgekit_converters.quantize.clip_ranges import narrow
from edgekit_converters.quantize.correct_bias import correct_bias
from edgekit_converters.quantize.equalize_tflite import equalized
from edgekit_converters.quantize.float_outputs import float_outputs, signed_outputs
from edgekit_converters.quantize.tflite_rules import float_tensors, rules
from edgekit_converters.records import QuantizeRequest
from edgekit_runtime.errors import CalibrationError, ToolchainError, UnsupportedOperator

# How the quantizer joins the extremes of one sample to those of the samples before; other statistics need all values.
UPDATES = {"min-max": qsv_utils.min_max_update, "moving-average": qsv_utils.moving_average_update}


class Samples(Sequence[dict[str, np.ndarray]]):
    """Calibration samples by signature name, read when asked for; the quantizer walks them more than once."""

    def __init__(self, request: QuantizeRequest, names: list[str]) -> None:
        self._request, self._names = request, names

    def __len__(self) -> int:
        """Number of samples."""
        return self._request.calibration.count if self._request.calibration else 0

    def __getitem__(self, index: Any) -> Any:
        """Sequence protocol; iteration is what the quantizer uses."""
        raise TypeError("calibration samples are read in order")

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield one sample at a time, each array (1, ...) as the artifact takes it: litert-torch makes int64 int32."""
        dtypes = [bound.dtype for bound in self._request.artifact.inputs]
        for arrays in samples(self._request):
            taken = [array.astype(dtype, copy=False) for array, dtype in zip(arrays, dtypes, strict=True)]
            yield dict(zip(self._names, taken, strict=True))


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
            even = equalized(request.artifact.files[0], Path(scratch) / "equalized.tflite")
            request = replace(request, artifact=replace(request.artifact, files=(even,)))
        tool = quantizer.Quantizer(str(request.artifact.files[0]))
        tool.load_quantization_recipe(rules(request))
        ranges = _ranges(request) if tool.need_calibration else None
        result = tool.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
        path.write_bytes(float_outputs(signed_outputs(bytes(result.quantized_model)), request.nodes))
        if {"bias", "bias-fast"} & set(corrections):
            correct_bias(request, path, alone="bias-fast" in corrections)
    return (path,)


def _ranges(request: QuantizeRequest) -> Any:
    """Return the range of every tensor that the recipe's statistics draw from all samples.

    The quantizer's own default, a moving average, forgets all but the last samples and cuts off what is above the
    average: it costs 4 to 12 dB on the models of the benchmarks. Here it is taken only where it is asked for.
    """
    statistics = request.recipe.statistics
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
        qsv_update_func=UPDATES.get(statistics, qsv_utils.min_max_update),
    )
    calibration.calibrate({ports.key: Samples(request, [port.name for port in ports.inputs])}, recipes)
    extremes = calibration.get_model_qsvs()
    in_float = float_tensors(request)
    _check_finite({name: seen for name, seen in extremes.items() if name not in in_float})
    return _ranked(content, extremes if statistics in UPDATES else narrow(request, extremes))


def _ranked(content: bytes, ranges: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Give a range as many axes as its tensor has: the quantizer wants that of constants that are computed with."""
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    tensors = [graph.Tensors(place) for place in range(graph.TensorsLength())]
    ranks = {tensor.Name().decode(): tensor.ShapeLength() for tensor in tensors}
    return {
        name: {
            end: np.reshape(value, (1,) * ranks[name]) if name in ranks and np.size(value) == 1 else value
            for end, value in seen.items()
        }
        for name, seen in ranges.items()
    }


def _check_finite(extremes: dict[str, dict[str, Any]]) -> None:
    """Refuse values that no range holds: a scale would be infinite, and statistics would go by what is left.

    Raises:
        CalibrationError: naming the tensor, in TFLite the names of all layers in it.
    """
    for name, seen in extremes.items():
        if not all(np.isfinite(seen[end]).all() for end in ("min", "max") if end in seen):
            raise CalibrationError(
                f"on the calibration samples tensor {name!r} takes values that are infinite, or no numbers",
                stage="quantize",
                subject="litert",
                advice="check the samples and their --scale, --mean and --std, or keep its layer in float (--recipe)",
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
        message = short_message(error)
        if "qsv" in message.lower():
            raise CalibrationError(
                message, stage="quantize", subject="litert", advice="give samples that use all of the model"
            ) from error
        raise ToolchainError(message, stage="quantize", subject="litert") from error
