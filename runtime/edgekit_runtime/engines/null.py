"""An engine that needs only numpy: its artifact is one matrix.

With it, bundles, placement, commands and stores can be tested anywhere. It is also the shortest example of an engine.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgekit_runtime.engines import EngineInfo, Library, TensorInfo
from edgekit_runtime.errors import EngineUnavailable

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import Variant
    from edgekit_runtime.tensors import Array

WHEELS: dict[str, tuple[str, ...]] = {}


def library() -> Library:
    """Return numpy, which is always there."""
    return Library("numpy", np.__version__, np.__version__, np.__path__[0])


def open_model(path: str, variant: Variant, threads: int | None, artifact: str = "") -> NullEngine:
    """Open an ``.npy`` of shape (*input shape without batch, out_features).

    Raises:
        EngineUnavailable: the device is not the CPU, or the file is not such an array.
    """
    if variant.device != "cpu" or variant.delegate is not None:
        raise EngineUnavailable("the null engine runs on the CPU, without delegates")
    try:
        weights = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EngineUnavailable(f"the null engine cannot read {os.path.basename(path)}: {error}") from error
    if not isinstance(weights, np.ndarray) or weights.ndim < 2:
        raise EngineUnavailable(f"the null engine wants one array of at least 2 dimensions in {os.path.basename(path)}")
    return NullEngine(weights)


class NullEngine:
    """``output = input.reshape(1, -1) @ weights``, in the dtype of the weights."""

    def __init__(self, weights: Array) -> None:
        dtype = weights.dtype.name
        self.inputs = (TensorInfo(0, "x", (1, *weights.shape[:-1]), dtype),)
        self.outputs = (TensorInfo(0, "y", (1, weights.shape[-1]), dtype),)
        self.facts = EngineInfo("CPU", dtype, None)
        self._matrix = weights
        self._weights = weights.reshape(-1, weights.shape[-1])  # (in_features, out_features)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Multiply: (1, ...) in, (1, out_features) out."""
        return [arrays[0].reshape(1, -1) @ self._weights]

    def clone(self) -> NullEngine:
        """Make another engine on the same matrix."""
        return NullEngine(self._matrix)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
