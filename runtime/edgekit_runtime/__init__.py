"""Run edgekit bundles: ``load(path)`` selects the best variant that runs correctly on this machine.

Public names are imported on first use, so that importing the package takes almost no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit_runtime import errors as errors
    from edgekit_runtime.model import Model as Model
    from edgekit_runtime.model import load as load
    from edgekit_runtime.placement.place import Placement as Placement
    from edgekit_runtime.store.open_bundle import open_bundle as open_bundle
    from edgekit_runtime.version import __version__ as __version__

_MODULES = {
    "load": "model",
    "Model": "model",
    "Placement": "placement.place",
    "open_bundle": "store.open_bundle",
    "errors": "errors",
    "__version__": "version",
}

__all__ = ["Model", "Placement", "errors", "load", "open_bundle"]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULES[name]}")
    value = module if name == _MODULES[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
