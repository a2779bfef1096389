"""The loaders of all kinds of model files."""

from __future__ import annotations

import itertools

from edgekit_converters.frameworks import FRAMEWORKS, Loader, framework, trainable_frameworks
from edgekit_converters.toolchain import Toolchain


def _of_trainable_frameworks() -> Loader:
    """Return the loader of ``FILE.py:function``, whose function may build a model of any trainable framework."""
    loaders = [loader for name in trainable_frameworks() for loader in framework(name).loaders.values()]
    saved = tuple(itertools.chain.from_iterable(loader.saved_suffixes for loader in loaders))
    return Loader("edgekit_converters.load.python_function:load_function", "python", (".py",), saved)


LOADERS: dict[str, Loader] = {
    kind: loader for name in FRAMEWORKS for kind, loader in framework(name).loaders.items()
} | {"python": _of_trainable_frameworks()}


def frameworks_of(kind: str) -> tuple[str, ...]:
    """Return the frameworks that a kind of model file may belong to: for Python code all trainable ones."""
    if kind == "python":
        return tuple(trainable_frameworks())
    return tuple(name for name in FRAMEWORKS if kind in framework(name).loaders)


def python_toolchain() -> Toolchain:
    """Return the toolchain of Python code, whose cache keys hold the versions of all trainable frameworks."""
    toolchains = [trainable.toolchain for trainable in trainable_frameworks().values()]
    return Toolchain((), tuple(package for one in toolchains for package in one.packages), ())
