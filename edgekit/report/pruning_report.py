"""The part of a report that describes pruning: plain data."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit_converters.records import Latency
from edgekit_converters.train import Epoch, SparseLayer


@dataclass(frozen=True)
class ModelReport:
    """One model in one format and scheme."""

    model: str  # "dense" is the original; then "pruned", or "trained" where nothing was pruned
    engine: str
    scheme: str
    parameters: int | None  # with zeros; None if the model cannot be analyzed
    macs: int | None  # None if the model cannot be analyzed
    size_bytes: int
    value: float | None  # of the metric
    latency_ms: Latency  # measured in turns with the other models of its engine
    compressed_bytes: int | None = None  # by DEFLATE, as in a ZIP file; only with sparsity


@dataclass(frozen=True)
class GroupReport:
    """Channels that are pruned together."""

    name: str
    kind: str
    width: int
    left: int


@dataclass(frozen=True)
class RoundReport:
    """A training after pruning; values are measured on held-out training data."""

    metric: str
    before: float
    value: float
    best: int
    history: tuple[Epoch, ...]


@dataclass(frozen=True)
class PruningReport:
    """What was pruned, and the effect. ``counted`` and ``measured`` are the fractions left of the goal's measure."""

    goal: str
    importance: str
    counted: float
    measured: float | None
    measured_in: str | None
    metric: str | None
    dense: float | None  # metric of the original model
    pruned: float | None  # metric of the pruned model
    groups: tuple[GroupReport, ...]
    whole: tuple[tuple[str, str], ...]  # layers that were not pruned, and why
    rounds: tuple[RoundReport, ...]
    models: tuple[ModelReport, ...]
    notes: tuple[str, ...]
    sparse: tuple[SparseLayer, ...] = ()  # layers with zero weights
    dropped: tuple[str, ...] = ()  # residual branches that were removed

    @property
    def became(self) -> str:
        """What happened to the model: "pruned", or only "trained"."""
        return "pruned" if self.groups or self.sparse or self.dropped else "trained"

    def display_name(self, model: str) -> str:
        """Return the name of a model for people."""
        return "original" if model == "dense" else model
