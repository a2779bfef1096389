"""docs/layout.md shows the folders there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PACKAGES = ("edgekit", "converters/edgekit_converters", "runtime/edgekit_runtime")


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "layout.md").read_text(encoding="utf-8")


def drawn(page: str, package: str) -> set[str]:
    """The folders and modules that the picture shows below a package."""
    lines = page.partition(f"\n{package}/")[2].splitlines()
    below = []
    for line in lines[1:]:
        if not line.startswith(" "):
            break
        below.append(line)
    return set(re.findall(r"[a-z_]+(?:/|\.py)", "\n".join(below)))


@pytest.mark.parametrize("package", PACKAGES)
def test_the_picture_shows_the_folders_of_a_package(repository: Path, page: str, package: str) -> None:
    folders = {f"{path.parent.name}/" for path in (repository / package).glob("*/*.py")}
    shown = drawn(page, package)
    assert folders <= shown
    modules = {name for name in shown if name.endswith(".py")}
    assert modules <= {path.name for path in (repository / package).glob("*.py")}


def test_every_source_folder_is_drawn(repository: Path, page: str) -> None:
    for folder in repository.iterdir():
        built = folder.name.startswith(".") or folder.name in ("build", "dist")
        if folder.is_dir() and not built and any(folder.rglob("*.py")):
            assert f"{folder.name}/" in page


def test_what_a_change_costs_names_files_that_exist(repository: Path, page: str) -> None:
    table = page.partition("## What a change costs")[2].partition("\n## ")[0]
    roots = [repository, repository / "docs", *(repository / package for package in PACKAGES)]
    roots.append(repository / "converters/edgekit_converters/quantize")
    named = re.findall(r"`([a-z_/]+(?:\.py|/))`|\(([a-z-]+\.md)\)", table)
    for name in filter(None, (first or second for first, second in named)):
        assert any((root / name).exists() for root in roots), name


def test_decisions_are_numbered_without_gaps(repository: Path) -> None:
    names = sorted(path.name for path in (repository / "docs" / "decisions").glob("*.md"))
    assert [name[:5] for name in names] == [f"{number:04d}-" for number in range(1, len(names) + 1)]
