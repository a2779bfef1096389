"""Sense: tell which layers cost accuracy when they are quantized, from the two artifacts and a few samples.

No label is needed and nothing is quantized again. The quantized artifact is run whole, and once more cut apart: every
layer is given what the *float* model gives it, and computes with the very kernel, weights and scales that it has in
the quantized model. So its own error is told from what it inherits (as AI Edge Quantizer's and AIMET's layer analyses
do). That error is then added to the layer's output in the float model, whose answer shows what it does at the end.
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

FEWEST = 8  # samples: a softmax is disturbed by the few that are nearly undecided


@dataclass(frozen=True)
class SensitivityRequest:
    """Compare an artifact with its quantized self, layer by layer."""

    artifact: Artifact  # float, and what ``quantized`` was made of: not what was equalized since
    quantized: Artifact
    layers: tuple[Layer, ...]  # with the nodes of the float artifact
    inputs: tuple[InputSpec, ...]
    data: DataSet
    samples: int = 64  # to compare outputs of layers on
    runs: int = 512  # to compare outputs of the model on: these take one a layer and sample


@dataclass(frozen=True)
class LayerSensitivity:
    """What quantizing a layer does; each ratio of signal to noise is in dB over all samples, at most 150 (no noise)."""

    layer: str
    operator: str
    also: tuple[str, ...]  # layers that the artifact computes in the same nodes
    parameters: int
    macs: int
    layer_db: float  # its output in the quantized model: with what it inherits
    own_db: float  # its output when only it is quantized
    alone_db: float  # the model's worst output when only it is quantized


@dataclass(frozen=True)
class Sensitivity:
    """The layers of one artifact that quantization changes, the most harmful first."""

    engine: str
    whole_db: float  # the model's worst output when all is quantized
    samples: int
    harms: tuple[LayerSensitivity, ...]


@dataclass(frozen=True)
class UnitOutputs:
    """What one unit gives for one sample, an array an exit: values that others, or the model's user, take from it."""

    wanted: Arrays  # in the float model
    whole: Arrays  # in the quantized model
    alone: Arrays  # in the quantized model, from float inputs


class ArtifactPair(Protocol):
    """Both artifacts of one engine, opened so that every unit, which is a set of nodes, can be looked at alone."""

    def look(self, sample: Arrays) -> list[UnitOutputs]:
        """Run a sample through both artifacts; arrays are (1, ...) in the source's order and units."""

    def answers(self) -> tuple[Arrays, Arrays]:
        """Return what the float and the quantized model gave at last."""

    def disturbed(self, sample: Arrays, unit: int, errors: Arrays) -> Arrays:
        """Return what the float model gives when errors are added to a unit's exits."""


def sensitivity(request: SensitivityRequest, _folder: Path) -> Sensitivity:
    """The stage: run both artifacts and say what each layer costs, the most harmful first.

    Raises:
        ToolchainError: an artifact cannot be taken apart, or its engine cannot run it so.
    """
    units = units_of(request.layers)
    open_pair = pkgutil.resolve_name(format_of(request.artifact.engine).artifact_pair)
    pair: ArtifactPair = open_pair(request, [_nodes(unit) for unit in units])
    tallies = [_Tallies() for _ in units]
    whole = _Answers()
    count = min(request.samples, request.data.count)
    answers = max(FEWEST, request.runs // max(1, len(units)))  # samples to compare outputs of the model on
    for done, sample in enumerate(islice(batches(request.data, request.inputs, 1), count)):
        report_progress(done, count)
        sights = pair.look(sample)
        answer, quantized = pair.answers()
        whole.add(answer, quantized)
        for unit, (tally, sight) in enumerate(zip(tallies, sights, strict=True)):
            tally.add(sight)
            errors = [got - wanted for wanted, got in zip(sight.wanted, sight.alone, strict=True)]
            if done < answers and any(map(np.any, errors)):
                tally.answers.add(answer, pair.disturbed(sample, unit, errors))
    harms = (_harm(unit, tally) for unit, tally in zip(units, tallies, strict=True) if tally.own.noise)
    ordered = sorted(harms, key=lambda harm: (harm.alone_db, harm.own_db))
    return Sensitivity(request.artifact.engine, whole.worst_db, count, tuple(ordered))


SENSITIVITY = Stage(sensitivity, toolchain=lambda request: request.artifact.toolchain)


def units_of(layers: Sequence[Layer]) -> list[tuple[Layer, ...]]:
    """Bring layers together that share nodes of the artifact, and leave out those that have none there."""
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
    """Return the sum of squares. A product of vectors would wake BLAS's threads, thousands of times for little work."""
    return float(np.square(values, dtype=np.float64).sum())


@dataclass
class _Ratio:
    """Powers of a signal and of the noise in it, summed over samples."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, wanted: np.ndarray, got: np.ndarray) -> None:
        self.signal += _power(wanted)
        self.noise += _power(np.subtract(got, wanted, dtype=np.float64))

    @property
    def db(self) -> float:
        return snr_db(self.signal, self.noise) if math.isfinite(self.noise) else -EXACT_DB


@dataclass
class _Answers:
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
class _Tallies:
    """What is summed up of one unit."""

    whole: _Ratio = field(default_factory=_Ratio)
    own: _Ratio = field(default_factory=_Ratio)
    answers: _Answers = field(default_factory=_Answers)

    def add(self, sight: UnitOutputs) -> None:
        for wanted, whole, alone in zip(sight.wanted, sight.whole, sight.alone, strict=True):
            self.whole.add(wanted, whole)
            self.own.add(wanted, alone)


def _harm(unit: Sequence[Layer], tally: _Tallies) -> LayerSensitivity:
    """Call a unit by the layer that a rule has to name to reach all of it."""
    head = max(unit, key=lambda layer: (len(layer.nodes), layer.weighted))
    return LayerSensitivity(
        layer=head.name,
        operator=head.operator,
        also=tuple(layer.name for layer in unit if layer is not head),
        parameters=sum(layer.parameters for layer in unit),
        macs=sum(layer.macs for layer in unit),
        layer_db=tally.whole.db,
        own_db=tally.own.db,
        alone_db=tally.answers.worst_db,
    )
