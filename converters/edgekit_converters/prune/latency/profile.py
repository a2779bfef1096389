"""Time each layer of a model outside of it, at several widths, in the engine and arithmetic that it will run in."""

from __future__ import annotations

import pkgutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from edgekit_converters.artifact.open import OpenArtifact
from edgekit_converters.execution.stage import Stage
from edgekit_converters.formats import format_of
from edgekit_converters.progress import report_progress
from edgekit_converters.prune import Channels, LayerCost, PruningGraph, Widths
from edgekit_converters.prune.latency.table import LatencyTable, LayerTimes, LayerTiming, timed_layers
from edgekit_converters.records import Artifact
from edgekit_runtime.format.manifest import TensorBinding
from edgekit_runtime.host.machine import architecture

WIDTH_FRACTIONS = (0.25, 0.5, 0.75, 1.0)  # of a width that can be cut, at which layers are timed
TURN_S = 0.001  # how long each width of a layer has its turn
STABLE_TURNS, IMPROVEMENT, MAX_TURNS = (
    7,
    0.02,
    70,
)  # so many turns without news, a least time lower by so much, are the last ones
MAX_RESOLUTION_S = 1e-6  # a clock's resolution
NEARLY_EMPTY = LayerTiming("dense", 1, 1, 1)  # a call that computes next to nothing


@dataclass(frozen=True)
class TimeLayersRequest:
    """Time the layers of a model."""

    graph: PruningGraph
    whole: Artifact  # the model in an engine
    scheme: str  # arithmetic of the layers: "int8-static" or "float32"

    @property
    def engine(self) -> str:
        """The engine that is timed."""
        return self.whole.engine


def time_layers(request: TimeLayersRequest, folder: Path) -> LatencyTable:
    """Write and time every layer at every width of its grid; equal layers are timed once.

    Raises:
        EngineError: the engine cannot run one of them.
    """
    grids = list(dict.fromkeys(_grid(layer_cost, request.graph.widths) for layer_cost in timed_layers(request.graph)))
    taken = []
    for done, grid in enumerate(grids):
        report_progress(done, len(grids))
        taken.append(_milliseconds(request, [NEARLY_EMPTY, *_layers(grid)], folder))
    # the whole model is timed in turns with every grid, so load on the machine slows both down
    whole, empty = (min(times[place] for times in taken) for place in range(2))
    rows = tuple(
        _row(request, grid, [one * whole / slowed for one in times], empty)
        for grid, (slowed, _, *times) in zip(grids, taken, strict=True)
    )
    return LatencyTable(
        architecture(), request.engine, request.scheme, request.graph.parameters, round(whole - empty, 6), rows
    )


# times differ from run to run
TIME_LAYERS = Stage(time_layers, toolchain=lambda request: request.engine, pure=False)


@dataclass(frozen=True)
class TimeModelsRequest:
    """Time whole models of one engine."""

    artifacts: tuple[Artifact, ...]


def time_models(request: TimeModelsRequest, _folder: Path) -> tuple[float, ...]:
    """The stage: milliseconds of a call of each, timed as layers are, so that a busy machine is no excuse.

    Raises:
        EngineError: the engine cannot run one of them.
    """
    return tuple(_interleaved_ms([OpenArtifact(one) for one in request.artifacts]))


# times differ from run to run
TIME_MODELS = Stage(time_models, toolchain=lambda request: request.artifacts[0].toolchain, pure=False)


@dataclass(frozen=True)
class _Grid:
    """A layer, and the widths at which it is timed."""

    operator: str
    positions: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    divisions: int
    ins: tuple[int, ...]
    outs: tuple[int, ...]


def _grid(layer_cost: LayerCost, dense: Widths) -> _Grid:
    ins, outs = (_points(side, dense, layer_cost.divisions) for side in (layer_cost.ins, layer_cost.outs))
    ins = ins[-1:] if layer_cost.operator == "depthwise" else ins  # its input width equals its output width
    return _Grid(
        layer_cost.operator, layer_cost.positions, layer_cost.kernel, layer_cost.stride, layer_cost.divisions, ins, outs
    )


def _row(request: TimeLayersRequest, grid: _Grid, taken: list[float], empty: float) -> LayerTimes:
    copies, columns = format_of(request.engine).layer_copies, len(grid.outs)
    times = [round(max(0.0, one - empty) / copies, 6) for one in taken]
    ms = tuple(tuple(times[place : place + columns]) for place in range(0, len(times), columns))
    return LayerTimes(grid.operator, grid.positions, grid.kernel, grid.stride, grid.divisions, grid.ins, grid.outs, ms)


def _points(side: Channels, dense: Widths, divisions: int) -> tuple[int, ...]:
    """The parts of a width, each a multiple of the divisions of a grouped convolution; one that stays is itself."""
    whole = side.count(dense)
    cut = [side.fixed + (whole - side.fixed) * part for part in WIDTH_FRACTIONS[:-1]] if side.group_entries else []
    return tuple(sorted({whole, *(max(1, round(one / divisions)) * divisions for one in cut)}))


def _layers(grid: _Grid) -> Iterator[LayerTiming]:
    for ins, outs in product(grid.ins, grid.outs):
        own = max(1, round(ins * outs / grid.outs[-1])) if grid.operator == "depthwise" else ins
        yield LayerTiming(grid.operator, own, outs, grid.positions, grid.kernel, grid.stride, grid.divisions)


def _milliseconds(request: TimeLayersRequest, layers: list[LayerTiming], folder: Path) -> list[float]:
    """Of the whole model, and of each layer."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        layer = [_open(request, one, Path(scratch) / str(place)) for place, one in enumerate(layers)]
        return _interleaved_ms([OpenArtifact(request.whole), *layer])


def _interleaved_ms(opened: list[OpenArtifact]) -> list[float]:
    """Time models in turns and return the minimum of each, because other load only adds time; then close them."""
    samples = [[np.zeros(info.shape, info.dtype) for info in one.engine.inputs] for one in opened]
    least, quiet = np.full(len(opened), np.inf), 0
    for _ in range(MAX_TURNS):
        taken = np.array([_turn_ms(one, sample) for one, sample in zip(opened, samples, strict=True)])
        quiet = 0 if (taken < (1 - IMPROVEMENT) * least).any() else quiet + 1
        least = np.minimum(least, taken)
        if quiet == STABLE_TURNS:
            break
    for one in opened:
        one.close()
    return least.tolist()


def _open(request: TimeLayersRequest, layer: LayerTiming, path: Path) -> OpenArtifact:
    described, int8 = format_of(request.engine), request.scheme == "int8-static"
    files = pkgutil.resolve_name(described.layer_builder)(layer, path.with_suffix(described.suffix), int8=int8)
    bound = (TensorBinding(0, "", "float32", None, None),)
    return OpenArtifact(Artifact(request.engine, request.scheme, files, bound, bound))


def _cpu_seconds() -> float:
    """Seconds of this process on a processor, so that waiting for one does not count; where they are coarse, of time.

    An engine on one thread takes as many.
    """
    fine = time.get_clock_info("process_time").resolution <= MAX_RESOLUTION_S
    return time.process_time() if fine else time.perf_counter()


def _turn_ms(opened: OpenArtifact, sample: list[np.ndarray]) -> float:
    started, calls = _cpu_seconds(), 0
    while calls == 0 or _cpu_seconds() - started < TURN_S:
        opened.engine.run(sample)
        calls += 1
    return (_cpu_seconds() - started) * 1e3 / calls
