"""The data of a command: what calibrates, what evaluates, and how samples become inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekit.plan.option_declaration import check_paths
from edgekit.plan.options import AUTO, DataOptions, PreprocessingOptions
from edgekit_converters.records import UserMetric
from edgekit_converters.verify import user_metric
from edgekit_runtime.errors import PlanError
from edgekit_runtime.format.manifest import Preprocessing


@dataclass(frozen=True)
class DataPlan:
    """Data that are not read yet. ``calibrate`` and ``evaluate`` are files, folders or ``FILE.py:function``."""

    preprocessing: Preprocessing | None = None
    calibrate: str | None = None
    evaluate: str | None = None
    metric: UserMetric | None = None
    samples: int | Literal["auto"] | None = None  # of calibration
    layout: str | None = None


def plan_data(options: DataOptions, preprocessing: PreprocessingOptions) -> DataPlan:
    """Check that the data are there and that their options go together.

    Raises:
        DataError: a file is not there.
        PlanError: an option needs another one.
    """
    if options.samples == AUTO and not options.calibrate:
        raise PlanError(f"--samples {AUTO} needs --calibrate DATA to choose from")
    if options.metric and not options.evaluate:
        raise PlanError("--metric needs --evaluate DATA to measure on")
    check_paths(options)
    return DataPlan(
        _preprocessing(preprocessing),
        options.calibrate,
        options.evaluate,
        user_metric.parse_metric(options.metric) if options.metric else None,
        options.samples,
        options.layout,
    )


def _preprocessing(options: PreprocessingOptions) -> Preprocessing | None:
    if options == PreprocessingOptions():
        return None
    scale = 1.0 if options.scale is None else options.scale
    return Preprocessing(resize=options.resize, scale=scale, mean=options.mean, std=options.std)
