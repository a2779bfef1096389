"""An open model, as its own process has it."""

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
    """An open model, in its own process.

    ``run`` takes and gives one array an input and an output, in application layout, with a leading batch;
    ``handle`` is the framework's own object, which only files of the same framework look into.
    """

    framework: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    run: Callable[[Arrays], Arrays]
    handle: Any
    transposed: tuple[bool, ...] = ()
    scheme: str = "float32"  # what it came in; all but float32 is bundled as it is
    code: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
