"""The figures of ``edgekit sensitivity`` as one HTML page: a bar chart and the table, without scripts."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from edgekit.conversion.sensitivity import Figures, Row, SensitivityReport, Trial
from edgekit.report.style import STYLE
from edgekit_converters.formats import format_of

SHOWN = 40  # layers in the chart; the table has all
NAME_WIDTH, CHART_WIDTH, BAR_HEIGHT = 260, 900, 13  # pixels


def page(report: SensitivityReport) -> str:
    """Return the page. The chart has the worst 40 layers, the table has all."""
    title = escape(f"Sensitivity of {report.model} to {report.recipe.scheme}")
    wholes = ", ".join(f"{format_of(engine).label} {_decibels(trial.snr_db)}" for engine, trial in report.whole.items())
    notes = "".join(f"<p class=note>{escape(note)}</p>" for note in report.notes)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
        f"<h1>{title}</h1><p>All quantized, on {report.samples} samples: {wholes}.</p>"
        f"<p>How large the error of the model's output is, in per cent of that output, when only one layer is "
        f"quantized:</p>{''.join(_chart(report))}{''.join(_table(report))}{notes}</html>\n"
    )


def _chart(report: SensitivityReport) -> Iterator[str]:
    """Bars of error amplitude, which is 100 · 10^(−SNR/20) per cent."""
    rows, engines = report.rows[:SHOWN], tuple(report.whole)
    step = BAR_HEIGHT * len(engines) + 8
    most = max((_percent(one) for row in rows for one in row.figures.values()), default=1.0)
    scale = (CHART_WIDTH - NAME_WIDTH - 80) / most
    yield f'<svg width="{CHART_WIDTH}" height="{step * len(rows) + 30}" role="img">'
    for place, engine in enumerate(engines):
        x = NAME_WIDTH + 100 * place
        yield f'<rect x="{x}" y="4" width="10" height="10" fill="{format_of(engine).colour}"/>'
        yield f'<text x="{x + 15}" y="13">{format_of(engine).label}</text>'
    for number, row in enumerate(rows):
        y = 26 + step * number
        middle = y + BAR_HEIGHT * len(engines) / 2 + 4
        yield f'<text x="{NAME_WIDTH - 8}" y="{middle}" text-anchor="end">{escape(_end(row.layer))}</text>'
        yield from _bars(row, engines, y, scale)
    yield "</svg>"


def _bars(row: Row, engines: tuple[str, ...], y: int, scale: float) -> Iterator[str]:
    for place, engine in enumerate(engines):
        if engine in row.figures:
            value, top = _percent(row.figures[engine]), y + BAR_HEIGHT * place
            width = max(1.0, value * scale)
            yield (
                f'<rect x="{NAME_WIDTH}" y="{top}" width="{width:.1f}" height="{BAR_HEIGHT - 1}" '
                f'fill="{format_of(engine).colour}"/>'
                f'<text class="axis" x="{NAME_WIDTH + width + 5:.1f}" y="{top + BAR_HEIGHT - 1}">{value:.2g} %</text>'
            )


def _table(report: SensitivityReport) -> Iterator[str]:
    columns = ["alone", "share", "its own", "in the model"]
    columns += ["made alone", "all but it"] if report.exact else []
    columns += [f"{report.metric}, alone", f"{report.metric}, all but it"] if report.exact and report.metric else []
    yield "<table><tr><th>layer<th>type<th>parameters<th>MACs"
    yield "".join(f"<th>{format_of(engine).label}<br>{escape(column)}" for engine in report.whole for column in columns)
    for row in report.rows:
        cells = [row.layer, row.operator, f"{row.parameters:,}", f"{row.macs:,}"]
        for engine in report.whole:
            told = _cells(row.figures[engine], report) if engine in row.figures else []
            cells += told or [""] * len(columns)
        yield "<tr>" + "".join(f"<td>{escape(cell)}" for cell in cells)
    yield (
        "</table><p class=note>Signal to noise ratios, higher is better. Alone: of the model's worst output when only "
        "this layer is quantized. Its own: of the layer's output then. In the model: of the layer's output when all is "
        "quantized, with what it inherits. Made alone, all but it: of artifacts that were made so.</p>"
    )


def _cells(one: Figures, report: SensitivityReport) -> list[str]:
    harm = one.harm
    cells = [_decibels(harm.alone_db), f"{100 * one.share:.0f} %", _decibels(harm.own_db), _decibels(harm.layer_db)]
    trials = [trial or Trial() for trial in (one.alone, one.kept)] if report.exact else []
    cells += [_decibels(trial.snr_db) for trial in trials]
    cells += [f"{trial.value:.4f}" if trial.value is not None else "–" for trial in trials] if report.metric else []
    return cells


def _percent(one: Figures) -> float:
    return float(min(1000.0, 100 * 10 ** (-one.alone_db / 20)))


def _decibels(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} dB"


def _end(name: str) -> str:
    return name if len(name) <= 38 else f"…{name[-37:]}"
