"""``edgekit prune``: a smaller model as a file of its own framework, and what that bought."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

from edgekit.conversion import open_model
from edgekit.plan.options import ConversionOptions
from edgekit.plan.plan import Plan, resolve
from edgekit.pruning.comparison import compare
from edgekit.pruning.options import PruningPlan, plan_pruning, timed_in, with_calibration
from edgekit.pruning.prune import slim
from edgekit.report import report as reports
from edgekit.report.html import page
from edgekit.report.pruning_report import PruningReport
from edgekit.training import model_file
from edgekit.training.model_file import SavedModelReport
from edgekit.version import __version__
from edgekit_converters.execution import toolchains
from edgekit_converters.execution.runner import StageCost, Watch
from edgekit_converters.prune.latency.profile import TIME_LAYERS
from edgekit_runtime.errors import PlanError


@dataclass(frozen=True)
class PrunePlan:
    """A model, and how much of it is to be left."""

    model: Plan
    pruning: PruningPlan
    output: Path | None  # without, the model's name with "-pruned"


@dataclass(frozen=True)
class PruneReport:
    """What ``edgekit prune`` tells."""

    edgekit: str
    source: str
    framework: str
    model: SavedModelReport
    pruning: PruningReport
    versions: dict[str, str]
    stages: tuple[StageCost, ...]
    wall_seconds: float
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"


def plan(options: ConversionOptions) -> PrunePlan:
    """Decide everything that can be decided without opening the model.

    Raises:
        PlanError: the request contradicts itself, or asks for nothing.
    """
    pruning = plan_pruning(options)
    if pruning is None:
        raise PlanError(
            "say how much: --prune 0.5 for half of all channels, --prune-to latency=0.5, or --sparsity 0.8 for weights"
        )
    # resolved as a conversion would be, whose default name of a bundle is not used
    model = resolve(with_calibration(model_file.without_output(options)))
    engine = timed_in(model)[0]  # what other formats make of it is told by a conversion
    only = tuple(variant for variant in model.variants if variant.engine == engine)
    return PrunePlan(
        dataclasses.replace(model, variants=only), pruning, model_file.requested_path(options, model.source)
    )


def prune(plan: PrunePlan, watch: Watch | None = None) -> PruneReport:
    """Prune, recover, and write the model, whole or not at all.

    Raises:
        EdgekitError: a stage refused; nothing is left behind but the checkpoints of epochs that were finished.
    """
    started = time.monotonic()
    with open_model.runner(plan.model, watch) as runner:
        work = open_model.work(runner, plan.model, open_model.load(runner, plan.model, TIME_LAYERS.name))
        saved = model_file.save(runner, work.source)
        output = model_file.place(plan.output, f"{plan.model.name}-pruned", saved)
        made = slim(work, plan.pruning)
        told = compare(work, plan.pruning, made, {})
        file = model_file.save(runner, made.source)
        report = PruneReport(
            edgekit=__version__,
            source=plan.model.name,
            framework=work.source.framework,
            model=model_file.told(file, output),
            pruning=told,
            versions={"edgekit": __version__} | toolchains.versions(work.source.toolchain, *plan.model.engines),
            stages=tuple(runner.costs),
            wall_seconds=round(time.monotonic() - started, 3),
            notes=(*work.source.notes, *open_model.data_notes(work), *told.notes),
        )
        with reports.report_writer(plan.model.report) as write_report:
            model_file.put(file, output)
            write_report(_text(report, plan.model.report))
        if made.memory:
            made.memory.forget()
    return report


def _text(report: PruneReport, path: Path | None) -> str:
    if path is None or path.suffix != ".html":
        return report.to_json()
    return page(report.source, report.pruning.metric, (), report.pruning, report.notes)
