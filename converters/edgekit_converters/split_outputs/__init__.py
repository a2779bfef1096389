"""Split outputs: output the parts of a concatenation, so that each part has its own scale."""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from pathlib import Path

from edgekit_converters.artifact.open import bind_built, group_outputs
from edgekit_converters.execution.stage import Stage
from edgekit_converters.formats import format_of
from edgekit_converters.records import Artifact, SplitOutputsRequest


def split_outputs(request: SplitOutputsRequest, folder: Path) -> Artifact:
    """The stage: write a float artifact without the last concatenation of some outputs.

    Its outputs, joined again, are bit-identical to the outputs of the original artifact.

    Raises:
        ToolchainError: the engine refuses the written file.
    """
    artifact = request.artifact
    files, counts = pkgutil.resolve_name(format_of(artifact.engine).output_splitter)(artifact, request.splits, folder)
    by_output = {one.output: one for one in request.splits}
    built = bind_built("split_outputs", artifact.engine, artifact.scheme, files)
    axes = {place: one.axis for place, one in by_output.items()}
    grouped = group_outputs(built, tuple((count, axes.get(place)) for place, count in enumerate(counts)))
    return replace(
        grouped,
        part_ranges=tuple(by_output[place].part_ranges if place in by_output else () for place in range(len(counts))),
    )


SPLIT_OUTPUTS = Stage(split_outputs, toolchain=lambda request: request.artifact.toolchain)
