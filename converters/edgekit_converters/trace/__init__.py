"""Trace: record what each layer computes on one sample. Match: find the nodes that compute it in an artifact.

Names do not survive lowering, values do. :func:`trace` runs the source in its own framework and keeps fingerprints of
what its layers give; :func:`match` runs the float artifact in its engine with every tensor kept, and looks for them.
One file for each framework and for each format, named by its record in ``frameworks`` or ``formats``.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit_converters.execution.stage import Stage
from edgekit_converters.formats import format_of
from edgekit_converters.frameworks import framework
from edgekit_converters.load import open_source
from edgekit_converters.recipe.recipe import Layer
from edgekit_converters.records import Artifact, Probe, Source
from edgekit_converters.trace.match import pair
from edgekit_converters.trace.steps import Step, Steps


@dataclass(frozen=True)
class TraceRequest:
    """Trace a source on the first sample of a probe."""

    source: Source
    probe: Probe


@dataclass(frozen=True)
class Trace:
    """The steps of a source and fingerprints of their results."""

    steps: tuple[Step, ...]
    values: Path  # fingerprints, (steps, QUANTILES) .npy


@dataclass(frozen=True)
class MatchRequest:
    """Find the steps of a source in its float artifact."""

    artifact: Artifact
    probe: Probe  # what was traced
    trace: Trace


@dataclass(frozen=True)
class LayerMap:
    """The source's layers, each with the nodes of one artifact that compute it."""

    engine: str
    layers: tuple[Layer, ...]

    @property
    def unmatched(self) -> tuple[Layer, ...]:
        """Layers with weights that match no node of the artifact."""
        return tuple(layer for layer in self.layers if layer.weighted and not layer.nodes)


def trace(request: TraceRequest, folder: Path) -> Trace:
    """The stage: run the source on one sample and record what each of its layers computes."""
    source = request.source
    found = _steps(framework(source.framework).tracer, open_source(source.request), _sample(request.probe))
    path = folder / "values.npy"
    np.save(path, found.values)
    return Trace(tuple(found.steps), path)


TRACE = Stage(trace, toolchain=lambda request: request.source.toolchain)


def match(request: MatchRequest, _folder: Path) -> LayerMap:
    """The stage: run the artifact on the same sample and return the nodes that compute each layer."""
    engine, traced = request.artifact.engine, request.trace
    found = _steps(format_of(engine).tracer, request.artifact, _sample(request.probe))
    nodes = pair(traced.steps, np.load(traced.values), found.steps, found.values)
    return LayerMap(engine, tuple(_layers(traced.steps, nodes)))


MATCH = Stage(match, toolchain=lambda request: request.artifact.toolchain)


def _sample(probe: Probe) -> list[np.ndarray]:
    return [np.load(path)[:1] for path in probe.inputs]


def _steps(path: str, *arguments: Any) -> Steps:
    found: Steps = pkgutil.resolve_name(path)(*arguments)
    return found


def _layers(steps: Sequence[Step], nodes: Sequence[tuple[str, ...]]) -> Iterator[Layer]:
    """Merge the calls of each layer: a shared layer is called more than once."""
    calls: dict[str, list[int]] = {}
    for place, step in enumerate(steps):
        calls.setdefault(step.name, []).append(place)
    for name, places in calls.items():
        first = steps[places[0]]
        macs = sum(steps[place].macs for place in places)
        found = tuple(dict.fromkeys(node for place in places for node in nodes[place]))
        yield Layer(name, first.operator, first.shape, first.parameters, macs, found)
