"""Toolchains in the test's own process, as a worker sets them up, and the stages called as functions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_converters import load as loading
from edgekit_converters.execution.worker import ENVIRONMENT
from edgekit_converters.records import Artifact, CompareRequest, Comparison, LowerRequest, ProbeRequest, SourceRequest


@pytest.fixture(scope="session", autouse=True)
def _toolchains_as_in_a_worker() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@pytest.fixture(scope="session")
def loaded() -> Callable[..., Any]:
    """Load a model: ``loaded(path, **fields of SourceRequest)`` gives its Source."""

    def load(path: Path, **fields: Any) -> Any:
        fields.setdefault("kind", loading.kind_of(path))
        return loading.load(SourceRequest(path=path, **fields), path.parent)

    return load


@pytest.fixture(scope="session")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """Lower a Source to an engine."""

    def run(source: Any, engine: str) -> Artifact:
        from edgekit_converters.lower import lower

        return lower(LowerRequest(source, engine), tmp_path_factory.mktemp(f"lowered-{engine}"))

    return run


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Comparison]:
    """Compare an artifact with its Source on seeded noise, or on data."""

    def run(source: Any, artifact: Artifact, data: Any = None) -> Comparison:
        from edgekit_converters.verify.parity import compare
        from edgekit_converters.verify.probe import probe

        folder = tmp_path_factory.mktemp("compared")
        reference = probe(ProbeRequest(source, source.inputs, (data,) if data else ()), folder)
        return compare(CompareRequest(artifact, reference, source.outputs), folder)

    return run


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Write arrays as data for a Source's inputs, and prepare them."""

    def run(source: Any, *arrays: np.ndarray) -> Any:
        from edgekit_converters.data import DataRequest, prepare

        folder = tmp_path_factory.mktemp("prepared")
        names = [spec.name for spec in source.inputs]
        np.savez(folder / "samples.npz", **dict(zip(names, arrays, strict=True)))
        return prepare(DataRequest(str(folder / "samples.npz"), source.inputs), folder)

    return run
