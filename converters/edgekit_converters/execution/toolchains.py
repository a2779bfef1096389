"""The toolchains: which packages each one is, and the extra of edgekit that installs them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib import metadata

from edgekit_runtime.errors import ToolchainError


@dataclass(frozen=True)
class Toolchain:
    """A set of packages that share one child process."""

    modules: tuple[str, ...]  # import names; all must be there
    packages: tuple[str, ...]  # distributions whose versions count
    extras: tuple[str, ...]  # pip install 'edgekit[extra]': any of them brings all
    warm: str = ""  # module of ours whose import takes long, started before it is needed


TOOLCHAINS = {
    "data": Toolchain((), ("numpy", "pillow"), ()),
    "keras": Toolchain(("tensorflow", "tf_keras"), ("tensorflow", "keras", "tf-keras"), ("keras",)),
    "python": Toolchain(
        (), ("tensorflow", "keras", "tf-keras", "torch", "torch-pruning", "litert-torch", "litert-converter"), ()
    ),
    "torch": Toolchain(("torch",), ("torch", "torch-pruning", "litert-torch", "litert-converter"), ("torch",)),
    "litert": Toolchain(
        ("ai_edge_litert", "ai_edge_quantizer"), ("ai-edge-litert", "ai-edge-quantizer"), ("keras", "torch")
    ),
    "openvino": Toolchain(("openvino", "nncf"), ("openvino", "nncf"), ("openvino",), "edgekit_converters.quantize.ir"),
}


def versions(*names: str) -> dict[str, str]:
    """Return the installed versions of the named toolchains' packages, by distribution."""
    found = {}
    for package in sorted({package for name in names for package in TOOLCHAINS[name].packages}):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def require(name: str, stage: str) -> None:
    """Refuse when a toolchain is not installed.

    Raises:
        ToolchainError: naming the extra that brings it.
    """
    require_modules(TOOLCHAINS[name].modules, TOOLCHAINS[name].extras, stage)


def require_modules(modules: tuple[str, ...], extras: tuple[str, ...], stage: str) -> None:
    """Refuse when a module is not installed.

    Raises:
        ToolchainError: naming the extra that brings it.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ToolchainError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            stage=stage,
            advice="pip install " + " or ".join(f"'edgekit[{extra}]'" for extra in extras),
        )
