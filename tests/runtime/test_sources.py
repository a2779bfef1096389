"""The runtime's sources: functions that a person reads at once, and a place for each module in docs/layout.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import edgekit_runtime

PACKAGE = Path(edgekit_runtime.__file__).parent
MOST_LINES = 60


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_functions_are_short(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    lines = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_every_module_has_its_place_in_the_layout(repository: Path) -> None:
    page = (repository / "docs" / "layout.md").read_text(encoding="utf-8")
    drawn = page.partition("  edgekit_runtime/\n")[2].partition("devices/edgekit_devices")[0].split()
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} <= set(drawn)
