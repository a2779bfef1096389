"""PyTorch → OpenVINO IR; image inputs are NHWC as in TFLite, so that all variants have the same inputs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from edgekit_converters.formats.openvino_model import convert, save
from edgekit_converters.frameworks.loaded_model import LoadedModel


def lower(live: LoadedModel, folder: Path) -> tuple[Path, ...]:
    """Write ``model.xml`` and ``model.bin``.

    Raises:
        UnsupportedOperator: OpenVINO lacks an operator of the module.
        ToolchainError: OpenVINO failed otherwise.
    """
    examples = []
    for spec, moved in zip(live.inputs, live.transposed, strict=True):
        array = np.zeros(spec.shape, spec.dtype)
        examples.append(torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)) if moved else array))
    with torch.inference_mode():
        model = convert(
            live.handle,
            lambda operator: _source_line(live.handle, examples, operator),
            example_input=tuple(examples),
            input=[tuple(example.shape) for example in examples],  # dynamic sizes would propagate through views
        )
    return save(model, live, folder)


def _source_line(module: torch.nn.Module, examples: list[torch.Tensor], operator: str) -> str:
    """Return the line of the user's code that a traced operation comes from."""
    graph = torch.jit.trace(module, tuple(examples), check_trace=False).inlined_graph
    lines = next((node.sourceRange() for node in graph.nodes() if node.kind() == operator), "")
    found = re.match(r"(\S+)\((\d+)\): ", lines)
    return f", at {Path(found.group(1)).name}:{found.group(2)}" if found else ""
