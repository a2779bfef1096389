"""Folders, modules and functions stay small enough to read."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGES = ("edgekit", "converters/edgekit_converters", "devices/edgekit_devices", "runtime/edgekit_runtime")
MODULES_PER_FOLDER = 16
LINES_PER_MODULE = 400
LINES_PER_FUNCTION = 60
COMMAND_TABLES = {"edgekit/cli/commands"}  # one file a command: as many as there are commands


@pytest.fixture(scope="module")
def modules(repository: Path) -> list[Path]:
    return [path for package in PACKAGES for path in sorted((repository / package).rglob("*.py"))]


def test_no_folder_holds_more_modules_than_a_reader_takes_in(repository: Path, modules: list[Path]) -> None:
    counts = Counter(str(path.parent.relative_to(repository)) for path in modules if path.name != "__init__.py")
    full = {folder: count for folder, count in counts.items() if count > MODULES_PER_FOLDER}
    assert full.keys() <= COMMAND_TABLES, full


def test_every_folder_says_what_it_holds(modules: list[Path]) -> None:
    silent = []
    for folder in {path.parent for path in modules}:
        start = folder / "__init__.py"
        if not start.is_file() or not ast.get_docstring(ast.parse(start.read_text(encoding="utf-8"))):
            silent.append(folder.name)
    assert silent == []


def test_modules_and_functions_are_short(repository: Path, modules: list[Path]) -> None:
    long = []
    for path in modules:
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(repository)
        if text.count("\n") > LINES_PER_MODULE:
            long.append(f"{where}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = (node.end_lineno or 0) - node.lineno + 1
                if count > LINES_PER_FUNCTION:
                    long.append(f"{where}: {node.name} has {count} lines")
    assert long == []
