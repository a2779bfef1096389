"""What the stages of a conversion share: the opened model, its data and plans; and the records between the stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekit.conversion.manifest import BuiltArtifact
from edgekit.conversion.trial import Trial
from edgekit.parallel.executor import SEQUENTIAL, Executor
from edgekit.plan.data import DataPlan
from edgekit.plan.targets import TargetPlan
from edgekit_converters.data import DataSet
from edgekit_converters.examine.coverage import Coverage
from edgekit_converters.execution.runner import Runner
from edgekit_converters.records import Artifact, Comparison, Evaluation, Examination, Probe, Source
from edgekit_runtime.format.manifest import InputSpec


@dataclass(frozen=True)
class DataSplit:
    """The use of a set of samples, and how many samples that takes."""

    name: str
    minimum: int = 1
    recommended: int = 1
    samples: int | None = None  # at most, spread over the set


CALIBRATION, EVALUATION = DataSplit("calibration", 16, 100), DataSplit("evaluation")


@dataclass(frozen=True)
class ConversionContext:
    """The opened model with its data, and the runner of its stages."""

    runner: Runner
    data: DataPlan
    targets: TargetPlan
    source: Source
    inputs: tuple[InputSpec, ...]  # with preprocessing
    probe: Probe
    calibration: DataSet | None
    evaluation: DataSet | None
    classes: bool = False  # the first output has class scores
    agreement: bool = False  # the evaluation data are labelled with the source's own outputs
    unpruned: Source | None = None  # the model that the source was pruned from
    executor: Executor = SEQUENTIAL

    def __getstate__(self) -> dict[str, Any]:
        """Leave the executor out: another process runs everything sequentially."""
        return vars(self) | {"executor": SEQUENTIAL}

    @property
    def reference(self) -> Source:
        """The model that accuracy drops are measured against: the source before pruning."""
        return self.unpruned or self.source


@dataclass(frozen=True)
class ExaminedArtifact:
    """A float artifact, and what makes it hard to quantize."""

    artifact: Artifact
    examination: Examination


@dataclass(frozen=True)
class VerifiedArtifact(ExaminedArtifact):
    """A float artifact that was compared with the source."""

    comparison: Comparison


@dataclass(frozen=True)
class Outcome:
    """The artifacts of a conversion, and how they were selected."""

    targets: TargetPlan  # with the variants that were built
    baseline: Evaluation | None  # of the source
    built: dict[tuple[str, str], BuiltArtifact]  # by (engine, scheme)
    trials: tuple[Trial, ...] = ()  # of a candidate search
    choices: tuple[str, ...] = ()  # of a candidate search: a paragraph for each selected artifact
    notes: tuple[str, ...] = ()
    coverage: Coverage | None = None  # of the calibration data
