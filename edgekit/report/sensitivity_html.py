"""The result of ``edgekit sensitivity`` as one HTML page: a bar chart and a table."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.conversion.sensitivity import LayerResult, LayerRow, MeasuredArtifact, SensitivityReport
from edgekit.report.template import render
from edgekit_converters.formats import format_of

MAX_CHART_LAYERS = 40


def page(report: SensitivityReport) -> str:
    """Return the page; the chart has the 40 most sensitive layers, the table has all."""
    columns, bars = _columns(report), _bars(report.rows[:MAX_CHART_LAYERS], tuple(report.whole))
    headings = [f"{format_of(engine).label} {column}" for engine in report.whole for column in columns]
    return render(
        "sensitivity.html",
        title=f"Sensitivity of {report.model} to {report.recipe.scheme}",
        samples=report.samples,
        fully_quantized=[f"{format_of(name).label} {_decibels(trial.snr_db)}" for name, trial in report.whole.items()],
        formats=[format_of(engine) for engine in report.whole],
        bars=bars,
        largest=max((value for _, values in bars for value in values if value is not None), default=1.0),
        headings=["layer", "type", "parameters", "MACs", *headings],
        rows=[_row(row, report, len(columns)) for row in report.rows],
        notes=report.notes,
    )


def _columns(report: SensitivityReport) -> list[str]:
    columns = ["alone", "share", "its own", "in the model"]
    columns += ["made alone", "all but it"] if report.exact else []
    columns += [f"{report.metric}, alone", f"{report.metric}, all but it"] if report.exact and report.metric else []
    return columns


def _row(row: LayerRow, report: SensitivityReport, columns: int) -> list[str]:
    cells = [row.layer, row.operator, f"{row.parameters:,}", f"{row.macs:,}"]
    for engine in report.whole:
        cells += _cells(row.figures[engine], report) if engine in row.figures else [""] * columns
    return cells


def _bars(rows: Sequence[LayerRow], engines: Sequence[str]) -> list[tuple[str, list[float | None]]]:
    """Return each layer with a bar for each engine: the error amplitude 100 · 10^(−SNR/20) in per cent."""
    return [
        (_shortened(row.layer), [_percent(row.figures[name]) if name in row.figures else None for name in engines])
        for row in rows
    ]


def _cells(figures: LayerResult, report: SensitivityReport) -> list[str]:
    sensitivity = figures.sensitivity
    cells = [
        _decibels(sensitivity.alone_db),
        f"{100 * figures.share:.0f} %",
        _decibels(sensitivity.own_db),
        _decibels(sensitivity.layer_db),
    ]
    trials = [trial or MeasuredArtifact() for trial in (figures.alone, figures.kept)] if report.exact else []
    cells += [_decibels(trial.snr_db) for trial in trials]
    cells += [f"{trial.value:.4f}" if trial.value is not None else "–" for trial in trials] if report.metric else []
    return cells


def _percent(figures: LayerResult) -> float:
    return float(min(1000.0, 100 * 10 ** (-figures.alone_db / 20)))


def _decibels(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} dB"


def _shortened(name: str) -> str:
    return name if len(name) <= 38 else f"…{name[-37:]}"
