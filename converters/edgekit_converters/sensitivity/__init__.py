"""Sensitivity: measure how much accuracy each layer loses when it is quantized, from two artifacts and a few samples.

It needs no labels and quantizes nothing again. The quantized artifact runs as a whole, and once more split into units:
there every layer gets its inputs from the *float* model, and computes with the kernel, weights and scales that it has
in the quantized model. That separates its own error from the inherited one (as the layer analyses of AI Edge Quantizer
and AIMET do). The error is then added to the layer's output in the float model, whose outputs show its effect.
"""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from edgekit_converters.data import DataSet, batches
from edgekit_converters.execution.stage import Stage
from edgekit_converters.formats import format_of
from edgekit_converters.progress import report_progress
from edgekit_converters.recipe.recipe import Layer
from edgekit_converters.records import Artifact
from edgekit_converters.verify.parity import EXACT_DB, snr_db
from edgekit_runtime.format.manifest import InputSpec

Arrays = Sequence[np.ndarray]

MIN_SAMPLES = 8  # a softmax changes most on the few samples that are nearly undecided


@dataclass(frozen=True)
class SensitivityRequest:
    """Compare a float artifact with its quantized one, layer by layer."""

    artifact: Artifact  # float, that ``quantized`` was made from, before equalization
    quantized: Artifact
    layers: tuple[Layer, ...]  # with the nodes of the float artifact
    inputs: tuple[InputSpec, ...]
    data: DataSet
    samples: int = 64  # to compare outputs of layers
    runs: int = 512  # to compare outputs of the model: one run a layer and sample


@dataclass(frozen=True)
class LayerSensitivity:
    """The effect of quantizing a layer; signal-to-noise ratios in dB over all samples, at most 150 (no noise)."""

    layer: str
    operator: str
    merged_layers: tuple[str, ...]  # layers that the artifact computes in the same nodes
    parameters: int
    macs: int
    layer_db: float  # its output in the quantized model, with inherited errors
    own_db: float  # its output when only it is quantized
    alone_db: float  # the model's worst output when only it is quantized


@dataclass(frozen=True)
class Sensitivity:
    """The layers of one artifact that quantization changes, the most sensitive first."""

    engine: str
    model_db: float  # the model's worst output when all is quantized
    samples: int
    layers: tuple[LayerSensitivity, ...]


@dataclass(frozen=True)
class UnitOutputs:
    """Results of one unit for one sample: an array for each result that other units, or outputs of the model, use."""

    reference: Arrays  # in the float model
    in_model: Arrays  # in the quantized model
    alone: Arrays  # in the quantized model, from float inputs


class ArtifactPair(Protocol):
    """Both artifacts of one engine, opened so that each unit, which is a set of nodes, can run alone."""

    def run(self, sample: Arrays) -> list[UnitOutputs]:
        """Run a sample through both artifacts; arrays are (1, ...) in the source's order and units."""

    def outputs(self) -> tuple[Arrays, Arrays]:
        """Return the outputs of the float and of the quantized model in the last run."""

    def outputs_with_errors(self, sample: Arrays, unit: int, errors: Arrays) -> Arrays:
        """Return the outputs of the float model when errors are added to a unit's results."""


def sensitivity(request: SensitivityRequest, _folder: Path) -> Sensitivity:
    """The stage: run both artifacts and measure the effect of each layer, the most sensitive first.

    Raises:
        ToolchainError: an artifact cannot be split into units, or the engine cannot run it.
    """
    units = units_of(request.layers)
    open_pair = pkgutil.resolve_name(format_of(request.artifact.engine).artifact_pair)
    pair: ArtifactPair = open_pair(request, [_nodes(unit) for unit in units])
    ratios = [_UnitRatios() for _ in units]
    model = _OutputRatios()
    count = min(request.samples, request.data.count)
    output_samples = max(MIN_SAMPLES, request.runs // max(1, len(units)))  # to compare outputs of the model on
    for done, sample in enumerate(islice(batches(request.data, request.inputs, 1), count)):
        report_progress(done, count)
        results = pair.run(sample)
        expected, quantized = pair.outputs()
        model.add(expected, quantized)
        for unit, (unit_ratios, result) in enumerate(zip(ratios, results, strict=True)):
            unit_ratios.add(result)
            errors = [got - wanted for wanted, got in zip(result.reference, result.alone, strict=True)]
            if done < output_samples and any(map(np.any, errors)):
                unit_ratios.outputs.add(expected, pair.outputs_with_errors(sample, unit, errors))
    layers = (
        _layer_sensitivity(unit, unit_ratios)
        for unit, unit_ratios in zip(units, ratios, strict=True)
        if unit_ratios.own.noise
    )
    ordered = sorted(layers, key=lambda layer: (layer.alone_db, layer.own_db))
    return Sensitivity(request.artifact.engine, model.worst_db, count, tuple(ordered))


SENSITIVITY = Stage(sensitivity, toolchain=lambda request: request.artifact.toolchain)


def units_of(layers: Sequence[Layer]) -> list[tuple[Layer, ...]]:
    """Group layers that share nodes of the artifact, and leave out layers without nodes."""
    units: list[tuple[Layer, ...]] = []
    for layer in layers:
        if layer.nodes:
            shared = [unit for unit in units if _nodes(unit) & set(layer.nodes)]
            units = [unit for unit in units if unit not in shared]
            units.append((*(one for unit in shared for one in unit), layer))
    return units


def _nodes(unit: Sequence[Layer]) -> frozenset[str]:
    return frozenset(node for layer in unit for node in layer.nodes)


def _power(values: np.ndarray) -> float:
    """Return the sum of squares; a product of vectors would start BLAS's threads thousands of times for little work."""
    return float(np.square(values, dtype=np.float64).sum())


@dataclass
class _Ratio:
    """Power of a signal and of its noise, summed over samples."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, wanted: np.ndarray, got: np.ndarray) -> None:
        self.signal += _power(wanted)
        self.noise += _power(np.subtract(got, wanted, dtype=np.float64))

    @property
    def db(self) -> float:
        return snr_db(self.signal, self.noise) if math.isfinite(self.noise) else -EXACT_DB


@dataclass
class _OutputRatios:
    """A ratio for each output of the model."""

    ratios: list[_Ratio] = field(default_factory=list)

    def add(self, wanted: Arrays, got: Arrays) -> None:
        self.ratios = self.ratios or [_Ratio() for _ in wanted]
        for ratio, *pair in zip(self.ratios, wanted, got, strict=True):
            ratio.add(*pair)

    @property
    def worst_db(self) -> float:
        return min((ratio.db for ratio in self.ratios), default=EXACT_DB)


@dataclass
class _UnitRatios:
    """The ratios of one unit."""

    in_model: _Ratio = field(default_factory=_Ratio)
    own: _Ratio = field(default_factory=_Ratio)
    outputs: _OutputRatios = field(default_factory=_OutputRatios)

    def add(self, result: UnitOutputs) -> None:
        for wanted, in_model, alone in zip(result.reference, result.in_model, result.alone, strict=True):
            self.in_model.add(wanted, in_model)
            self.own.add(wanted, alone)


def _layer_sensitivity(unit: Sequence[Layer], unit_ratios: _UnitRatios) -> LayerSensitivity:
    """Return the sensitivity of a unit, named after the layer that a rule must name to select all of its nodes."""
    head = max(unit, key=lambda layer: (len(layer.nodes), layer.weighted))
    return LayerSensitivity(
        layer=head.name,
        operator=head.operator,
        merged_layers=tuple(layer.name for layer in unit if layer is not head),
        parameters=sum(layer.parameters for layer in unit),
        macs=sum(layer.macs for layer in unit),
        layer_db=unit_ratios.in_model.db,
        own_db=unit_ratios.own.db,
        alone_db=unit_ratios.outputs.worst_db,
    )
