"""Run edgekit bundles: ``load(path)`` picks the best variant this machine can really run, and proves it.

Names are imported when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit_runtime import errors as errors
    from edgekit_runtime.bundle.reader import open_bundle as open_bundle
    from edgekit_runtime.model import Model as Model
    from edgekit_runtime.model import load as load
    from edgekit_runtime.placement.place import Placement as Placement

__version__ = "0.1.0"

_HOMES = {
    "load": "model",
    "Model": "model",
    "Placement": "placement.place",
    "open_bundle": "bundle.reader",
    "errors": "errors",
}

__all__ = ["Model", "Placement", "errors", "load", "open_bundle"]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOMES[name]}")
    value = module if name == _HOMES[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
