"""A ``.tflite`` is its own lowering."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgekit_converters.load import Live


def lower(live: Live, folder: Path) -> tuple[Path, ...]:
    """Copy the file as ``model.tflite``."""
    return (Path(shutil.copyfile(live.handle, folder / "model.tflite")),)
