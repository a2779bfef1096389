"""Keras models quantized by a recipe, and their parity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_converters.quantize import quantize
from edgekit_converters.records import QuantizeRequest


class Lowered:
    """A model, its float artifact of one engine, and its calibration samples."""

    def __init__(self, source: Any, artifact: Any, data: Any, compared: Callable[..., Any], folder: Path) -> None:
        self.source, self.artifact, self.data = source, artifact, data
        self._compared, self._folder, self._made = compared, folder, 0

    def request(self, recipe: Any) -> QuantizeRequest:
        """Return the request to quantize it."""
        return QuantizeRequest(self.artifact, recipe, self.source.inputs, self.data)

    def quantized(self, recipe: Any) -> Any:
        """Return the artifact that a recipe makes."""
        self._made += 1
        folder = self._folder / f"quantized-{self._made}"
        folder.mkdir()
        return quantize(self.request(recipe), folder)

    def snr_db(self, recipe: Any) -> float:
        """Return how near the quantized artifact is to the model on the calibration samples."""
        return float(self._compared(self.source, self.quantized(recipe), self.data).worst.snr_db)


@pytest.fixture(scope="session")
def lowered_model(
    loaded: Callable[..., Any],
    lowered: Callable[..., Any],
    prepared: Callable[..., Any],
    compared: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Lowered]:
    """Lower a Keras model to an engine, with samples for calibration."""

    def make(model: Any, engine: str, samples: np.ndarray) -> Lowered:
        folder = tmp_path_factory.mktemp("model")
        model.save(folder / "model.keras")
        source = loaded(folder / "model.keras")
        return Lowered(source, lowered(source, engine), prepared(source, samples), compared, folder)

    return make
