"""A model that is open in its own process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit_runtime.format.manifest import InputSpec, OutputSpec

Arrays = list[np.ndarray]


@dataclass
class LoadedModel:
    """A model that is open in this process.

    ``run`` takes and returns one array for each input and output, in application layout, with a batch dimension.
    ``handle`` is the framework's own object; only code of the same framework uses it.
    """

    framework: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    run: Callable[[Arrays], Arrays]
    handle: Any
    transposed: tuple[bool, ...] = ()
    scheme: str = "float32"  # of the source; a quantized model is bundled unchanged
    code: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
