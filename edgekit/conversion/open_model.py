"""Open a model and prepare its data: the first steps of every command."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from edgekit.conversion import stages
from edgekit.conversion.context import CALIBRATION, EVALUATION, ConversionContext
from edgekit.parallel.executor import Executor, Threads
from edgekit.parallel.ray_executor import connect
from edgekit.plan.execution import ExecutionPlan
from edgekit.plan.plan import ArtifactPlan
from edgekit_converters.data import DataSet
from edgekit_converters.execution.runner import Runner, Watch, new_log
from edgekit_converters.execution.stage_cache import Cache, cache_root
from edgekit_converters.load import LOAD
from edgekit_converters.records import Probe, ProbeRequest, Source
from edgekit_converters.verify.probe import PROBE
from edgekit_runtime.errors import PlanError
from edgekit_runtime.format.manifest import InputSpec, Preprocessing


def start_runner(plan: ExecutionPlan, watch: Watch | None) -> Runner:
    """Return what runs a command's stages; with Ray their files are beside the cache, which the nodes share."""
    root = cache_root()
    cache = Cache(root / "stages", enabled=plan.cache)
    return Runner(new_log(root), cache, watch, jobs=plan.jobs, scratch=root if plan.ray else None)


def start_executor(runner: Runner, plan: ArtifactPlan) -> AbstractContextManager[Executor]:
    """Return what runs tasks in parallel: threads of this process, or a Ray cluster.

    Raises:
        PlanError: the cluster cannot be joined, or a node lacks something.
    """
    if plan.execution.ray is None:
        return nullcontext(Threads(runner.jobs))
    files = [plan.model.source.path, *([plan.data.metric.path] if plan.data.metric else [])]
    return connect(plan.execution.ray, plan.targets.engines, runner.scratch, files)


def load_source(runner: Runner, plan: ArtifactPlan, start: str) -> Source:
    """Open the model. Meanwhile the engines' workers start, which will run the named stage."""
    for engine in plan.targets.engines:
        runner.start(engine, start)
    return runner.run(LOAD, plan.model.source)


def prepare_context(
    runner: Runner, plan: ArtifactPlan, source: Source, executor: Executor | None = None
) -> ConversionContext:
    """Prepare the data of a plan, and compute what the model computes for some samples.

    Raises:
        PlanError: the preprocessing does not fit the model.
        DataError: the data do not fit the model.
    """
    data, inputs = plan.data, with_preprocessing(source, plan.data.preprocessing)
    calibration = stages.prepare_data(runner, data, inputs, data.calibrate, CALIBRATION)
    evaluation = stages.prepare_data(runner, data, inputs, data.evaluate, EVALUATION)
    probe = run_probe(runner, source, inputs, (calibration, evaluation))
    return ConversionContext(
        runner,
        data,
        plan.targets,
        source,
        inputs,
        probe,
        calibration,
        evaluation,
        executor=executor or Threads(runner.jobs),
    )


def data_notes(context: ConversionContext) -> tuple[str, ...]:
    """Return notes on the calibration and evaluation data; notes on both are listed once."""
    calibration, evaluation = (data.notes if data else () for data in (context.calibration, context.evaluation))
    both = tuple(note for note in calibration if note in evaluation)
    return (
        *both,
        *(f"calibration: {note}" for note in calibration if note not in both),
        *(f"evaluation: {note}" for note in evaluation if note not in both),
    )


def run_probe(
    runner: Runner,
    source: Source,
    inputs: tuple[InputSpec, ...],
    data: tuple[DataSet | None, ...],
    name: str = "",
) -> Probe:
    """Run the model on a few samples.

    The samples are taken from all data sets: an artifact with calibration ranges that are too narrow is correct on
    calibration samples only.
    """
    return runner.run(PROBE, ProbeRequest(source, inputs, tuple(filter(None, data))), name)


def with_preprocessing(source: Source, preprocessing: Preprocessing | None) -> tuple[InputSpec, ...]:
    """Give the declared preprocessing to the model's image input, or to its only one.

    Raises:
        PlanError: the model has several such inputs, or the number of channels differs from that of the values.
    """
    if preprocessing is None:
        return source.inputs
    images = [spec for spec in source.inputs if spec.layout] or list(source.inputs)
    if len(images) != 1:
        names = ", ".join(spec.name for spec in images)
        raise PlanError(f"--resize, --scale, --mean and --std are for one input; the model has {names}")
    spec = images[0]
    channels = spec.shape[1] if spec.layout == "NCHW" else spec.shape[-1]
    for option, values in (("--mean", preprocessing.mean), ("--std", preprocessing.std)):
        if len(values) not in (0, 1, channels):
            raise PlanError(f"{option} has {len(values)} values; input {spec.name!r} has {channels} channels")
    if preprocessing.resize:
        _check_resize(spec, preprocessing.resize)
    declared = replace(spec, preprocessing=preprocessing)
    return tuple(declared if each is spec else each for each in source.inputs)


def _check_resize(spec: InputSpec, size: tuple[int, int]) -> None:
    wanted = spec.shape[2:4] if spec.layout == "NCHW" else spec.shape[1:3]
    if spec.layout is None or wanted != size:
        raise PlanError(f"--resize {size[0]},{size[1]}: input {spec.name!r} has the shape {spec.shape}")
