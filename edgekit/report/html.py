"""A report of a conversion or a pruning as one HTML page: a chart of the metric and the latency, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from edgekit.report.conversion_report import VariantReport, metric_text, size_text, value_text
from edgekit.report.pruning_report import PruningReport
from edgekit.report.template import render
from edgekit_converters.formats import format_of
from edgekit_converters.train import SparseLayer


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

    @property
    def label(self) -> str:
        """Text beside the mark."""
        return f"{self.model} {self.scheme}".strip()


@dataclass(frozen=True)
class Chart:
    """Latency to the right, from 0, and the metric upwards. Positions are pixels from the top left."""

    points: Sequence[Point]  # the evaluated ones
    metric: str | None
    WIDTH: ClassVar = 900
    HEIGHT: ClassVar = 420
    LEFT: ClassVar = 80
    RIGHT: ClassVar = 750  # end of the axis; labels may reach beyond it
    TOP: ClassVar = 40
    FLOOR: ClassVar = 370
    TICKS: ClassVar = 5
    LABEL: ClassVar = 150, 14  # width and height

    @property
    def longest_ms(self) -> float:
        """End of the latency axis."""
        return 1.05 * max(point.latency_ms for point in self.points)

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the metric's axis."""
        values = [point.value or 0.0 for point in self.points]
        margin = 0.1 * (max(values) - min(values)) or 0.01
        return min(values) - margin, max(values) + margin

    def x(self, point: Point) -> float:
        """Return the position of a latency."""
        return self.LEFT + (self.RIGHT - self.LEFT) * point.latency_ms / self.longest_ms

    def y(self, point: Point) -> float:
        """Return the position of a metric's value."""
        low, high = self.limits
        return self.FLOOR - (self.FLOOR - self.TOP) * ((point.value or 0.0) - low) / (high - low)

    def ticks(self) -> Iterator[tuple[float, str, float, str]]:
        """Return position and text of the ticks of both axes: x, latency, y, metric."""
        low, high = self.limits
        for fraction in (tick / self.TICKS for tick in range(self.TICKS + 1)):
            x = self.LEFT + (self.RIGHT - self.LEFT) * fraction
            y = self.FLOOR - (self.FLOOR - self.TOP) * fraction
            yield x, f"{self.longest_ms * fraction:.3g}", y, value_text(low + (high - low) * fraction, self.metric)

    def labelled(self) -> list[tuple[Point, float]]:
        """Return each point with the baseline of its label, moved down where it would cover another one."""
        width, height = self.LABEL
        labels: list[tuple[Point, float]] = []
        for point in sorted(self.points, key=self.y):
            y = self.y(point) + 4
            while any(
                abs(y - below) < height and abs(self.x(point) - self.x(other)) < width for other, below in labels
            ):
                y += 1
            labels.append((point, y))
        return labels

    def pairs(self) -> list[tuple[Point, Point]]:
        """Return each original with the pruned model in the same format and scheme."""
        pruned = {(point.engine, point.scheme): point for point in self.points if not point.original}
        originals = [point for point in self.points if point.original and (point.engine, point.scheme) in pruned]
        return [(point, pruned[point.engine, point.scheme]) for point in originals]


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
        chart=Chart(drawn, metric) if drawn else None,
        formats={point.engine: format_of(point.engine) for point in points},
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
