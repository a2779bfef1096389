"""IR quantization with NNCF."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from edgekit_converters.data import batches
from edgekit_converters.execution.import_filter import without
from edgekit_converters.formats.openvino_model import ALL_FAILURES, openvino_errors, write
from edgekit_converters.progress import report_progress
from edgekit_converters.quantize.average_pools import keep_average_pools_in_float
from edgekit_converters.quantize.equalize_ir import equalize_model
from edgekit_converters.quantize.ir_rules import UNUSED, compress, ignored_scope, uses_scheme
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import QuantizeRequest
from edgekit_runtime.errors import CalibrationError

with without(*UNUSED):
    import nncf
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        RangeEstimatorParametersSet,
        StatisticsCollectorParameters,
        StatisticsType,
    )


def quantize(request: QuantizeRequest, folder: Path) -> tuple[Path, ...]:
    """Write ``model.xml`` and ``model.bin`` in the request's scheme.

    Raises:
        CalibrationError: there are no calibration data.
        ToolchainError: NNCF or OpenVINO failed.
    """
    with openvino_errors("quantize", ALL_FAILURES), without(*UNUSED):
        model = ov.Core().read_model(request.artifact.files[0])
        if "equalize" in request.recipe.corrections:
            equalize_model(model)
        if uses_scheme(request, "int8-static"):
            model = keep_average_pools_in_float(_calibrated(model, request))
        model = compress(model, request)
        return write(model, folder, half=request.scheme == "float16")


def _calibrated(model: ov.Model, request: QuantizeRequest) -> Any:
    """Quantize with the recipe's statistics and bias correction, layer after layer unless the recipe has "bias-fast".

    NNCF's defaults, the mean of each sample's extremes and a bias correction of each layer by itself, are faster and
    cost 3 to 24 dB on the models of the benchmarks.
    """
    data = request.calibration
    if data is None:
        raise CalibrationError(f"{request.scheme} needs calibration data", stage="quantize", advice="--calibrate DATA")
    order = [binding.index for binding in request.artifact.inputs]

    def arrays() -> Any:
        for done, sample in enumerate(batches(data, request.inputs, 1)):
            if done % 16 == 0:
                report_progress(done % data.count, data.count)
            yield {index: np.ascontiguousarray(array) for index, array in zip(order, sample, strict=True)}

    calibrated = partial(
        nncf.quantize,
        model,
        nncf.Dataset(Restartable(arrays)),
        subset_size=data.count,
        ignored_scope=ignored_scope(model, request, "int8-static"),
        # turns on SmoothQuant (Xiao et al., ICML 2023) and NNCF's other transformer patterns, such as attention masks
        model_type=nncf.ModelType.TRANSFORMER if "smooth" in request.recipe.corrections else None,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=_estimator(request.recipe)
        ),
    )
    if "bias-fast" not in request.recipe.corrections:
        with suppress(AssertionError):  # NNCF raises it for a transposed convolution that comes first
            return calibrated(fast_bias_correction=False)
    return calibrated(fast_bias_correction=True)


def _estimator(recipe: Recipe) -> Any:
    """Return NNCF's range estimator for the recipe's statistics.

    Its histogram minimizes the squared error, which is "mse"; it has no other. It computes percentiles sample by
    sample: the widest over the samples holds at least the requested share of all values; the mean, NNCF's default, may
    hold far fewer.
    """
    if recipe.statistics == "percentile":
        beyond = (100 - recipe.percentile) / 200  # at each end
        ends = (StatisticsType.QUANTILE, AggregatorType.MIN), (StatisticsType.QUANTILE, AggregatorType.MAX)
        low, high = (StatisticsCollectorParameters(*end, quantile_outlier_prob=beyond) for end in ends)
        return RangeEstimatorParameters(low, high)
    return {
        "min-max": RangeEstimatorParametersSet.MINMAX,
        "moving-average": RangeEstimatorParametersSet.MEAN_MINMAX,
        "mse": RangeEstimatorParametersSet.HISTOGRAM,
        "histogram": RangeEstimatorParametersSet.HISTOGRAM,
    }[recipe.statistics]


class Restartable:
    """An iterable that restarts: NNCF iterates over the data once for ranges and once for bias correction."""

    def __init__(self, start: Any) -> None:
        self._start = start

    def __iter__(self) -> Any:
        """Start over."""
        return self._start()
