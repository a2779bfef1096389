"""Clip the ranges of a float ``.tflite``'s tensors by the recipe's statistics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit_converters.formats.tflite_tensors import PreservedTensors
from edgekit_converters.quantize.calibration_samples import samples
from edgekit_converters.quantize.ranges import Ends, Histogram, HistogramBins, entropy, mse, percentile
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import QuantizeRequest

Ranges = dict[str, dict[str, Any]]  # AI Edge Quantizer's form: name of a tensor: {"min": (1,), "max": (1,)}
LEVELS = {"int8-static": 256, "int16x8-static": 65536}


def clip_ranges(request: QuantizeRequest, extremes: Ranges) -> Ranges:
    """Return the ranges to quantize with; ``extremes`` are the smallest and largest calibration values.

    Runs the samples again and keeps a histogram of every tensor. Inputs and outputs of the model keep their extremes,
    because the application sees them: a rare value there, such as a probability near 1, may be the important one.

    Raises:
        CalibrationError: there are no calibration data.
    """
    interpreter = PreservedTensors(request.artifact.files[0])
    names = {index: name for index, name in _inner_tensors(request.artifact.files[0].read_bytes()) if name in extremes}
    histograms = {index: Histogram() for index in names}
    for sample in samples(request):
        interpreter.run(sample)
        for index, histogram in histograms.items():
            histogram.add(interpreter.value(index))
    ranges = {
        names[index]: _clipped(request.recipe, histogram.bins(), extremes[names[index]])
        for index, histogram in histograms.items()
    }
    return extremes | ranges


def _clipped(recipe: Recipe, bins: HistogramBins, extremes: dict[str, Any]) -> dict[str, Any]:
    full = float(np.min(extremes["min"])), float(np.max(extremes["max"]))
    if not len(bins.count):
        return extremes
    low, high = _ends(recipe, bins, full)
    return {"min": np.array([max(low, full[0])], np.float32), "max": np.array([min(high, full[1])], np.float32)}


def _ends(recipe: Recipe, bins: HistogramBins, full: Ends) -> Ends:
    if recipe.statistics == "percentile":
        return percentile(bins, recipe.percentile)
    return {"mse": mse, "histogram": entropy}[recipe.statistics](bins, full, _levels(recipe))


def _levels(recipe: Recipe) -> int:
    """Return the number of integers in a range; of several schemes the smallest."""
    return min(LEVELS[scheme] for scheme in recipe.schemes if scheme in LEVELS)


def _inner_tensors(content: bytes) -> Iterator[tuple[int, str]]:
    """Yield index and name of every float32 tensor between the main graph's inputs and outputs."""
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    operators = [graph.Operators(place) for place in range(graph.OperatorsLength())]
    outputs = {graph.Outputs(place) for place in range(graph.OutputsLength())}
    for index in [operator.Outputs(place) for operator in operators for place in range(operator.OutputsLength())]:
        if index >= 0 and index not in outputs and graph.Tensors(index).Type() == schema.TensorType.FLOAT32:
            yield index, graph.Tensors(index).Name().decode()
