"""Prune: remove the least important channels, neurons, heads and residual branches of a model.

Five stages. :func:`analyze` finds the groups of channels that can only be removed together, :func:`score` estimates
the importance of each channel, :func:`drop_branches` removes residual branches, :func:`cut_channels` removes channels,
and :func:`recalibrate` corrects the smaller model with a few samples, without training. Which parts go is decided
between the stages, in ``branch_selection.py`` and ``channel_selection.py``, which know no framework.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from edgekit_converters.data import DataSet
from edgekit_converters.execution.stage import Stage
from edgekit_converters.frameworks.live_model import LoadedModel
from edgekit_converters.load import open_source, trainable
from edgekit_converters.records import Cut, Source, SourceRequest
from edgekit_runtime.format.manifest import InputSpec

IMPORTANCES = ("l1", "l2", "taylor", "gradient", "batch-norm", "random")

Widths = Mapping[str, int]  # by group: how many of its channels are left


@dataclass(frozen=True)
class Group:
    """What can only be cut together: a channel is the same one wherever it is made, normalized, added and used."""

    name: str  # of the first layer that makes it
    kind: str  # "channels", "neurons" or "heads"
    width: int  # how many there are to choose among
    producers: tuple[str, ...]  # layers with fewer outputs when it is cut
    consumers: tuple[str, ...]  # layers with fewer inputs then


@dataclass(frozen=True)
class Channels:
    """How many entries a dimension has: ``fixed``, and for each group so many for each of its channels left."""

    fixed: int = 0
    group_entries: tuple[
        tuple[str, int], ...
    ] = ()  # (group, entries a channel): 1, H*W after flattening, the size of a head

    def count(self, widths: Widths) -> int:
        """Return the number for given widths."""
        return self.fixed + sum(widths[group] * each for group, each in self.group_entries)


@dataclass(frozen=True)
class LayerCost:
    """What a layer has to do, in terms of how many channels are left.

    A layer called more than once is one labour, with the positions of all its calls. A layer whose parts compute one
    after the other (a separable convolution) is one labour a part, under one name.
    """

    layer: str
    operator: (
        str  # "conv", "depthwise", "dense", "attention" (its two products), "elementwise" (only ``channel_parameters``)
    )
    ins: Channels
    outs: Channels
    positions: int  # at which it computes, for one sample: H*W of its output, or tokens
    kernel: tuple[int, ...] = ()  # (height, width); (width,) in one dimension; none for dense; (keys,) for attention
    stride: tuple[int, ...] = ()
    channel_parameters: int = 0  # parameters for each output besides its weights: bias, normalization
    divisions: int = 1  # of a grouped convolution

    def parameters(self, widths: Widths) -> int:
        """Return how many there are for given widths."""
        return self._weights(widths) + self.channel_parameters * self.outs.count(widths)

    def macs(self, widths: Widths) -> int:
        """Return the multiplications by weights, and of attention those of queries by keys and scores by values."""
        if self.operator == "attention":
            return self.positions * self.kernel[0] * (self.ins.count(widths) + self.outs.count(widths))
        return self.positions * self._weights(widths)

    def _weights(self, widths: Widths) -> int:
        taken = {"depthwise": 1, "dense": self.ins.count(widths), "conv": self.ins.count(widths)}.get(self.operator, 0)
        return taken * self.outs.count(widths) * math.prod(self.kernel) // self.divisions


@dataclass(frozen=True)
class Branch:
    """Layers whose output is only added to something of the same shape, so that they can go whole."""

    name: str  # of the addition
    layers: tuple[str, ...]  # that go with it, as labours name them
    groups: tuple[str, ...]  # of channels that lie within it alone
    stream: str  # what it is added to; branches that are added to the same one make a stage


@dataclass(frozen=True)
class PruningGraph:
    """What of a model may be cut, and what that saves."""

    groups: tuple[Group, ...]
    layer_costs: tuple[LayerCost, ...]  # in the order of execution
    unprunable: tuple[tuple[str, str], ...]  # (layer that is left whole, why)
    parameters: int  # of the model as it is, all of them
    branches: tuple[Branch, ...] = ()

    @property
    def widths(self) -> dict[str, int]:
        """Of the model as it is."""
        return {group.name: group.width for group in self.groups}

    def parameters_at(self, widths: Widths) -> int:
        """Return the parameters of the whole model for given widths: what no labour tells of stays."""
        saved = sum(one.parameters(self.widths) - one.parameters(widths) for one in self.layer_costs)
        return self.parameters - saved

    def macs_at(self, widths: Widths) -> int:
        """Return the MACs for given widths, of all layers whose labour is told."""
        return sum(one.macs(widths) for one in self.layer_costs)


@dataclass(frozen=True)
class AnalyzeRequest:
    """Find what can be cut."""

    source: Source


@dataclass(frozen=True)
class ScoreRequest:
    """Say what every channel is worth."""

    source: Source
    inputs: tuple[InputSpec, ...]  # with preprocessing
    importance: str  # one of IMPORTANCES
    data: DataSet | None = None  # for "taylor" and "gradient"; with labels where there are any
    seed: int = 0  # of "random"


@dataclass(frozen=True)
class Scores:
    """What every channel is worth: the least is cut first."""

    path: Path  # .npz: group's name -> (width,) float64


@dataclass(frozen=True)
class CutChannelsRequest:
    """Make the smaller model."""

    source: Source
    cuts: tuple[Cut, ...]


@dataclass(frozen=True)
class DropBranchesRequest:
    """Make the model without some of its branches."""

    source: Source
    branches: tuple[str, ...]  # names


@dataclass(frozen=True)
class RecalibrateRequest:
    """Repair a model that was cut, from samples without labels, towards what the dense one computes.

    BatchNorm statistics are estimated anew; with ``dense``, weights after a cut are solved for by least squares, so
    that each layer's output comes closest to the dense model's (as He et al., Channel Pruning, ICCV 2017, eq. 3).
    """

    source: Source
    inputs: tuple[InputSpec, ...]
    data: DataSet
    dense: Source | None = None
    cuts: tuple[Cut, ...] = ()  # that led from ``dense`` to ``source``


class Pruner(Protocol):
    """The module of a framework that prunes its open models; its functions do the work of the stages below."""

    @staticmethod
    def analyze(live: LoadedModel, /) -> PruningGraph:
        """Find the groups of channels that can be cut."""

    @staticmethod
    def score(live: LoadedModel, request: ScoreRequest, folder: Path, /) -> Scores:
        """Estimate the importance of every channel."""

    @staticmethod
    def cut_channels(live: LoadedModel, request: CutChannelsRequest, folder: Path, /) -> SourceRequest:
        """Write the model without some of its channels."""

    @staticmethod
    def drop_branches(live: LoadedModel, request: DropBranchesRequest, folder: Path, /) -> SourceRequest:
        """Write the model without some of its residual branches."""

    @staticmethod
    def recalibrate(live: LoadedModel, request: RecalibrateRequest, folder: Path, /) -> SourceRequest:
        """Write the model with corrected weights and statistics."""


def _pruner(source: Source) -> Pruner:
    """Import the pruner of a source's framework.

    Raises:
        SourceError: its models can be run only.
    """
    return cast(Pruner, importlib.import_module(trainable(source).pruner))


def analyze(request: AnalyzeRequest, _folder: Path) -> PruningGraph:
    """The stage: find what of a model can be cut.

    Raises:
        SourceError: its computation cannot be followed, or nothing of it can be cut.
    """
    return _pruner(request.source).analyze(open_source(request.source.request))


ANALYZE = Stage(analyze, toolchain=lambda request: request.source.toolchain)


def score(request: ScoreRequest, folder: Path) -> Scores:
    """The stage: say what every channel is worth.

    Raises:
        DataError: an importance that looks at gradients got no data, or labels that do not fit.
    """
    return _pruner(request.source).score(open_source(request.source.request), request, folder)


SCORE = Stage(score, toolchain=lambda request: request.source.toolchain)


def cut_channels(request: CutChannelsRequest, folder: Path) -> SourceRequest:
    """The stage: make the smaller model, and say how to open it.

    Raises:
        ConversionError: a cut would leave nothing of a group, or took nothing away.
    """
    return _pruner(request.source).cut_channels(open_source(request.source.request), request, folder)


CUT_CHANNELS = Stage(cut_channels, toolchain=lambda request: request.source.toolchain)


def drop_branches(request: DropBranchesRequest, folder: Path) -> SourceRequest:
    """The stage: make the model without some of its residual branches, and say how to open it.

    Raises:
        ConversionError: there is no such branch, or the model does not compute without it.
    """
    return _pruner(request.source).drop_branches(open_source(request.source.request), request, folder)


DROP_BRANCHES = Stage(drop_branches, toolchain=lambda request: request.source.toolchain)


def recalibrate(request: RecalibrateRequest, folder: Path) -> SourceRequest:
    """The stage: repair a model that was cut, and say how to open it."""
    return _pruner(request.source).recalibrate(open_source(request.source.request), request, folder)


RECALIBRATE = Stage(recalibrate, toolchain=lambda request: request.source.toolchain)
