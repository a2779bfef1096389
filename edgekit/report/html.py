"""A report of a conversion or a pruning as one HTML page: a chart of the metric and the latency, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgekit.report.drawing import Drawing, Label, Line, Mark, label_marks
from edgekit.report.pruning_report import PruningReport
from edgekit.report.report import VariantReport, metric_text, size_text, value_text
from edgekit.report.template import render
from edgekit_converters.formats import format_of
from edgekit_converters.train import SparseLayer

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 900, 420, 80, 50, 40, 150  # pixels
TICKS = 5  # of an axis
RADIUS = 6  # of a mark, in pixels


@dataclass(frozen=True)
class Point:
    """One model in one format and scheme: a row of the table, and a mark in the chart."""

    model: str  # its name; "" if there is only one model
    original: bool  # the dense model beside a pruned one
    engine: str
    scheme: str
    latency_ms: float
    size_bytes: int
    value: float | None
    parameters: int | None = None
    macs: int | None = None


def page(
    name: str,
    metric: str | None,
    variants: Sequence[VariantReport],
    pruning: PruningReport | None,
    notes: Sequence[str],
) -> str:
    """Return the page; it has no chart if nothing was evaluated.

    Args:
        name: of the model.
        metric: of the evaluation.
        variants: of the bundle; not used if a model was pruned.
        pruning: the dense and the pruned model, if one was pruned.
        notes: shown at the end.
    """
    points = _pruned_points(pruning) if pruning else [_point(variant) for variant in variants]
    drawn = [point for point in points if point.value is not None]
    headings = ["model", "format and scheme", "size", metric_text(metric), "ms per call"]
    return render(
        "report.html",
        title=f"{name}: {pruning.became if pruning else 'converted'}",
        metric=metric_text(metric),
        chart=_chart(drawn, metric) if drawn else None,
        headings=headings + (["parameters", "MACs"] if pruning else []),
        rows=[_cells(point, metric, counts=pruning is not None) for point in points],
        pruning=pruning,
        share_left=_share_left(pruning) if pruning else "",
        groups=[(group.name, group.kind, group.width, group.left) for group in pruning.groups] if pruning else [],
        sparse=[_weight_counts(layer) for layer in pruning.sparse] if pruning else [],
        notes=notes,
    )


def _point(variant: VariantReport) -> Point:
    latency_ms = variant.latency_ms.p50
    return Point("", False, variant.engine, variant.scheme, latency_ms, variant.size_bytes, variant.value)


def _pruned_points(pruning: PruningReport) -> list[Point]:
    return [
        Point(
            model=pruning.display_name(report.model),
            original=report.model == "dense",
            engine=report.engine,
            scheme=report.scheme,
            latency_ms=report.latency_ms.p50,
            size_bytes=report.size_bytes,
            value=report.value,
            parameters=report.parameters,
            macs=report.macs,
        )
        for report in pruning.models
    ]


def _cells(point: Point, metric: str | None, *, counts: bool) -> list[str]:
    cells = [point.model, f"{format_of(point.engine).label} {point.scheme}", size_text(point.size_bytes)]
    cells += [value_text(point.value, metric), f"{point.latency_ms:.4g}"]
    if counts:
        cells += ["" if count is None else f"{count:,}" for count in (point.parameters, point.macs)]
    return cells


def _share_left(pruning: PruningReport) -> str:
    measured = f", measured in {pruning.measured_in}: {100 * pruning.measured:.1f} %" if pruning.measured else ""
    return f"Left, as counted: {100 * pruning.counted:.1f} %{measured}."


def _weight_counts(layer: SparseLayer) -> tuple[str, str, str]:
    return layer.layer, f"{layer.weights:,}", f"{layer.weights - layer.zeros:,}"


def _chart(points: Sequence[Point], metric: str | None) -> Drawing:
    """Draw latency to the right, from 0, and the metric upwards; a line joins the original and the pruned model."""
    values = [point.value or 0.0 for point in points]
    margin = 0.1 * (max(values) - min(values)) or 0.01
    low, high = min(values) - margin, max(values) + margin
    longest_ms = 1.05 * max(point.latency_ms for point in points)

    def mark(point: Point) -> Mark:
        x = LEFT + (WIDTH - LEFT - RIGHT) * point.latency_ms / longest_ms
        y = (HEIGHT - BOTTOM) - (HEIGHT - BOTTOM - TOP) * ((point.value or 0.0) - low) / (high - low)
        return Mark(round(x, 1), round(y, 1), RADIUS, format_of(point.engine).colour, point.original)

    marks = [mark(point) for point in points]
    names = [f"{point.model} {point.scheme}".strip() for point in points]
    pairs = [(mark(original), mark(pruned)) for original, pruned in _pairs(points)]
    legend_marks, legend_labels = _legend(list(dict.fromkeys(point.engine for point in points)))
    labels = label_marks(list(zip(marks, names, strict=True)), RIGHT)
    return Drawing(
        WIDTH,
        HEIGHT,
        labels=[*_axis_labels(longest_ms, low, high, metric), *legend_labels, *labels],
        marks=[*legend_marks, *marks],
        lines=[Line(a.x, a.y, b.x, b.y, a.colour) for a, b in pairs],
        axes=f"M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}",
    )


def _legend(engines: Sequence[str]) -> tuple[list[Mark], list[Label]]:
    formats = [format_of(engine) for engine in engines]
    marks = [Mark(LEFT + 10 + 100 * index, 16, 4, form.colour) for index, form in enumerate(formats)]
    return marks, [Label(LEFT + 20 + 100 * index, 20, form.label) for index, form in enumerate(formats)]


def _pairs(points: Sequence[Point]) -> Iterator[tuple[Point, Point]]:
    """Return each original with the pruned model in the same format and scheme."""
    for original in points:
        for pruned in points:
            same = (original.engine, original.scheme) == (pruned.engine, pruned.scheme)
            if same and original.original and not pruned.original:
                yield original, pruned


def _axis_labels(longest_ms: float, low: float, high: float, metric: str | None) -> Iterator[Label]:
    floor = HEIGHT - BOTTOM
    for tick in range(TICKS + 1):
        x = round(LEFT + (WIDTH - LEFT - RIGHT) * tick / TICKS, 1)
        y = round(floor - (floor - TOP) * tick / TICKS + 4, 1)
        yield Label(x, floor + 18, f"{longest_ms * tick / TICKS:.3g}", "middle", axis=True)
        yield Label(LEFT - 8, y, value_text(low + (high - low) * tick / TICKS, metric), "end", axis=True)
    yield Label(LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 8, "ms per call on this machine, one thread", "middle")
