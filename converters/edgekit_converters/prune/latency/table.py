"""A table of layer latencies at several widths, and the latency of a model that follows from it.

Latency is not proportional to MACs: kernels compute channels in blocks, and narrow layers wait for memory. So layers
are timed (``profile.py``), and times between the timed widths are interpolated. A table is a JSON file, so it can come
from another machine.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit_converters.prune import LayerCost, PruningGraph, Widths
from edgekit_runtime.errors import DataError

FORMAT = 1


@dataclass(frozen=True)
class LayerTiming:
    """A layer with fixed widths, outside of its model."""

    operator: str
    ins: int
    outs: int
    positions: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    divisions: int = 1

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width of the output: as close to a square as the positions allow."""
        high = next(side for side in range(math.isqrt(self.positions), 0, -1) if self.positions % side == 0)
        return (1, self.positions) if len(self.kernel) == 1 else (high, self.positions // high)

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the kernel; further dimensions are multiplied into the last."""
        high, *wide = (1, *self.kernel) if len(self.kernel) < 2 else self.kernel
        return high, math.prod(wide)

    @property
    def strides(self) -> tuple[int, int]:
        """Strides in height and width."""
        strides = self.stride or (1, 1)
        return (1, strides[0]) if len(strides) == 1 else (strides[0], strides[1])


@dataclass(frozen=True)
class LayerTimes:
    """The times of one layer over a grid of widths."""

    operator: str  # as of a Labour
    positions: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    divisions: int
    ins: tuple[int, ...]  # ascending
    outs: tuple[int, ...]  # ascending
    ms: tuple[tuple[float, ...], ...]  # [ins][outs], one call on one thread, minus the time of an empty call

    def holds(self, layer_cost: LayerCost, ins: int, outs: int) -> bool:
        """Tell whether the times are of such a layer, with at least these widths."""
        mine = self.operator, self.positions, self.kernel, self.stride, self.divisions
        same = mine == (
            layer_cost.operator,
            layer_cost.positions,
            layer_cost.kernel,
            layer_cost.stride,
            layer_cost.divisions,
        )
        return same and outs <= self.outs[-1] and (ins <= self.ins[-1] or len(self.ins) == 1)

    def at(self, ins: int, outs: int) -> float:
        """Interpolate linearly in both widths; below the smallest width, extrapolate from the two smallest."""
        return max(0.0, _along(self.ins, [_along(self.outs, row, outs) for row in self.ms], ins))


@dataclass(frozen=True)
class LatencyTable:
    """The times of layers in one engine and arithmetic, on one thread of one machine."""

    machine: str  # as platform.machine() says
    engine: str
    scheme: str  # "int8-static" or "float32"
    parameters: int  # of the model that ``whole_ms`` is of
    whole_ms: float  # that model, all of it
    rows: tuple[LayerTimes, ...]
    format: int = FORMAT

    def layer_latency(self, graph: PruningGraph, dense: Widths) -> Callable[[LayerCost, Widths], float]:
        """Return a function that gives the milliseconds of a layer of ``graph`` at widths up to ``dense``.

        Raises:
            DataError: a layer is not in the table.
        """
        found: dict[LayerCost, LayerTimes] = {}
        for one in timed_layers(graph):
            ins, outs = one.ins.count(dense), one.outs.count(dense)
            fitting = [row for row in self.rows if row.holds(one, ins, outs)]
            if not fitting:
                raise DataError(
                    f"the latency table has no {one.operator} layer such as {one.layer}: {ins} to {outs} channels at "
                    f"{one.positions} positions\nmake the table of this model, with --write-latency-table on its board"
                )
            found[one] = min(fitting, key=lambda row: row.ins[-1] * row.outs[-1])

        def milliseconds(layer_cost: LayerCost, widths: Widths) -> float:
            if layer_cost not in found:
                return 0.0
            return found[layer_cost].at(layer_cost.ins.count(widths), layer_cost.outs.count(widths))

        return milliseconds

    def overhead_ms(self, graph: PruningGraph) -> float:
        """Return the milliseconds that the original model spends outside of its layers; 0 for another model."""
        if graph.parameters != self.parameters:
            return 0.0
        latency = self.layer_latency(graph, graph.widths)
        return max(0.0, self.whole_ms - sum(latency(one, graph.widths) for one in graph.layer_costs))

    def to_json(self) -> str:
        """Return the table as JSON."""
        return json.dumps(asdict(self)) + "\n"


def timed_layers(graph: PruningGraph) -> Iterator[LayerCost]:
    """Yield the layers that are timed; elementwise ones are fused into those before them."""
    yield from (one for one in graph.layer_costs if one.operator != "elementwise")


def read_table(path: Path) -> LatencyTable:
    """Read a table.

    Raises:
        DataError: the file cannot be read, or is not a latency table.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(LayerTimes(**{key: _tuples(value) for key, value in row.items()}) for row in data.pop("rows"))
        table = LatencyTable(**data, rows=rows)
        good = table.format == FORMAT and all(map(_is_complete, rows))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--latency-table {path}: cannot be read ({error})") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"--latency-table {path}: is no table that --write-latency-table wrote ({error})") from error
    if not good:
        raise DataError(f"--latency-table {path}: is no table of format {FORMAT}; write it anew")
    return table


def _is_complete(row: LayerTimes) -> bool:
    """Tell whether the row has a finite time for every pair of its widths, and the widths ascend."""
    times = np.array(row.ms, float)
    ascending = all(list(side) == sorted(set(side)) and side[0] > 0 for side in (row.ins, row.outs))
    return ascending and times.shape == (len(row.ins), len(row.outs)) and bool(np.isfinite(times).all())


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _along(places: Sequence[int], values: Sequence[float], place: int) -> float:
    if len(places) == 1:
        return values[0]
    upper = min(max(bisect_left(places, place), 1), len(places) - 1)
    low, high = places[upper - 1], places[upper]
    return values[upper - 1] + (values[upper] - values[upper - 1]) * (place - low) / (high - low)
