"""``edgekit prune``: a smaller model, saved by its own framework, and a report."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

from edgekit.conversion import open_model
from edgekit.plan.data import plan_data
from edgekit.plan.model import plan_model
from edgekit.plan.options import PruneOptions
from edgekit.plan.plan import ArtifactPlan, plan_artifacts
from edgekit.pruning.comparison import compare
from edgekit.pruning.options import PruningPlan, calibration_data, measured_in, plan_pruning
from edgekit.pruning.prune import prune_model
from edgekit.report import conversion_report
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
class PruneCommandPlan:
    """A model, how it is pruned, and what its latency and size are measured in."""

    artifacts: ArtifactPlan
    pruning: PruningPlan
    output: Path | None  # None: the model's name with "-pruned"
    report: Path | None


@dataclass(frozen=True)
class PruneCommandReport:
    """The report of ``edgekit prune``."""

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


def plan_prune(options: PruneOptions) -> PruneCommandPlan:
    """Decide everything that can be decided without opening the model.

    Raises:
        PlanError: options contradict each other, or there is nothing to prune or to train for.
    """
    pruning = plan_pruning(options.pruning, options.training, options.data)
    if pruning is None:
        raise PlanError(
            "give a goal: --prune 0.5 for half of all channels, --prune-to latency=0.5, or --sparsity 0.8 for weights"
        )
    model = plan_model(options.model_input)
    data = calibration_data(options.data, options.pruning, options.training)
    artifacts = plan_artifacts(model, plan_data(data, options.preprocessing), options.targets, options.execution)
    report = Path(options.outputs.report) if options.outputs.report else None
    output = model_file.requested_path(options, model.source)
    return PruneCommandPlan(_only_measured(artifacts), pruning, output, report)


def _only_measured(plan: ArtifactPlan) -> ArtifactPlan:
    """Keep the engine that latency and size are measured in; ``edgekit convert`` makes the others."""
    engine, _ = measured_in(plan.targets, calibrated=plan.data.calibrate is not None)
    variants = tuple(variant for variant in plan.targets.variants if variant.engine == engine)
    return dataclasses.replace(plan, targets=dataclasses.replace(plan.targets, variants=variants))


def prune(plan: PruneCommandPlan, watch: Watch | None = None) -> PruneCommandReport:
    """Prune, fine-tune, and write the model.

    Raises:
        EdgekitError: a stage refused; only the checkpoints of finished epochs are left.
    """
    started = time.monotonic()
    with open_model.start_runner(plan.artifacts.execution, watch) as runner:
        source = open_model.load_source(runner, plan.artifacts, TIME_LAYERS.name)
        context = open_model.prepare_context(runner, plan.artifacts, source)
        saved = model_file.save_model(runner, source)
        output = model_file.output_path(plan.output, f"{plan.artifacts.model.name}-pruned", saved)
        pruned = prune_model(context, plan.pruning)
        pruning = compare(context, plan.pruning, pruned, {})
        file = model_file.save_model(runner, pruned.source)
        report = PruneCommandReport(
            edgekit=__version__,
            source=plan.artifacts.model.name,
            framework=source.framework,
            model=model_file.report_saved(file, output),
            pruning=pruning,
            versions={"edgekit": __version__} | toolchains.versions(source.toolchain, *plan.artifacts.targets.engines),
            stages=tuple(runner.costs),
            wall_seconds=round(time.monotonic() - started, 3),
            notes=(*source.notes, *open_model.data_notes(context), *pruning.notes),
        )
        with conversion_report.report_writer(plan.report) as write_report:
            model_file.copy_to(file, output)
            write_report(_text(report, plan.report))
        if pruned.checkpoints:
            pruned.checkpoints.remove()
    return report


def _text(report: PruneCommandReport, path: Path | None) -> str:
    if path is None or path.suffix != ".html":
        return report.to_json()
    return page(report.source, report.pruning.metric, (), report.pruning, report.notes)
