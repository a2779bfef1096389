"""A report as one HTML page: accuracy against latency as a chart, and tables, without scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from edgekit.report.pruning_report import PruningReport
from edgekit.report.report import VariantReport, metric_text, size_text, value_text
from edgekit.report.style import STYLE
from edgekit_converters.formats import format_of

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 900, 420, 80, 50, 40, 150  # pixels
TICKS, ROW = 5, 14  # of an axis; pixels between lines of text
RADIUS = 6


@dataclass(frozen=True)
class Point:
    """One artifact."""

    model: str  # how it is called; "" where there is only one
    dense: bool  # as it came, where there are two
    engine: str
    scheme: str
    latency_ms: float
    size_bytes: int
    value: float | None

    @property
    def name(self) -> str:
        """Beside its mark."""
        return f"{self.model} {self.scheme}".strip()


def page(
    name: str,
    metric: str | None,
    variants: Sequence[VariantReport],
    pruning: PruningReport | None,
    notes: Sequence[str],
) -> str:
    """Return the page; without a measured value there is nothing to draw, and the tables stand alone.

    Args:
        name: of the model.
        metric: that it was evaluated by.
        variants: of a bundle; what was pruned is told by ``pruning`` alone.
        pruning: the dense and the pruned model, where one was pruned.
        notes: what is to be said.
    """
    title = escape(f"{name}: {pruning.became if pruning else 'converted'}")
    points = list(_points(variants, pruning))
    drawn = [point for point in points if point.value is not None]
    chart = f"<h2>{escape(metric_text(metric))} and time</h2>{''.join(_chart(drawn, metric))}" if drawn else ""
    told = "".join(_told(pruning)) if pruning else ""
    said = "".join(f"<p class=note>{escape(note)}</p>" for note in notes)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
        f"<h1>{title}</h1>{chart}{''.join(_table(points, pruning, metric))}{told}{said}</html>\n"
    )


def _points(variants: Sequence[VariantReport], pruning: PruningReport | None) -> Iterator[Point]:
    if pruning:
        for one in pruning.models:
            called, dense = pruning.word(one.model), one.model == "dense"
            yield Point(called, dense, one.engine, one.scheme, one.latency_ms.p50, one.size_bytes, one.value)
        return
    for variant in variants:
        latency = variant.latency_ms.p50
        yield Point("", False, variant.engine, variant.scheme, latency, variant.size_bytes, variant.value)


def _chart(points: Sequence[Point], metric: str | None) -> Iterator[str]:
    """Time to the right, from 0; the metric upwards. What came is hollow, what became of it full, a line joins both."""
    values = [point.value or 0.0 for point in points]
    room = 0.1 * (max(values) - min(values)) or 0.01
    low, high = min(values) - room, max(values) + room
    longest = 1.05 * max(point.latency_ms for point in points)

    def place(point: Point) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * point.latency_ms / longest
        up = (HEIGHT - BOTTOM) - (HEIGHT - BOTTOM - TOP) * ((point.value or 0.0) - low) / (high - low)
        return across, up

    yield f'<svg width="{WIDTH}" height="{HEIGHT}" role="img">'
    yield from _axes(longest, low, high, metric)
    for x, engine in enumerate(dict.fromkeys(point.engine for point in points)):
        yield f'<circle cx="{LEFT + 10 + 100 * x}" cy="16" r="5" fill="{format_of(engine).colour}"/>'
        yield f'<text x="{LEFT + 20 + 100 * x}" y="20">{format_of(engine).label}</text>'
    for dense, pruned in _pairs(points):
        (x1, y1), (x2, y2) = place(dense), place(pruned)
        colour = format_of(dense.engine).colour
        yield f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        yield 'stroke-dasharray="4 4" opacity=".6"/>'
    yield from _marks([(point, *place(point)) for point in points])
    yield "</svg>"


def _marks(placed: Sequence[tuple[Point, float, float]]) -> Iterator[str]:
    """Marks with their names beside them, moved down where they would lie upon each other."""
    taken: list[tuple[float, float]] = []
    for point, x, y in sorted(placed, key=lambda one: one[2]):
        colour, text = format_of(point.engine).colour, y + 4
        while any(abs(text - other) < ROW and abs(x - beside) < RIGHT for beside, other in taken):
            text += 1
        taken.append((x, text))
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}" stroke="{colour}" stroke-width="2" '
        yield f'fill="{"#fff" if point.dense else colour}"/>'
        yield f'<text x="{x + RADIUS + 6:.1f}" y="{text:.1f}">{escape(point.name)}</text>'


def _pairs(points: Sequence[Point]) -> Iterator[tuple[Point, Point]]:
    for dense in points:
        for pruned in points:
            same = (dense.engine, dense.scheme) == (pruned.engine, pruned.scheme)
            if same and dense.dense and not pruned.dense:
                yield dense, pruned


def _axes(longest: float, low: float, high: float, metric: str | None) -> Iterator[str]:
    floor = HEIGHT - BOTTOM
    yield f'<path d="M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}" fill="none" stroke="#888"/>'
    for tick in range(TICKS + 1):
        x, y = LEFT + (WIDTH - LEFT - RIGHT) * tick / TICKS, floor - (floor - TOP) * tick / TICKS
        value = low + (high - low) * tick / TICKS
        time = longest * tick / TICKS
        yield f'<text class="axis" x="{x:.1f}" y="{floor + 18}" text-anchor="middle">{time:.3g}</text>'
        yield f'<text class="axis" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value_text(value, metric)}</text>'
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">milliseconds a call, on one thread here</text>'


def _table(points: Sequence[Point], pruning: PruningReport | None, metric: str | None) -> Iterator[str]:
    yield f"<table><tr><th>model<th>format and scheme<th>size<th>{escape(metric_text(metric))}<th>ms a call"
    yield "<th>parameters<th>MACs" if pruning else ""
    for place, point in enumerate(points):
        counts = pruning.models[place] if pruning else None
        cells = [point.model, f"{format_of(point.engine).label} {point.scheme}", size_text(point.size_bytes)]
        cells += [value_text(point.value, metric), f"{point.latency_ms:.4g}"]
        told = (counts.parameters, counts.macs) if counts else ()
        cells += ["" if one is None else f"{one:,}" for one in told]
        yield "<tr>" + "".join(f"<td>{escape(cell)}" for cell in cells)
    yield "</table>"


def _told(pruning: PruningReport) -> Iterator[str]:
    """How far the goal was met, and what of the model is left."""
    if pruning.became == "trained":
        yield f"<h2>What was trained</h2><p>{escape(pruning.goal)}. Nothing was pruned.</p>"
        return
    measured = f", measured in {pruning.measured_in}: {100 * pruning.measured:.1f} %" if pruning.measured else ""
    yield f"<h2>What was cut</h2><p>{escape(pruning.goal)}, by {escape(pruning.importance)}. "
    yield f"Left, as counted: {100 * pruning.counted:.1f} %{escape(measured)}.</p>"
    if pruning.dropped:
        yield f"<p>Residual branches left out: {escape(', '.join(pruning.dropped))}.</p>"
    yield "<table><tr><th>channels of<th>kind<th>before<th>left" if pruning.groups else ""
    for one in pruning.groups:
        yield f"<tr><td>{escape(one.name)}<td>{one.kind}<td>{one.width}<td>{one.left}"
    yield "</table>" if pruning.groups else ""
    yield "<table><tr><th>weights of<th>before<th>not zero" if pruning.sparse else ""
    for layer in pruning.sparse:
        yield f"<tr><td>{escape(layer.layer)}<td>{layer.weights:,}<td>{layer.weights - layer.zeros:,}"
    yield "</table>" if pruning.sparse else ""
    for name, why in pruning.whole:
        yield f"<p class=note>left whole: {escape(name or 'the model itself')}: {escape(why)}</p>"
