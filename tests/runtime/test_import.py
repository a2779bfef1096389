"""Importing the runtime is fast, and it needs only numpy and the standard library."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgekit_runtime
from edgekit_runtime.engines import ENGINES

PACKAGE = Path(edgekit_runtime.__file__).parent
# Packages outside numpy and the standard library, and the only files that may import them, besides the engines.
FOREIGN = {
    "store/delta/codec.py": {"zstandard"},
    "trust/encryption.py": {"cryptography"},
    "trust/public_key.py": {"cryptography"},
    "commands/input_files.py": {"PIL"},
}


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(node.module.partition(".")[0])
    return names


def engine_packages(path: Path) -> set[str]:
    """The packages that a file may import because it belongs to an engine."""
    module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    owners = [engine for engine in ENGINES.values() if f"{module}.".startswith(f"{engine.module}.")]
    return {package for engine in owners for package in engine.packages}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_numpy_and_the_standard_library(path: Path) -> None:
    allowed = {"numpy", "edgekit_runtime"} | FOREIGN.get(path.relative_to(PACKAGE).as_posix(), set())
    allowed |= engine_packages(path)
    assert imported(path) - sys.stdlib_module_names <= allowed


def loaded_by(statement: str) -> set[str]:
    """Modules that a statement loads in a fresh process, over what numpy loads."""
    code = f"import sys, numpy; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_no_other_module() -> None:
    assert loaded_by("import edgekit_runtime") <= {"edgekit_runtime", "__future__"}


def test_importing_load_imports_no_slow_module() -> None:
    loaded = loaded_by("import edgekit_runtime; edgekit_runtime.load")
    heavy = {"argparse", "json", "zipfile", "zlib", "tempfile", "hashlib", "ctypes", "subprocess", "inspect", "asyncio"}
    assert not loaded & heavy
    ours = {name for name in loaded if name.startswith("edgekit")}
    assert all(name.partition(".")[0] == "edgekit_runtime" for name in ours)
    assert not {name for name in ours if name.startswith("edgekit_runtime.engines.")}


def test_every_public_name_can_be_imported() -> None:
    for name in edgekit_runtime.__all__:
        assert getattr(edgekit_runtime, name) is not None
        assert name in dir(edgekit_runtime)
    with pytest.raises(AttributeError, match="surprise"):
        _ = edgekit_runtime.surprise
