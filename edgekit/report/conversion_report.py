"""The report of a conversion: artifacts, measurements and costs; docs/report.md explains every key."""

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
SHOWN_FINDINGS = 3  # of one kind, on the terminal


@dataclass(frozen=True)
class SourceReport:
    """The source model."""

    name: str
    framework: str
    metric: str | None  # a key of METRICS, or FILE.py:FUNCTION; None if nothing was evaluated
    value: float | None  # of that metric
    accuracy: float | None  # fraction in 0..1, when the metric is accuracy
    samples: int | None  # number of evaluated samples


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
    drop: float | None  # loss against the source, in the metric's unit; negative is better
    parity: Parity  # of the output that differs most
    latency_ms: Latency  # on this machine, one thread


@dataclass(frozen=True)
class TrialReport:
    """One candidate of ``--quantize auto``."""

    engine: str
    recipe: str  # a label, see recipe_label
    state: str  # "measured", "dropped", "broken", "failed" or "skipped"
    reason: str
    samples: int | None
    value: float | None
    drop: float | None
    error: float | None
    latency_ms: float | None
    size_bytes: int | None
    seconds: float
    pareto: bool  # no other candidate of its engine is better in drop, latency and size


@dataclass(frozen=True)
class BundleReport:
    """The bundle file."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Report:
    """The whole report."""

    edgekit: str
    source: SourceReport
    variants: tuple[VariantReport, ...]
    bundle: BundleReport
    versions: dict[str, str]
    stages: tuple[StageCost, ...]
    wall_seconds: float
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]
    coverage: Coverage | None  # of the calibration data; None without calibration
    trials: tuple[TrialReport, ...]  # of --quantize auto
    choices: tuple[str, ...]  # of --quantize auto: the selection, explained
    pruning: PruningReport | None  # then ``source`` is the dense model
    report_version: int = REPORT_VERSION

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"


@contextlib.contextmanager
def report_writer(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Yield a function that writes the report's text to ``path``; without a path it does nothing.

    A path that is not writable is refused at once. The file appears when it is complete.

    Raises:
        ConversionError: the file cannot be written.
    """
    if path is None:
        yield lambda text: None
        return
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield lambda text: print(text, end="", file=file)
        temporary.replace(path)
    except OSError as error:
        raise ConversionError(
            f"{path} cannot be written: {error.strerror or error}",
            stage="report",
            advice="give another path with --report",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def trial_reports(trials: Sequence[Trial]) -> tuple[TrialReport, ...]:
    """Return the results of the candidates."""
    engines = {trial.engine for trial in trials}
    best = [best for engine in engines for best in pareto([trial for trial in trials if trial.engine == engine])]
    return tuple(
        TrialReport(**{**vars(trial), "recipe": recipe_label(trial.recipe), "pareto": trial in best})
        for trial in trials
    )


def variant_rows(report: Report) -> list[dict[str, Any]]:
    """Return the rows of the terminal table as texts by column: the source first, then each variant."""
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
    """Return a metric's name in words; a user's own metric as it was given."""
    return (name or "value") if name not in METRICS else name.replace("_", " ")


def value_text(value: float | None, metric: str | None) -> str:
    """Return a metric's value for people; "" for None."""
    if value is None:
        return ""
    return f"{100 * value:.2f} %" if metric == "accuracy" else f"{value:.5g}"


def _drop(value: float, metric: str | None) -> str:
    return f"{100 * value:+.2f}" if metric == "accuracy" else f"{value:+.3g}"


def finding_lines(report: Report) -> list[str]:
    """Return a line for each finding, at most three of one kind."""
    lines: list[str] = []
    kinds = dict.fromkeys((finding.engine, finding.kind) for finding in report.findings)
    for engine, kind in kinds:
        alike = [finding for finding in report.findings if (finding.engine, finding.kind) == (engine, kind)]
        shown = alike[:SHOWN_FINDINGS]
        lines += [f"{engine}: {_short(each.node)}: {each.description}\n  remedy: {each.remedy}" for each in shown]
        if len(alike) > SHOWN_FINDINGS:
            lines.append(f"{engine}: {kind} {len(alike) - SHOWN_FINDINGS} more times; --report lists all")
    return lines


def coverage_notes(coverage: Coverage | None) -> tuple[str, ...]:
    """Say whether the calibration ranges have settled; LiteRT joins the names of a tensor by semicolons."""
    if coverage is None or not coverage.doublings:
        return ()
    last, seen = coverage.doublings[-1], coverage.samples
    facts = f"the last half of {seen} samples widened them by {100 * last.mean:.0f} % on average"
    if coverage.settled is not None:
        return (f"calibration: ranges have settled after {coverage.settled} samples: {facts}",)
    worst = f"{coverage.worst[0].tensor.partition(';')[0]} ({100 * coverage.worst[0].part:.0f} %)"
    share = f"more than a twentieth in {100 * last.grown:.0f} % of {coverage.tensors} tensors, most in {worst}"
    return (f"calibration: ranges still grow: {facts}, {share}; give more samples",)


def _short(node: str) -> str:
    """Return the first name of a node: TFLite joins the names of all fused operators."""
    first, *rest = node.split(";")
    return f"{first}; ..." if rest else first


def size_text(size_bytes: int) -> str:
    """Return a size for people."""
    return f"{size_bytes / 1024:.1f} KiB" if size_bytes < 2**20 else f"{size_bytes / 2**20:.2f} MiB"
