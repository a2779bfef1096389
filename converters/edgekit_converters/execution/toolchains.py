"""The toolchains: the packages of each one, and the extra of edgekit that installs them."""

from __future__ import annotations

import importlib.util
from importlib import metadata

from edgekit_converters.formats import format_of
from edgekit_converters.frameworks import trainable_frameworks
from edgekit_converters.frameworks.loaders import python_toolchain
from edgekit_converters.toolchain import Toolchain
from edgekit_runtime.errors import ToolchainError

BASE = {  # need only the packages that edgekit itself depends on
    "data": Toolchain((), ("numpy", "pillow"), ()),
    "null": Toolchain((), ("numpy",), ()),  # the runtime's engine of that name
}


def toolchain(name: str) -> Toolchain:
    """Return a toolchain by its name: of ``BASE``, ``python``, a trainable framework, or the engine of a format."""
    if name in BASE:
        return BASE[name]
    if name == "python":
        return python_toolchain()
    trainable = trainable_frameworks()
    return trainable[name].toolchain if name in trainable else format_of(name).toolchain


def versions(*names: str) -> dict[str, str]:
    """Return the installed versions of the named toolchains' packages, by distribution."""
    found = {}
    for package in sorted({package for name in names for package in toolchain(name).packages}):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def require(name: str, stage: str) -> None:
    """Check that a toolchain is installed.

    Raises:
        ToolchainError: a package is missing; the message names the extra that installs it.
    """
    wanted = toolchain(name)
    require_modules(wanted.modules, wanted.extras, stage)


def require_modules(modules: tuple[str, ...], extras: tuple[str, ...], stage: str) -> None:
    """Check that modules are installed.

    Raises:
        ToolchainError: a package is missing; the message names the extra that installs it.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ToolchainError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            stage=stage,
            advice="pip install " + " or ".join(f"'edgekit[{extra}]'" for extra in extras),
        )
