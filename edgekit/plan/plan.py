"""The plan of ``edgekit convert``: every decision that is made before any toolchain starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.plan import postprocessing
from edgekit.plan.budget import Budget
from edgekit.plan.data import DataPlan, plan_data
from edgekit.plan.execution import ExecutionPlan, plan_execution
from edgekit.plan.model import ModelPlan, plan_model
from edgekit.plan.option_declaration import given_options
from edgekit.plan.options import (
    AUTO,
    BudgetOptions,
    ConversionOptions,
    ExecutionOptions,
    PostprocessingOptions,
    TargetOptions,
)
from edgekit.plan.output_files import check_outputs
from edgekit.plan.targets import TargetPlan, plan_targets
from edgekit_runtime.errors import PlanError

DEFAULT_MAX_DROP = 0.01  # of a search


@dataclass(frozen=True)
class ArtifactPlan:
    """A model, and the artifacts to make of it: what every command needs that lowers a model."""

    model: ModelPlan
    data: DataPlan
    targets: TargetPlan
    execution: ExecutionPlan


@dataclass(frozen=True)
class ConversionPlan(ArtifactPlan):
    """The artifacts, and the bundle to write."""

    output: Path
    version: str
    labels: Path | None
    postprocessing: PostprocessingOptions | None
    max_drop: float | None
    budget: Budget | None  # of a search, which selects among the variants
    report: Path | None


def plan_artifacts(
    model: ModelPlan, data: DataPlan, targets: TargetOptions, execution: ExecutionOptions
) -> ArtifactPlan:
    """Decide which artifacts are made, and with how many workers.

    Raises:
        PlanError: options contradict each other, or cannot be done.
    """
    target_plan = plan_targets(targets, model.source.kind, data.calibrate)
    parallel = target_plan.search or data.evaluate is not None
    return ArtifactPlan(
        model, data, target_plan, plan_execution(execution, len(target_plan.engines), parallel=parallel)
    )


def plan_conversion(options: ConversionOptions) -> ConversionPlan:
    """Decide everything that can be decided without opening the model.

    Raises:
        PlanError: options contradict each other, or a file that they name is not there.
    """
    model, data = plan_model(options.model_input), plan_data(options.data, options.preprocessing)
    artifacts = plan_artifacts(model, data, options.targets, options.execution)
    search = artifacts.targets.search
    _check_budget(options.budget, data.evaluate, search=search)
    labels = Path(options.outputs.labels) if options.outputs.labels else None
    if labels:
        postprocessing.read_labels(labels)
    output = Path(options.outputs.output or f"{model.source.path.stem or 'model'}.edgekit")
    check_outputs(options, output)
    return ConversionPlan(
        **vars(artifacts),
        output=output,
        version=options.outputs.version,
        labels=labels,
        postprocessing=postprocessing.requested(options.postprocessing),
        max_drop=options.budget.max_drop,
        budget=_budget(options.budget) if search else None,
        report=Path(options.outputs.report) if options.outputs.report else None,
    )


def _check_budget(options: BudgetOptions, evaluate: str | None, *, search: bool) -> None:
    if options.max_drop is not None and not evaluate and not search:
        raise PlanError("--max-drop needs --evaluate DATA to measure the drop on")
    for option in given_options(options):
        if option.name != "max_drop" and not search:
            raise PlanError(f"{option.flag} goes with --quantize {AUTO}")


def _budget(options: BudgetOptions) -> Budget:
    values = {option.name.replace("budget_", ""): getattr(options, option.name) for option in given_options(options)}
    return Budget(**{"max_drop": DEFAULT_MAX_DROP} | values)
