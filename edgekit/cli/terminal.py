"""What people see: progress on standard error while it is a terminal, and the report as a table."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import rich.box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from edgekit.conversion.layers import LayersReport
from edgekit.conversion.sensitivity import Figures, SensitivityReport
from edgekit.pruning.command import PruneReport
from edgekit.report.pruning_report import PruningReport
from edgekit.report.report import Report, finding_lines, metric_text, size_text, value_text, variant_rows
from edgekit.training.distill import DistillReport
from edgekit_converters.execution.runner import Watch

HEADINGS = {
    "variant": "variant",
    "size": "size",
    "value": "",  # the metric's name
    "drop": "drop",
    "snr": "parity",
    "cosine": "cosine",
    "p50": "p50",
    "p90": "p90",
}


WIDE, FULL = 160, 100  # columns: of a pipe, and what the whole table needs
NODE_WIDTH = 36  # characters of a node's name
BAR = 10  # characters of a whole
LEFT_WHOLE = 6  # layers that pruning left whole, told in the terminal; the report has all


@contextlib.contextmanager
def progress(*, enabled: bool = True) -> Iterator[Watch | None]:
    """Show every running stage with its progress; nothing where standard error is no terminal."""
    console = Console(stderr=True)
    if not enabled or not console.is_terminal:
        yield None
        return
    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<36}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    running: dict[tuple[str, str], TaskID] = {}
    lock = threading.Lock()

    def watch(stage: str, subject: str, done: int, total: int, says: str = "") -> None:
        with lock:
            key = stage, subject
            if key not in running:
                running[key] = bars.add_task(f"{stage} {subject}", total=None)
            bars.update(running[key], completed=done, total=total or None)
            if says:
                bars.update(running[key], description=f"{stage} {says}")
            if total == 1 == done:
                bars.remove_task(running.pop(key))

    with bars:
        yield watch


def _console() -> Console:
    """Return where reports go; a pipe gets whole lines, whatever their length."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDE
    return console


def _print_notes(console: Console, notes: Sequence[str]) -> None:
    for note in notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)


def show_report(report: Report) -> None:
    """Print the report for people."""
    console = _console()
    cells = variant_rows(report)
    shown = [key for key in HEADINGS if any(row.get(key) for row in cells)]
    if console.width < FULL:
        shown = [key for key in shown if key not in ("cosine", "p90")]
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for key in shown:
        heading = metric_text(report.source.metric) if key == "value" else HEADINGS[key]
        table.add_column(heading, justify="left" if key == "variant" else "right", no_wrap=True)
    for row in cells:
        table.add_row(*[row.get(key, "") for key in shown])
    console.print(table)
    if report.pruning:
        print_pruning(console, report.pruning)
    for paragraph in report.choices:
        console.print(paragraph, highlight=False)
    for line in finding_lines(report):
        console.print(f"found: {line}", highlight=False, soft_wrap=True)
    _print_notes(console, report.notes)
    console.print(
        f"{report.bundle.path}  {size_text(report.bundle.size_bytes)}  "
        f"{len(report.variants)} variants  {report.wall_seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


def show_layers(report: LayersReport) -> None:
    """Print a model's layers, and under each engine its nodes, one a line; long names keep their ends."""
    console = _console()
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    totals = report.totals
    table.add_column("layer", "total", overflow="fold")
    table.add_column("type", no_wrap=True)
    table.add_column("output", no_wrap=True)
    table.add_column("parameters", f"{totals['parameters']:,}", justify="right", no_wrap=True)
    table.add_column("MACs", f"{totals['macs']:,}", justify="right", no_wrap=True)
    for engine in report.nodes:
        table.add_column(f"nodes in {engine}", no_wrap=True)
    for place, layer in enumerate(report.layers):
        nodes = ["\n".join(_end(name) for name in named[place]) for named in report.nodes.values()]
        shape = "x".join(map(str, layer.shape))
        table.add_row(layer.name, layer.operator, shape, f"{layer.parameters:,}", f"{layer.macs:,}", *nodes)
    console.print(table)
    _print_notes(console, report.notes)


def show_distillation(report: DistillReport) -> None:
    """Print what every epoch came to, what that is worth, and what was written."""
    console = _console()
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("epoch", "loss", f"held-out {metric_text(report.metric)}", "learning rate", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("as it came", "", f"{report.before:.4f}", "", "")
    for epoch in report.history:
        figures = f"{epoch.loss:.4f}", f"{epoch.value:.4f}", f"{epoch.learning_rate:.2g}", f"{epoch.seconds:.1f}"
        table.add_row(str(epoch.number), *figures, style="bold" if epoch.number == report.best else None)
    console.print(table)
    if report.evaluated:
        told = ", ".join(f"{name} {value:.4f}" for name, value in report.evaluated.items())
        console.print(f"{metric_text(report.evaluation_metric)} on --evaluate: {told}", highlight=False)
    _print_end(console, report)


def show_pruning(report: PruneReport) -> None:
    """Print what was cut and what it bought, and what was written."""
    console = _console()
    print_pruning(console, report.pruning)
    _print_end(console, report)


def _print_end(console: Console, report: DistillReport | PruneReport) -> None:
    """Print what is to be said of the model that was written, and where it is."""
    _print_notes(console, report.notes)
    console.print(
        f"{report.model.path}  {size_text(report.model.size_bytes)}  {report.wall_seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


def print_pruning(console: Console, report: PruningReport) -> None:
    """Print the dense and the pruned model, a line a format and scheme, and how far the goal was met."""
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for heading in ("parameters", "MACs", "size", metric_text(report.metric), "p50", "p90"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in report.models:
        name = f"{report.word(one.model)} {one.engine} {one.scheme}"
        counts = (
            *(f"{each:,}" if each is not None else "" for each in (one.parameters, one.macs)),
            size_text(one.size_bytes),
        )
        times = f"{one.latency_ms.p50:.3f} ms", f"{one.latency_ms.p90:.3f} ms"
        table.add_row(name, *counts, value_text(one.value, report.metric), *times)
    if report.models:
        console.print(table)
    lines = [f"{report.goal}: {'; '.join(_left(report)) or 'trained, nothing was pruned'}"]
    lines += [f"left whole: {layer or 'the model itself'}: {why}" for layer, why in report.whole[:LEFT_WHOLE]]
    if len(report.whole) > LEFT_WHOLE:
        lines.append(f"left whole: {len(report.whole) - LEFT_WHOLE} more layers, which --report names")
    lines += [
        f"round {number}: held-out {metric_text(trained.metric)} {trained.before:.4f} before, {trained.value:.4f} "
        f"after epoch {trained.best} of {len(trained.history)}"
        for number, trained in enumerate(report.rounds, 1)
    ]
    if report.dense is not None and report.pruned is not None:
        dense, pruned = (value_text(value, report.metric) for value in (report.dense, report.pruned))
        both = f"{report.word('dense')} {dense}, {report.became} {pruned}"
        lines.append(f"{metric_text(report.metric)} of the model itself: {both}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _left(report: PruningReport) -> Iterator[str]:
    """What was cut, and what became zero."""
    if report.groups:
        held = "" if report.measured is None else f", measured {100 * report.measured:.0f} % in {report.measured_in}"
        cut = sum(one.left < one.width for one in report.groups)
        yield f"{100 * report.counted:.0f} % left as counted{held}"
        yield f"{cut} of {len(report.groups)} groups cut by {report.importance}"
    if report.dropped:
        yield f"residual branches left out: {', '.join(report.dropped)}"
    if report.sparse:
        zeros, weights = sum(one.zeros for one in report.sparse), sum(one.weights for one in report.sparse)
        yield f"{zeros:,} of {weights:,} weights are zero, in {len(report.sparse)} layers"


def show_sensitivity(report: SensitivityReport) -> None:
    """Print the layers, the most harmful first; a narrow terminal gets what each alone does to the output."""
    console = _console()
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("type", no_wrap=True)
    for heading in ("parameters", "MACs"):
        table.add_column(heading, justify="right", no_wrap=True)
    columns = _columns(report, narrow=console.width < WIDE)
    for engine in report.whole:
        for heading in columns:
            table.add_column(f"{engine}\n{heading}", justify="left" if heading == "share" else "right", no_wrap=True)
    for row in report.rows:
        cells = [
            cell(row.figures[engine]) if engine in row.figures else ""
            for engine in report.whole
            for cell in columns.values()
        ]
        table.add_row(row.layer, row.operator, f"{row.parameters:,}", f"{row.macs:,}", *cells)
    console.print(table)
    for engine, whole in report.whole.items():
        value = "" if whole.value is None else f", {report.metric} {whole.value:.4g} of {report.source:.4g}"
        said = "nothing in it is quantized" if whole.snr_db is None else f"{whole.snr_db:.1f} dB{value}"
        console.print(f"{engine}, all in {report.recipe.scheme}: {said}", highlight=False)
    _print_notes(console, report.notes)


def _columns(report: SensitivityReport, *, narrow: bool) -> dict[str, Callable[[Figures], str]]:
    """Return what is told of a layer in one format: heading → cell."""
    columns: dict[str, Callable[[Figures], str]] = {
        "alone": lambda one: _decibels(one.harm.alone_db),
        "share": lambda one: f"{100 * one.share:3.0f} % {'█' * round(BAR * one.share)}",
    }
    if not narrow:
        columns["its own"] = lambda one: _decibels(one.harm.own_db)
        columns["in model"] = lambda one: _decibels(one.harm.layer_db)
    if report.exact:
        columns["made alone"] = lambda one: _decibels(one.alone.snr_db if one.alone else None)
        columns["all but it"] = lambda one: _decibels(one.kept.snr_db if one.kept else None)
    if report.exact and report.metric:
        columns["value alone"] = lambda one: _number(one.alone.value if one.alone else None)
        columns["all but"] = lambda one: _number(one.kept.value if one.kept else None)
    return columns


def _decibels(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} dB"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _end(name: str) -> str:
    return name if len(name) <= NODE_WIDTH else f"…{name[1 - NODE_WIDTH :]}"
