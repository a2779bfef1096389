"""Import and call the user's Python code."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekit_converters.frameworks import trainable_frameworks
from edgekit_runtime.errors import SourceError

SEED = 0  # models that draw their weights are the same model each time


def import_file(path: Path) -> ModuleType:
    """Import a Python file by its path; modules in its folder can be imported from it.

    Raises:
        SourceError: there is no such file, or it raises; the message names the user's line.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SourceError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    call(path, spec.loader.exec_module, module)
    return module


def call(path: Path, function: Any, *arguments: Any) -> Any:
    """Call the user's code."""
    try:
        return function(*arguments)
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{path}: needs the module {error.name!r}, which is not installed{_install(error.name)}"
        ) from error
    except Exception as error:  # whatever the user's code raises is the user's to read, with the line it came from
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
        where = f"{path}:{frames[-1].lineno}" if frames else str(path)
        raise SourceError(f"{where}: {type(error).__name__}: {error}") from error


def _install(module: str | None) -> str:
    """Return how to install a framework's module; nothing for other modules."""
    for trainable in trainable_frameworks().values():
        if module in (*trainable.packages, *trainable.toolchain.modules):
            return f"; pip install 'edgekit[{trainable.toolchain.extras[0]}]'"
    return ""


def reset_names() -> None:
    """Restart automatic layer names, so that a function builds a model with the same names each time."""
    for trainable in trainable_frameworks().values():
        trainable.reset_names()


def seed() -> None:
    """Seed the frameworks that the process has imported, so that a function draws the same weights each time."""
    for trainable in trainable_frameworks().values():
        trainable.seed(SEED)


def own_files(path: Path, before: set[str]) -> tuple[Path, ...]:
    """Return the user's file and the files beside it that it imported; a change in any of them is another model."""
    folder = path.resolve().parent
    files = {path.resolve()}
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(folder) and "site-packages" not in file:
            files.add(Path(file))
    return tuple(sorted(files))
