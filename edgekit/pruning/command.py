"""``edgekit prune``: a smaller model as a file of its own framework, and what that bought."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

from edgekit import __version__, steps
from edgekit import report as reports
from edgekit import training as trainings
from edgekit.distill import ModelReport
from edgekit.options import Options, check_outputs
from edgekit.pipeline import with_preprocessing
from edgekit.plan import Plan, resolve
from edgekit.pruning.asked import Pruning, asked, timed_in, with_calibration
from edgekit.pruning.compare import PruningReport, compare
from edgekit.pruning.slim import slim
from edgekit.report_page import page
from edgekit.steps import Work
from edgekit_converters import toolchains
from edgekit_converters.cache import Cache, cache_root, digest
from edgekit_converters.load import LOADERS
from edgekit_converters.records import Probe, ProbeRequest, Source
from edgekit_converters.runner import Runner, StageCost, Watch, new_log
from edgekit_runtime.errors import PlanError


@dataclass(frozen=True)
class PrunePlan:
    """A model, and how much of it is to be left."""

    model: Plan
    pruning: Pruning
    output: Path | None  # without, the model's name with "-pruned"


@dataclass(frozen=True)
class PruneReport:
    """What ``edgekit prune`` tells."""

    edgekit: str
    source: str
    framework: str
    model: ModelReport
    pruning: PruningReport
    versions: dict[str, str]
    stages: tuple[StageCost, ...]
    wall_seconds: float
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"


def plan(options: Options) -> PrunePlan:
    """Decide everything that can be decided without opening the model.

    Raises:
        PlanError: the request contradicts itself, or asks for nothing.
    """
    pruning = asked(options)
    if pruning is None:
        raise PlanError(
            "say how much: --prune 0.5 for half of all channels, --prune-to latency=0.5, or --sparsity 0.8 for weights"
        )
    output = Path(options.output) if options.output else None
    if output:
        check_outputs(output, options)
    # resolved as a conversion would be, whose default name of a bundle is not used
    model = resolve(with_calibration(dataclasses.replace(options, output=None)))
    engine = timed_in(model)[0]  # what other formats make of it is told by a conversion
    only = tuple(variant for variant in model.variants if variant.engine == engine)
    return PrunePlan(dataclasses.replace(model, variants=only), pruning, output)


def prune(plan: PrunePlan, watch: Watch | None = None) -> PruneReport:
    """Prune, recover, and write the model, whole or not at all.

    Raises:
        EdgekitError: a stage refused; nothing is left behind but the checkpoints of epochs that were finished.
    """
    started = time.monotonic()
    root = cache_root()
    with Runner(new_log(root), Cache(root / "stages", enabled=plan.model.cache), watch) as runner:
        work = _work(runner, plan.model)
        output = _output(plan, trainings.save(runner, work.source).suffix)
        made = slim(work, plan.pruning)
        told = compare(work, plan.pruning, made, {})
        file = trainings.save(runner, made.source)
        report = PruneReport(
            edgekit=__version__,
            source=plan.model.name,
            framework=work.source.framework,
            model=ModelReport(str(output), file.stat().st_size, digest(file)),
            pruning=told,
            versions={"edgekit": __version__} | toolchains.versions(work.toolchain, *plan.model.engines),
            stages=tuple(runner.costs),
            wall_seconds=round(time.monotonic() - started, 3),
            notes=(*work.source.notes, *told.notes),
        )
        with reports.to_file(plan.model.report) as write_report:
            trainings.put(file, output)
            write_report(_text(report, plan.model.report))
    return report


def _text(report: PruneReport, path: Path | None) -> str:
    if path is None or path.suffix != ".html":
        return report.to_json()
    return page(report.source, report.pruning.metric, (), report.pruning, report.notes)


def _output(plan: PrunePlan, suffix: str) -> Path:
    """Where the pruned model goes.

    Raises:
        PlanError: the name asks for another kind of file than the model's.
    """
    output = plan.output or Path(f"{plan.model.name}-pruned{suffix}")
    if output.suffix.lower() != suffix:
        raise PlanError(f"-o {output}: the model is saved as {suffix}; give a name that ends so")
    return output


def _work(runner: Runner, plan: Plan) -> Work:
    """The dense model, opened, and the data to measure it with."""
    toolchain = LOADERS[plan.source.kind].toolchain
    runner.start(timed_in(plan)[0], "tabulate")
    source: Source = runner.run("load", toolchain, plan.source)
    inputs = with_preprocessing(source, plan)
    calibration = steps.prepare(runner, plan, inputs, plan.calibrate, steps.CALIBRATION)
    evaluation = steps.prepare(runner, plan, inputs, plan.evaluate, steps.EVALUATION)
    probe: Probe = runner.run(
        "probe", toolchain, ProbeRequest(source, inputs, tuple(data for data in (calibration, evaluation) if data))
    )
    return Work(runner, plan, source, inputs, probe, calibration, evaluation)
