"""Prune Keras models of both generations, Functional and Sequential: one function for each stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit_converters.frameworks.keras_graph import is_own, layers_of
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.load import reopen
from edgekit_converters.load.keras_model import save_model
from edgekit_converters.prune import (
    CutChannelsRequest,
    DropBranchesRequest,
    PruningGraph,
    RecalibrateRequest,
    ScoreRequest,
    Scores,
)
from edgekit_converters.prune.keras.analyze import analyze_model
from edgekit_converters.prune.keras.cut import build_cut_model, removed_channels
from edgekit_converters.prune.keras.drop_branch import without_branches
from edgekit_converters.prune.keras.reconstruct import recalibrate_model
from edgekit_converters.prune.keras.scores import channel_scores
from edgekit_converters.records import ChannelCut, SourceRequest
from edgekit_runtime.errors import ConversionError


def analyze(live: LoadedModel) -> PruningGraph:
    """Find the channel groups of a model.

    Raises:
        SourceError: its computation cannot be followed, or no channel can be cut.
    """
    return analyze_model(live).graph


def score(live: LoadedModel, request: ScoreRequest, folder: Path) -> Scores:
    """Score the importance of every channel; the formulas are in ``importance.py``.

    Raises:
        DataError: an importance that needs gradients got no data, or labels do not fit.
        SourceError: no channel can be cut, or the model has no weights that the importance reads.
    """
    path = folder / "scores.npz"
    arrays: Any = channel_scores(live, analyze_model(live), request)
    np.savez(path, **arrays)
    return Scores(path)


def drop_branches(live: LoadedModel, request: DropBranchesRequest, folder: Path) -> SourceRequest:
    """Remove residual branches, and save the model.

    Raises:
        ConversionError: there is no such branch.
    """
    source = request.source.request
    return save_pruned(without_branches(live, analyze_model(live), request.branches, source), source, folder)


def cut_channels(live: LoadedModel, request: CutChannelsRequest, folder: Path) -> SourceRequest:
    """Cut channels, and save the model.

    Raises:
        ConversionError: a cut removes all channels of a group or none, or saves less than predicted.
    """
    source = request.source.request
    found = analyze_model(live)
    removed_ids = removed_channels(found, request.cuts)
    smaller = build_cut_model(live, found, removed_ids, source)
    _check_prediction(smaller, found.graph, request.cuts)
    return save_pruned(smaller, source, folder)


def recalibrate(_: LoadedModel, request: RecalibrateRequest, folder: Path) -> SourceRequest:
    """Correct a pruned model with samples, and save it; see ``reconstruct.py``."""
    source = request.source.request
    live = reopen(source)
    recalibrate_model(live, request, reopen(request.dense.request) if request.dense and request.cuts else None)
    return save_pruned(live.handle.model, source, folder)


def save_pruned(model: Any, source: SourceRequest, folder: Path) -> SourceRequest:
    """Save a model derived from ``source``, and return the request that opens it."""
    custom = any(not is_own(type(layer)) for _, layer in layers_of(model))
    return replace(
        source,
        kind="keras",
        path=save_model(model, folder),
        function=None,
        weights=None,
        # the user's own file that builds the model defines its layers, too
        custom_objects=source.custom_objects or (source.path if custom and source.function else None),
        allow_pickle=source.allow_pickle or source.function is not None,
    )


def _check_prediction(smaller: Any, graph: PruningGraph, cuts: tuple[ChannelCut, ...]) -> None:
    predicted = graph.parameters_at(graph.widths | {one.group: len(one.kept) for one in cuts})
    left = smaller.count_params()
    if left != predicted:
        raise ConversionError(
            f"{left} parameters remain, but {predicted} of {graph.parameters} were predicted",
            stage="cut_channels",
            subject=smaller.name,
            advice="this is a bug of edgekit: please report it with the model's architecture",
        )
