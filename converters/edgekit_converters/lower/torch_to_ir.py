"""PyTorch → OpenVINO IR; image inputs take NHWC as they do in TFLite, so that every variant takes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from edgekit_converters.load import Live
from edgekit_converters.lower.ir import convert, save


def lower(live: Live, folder: Path) -> tuple[Path, ...]:
    """Write ``model.xml`` and ``model.bin``.

    Raises:
        UnsupportedOperator: OpenVINO lacks an operator of the module.
        ToolchainError: OpenVINO failed otherwise.
    """
    examples = []
    for spec, moved in zip(live.inputs, live.moved, strict=True):
        array = np.zeros(spec.shape, spec.dtype)
        examples.append(torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)) if moved else array))
    with torch.inference_mode():
        model = convert(live.handle, example_input=tuple(examples))
    return save(model, live, folder)
