"""Output for people: progress on standard error, and reports as tables."""

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
from edgekit.conversion.sensitivity import LayerResult, SensitivityReport
from edgekit.pruning.command import PruneCommandReport
from edgekit.report.conversion_report import Report, finding_lines, metric_text, size_text, value_text, variant_rows
from edgekit.report.pruning_report import PruningReport
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


PIPE_WIDTH, FULL_WIDTH = 160, 100  # columns: without a terminal, and for all columns of a table
NODE_WIDTH = 36  # characters of a node's name
BAR_WIDTH = 10  # characters
MAX_UNPRUNED = 6  # layers that are listed; the report has all


@contextlib.contextmanager
def progress(*, enabled: bool = True) -> Iterator[Watch | None]:
    """Show the progress of running stages, if standard error is a terminal."""
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

    def watch(stage: str, subject: str, done: int, total: int, status: str = "") -> None:
        with lock:
            key = stage, subject
            if key not in running:
                running[key] = bars.add_task(f"{stage} {subject}", total=None)
            bars.update(running[key], completed=done, total=total or None)
            if status:
                bars.update(running[key], description=f"{stage} {status}")
            if total == 1 == done:
                bars.remove_task(running.pop(key))

    with bars:
        yield watch


def _console() -> Console:
    """Return the console of reports; a pipe gets long lines."""
    console = Console()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def _print_notes(console: Console, notes: Sequence[str]) -> None:
    for note in notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)


def show_report(report: Report) -> None:
    """Print the report of a conversion."""
    console = _console()
    cells = variant_rows(report)
    shown = [key for key in HEADINGS if any(row.get(key) for row in cells)]
    if console.width < FULL_WIDTH:
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
    """Print the layers of a model and their nodes by engine; long node names are cut at the start."""
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
    """Print all epochs, the evaluation, and the written file."""
    console = _console()
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("epoch", "loss", f"held-out {metric_text(report.metric)}", "learning rate", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("before", "", f"{report.before:.4f}", "", "")
    for epoch in report.history:
        cells = f"{epoch.loss:.4f}", f"{epoch.value:.4f}", f"{epoch.learning_rate:.2g}", f"{epoch.seconds:.1f}"
        table.add_row(str(epoch.number), *cells, style="bold" if epoch.number == report.best else None)
    console.print(table)
    if report.evaluated:
        values = ", ".join(f"{name} {value:.4f}" for name, value in report.evaluated.items())
        console.print(f"{metric_text(report.evaluation_metric)} on --evaluate: {values}", highlight=False)
    _print_end(console, report)


def show_pruning(report: PruneCommandReport) -> None:
    """Print what was pruned, the effect, and the written file."""
    console = _console()
    print_pruning(console, report.pruning)
    _print_end(console, report)


def _print_end(console: Console, report: DistillReport | PruneCommandReport) -> None:
    """Print the notes and the path of the written model."""
    _print_notes(console, report.notes)
    console.print(
        f"{report.model.path}  {size_text(report.model.size_bytes)}  {report.wall_seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


def print_pruning(console: Console, report: PruningReport) -> None:
    """Print the original and the pruned model, one line per format and scheme, and whether the goal was met."""
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for heading in ("parameters", "MACs", "size", metric_text(report.metric), "p50", "p90"):
        table.add_column(heading, justify="right", no_wrap=True)
    for model in report.models:
        name = f"{report.display_name(model.model)} {model.engine} {model.scheme}"
        counts = ("" if count is None else f"{count:,}" for count in (model.parameters, model.macs))
        times = f"{model.latency_ms.p50:.3f} ms", f"{model.latency_ms.p90:.3f} ms"
        table.add_row(name, *counts, size_text(model.size_bytes), value_text(model.value, report.metric), *times)
    if report.models:
        console.print(table)
    lines = [f"{report.goal}: {'; '.join(_effects(report)) or 'trained, nothing was pruned'}"]
    lines += [f"not pruned: {layer or 'the model'}: {reason}" for layer, reason in report.whole[:MAX_UNPRUNED]]
    if len(report.whole) > MAX_UNPRUNED:
        lines.append(f"not pruned: {len(report.whole) - MAX_UNPRUNED} more layers; --report lists them")
    lines += [
        f"round {number}: held-out {metric_text(trained.metric)} {trained.before:.4f} before, {trained.value:.4f} "
        f"after epoch {trained.best} of {len(trained.history)}"
        for number, trained in enumerate(report.rounds, 1)
    ]
    if report.dense is not None and report.pruned is not None:
        before, after = (value_text(value, report.metric) for value in (report.dense, report.pruned))
        values = f"original {before}, {report.became} {after}"
        lines.append(f"{metric_text(report.metric)} of the unconverted model: {values}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _effects(report: PruningReport) -> Iterator[str]:
    """Yield what was pruned, and how much is left."""
    if report.groups:
        measured = (
            "" if report.measured is None else f", measured {100 * report.measured:.0f} % in {report.measured_in}"
        )
        pruned = sum(group.left < group.width for group in report.groups)
        yield f"{100 * report.counted:.0f} % left as counted{measured}"
        yield f"{pruned} of {len(report.groups)} groups pruned by {report.importance}"
    if report.dropped:
        yield f"residual branches removed: {', '.join(report.dropped)}"
    if report.sparse:
        zeros, weights = sum(layer.zeros for layer in report.sparse), sum(layer.weights for layer in report.sparse)
        yield f"{zeros:,} of {weights:,} weights are zero, in {len(report.sparse)} layers"


def show_sensitivity(report: SensitivityReport) -> None:
    """Print the layers, the most sensitive first; a narrow terminal gets fewer columns."""
    console = _console()
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("type", no_wrap=True)
    for heading in ("parameters", "MACs"):
        table.add_column(heading, justify="right", no_wrap=True)
    columns = _columns(report, narrow=console.width < PIPE_WIDTH)
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
        result = "nothing is quantized" if whole.snr_db is None else f"{whole.snr_db:.1f} dB{value}"
        console.print(f"{engine}, all in {report.recipe.scheme}: {result}", highlight=False)
    _print_notes(console, report.notes)


def _columns(report: SensitivityReport, *, narrow: bool) -> dict[str, Callable[[LayerResult], str]]:
    """Return the columns of one format: heading -> cell of a layer."""
    columns: dict[str, Callable[[LayerResult], str]] = {
        "alone": lambda one: _decibels(one.sensitivity.alone_db),
        "share": lambda one: f"{100 * one.share:3.0f} % {'█' * round(BAR_WIDTH * one.share)}",
    }
    if not narrow:
        columns["its own"] = lambda one: _decibels(one.sensitivity.own_db)
        columns["in model"] = lambda one: _decibels(one.sensitivity.layer_db)
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
