"""edgekit: turn trained Keras and PyTorch models into verified TFLite and OpenVINO bundles.

``edgekit.convert(model, output, ...)`` and ``edgekit.prune(model, output, ...)`` do what the commands do; see
:mod:`edgekit.api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.version import __version__

if TYPE_CHECKING:
    from edgekit.api import convert as convert
    from edgekit.api import prune as prune

__all__ = ["__version__", "convert", "prune"]


def __getattr__(name: str) -> Any:
    """Import the API at its first use, so that ``import edgekit`` stays fast."""
    if name in ("convert", "prune"):
        from edgekit import api

        return getattr(api, name)
    raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
