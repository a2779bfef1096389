"""edgekit: turn trained Keras and PyTorch models into verified TFLite and OpenVINO bundles.

``edgekit.convert(model, output, ...)`` does what the command does; see :func:`edgekit.api.convert`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.api import convert as convert

__version__ = "0.1.0"
__all__ = ["__version__", "convert"]


def __getattr__(name: str) -> Any:
    """Load the API when it is asked for: ``import edgekit`` costs nothing."""
    if name == "convert":
        from edgekit.api import convert

        return convert
    raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
