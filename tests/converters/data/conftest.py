"""Fixtures that request and prepare a data set in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit_converters.data import DataRequest, DataSet, prepare
from edgekit_runtime.format.manifest import InputSpec, Preprocessing


@pytest.fixture
def image_input() -> InputSpec:
    return InputSpec("image", (1, 6, 8, 3), "float32", "NHWC")


@pytest.fixture
def resized_input() -> InputSpec:
    return InputSpec("image", (1, 6, 8, 3), "float32", "NHWC", Preprocessing(resize=(6, 8)))


@pytest.fixture
def images() -> np.ndarray:
    """20 colour images, (20, 6, 8, 3) uint8."""
    return np.random.default_rng(7).integers(0, 256, (20, 6, 8, 3), dtype=np.uint8)


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., str]:
    """Writes a .npz of the given arrays and returns its path."""

    def write(**arrays: object) -> str:
        np.savez(tmp_path / "data.npz", **arrays)
        return str(tmp_path / "data.npz")

    return write


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., DataSet]:
    """Prepares data for one input, or a tuple of them, and checks that a refusal leaves no file behind."""

    def run(spec: str, inputs: InputSpec | tuple[InputSpec, ...], **options: object) -> DataSet:
        folder = tmp_path / f"prepared-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        specs = inputs if isinstance(inputs, tuple) else (inputs,)
        finished = False
        try:
            data = prepare(DataRequest(spec, specs, **options), folder)
            finished = True
        finally:
            assert finished or not list(folder.iterdir())
        return data

    return run
