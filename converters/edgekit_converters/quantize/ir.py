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
from edgekit_converters.formats.openvino_model import ANY, openvino_errors, write
from edgekit_converters.progress import report_progress
from edgekit_converters.quantize.average_pools import free_average_pools
from edgekit_converters.quantize.equalize_ir import equalize_model
from edgekit_converters.quantize.ir_rules import UNUSED, compress, in_use, left_alone
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
    with openvino_errors("quantize", ANY), without(*UNUSED):
        model = ov.Core().read_model(request.artifact.files[0])
        if "equalize" in request.recipe.corrections:
            equalize_model(model)
        if in_use(request, "int8-static"):
            model = free_average_pools(_calibrated(model, request))
        model = compress(model, request)
        return write(model, folder, half=request.scheme == "float16")


def _calibrated(model: ov.Model, request: QuantizeRequest) -> Any:
    """Quantize with the recipe's statistics, and with bias correction: layer after layer unless it says "bias-fast".

    NNCF's defaults, the mean of each sample's extremes and a bias correction that looks at every layer alone, are
    quicker and cost 3 to 24 dB on the models of the benchmarks.
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
        ignored_scope=left_alone(model, request, "int8-static"),
        # SmoothQuant (Xiao et al., ICML 2023) comes with what else NNCF knows of transformers, such as attention's mask
        model_type=nncf.ModelType.TRANSFORMER if "smooth" in request.recipe.corrections else None,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=_estimator(request.recipe)
        ),
    )
    if "bias-fast" not in request.recipe.corrections:
        with suppress(AssertionError):  # NNCF's, layer after layer, of a transposed convolution that comes first
            return calibrated(fast_bias_correction=False)
    return calibrated(fast_bias_correction=True)


def _estimator(recipe: Recipe) -> Any:
    """Return what NNCF has for the recipe's statistics.

    Its histogram is searched for the least squared error, which is what "mse" means; it has no other. Percentiles it
    takes of each sample alone; the widest over the samples holds at least as many of all values as asked for, and the
    mean, which is NNCF's own choice, may hold far fewer.
    """
    if recipe.statistics == "percentile":
        beyond = (100 - recipe.percentile) / 200  # at either end
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
    """An iterable that starts anew each time: NNCF walks the data once for ranges and once for bias correction."""

    def __init__(self, start: Any) -> None:
        self._start = start

    def __iter__(self) -> Any:
        """Start over."""
        return self._start()
