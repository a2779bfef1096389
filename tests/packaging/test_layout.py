"""docs/layout.md shows the folders there are."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "folder",
    [
        "benchmarks",
        "converters/edgekit_converters",
        "devices/edgekit_devices",
        "docs/decisions",
        "edgekit/cli",
        "edgekit/demo",
        "runtime/edgekit_runtime/engines",
        "tests/packaging",
    ],
)
def test_every_folder_of_the_picture_exists_and_is_drawn(repository: Path, folder: str) -> None:
    page = (repository / "docs" / "layout.md").read_text(encoding="utf-8")
    assert (repository / folder).is_dir()
    assert f"{Path(folder).name}/" in page


def test_every_source_folder_is_drawn(repository: Path) -> None:
    page = (repository / "docs" / "layout.md").read_text(encoding="utf-8")
    for folder in repository.iterdir():
        built = folder.name.startswith(".") or folder.name in ("build", "dist")
        if folder.is_dir() and not built and any(folder.rglob("*.py")):
            assert f"{folder.name}/" in page


def test_decisions_are_numbered_without_gaps(repository: Path) -> None:
    names = sorted(path.name for path in (repository / "docs" / "decisions").glob("*.md"))
    assert [name[:5] for name in names] == [f"{number:04d}-" for number in range(1, len(names) + 1)]
