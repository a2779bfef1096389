"""Who needs what: a test marked `needs_...` is skipped without it, but in CI a missing package fails it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# marker -> import packages, all of which must be there
PACKAGES = {
    "needs_keras": ("tensorflow", "keras", "tf_keras", "ai_edge_quantizer"),
    "needs_torch": ("torch", "litert_torch", "ai_edge_quantizer"),
    "needs_litert": ("ai_edge_litert",),
    "needs_openvino": ("openvino", "nncf"),
    "needs_rich": ("rich",),
    "needs_jsonschema": ("jsonschema",),
    "needs_image": ("PIL",),
}


def _data_folder() -> Path:
    return Path(os.environ.get("EDGEKIT_DATA", ROOT.parent / "shared" / "data"))


def _require_packages(item: pytest.Item) -> None:
    for marker, packages in PACKAGES.items():
        missing = [name for name in packages if find_spec(name) is None]
        if item.get_closest_marker(marker) and missing:
            reason = f"{marker}: {', '.join(missing)} not installed"
            if os.environ.get("CI"):
                pytest.fail(f"{reason}, and CI skips nothing for a missing package", pytrace=False)
            pytest.skip(reason)


def _require_data() -> None:
    if not _data_folder().is_dir():
        pytest.skip(f"needs_data: no folder {_data_folder()}; set EDGEKIT_DATA to where the real models are")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail before any fixture is made."""
    _require_packages(item)
    if item.get_closest_marker("needs_data"):
        _require_data()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models and data; skips the test without it."""
    _require_data()
    return _data_folder()


@pytest.fixture(scope="session")
def demo() -> Path:
    """The folder of the embedded digits model and its data."""
    return ROOT / "edgekit" / "demo"
