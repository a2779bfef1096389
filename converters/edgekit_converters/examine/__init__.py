"""Examine: find patterns in a float artifact that int8 harms, by structure and ranges, and their remedies."""

from __future__ import annotations

import pkgutil
from pathlib import Path

from edgekit_converters.data import pick_samples
from edgekit_converters.examine.detectors import examine_graph
from edgekit_converters.execution.stage import Stage
from edgekit_converters.formats import format_of
from edgekit_converters.records import Examination, ExamineRequest

SAMPLES = 16  # spread over the set; rough ranges are enough here, and quantization uses all samples


def examine(request: ExamineRequest, _folder: Path) -> Examination:
    """The stage: run the artifact on a few calibration samples, and examine its graph and all of its tensors.

    No detector depends on the name of a model or a layer.

    Raises:
        ToolchainError: the artifact cannot be read or run.
    """
    engine = request.artifact.engine
    samples = pick_samples(request.data, request.inputs, SAMPLES)
    return examine_graph(engine, pkgutil.resolve_name(format_of(engine).graph_reader)(request.artifact, samples))


EXAMINE = Stage(examine, toolchain=lambda request: request.artifact.toolchain)
