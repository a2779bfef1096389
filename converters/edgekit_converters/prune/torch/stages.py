"""Prune PyTorch modules: one function for each stage.

A pruned module is the user's own module with smaller layers. Its request is that of the original module plus the cuts
and the remaining weights. Opening it builds the module again and repeats the cuts (:func:`repeat_cuts`).
"""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekit_converters.execution import toolchains
from edgekit_converters.foreign_errors import short_message
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.frameworks.torch_calls import FORWARD_ERRORS, FlatModule, example_inputs, is_exported_program
from edgekit_converters.load import reopen
from edgekit_converters.prune import (
    CutChannelsRequest,
    DropBranchesRequest,
    PruningGraph,
    RecalibrateRequest,
    ScoreRequest,
    Scores,
)
from edgekit_converters.prune.residual_branches import find_branches
from edgekit_converters.prune.torch.analyze import pruning_graph
from edgekit_converters.prune.torch.attention import make_heads_prunable
from edgekit_converters.prune.torch.channel_groups import ChannelGroups, group_channels
from edgekit_converters.prune.torch.drop_branch import removable_branches, without_branches
from edgekit_converters.prune.torch.propagate import propagate_channels
from edgekit_converters.prune.torch.reconstruct import OriginalModule, reconstruct_weights, update_batch_norm
from edgekit_converters.prune.torch.scores import channel_scores
from edgekit_converters.prune.torch.stored_sizes import (
    StoredSize,
    Tensors,
    find_mismatch,
    find_stored_sizes,
    run,
    slice_weights,
)
from edgekit_converters.records import BranchRemoval, ChannelCut, SourceRequest
from edgekit_runtime.errors import ConversionError, SourceError

SEED = 0


@dataclass(frozen=True)
class ModuleAnalysis:
    """The channel groups of a module, and the attributes to set after a cut."""

    groups: ChannelGroups
    stored_sizes: tuple[StoredSize, ...]
    graph: PruningGraph


_analyses: weakref.WeakKeyDictionary[nn.Module, ModuleAnalysis] = weakref.WeakKeyDictionary()


def analyze(live: LoadedModel) -> PruningGraph:
    """Find the channel groups of a module.

    Raises:
        SourceError: it cannot be exported, or no channel can be cut; the message says why.
    """
    return analysis_of(live).graph


def analysis_of(live: LoadedModel) -> ModuleAnalysis:
    """Return the analysis of an open module, computed once.

    Raises:
        SourceError: as :func:`analyze`.
    """
    toolchains.require_modules(("torch_pruning",), ("torch",), "analyze")
    if live.handle not in _analyses:
        if is_exported_program(live.handle.module):
            raise SourceError(
                "a torch.export program has fixed layer sizes, so no layer can be cut; give the module "
                "it was made from: FILE.py:function --weights FILE --input-shape 1,3,224,224"
            )
        _analyses[live.handle] = _analyze(prunable_copy(live), example_inputs(live))
    return _analyses[live.handle]


def prunable_copy(live: LoadedModel) -> nn.Module:
    """Return a copy of an open module, in evaluation mode, whose attention heads can be cut."""
    return make_heads_prunable(copy.deepcopy(live.handle.module)).eval()


def score(live: LoadedModel, request: ScoreRequest, folder: Path) -> Scores:
    """Score the importance of every channel; the formulas are in ``importance.py``.

    Raises:
        DataError: an importance that needs gradients got no data, or labels do not fit.
        SourceError: as :func:`analyze`, or the module has no weights that the importance reads.
    """
    path = folder / "scores.npz"
    scores: dict[str, Any] = channel_scores(live, prunable_copy(live), analysis_of(live).groups, request)
    np.savez(path, **scores)
    return Scores(path)


def cut_channels(live: LoadedModel, request: CutChannelsRequest, folder: Path) -> SourceRequest:
    """Cut channels, check the result, and write the remaining weights into ``folder``.

    Raises:
        ConversionError: a cut does not fit, takes nothing away, or leaves a module that does not compute or cost what
            it should.
    """
    analysis = analysis_of(live)
    removed = _removed_roots(analysis.groups, request.cuts)
    dense, inputs = prunable_copy(live), example_inputs(live)
    small = copy.deepcopy(dense)
    slice_weights(small, analysis.groups, removed, analysis.stored_sizes)
    _verify(analysis, dense, small, request.cuts, inputs)
    path = folder / "weights.pt"
    torch.save(small.state_dict(), path)
    return replace(request.source.request, cuts=_merged_cuts(request.source.request.cuts, request.cuts), weights=path)


def drop_branches(live: LoadedModel, request: DropBranchesRequest, folder: Path) -> SourceRequest:
    """Remove residual branches, check the result, and write the remaining weights into ``folder``.

    Raises:
        ConversionError: there is no such branch, or something else of the module changes with it.
    """
    source = request.source.request
    short = without_branches(prunable_copy(live), example_inputs(live), request.branches)
    path = folder / "weights.pt"
    torch.save(short.state_dict(), path)
    return replace(source, cuts=(*source.cuts, *map(BranchRemoval, request.branches)), weights=path)


def recalibrate(live: LoadedModel, request: RecalibrateRequest, folder: Path) -> SourceRequest:
    """Correct a pruned module with samples, and write its weights into ``folder``; see ``reconstruct.py``."""
    small = copy.deepcopy(live.handle.module)
    if request.dense is not None and request.cuts:
        dense = reopen(request.dense.request)
        analysis = analysis_of(dense)
        reconstruct_weights(
            small,
            OriginalModule(prunable_copy(dense), analysis.groups, _removed_roots(analysis.groups, request.cuts)),
            live,
            request,
        )
    update_batch_norm(small, live, request)
    path = folder / "weights.pt"
    torch.save(small.state_dict(), path)
    return replace(request.source.request, weights=path)


def repeat_cuts(model: nn.Module, inputs: Tensors, cuts: Sequence[ChannelCut | BranchRemoval]) -> nn.Module:
    """Cut a freshly built module as :func:`cut_channels` and :func:`drop_branches` did.

    The weights are loaded afterwards.

    Raises:
        ConversionError: the module differs from the one that was cut.
    """
    model = make_heads_prunable(model).eval()
    run(model, inputs)  # weights that are computed before each pass can be copied after one without gradients
    for kind, alike in itertools.groupby(cuts, type):
        if kind is BranchRemoval:
            model = without_branches(model, inputs, [one.branch for one in alike if isinstance(one, BranchRemoval)])
        else:
            analysis = _analyze(model, inputs)
            slice_weights(
                model,
                analysis.groups,
                _removed_roots(analysis.groups, [one for one in alike if isinstance(one, ChannelCut)]),
                analysis.stored_sizes,
            )
    return model


def _analyze(model: nn.Module, inputs: Tensors) -> ModuleAnalysis:
    found = group_channels(propagate_channels(export(model, inputs), model))
    left, stored_sizes = find_stored_sizes(_with_random_weights(model), found, inputs)
    if not left.groups:
        raise SourceError(f"no layer of the module can be cut:{reasons(left.unprunable)}")
    whole = pruning_graph(model, left)
    return ModuleAnalysis(
        left, stored_sizes, replace(whole, branches=find_branches(whole, removable_branches(model, inputs)))
    )


def _with_random_weights(model: nn.Module) -> nn.Module:
    """Return a copy with seeded weights, so that trials give the same result for any loaded weights."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(SEED)
    for one in (*model.parameters(), *model.buffers()):
        if not one.is_floating_point():
            continue
        with torch.no_grad():
            if one.dim() > 1:
                one.copy_(torch.randn(one.shape, generator=generator) * (one.shape[0] / one.numel()) ** 0.5)
            elif one.dim() == 1:
                one.copy_(0.5 + torch.rand(one.shape, generator=generator))
    return model


def reasons(whole: Sequence[tuple[str, str]], count: int = 8) -> str:
    """Return a line for each layer that cannot be cut, with the reason."""
    told_of = [f"\n  {layer or 'the module itself'}: {why}" for layer, why in whole[:count]]
    more = [f"\n  and {len(whole) - count} more"] if len(whole) > count else []
    return "".join((*told_of, *more)) or " it has no convolution or linear layer that another layer reads"


def export(model: nn.Module, inputs: Tensors) -> Any:
    """Return the operations of a module.

    Raises:
        SourceError: ``torch.export`` cannot follow its forward pass.
    """
    try:
        program = torch.export.export(FlatModule(model), inputs).module()
    except FORWARD_ERRORS as error:
        raise SourceError(
            f"torch.export cannot follow the module's forward pass ({short_message(error)}); channels are traced "
            f"through the exported program: remove control flow that depends on tensor values"
        ) from error
    program.graph.eliminate_dead_code()  # attention's weights, where nobody reads them
    return program


def _removed_roots(groups: ChannelGroups, cuts: Sequence[ChannelCut]) -> set[int]:
    widths = {group.info.name: group.info.width for group in groups.groups}
    for one in cuts:
        if one.group not in widths:
            whys = dict(groups.unprunable)
            why = f"{one.group} cannot be cut: {whys[one.group]}" if one.group in whys else f"no group {one.group!r}"
            raise ConversionError(why, stage="cut_channels", advice=f"there are {', '.join(widths)}")
        if not one.kept:
            raise ConversionError(
                f"a cut would remove all channels of {one.group}", stage="cut_channels", advice="keep a channel"
            )
        if sorted(set(one.kept)) != list(one.kept) or not 0 <= one.kept[0] <= one.kept[-1] < widths[one.group]:
            raise ConversionError(
                f"{one.group} has channels 0 to {widths[one.group] - 1}; the kept ones must be among them, ascending",
                stage="cut_channels",
                advice="select the channels again from the current module",
            )
    removed = groups.removed_roots({one.group: one.kept for one in cuts})
    if not removed:
        raise ConversionError("the cuts remove no channel", stage="cut_channels", advice="prune more, or do not prune")
    return removed


def _verify(
    analysis: ModuleAnalysis, dense: nn.Module, small: nn.Module, cuts: Sequence[ChannelCut], inputs: Tensors
) -> None:
    """Refuse a pruned module that computes something wrong, cannot be exported, or has another cost than predicted."""
    removed, cut_groups = _removed_roots(analysis.groups, cuts), {one.group for one in cuts}
    producers = [
        layer for group in analysis.groups.groups if group.info.name in cut_groups for layer in group.info.producers
    ]
    why = find_mismatch(dense, analysis.groups, removed, analysis.stored_sizes, inputs)
    if why is not None:
        raise ConversionError(
            f"cutting {producers[0]}: {why}",
            stage="cut_channels",
            advice=f"exclude it: --exclude-layer {producers[0]}",
        )
    widths = analysis.graph.widths | {one.group: len(one.kept) for one in cuts}
    again = pruning_graph(small, group_channels(propagate_channels(export(small, inputs), small)))
    wanted = analysis.graph.parameters_at(widths), analysis.graph.macs_at(widths)
    if (again.parameters, again.macs_at(again.widths)) != wanted:
        raise ConversionError(
            f"the module has {again.parameters} parameters and {again.macs_at(again.widths)} MACs after cutting "
            f"{', '.join(producers[:3])}; {wanted[0]} and {wanted[1]} were predicted",
            stage="cut_channels",
            advice=f"exclude them: --exclude-layer {producers[0]}",
        )


def _merged_cuts(
    before: Sequence[ChannelCut | BranchRemoval], after: Sequence[ChannelCut]
) -> tuple[ChannelCut | BranchRemoval, ...]:
    """Return the cuts that equal first ``before``, then ``after``; a removed branch between them stays between them."""
    last = list(itertools.takewhile(lambda one: isinstance(one, ChannelCut), reversed(before)))
    kept = {one.group: one.kept for one in reversed(last) if isinstance(one, ChannelCut)}
    for one in after:
        kept[one.group] = tuple(kept[one.group][place] for place in one.kept) if one.group in kept else one.kept
    return (*before[: len(before) - len(last)], *(ChannelCut(group, left) for group, left in kept.items()))
