"""Who may import whom, read from the sources.

edgekit -> edgekit_converters -> edgekit_runtime, and no toolchain in the process the user starts.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDERS = {
    "edgekit": "edgekit",
    "edgekit_converters": "converters/edgekit_converters",
    "edgekit_devices": "devices/edgekit_devices",
    "edgekit_runtime": "runtime/edgekit_runtime",
}
MAY_IMPORT = {
    "edgekit": {"edgekit", "edgekit_converters", "edgekit_devices", "edgekit_runtime"},
    "edgekit_converters": {"edgekit_converters", "edgekit_runtime"},
    "edgekit_devices": set(),
    "edgekit_runtime": {"edgekit_runtime"},
}
TOOLCHAINS = {
    *("ai_edge_litert", "ai_edge_quantizer", "keras", "litert_converter", "litert_torch", "nncf", "onnx"),
    *("openvino", "tensorflow", "tf_keras", "tflite_runtime", "torch"),
}
SCRIPTS = {"edgekit.demo.make_digits"}  # run by hand, imported by nothing


def sources(repository: Path) -> dict[str, Path]:
    """Every module of the four packages, by its import name."""
    modules = {}
    for package, folder in FOLDERS.items():
        for path in (repository / folder).rglob("*.py"):
            parts = path.relative_to(repository / folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            modules[name] = path
    return modules


def nodes(tree: ast.AST, *, at_import: bool) -> Iterator[ast.AST]:
    """All nodes; with `at_import` only those that run when the module is imported."""
    for child in ast.iter_child_nodes(tree):
        if at_import and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_import and isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from nodes(child, at_import=at_import)


def imports(path: Path, module: str, *, at_import: bool) -> set[str]:
    """The full names a module imports: `from a import b` gives both `a` and `a.b`."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in nodes(ast.parse(path.read_text(encoding="utf-8")), at_import=at_import):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
            origin = ".".join(part for part in (above if node.level else "", node.module) if part)
            names |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
    return names


def packages(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def loaded(start: set[str], modules: dict[str, Path]) -> set[str]:
    """Everything that importing `start` imports, through the modules of the tree."""
    seen: set[str] = set()
    waiting = set(start)
    while waiting:
        name = waiting.pop()
        seen.add(name)
        names = imports(modules[name], name, at_import=True) if name in modules else set()
        parents = {name.rpartition(".")[0]} - {""}
        waiting |= (names | parents) - seen
    return seen


@pytest.mark.parametrize("package", sorted(FOLDERS))
def test_a_package_imports_only_what_the_arrow_allows(repository: Path, package: str) -> None:
    for module, path in sources(repository).items():
        if module.partition(".")[0] == package:
            ours = packages(imports(path, module, at_import=False)) & FOLDERS.keys()
            assert ours <= MAY_IMPORT[package], f"{module} imports {sorted(ours - MAY_IMPORT[package])}"


def test_the_parent_process_imports_no_toolchain(repository: Path) -> None:
    modules = sources(repository)
    start = {name for name in modules if name.partition(".")[0] == "edgekit"} - SCRIPTS
    reached = loaded(start, modules)
    assert "edgekit_runtime.errors" in reached
    assert not packages(reached) & TOOLCHAINS


@pytest.mark.parametrize("name", ["records", "recipe.schemes", "execution.worker", "execution.stage_cache"])
def test_what_parent_and_worker_share_imports_no_toolchain(repository: Path, name: str) -> None:
    modules = sources(repository)
    module = f"edgekit_converters.{name}"
    assert module in modules
    assert not packages(loaded({module}, modules)) & TOOLCHAINS


def test_device_profiles_are_data(repository: Path) -> None:
    for module, path in sources(repository).items():
        if module.partition(".")[0] == "edgekit_devices":
            assert not imports(path, module, at_import=False)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import torch.nn", {"torch.nn"}),
        ("class A:\n    import torch", {"torch"}),
        ("try:\n    import torch\nexcept ImportError:\n    pass", {"torch"}),
        ("def f():\n    import torch", set()),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", set()),
        ("from . import b", {"edgekit", "edgekit.b"}),
        ("from .b import c", {"edgekit.b", "edgekit.b.c"}),
    ],
)
def test_the_reader_sees_what_runs_at_import(tmp_path: Path, text: str, found: set[str]) -> None:
    path = tmp_path / "a.py"
    path.write_text(text, encoding="utf-8")
    assert imports(path, "edgekit.a", at_import=True) - {"typing", "typing.TYPE_CHECKING"} == found
