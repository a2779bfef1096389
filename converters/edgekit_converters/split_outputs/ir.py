"""Remove the Concat from an output of an IR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openvino as ov
from openvino import opset13

from edgekit_converters.formats.openvino_model import openvino_errors
from edgekit_converters.records import Artifact, Split


def split(artifact: Artifact, splits: tuple[Split, ...], folder: Path) -> tuple[tuple[Path, ...], tuple[int, ...]]:
    """Write ``model.xml`` and ``model.bin``; return both, and each output's number of parts, in the source's order.

    Raises:
        ToolchainError: OpenVINO cannot read or write it.
    """
    with openvino_errors("split_outputs"):
        model = ov.Core().read_model(artifact.files[0])
        outputs = [model.outputs[part.index] for bound in artifact.outputs for part in bound.parts]
        parts = [[output.get_node().input_value(0)] for output in outputs]
        for place in {one.output for one in splits}:
            parts[place] = _parts(*parts[place])
        results = [opset13.result(port) for group in parts for port in group]
        for place, result in enumerate(results):
            result.set_friendly_name(f"result {place}")
        path = folder / "model.xml"
        # every node keeps its name, which findings and rules refer to
        split_model = ov.Model(results, model.get_parameters(), model.get_friendly_name())
        ov.save_model(split_model, path, compress_to_fp16=False)
        return (path, path.with_suffix(".bin")), tuple(map(len, parts))


def _parts(concat: Any) -> list[Any]:
    """Return the inputs of a Concat; an input without a name is named after the Concat."""
    ports = [port.get_source_output() for port in concat.get_node().inputs()]
    for part, port in enumerate(ports):
        if not port.get_names():
            port.get_tensor().set_names({f"{min(concat.get_names(), default='output')}_{part}"})
    return ports
