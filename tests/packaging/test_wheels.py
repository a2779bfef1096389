"""What is in the two wheels, built as a user's pip would build them."""

from __future__ import annotations

import email
import email.message
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

RUNTIME_WHEEL_LIMIT_BYTES = 175 * 1024
RUNNING_LIMIT_BYTES = 150 * 1024  # of it, without what only updates, signatures and keys are about
NOT_RUNNING = ("edgekit_runtime/store/", "edgekit_runtime/trust/", "edgekit_runtime/format/extents.py")
NOT_SOURCES = (".git", ".venv*", "build", "dist", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info")


@pytest.fixture(scope="session")
def wheels(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels by distribution, built from a copy so that nothing is left in the tree."""
    folder = tmp_path_factory.mktemp("wheels")
    copy = folder / "source"
    shutil.copytree(repository, copy, ignore=shutil.ignore_patterns(*NOT_SOURCES))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    command = [*pip, str(copy), str(copy / "runtime")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


def contents(wheel: Path) -> dict[str, int]:
    """The wheel's files with their sizes, its own metadata left out."""
    with zipfile.ZipFile(wheel) as archive:
        return {item.filename: item.file_size for item in archive.infolist() if ".dist-info/" not in item.filename}


def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def requirements(wheel: Path, *, extras: bool) -> list[str]:
    lines = metadata(wheel).get_all("Requires-Dist") or []
    return [line for line in lines if ("extra ==" in line) is extras]


def test_both_are_pure_python(wheels: dict[str, Path]) -> None:
    assert set(wheels) == {"edgekit", "edgekit_runtime"}
    assert all(path.name.endswith("-py3-none-any.whl") for path in wheels.values())


def test_the_runtime_is_one_small_typed_package(wheels: dict[str, Path]) -> None:
    wheel = wheels["edgekit_runtime"]
    names = contents(wheel)
    assert {name.partition("/")[0] for name in names} == {"edgekit_runtime"}
    assert all(name.endswith((".py", "/py.typed")) for name in names)
    assert "edgekit_runtime/py.typed" in names
    assert wheel.stat().st_size <= RUNTIME_WHEEL_LIMIT_BYTES
    with zipfile.ZipFile(wheel) as archive:
        updating = [item for item in archive.infolist() if item.filename.startswith(NOT_RUNNING)]
    assert wheel.stat().st_size - sum(item.compress_size for item in updating) <= RUNNING_LIMIT_BYTES


def test_the_runtime_requires_numpy_alone(wheels: dict[str, Path]) -> None:
    (requirement,) = requirements(wheels["edgekit_runtime"], extras=False)
    assert requirement.startswith("numpy")
    assert metadata(wheels["edgekit_runtime"])["Requires-Python"] == ">=3.9"


def test_the_tool_holds_its_three_packages_and_nothing_else(wheels: dict[str, Path]) -> None:
    names = contents(wheels["edgekit"])
    packages = {"edgekit", "edgekit_converters", "edgekit_devices"}
    assert {name.partition("/")[0] for name in names} == packages
    assert {f"{package}/py.typed" for package in packages} <= names.keys()
    assert not any("__pycache__" in name for name in names)


def test_the_tool_ships_every_source_file_template_profile_and_demo_file(
    wheels: dict[str, Path], repository: Path
) -> None:
    names = contents(wheels["edgekit"])
    for folder in ("edgekit", "converters/edgekit_converters", "devices/edgekit_devices"):
        root = repository / folder
        files = [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        shipped = {str(path.relative_to(root.parent)) for path in files}
        assert shipped <= names.keys(), sorted(shipped - names.keys())
    data = {"edgekit/demo/digits.keras", "edgekit/report/templates/report.html", "edgekit_devices/raspberry-pi-5.toml"}
    assert data <= names.keys()


def test_toolchains_are_extras(wheels: dict[str, Path]) -> None:
    plain = " ".join(requirements(wheels["edgekit"], extras=False))
    heavy = ("tensorflow", "torch", "openvino", "nncf", "litert")
    assert not any(name in plain for name in heavy)
    extras = " ".join(requirements(wheels["edgekit"], extras=True))
    assert all(name in extras for name in heavy)
    provided = metadata(wheels["edgekit"]).get_all("Provides-Extra") or []
    assert {"keras", "torch", "openvino", "all"} <= set(provided)


def test_the_command_is_declared(wheels: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheels["edgekit"]) as archive:
        name = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "edgekit = edgekit.cli:main" in archive.read(name).decode()
