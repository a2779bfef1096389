"""The report: what a conversion made, what it cost and how it was measured; docs/report.md explains every key."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.candidate_search.selection import pareto
from edgekit.conversion.trial import Trial
from edgekit.report.pruning_report import PruningReport
from edgekit_converters.examine.coverage import Coverage
from edgekit_converters.execution.runner import StageCost
from edgekit_converters.recipe.label import recipe_label
from edgekit_converters.records import Finding, Latency, Parity
from edgekit_converters.verify.metrics import METRICS
from edgekit_runtime.errors import ConversionError

REPORT_VERSION = 1
SHOWN = 3  # findings of one kind


@dataclass(frozen=True)
class SourceReport:
    """The model as it came."""

    name: str
    framework: str
    metric: str | None  # of evaluation: a key of METRICS
    value: float | None  # of that metric
    accuracy: float | None  # fraction in 0..1, when the metric is accuracy
    samples: int | None  # evaluated


@dataclass(frozen=True)
class VariantReport:
    """One variant of the bundle."""

    name: str
    engine: str
    device: str
    scheme: str
    size_bytes: int
    accuracy: float | None
    value: float | None  # of the source's metric
    drop: float | None  # how much worse than the source, in the metric's unit; below 0 is better
    parity: Parity  # of the output that differs most
    latency_ms: Latency  # on this machine, one thread


@dataclass(frozen=True)
class TrialReport:
    """One candidate of a race."""

    engine: str
    recipe: str  # in a few words
    state: str  # "measured", "dropped", "broken", "failed" or "skipped"
    reason: str
    samples: int | None
    value: float | None
    drop: float | None
    error: float | None
    latency_ms: float | None
    size_bytes: int | None
    seconds: float
    pareto: bool  # none of its engine loses less, is faster and is smaller


@dataclass(frozen=True)
class BundleReport:
    """The file."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Report:
    """Everything."""

    edgekit: str
    source: SourceReport
    variants: tuple[VariantReport, ...]
    bundle: BundleReport
    versions: dict[str, str]
    stages: tuple[StageCost, ...]
    wall_seconds: float
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]
    coverage: Coverage | None  # of the calibration data, where any were needed
    trials: tuple[TrialReport, ...]  # of a race
    choices: tuple[str, ...]  # of a race: what was taken, and why
    pruning: PruningReport | None  # dense and pruned, side by side; ``source`` is the dense model then
    report_version: int = REPORT_VERSION

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"


@contextlib.contextmanager
def to_file(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Give a function that writes a report's text to ``path``; a place that cannot be written to is known at once.

    A reader of ``path`` sees all of the report or nothing. Without a path the function does nothing.

    Raises:
        ConversionError: it cannot be written there.
    """
    if path is None:
        yield lambda text: None
        return
    aside = path.with_name(f".{path.name}.new")
    try:
        with aside.open("w", encoding="utf-8") as file:
            yield lambda text: print(text, end="", file=file)
        aside.replace(path)
    except OSError as error:
        raise ConversionError(
            f"{path} cannot be written: {error.strerror or error}",
            stage="report",
            advice="give another place with --report",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def trial_reports(trials: Sequence[Trial]) -> tuple[TrialReport, ...]:
    """Tell what became of the candidates of a race."""
    best = [
        one
        for engine in {trial.engine for trial in trials}
        for one in pareto([t for t in trials if t.engine == engine])
    ]
    return tuple(
        TrialReport(**{**vars(trial), "recipe": recipe_label(trial.recipe), "pareto": trial in best})
        for trial in trials
    )


def rows(report: Report) -> list[dict[str, Any]]:
    """Return the terminal table: one row for the source, one a variant, cells as text."""
    metric = report.source.metric
    source = {"variant": f"source ({report.source.framework})", "value": value_text(report.source.value, metric)}
    table: list[dict[str, Any]] = [source] if metric else []
    for variant in report.variants:
        table.append(
            {
                "variant": variant.name,
                "size": size_text(variant.size_bytes),
                "value": value_text(variant.value, metric),
                "drop": "" if variant.drop is None else _drop(variant.drop, metric),
                "snr": f"{variant.parity.snr_db:.1f} dB",
                "cosine": f"{variant.parity.cosine:.5f}",
                "p50": f"{variant.latency_ms.p50:.3f} ms",
                "p90": f"{variant.latency_ms.p90:.3f} ms",
            }
        )
    return table


def metric_text(name: str | None) -> str:
    """Return a metric's name in words; a user's own is told as it was given."""
    return (name or "value") if name not in METRICS else name.replace("_", " ")


def value_text(value: float | None, metric: str | None) -> str:
    """Return a metric's value for people; nothing where there is none."""
    if value is None:
        return ""
    return f"{100 * value:.2f} %" if metric == "accuracy" else f"{value:.5g}"


def _drop(value: float, metric: str | None) -> str:
    return f"{100 * value:+.2f}" if metric == "accuracy" else f"{value:+.3g}"


def finding_lines(report: Report) -> list[str]:
    """Return what was found, a line each, and of many of one kind the first few."""
    lines: list[str] = []
    kinds = dict.fromkeys((one.engine, one.kind) for one in report.findings)
    for engine, kind in kinds:
        alike = [one for one in report.findings if (one.engine, one.kind) == (engine, kind)]
        lines += [f"{engine}: {_short(one.node)}: {one.description}\n  remedy: {one.remedy}" for one in alike[:SHOWN]]
        if len(alike) > SHOWN:
            lines.append(f"{engine}: {kind} {len(alike) - SHOWN} times more; --report lists all")
    return lines


def coverage_notes(coverage: Coverage | None) -> tuple[str, ...]:
    """Say whether more calibration samples would widen ranges further; LiteRT joins a tensor's names by semicolons."""
    if coverage is None or not coverage.doublings:
        return ()
    last, seen = coverage.doublings[-1], coverage.samples
    facts = f"the last half of {seen} samples made {100 * last.mean:.0f} % of them on average"
    if coverage.settled is not None:
        return (f"calibration: ranges have settled after {coverage.settled} samples: {facts}",)
    worst = f"{coverage.worst[0].tensor.partition(';')[0]} ({100 * coverage.worst[0].part:.0f} %)"
    share = f"more than a twentieth in {100 * last.grown:.0f} % of {coverage.tensors} tensors, most in {worst}"
    return (f"calibration: ranges still grow: {facts}, {share}; give more samples",)


def _short(node: str) -> str:
    """A node's name; TFLite joins those of all that was fused into it, of which the first will do."""
    first, *rest = node.split(";")
    return f"{first}; ..." if rest else first


def size_text(size_bytes: int) -> str:
    """Return a size for people."""
    return f"{size_bytes / 1024:.1f} KiB" if size_bytes < 2**20 else f"{size_bytes / 2**20:.2f} MiB"
