"""Narrow the ranges of a float ``.tflite``'s tensors to what the recipe's statistics keep of the values seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit_converters.formats.tflite_tensors import KeptTensors
from edgekit_converters.quantize.calibration_samples import samples
from edgekit_converters.quantize.ranges import Ends, Histogram, HistogramBins, entropy, mse, percentile
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import QuantizeRequest

Ranges = dict[str, dict[str, Any]]  # as AI Edge Quantizer has them: tensor's name: {"min": (1,), "max": (1,)}
LEVELS = {"int8-static": 256, "int16x8-static": 65536}


def narrow(request: QuantizeRequest, extremes: Ranges) -> Ranges:
    """Return the ranges to quantize with, where ``extremes`` are the least and greatest values seen.

    The samples are run once more, and of every tensor only a histogram is kept. What the model takes and gives keeps
    its extremes, because the application sees it: what is rare there, such as a probability near 1, may be what
    matters.

    Raises:
        CalibrationError: there are no calibration data.
    """
    kept = KeptTensors(request.artifact.files[0])
    names = {index: name for index, name in _computed(request.artifact.files[0].read_bytes()) if name in extremes}
    histograms = {index: Histogram() for index in names}
    for sample in samples(request):
        kept.run(sample)
        for index, histogram in histograms.items():
            histogram.add(kept.value(index))
    ranges = {
        names[index]: _narrowed(request.recipe, histogram.bins(), extremes[names[index]])
        for index, histogram in histograms.items()
    }
    return extremes | ranges


def _narrowed(recipe: Recipe, bins: HistogramBins, extremes: dict[str, Any]) -> dict[str, Any]:
    seen = float(np.min(extremes["min"])), float(np.max(extremes["max"]))
    if not len(bins.count):
        return extremes
    low, high = _ends(recipe, bins, seen)
    return {"min": np.array([max(low, seen[0])], np.float32), "max": np.array([min(high, seen[1])], np.float32)}


def _ends(recipe: Recipe, bins: HistogramBins, seen: Ends) -> Ends:
    if recipe.statistics == "percentile":
        return percentile(bins, recipe.percentile)
    return {"mse": mse, "histogram": entropy}[recipe.statistics](bins, seen, _levels(recipe))


def _levels(recipe: Recipe) -> int:
    """Return how many integers a range is spread over; in a mixture the fewest."""
    return min(LEVELS[scheme] for scheme in recipe.schemes if scheme in LEVELS)


def _computed(content: bytes) -> Iterator[tuple[int, str]]:
    """Yield index and name of every float32 tensor between the main graph's inputs and outputs."""
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    operators = [graph.Operators(place) for place in range(graph.OperatorsLength())]
    given = {graph.Outputs(place) for place in range(graph.OutputsLength())}
    for index in [operator.Outputs(place) for operator in operators for place in range(operator.OutputsLength())]:
        if index >= 0 and index not in given and graph.Tensors(index).Type() == schema.TensorType.FLOAT32:
            yield index, graph.Tensors(index).Name().decode()
