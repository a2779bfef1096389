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
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.load import open_source, trainable
from edgekit_converters.records import ChannelCut, Source, SourceRequest
from edgekit_runtime.format.manifest import InputSpec

IMPORTANCES = ("l1", "l2", "taylor", "gradient", "batch-norm", "random")

Widths = Mapping[str, int]  # by group: how many of its channels are left


@dataclass(frozen=True)
class Group:
    """Channels that can only be cut together, because additions or shared weights connect their producers."""

    name: str  # the first layer that produces the channels
    kind: str  # "channels", "neurons" or "heads"
    width: int  # number of channels
    producers: tuple[str, ...]  # layers that have fewer outputs after a cut
    consumers: tuple[str, ...]  # layers that have fewer inputs after a cut


@dataclass(frozen=True)
class Channels:
    """The size of a dimension: ``fixed`` entries, and for each channel that a group keeps a number of entries."""

    fixed: int = 0
    # (group, entries for each channel): 1, H*W after flattening, or the size of a head
    group_entries: tuple[tuple[str, int], ...] = ()

    def count(self, widths: Widths) -> int:
        """Return the size for given group widths."""
        return self.fixed + sum(widths[group] * each for group, each in self.group_entries)


@dataclass(frozen=True)
class LayerCost:
    """The parameters and MACs of a layer as functions of the channels that are kept.

    A layer that is called several times is one record with the positions of all calls. A layer of several operations,
    such as a separable convolution, is one record for each, all with its name.
    """

    layer: str
    operator: str  # "conv", "depthwise", "dense", "attention" (its two matrix products), or "elementwise"
    ins: Channels
    outs: Channels
    positions: int  # that one sample has: H*W of the output, or tokens
    kernel: tuple[int, ...] = ()  # (height, width); (width,) in one dimension; none for dense; (keys,) for attention
    stride: tuple[int, ...] = ()
    channel_parameters: int = 0  # parameters for each output channel besides weights: bias, normalization
    divisions: int = 1  # groups of a grouped convolution

    def parameters(self, widths: Widths) -> int:
        """Return the number of parameters for given group widths."""
        return self._weights(widths) + self.channel_parameters * self.outs.count(widths)

    def macs(self, widths: Widths) -> int:
        """Return the MACs for given group widths; for attention, those of queries by keys and of scores by values."""
        if self.operator == "attention":
            return self.positions * self.kernel[0] * (self.ins.count(widths) + self.outs.count(widths))
        return self.positions * self._weights(widths)

    def _weights(self, widths: Widths) -> int:
        taken = {"depthwise": 1, "dense": self.ins.count(widths), "conv": self.ins.count(widths)}.get(self.operator, 0)
        return taken * self.outs.count(widths) * math.prod(self.kernel) // self.divisions


@dataclass(frozen=True)
class Branch:
    """A residual branch: layers that can be removed because their output is only added to a tensor of equal shape."""

    name: str  # of the addition that ends it
    layers: tuple[str, ...]  # that are removed with it, as LayerCost names them
    groups: tuple[str, ...]  # channel groups that are used only inside it
    stream: str  # the residual stream that it is added to; branches of one stream are a stage


@dataclass(frozen=True)
class PruningGraph:
    """The channel groups, branches and costs of a model."""

    groups: tuple[Group, ...]
    layer_costs: tuple[LayerCost, ...]  # in the order of execution
    unprunable: tuple[tuple[str, str], ...]  # (layer, reason why it cannot be cut)
    parameters: int  # of the whole model
    branches: tuple[Branch, ...] = ()

    @property
    def widths(self) -> dict[str, int]:
        """The widths of all groups, by name."""
        return {group.name: group.width for group in self.groups}

    def parameters_at(self, widths: Widths) -> int:
        """Return the parameters of the whole model for given group widths."""
        saved = sum(one.parameters(self.widths) - one.parameters(widths) for one in self.layer_costs)
        return self.parameters - saved

    def macs_at(self, widths: Widths) -> int:
        """Return the MACs of all layers for given group widths."""
        return sum(one.macs(widths) for one in self.layer_costs)


@dataclass(frozen=True)
class AnalyzeRequest:
    """Find the channel groups of a model."""

    source: Source


@dataclass(frozen=True)
class ScoreRequest:
    """Score the importance of every channel."""

    source: Source
    inputs: tuple[InputSpec, ...]  # with preprocessing
    importance: str  # one of IMPORTANCES
    data: DataSet | None = None  # for "taylor" and "gradient"; labels are optional
    seed: int = 0  # of "random"


@dataclass(frozen=True)
class Scores:
    """The importance of every channel; the lowest are cut first."""

    path: Path  # .npz: group's name -> (width,) float64


@dataclass(frozen=True)
class CutChannelsRequest:
    """Cut channels out of a model."""

    source: Source
    cuts: tuple[ChannelCut, ...]


@dataclass(frozen=True)
class DropBranchesRequest:
    """Remove residual branches from a model."""

    source: Source
    branches: tuple[str, ...]  # names


@dataclass(frozen=True)
class RecalibrateRequest:
    """Correct a pruned model with samples, without labels and without training.

    BatchNorm statistics are estimated again. With ``dense``, the weights after each cut are solved by least squares, so
    that the output of each layer is closest to that of the original (He et al., Channel Pruning, ICCV 2017, eq. 3).
    """

    source: Source
    inputs: tuple[InputSpec, ...]
    data: DataSet
    dense: Source | None = None
    cuts: tuple[ChannelCut, ...] = ()  # from ``dense`` to ``source``


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
    """Find the channel groups of a model, and what each layer costs.

    Raises:
        SourceError: the computation of the model cannot be traced, or no channel can be cut.
    """
    return _pruner(request.source).analyze(open_source(request.source.request))


ANALYZE = Stage(analyze, toolchain=lambda request: request.source.toolchain)


def score(request: ScoreRequest, folder: Path) -> Scores:
    """Score the importance of every channel.

    Raises:
        DataError: a gradient-based importance has no data, or the labels do not fit the model.
    """
    return _pruner(request.source).score(open_source(request.source.request), request, folder)


SCORE = Stage(score, toolchain=lambda request: request.source.toolchain)


def cut_channels(request: CutChannelsRequest, folder: Path) -> SourceRequest:
    """Cut channels out of a model, and return how to open the result.

    Raises:
        ConversionError: a cut would keep no channel of a group, or would remove none.
    """
    return _pruner(request.source).cut_channels(open_source(request.source.request), request, folder)


CUT_CHANNELS = Stage(cut_channels, toolchain=lambda request: request.source.toolchain)


def drop_branches(request: DropBranchesRequest, folder: Path) -> SourceRequest:
    """Remove residual branches from a model, and return how to open the result.

    Raises:
        ConversionError: there is no such branch, or the model does not run without it.
    """
    return _pruner(request.source).drop_branches(open_source(request.source.request), request, folder)


DROP_BRANCHES = Stage(drop_branches, toolchain=lambda request: request.source.toolchain)


def recalibrate(request: RecalibrateRequest, folder: Path) -> SourceRequest:
    """Correct a pruned model with samples, and return how to open the result."""
    return _pruner(request.source).recalibrate(open_source(request.source.request), request, folder)


RECALIBRATE = Stage(recalibrate, toolchain=lambda request: request.source.toolchain)
