"""The result of ``edgekit sensitivity`` as one HTML page: a bar chart and a table."""

from __future__ import annotations

from edgekit.conversion.sensitivity import LayerResult, LayerRow, MeasuredArtifact, SensitivityReport
from edgekit.report.drawing import Bar, Drawing, Label
from edgekit.report.template import render
from edgekit_converters.formats import format_of

MAX_CHART_LAYERS = 40
NAME_WIDTH, CHART_WIDTH, BAR_HEIGHT = 260, 900, 13  # pixels


def page(report: SensitivityReport) -> str:
    """Return the page; the chart has the 40 most sensitive layers, the table has all."""
    columns = _columns(report)
    headings = [f"{format_of(engine).label} {column}" for engine in report.whole for column in columns]
    return render(
        "sensitivity.html",
        title=f"Sensitivity of {report.model} to {report.recipe.scheme}",
        samples=report.samples,
        fully_quantized=[f"{format_of(name).label} {_decibels(trial.snr_db)}" for name, trial in report.whole.items()],
        chart=_chart(report.rows[:MAX_CHART_LAYERS], tuple(report.whole)),
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


def _chart(rows: tuple[LayerRow, ...], engines: tuple[str, ...]) -> Drawing:
    """Draw bars of the error amplitude, which is 100 · 10^(−SNR/20) per cent."""
    step = BAR_HEIGHT * len(engines) + 8
    largest = max((_percent(figures) for row in rows for figures in row.figures.values()), default=1.0)
    scale = (CHART_WIDTH - NAME_WIDTH - 80) / largest
    labels, bars = [], []
    for column, engine in enumerate(engines):
        bars.append(Bar(NAME_WIDTH + 100 * column, 4, 10, 10, format_of(engine).colour))
        labels.append(Label(NAME_WIDTH + 100 * column + 15, 13, format_of(engine).label))
    for index, row in enumerate(rows):
        top = 26 + step * index
        labels.append(Label(NAME_WIDTH - 8, top + BAR_HEIGHT * len(engines) / 2 + 4, _shortened(row.layer), "end"))
        for line, engine in enumerate(engines):
            if engine in row.figures:
                value, y = _percent(row.figures[engine]), top + BAR_HEIGHT * line
                width = round(max(1.0, value * scale), 1)
                bars.append(Bar(NAME_WIDTH, y, width, BAR_HEIGHT - 1, format_of(engine).colour))
                labels.append(Label(NAME_WIDTH + width + 5, y + BAR_HEIGHT - 1, f"{value:.2g} %", axis=True))
    return Drawing(CHART_WIDTH, step * len(rows) + 30, labels=labels, bars=bars)


def _cells(figures: LayerResult, report: SensitivityReport) -> list[str]:
    harm = figures.sensitivity
    cells = [_decibels(harm.alone_db), f"{100 * figures.share:.0f} %", _decibels(harm.own_db), _decibels(harm.layer_db)]
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
