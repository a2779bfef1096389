"""Save: an open model as a file that its framework loads without edgekit."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit_converters.load import open_source
from edgekit_converters.records import Source
from edgekit_runtime.errors import SourceError

# framework: "module:function", (Live, folder) -> Path
SAVERS = {
    "keras": "edgekit_converters.load.keras_model:save",
    "torch": "edgekit_converters.load.torch_module:save",
}


@dataclass(frozen=True)
class SaveRequest:
    """Save a model."""

    source: Source


@dataclass(frozen=True)
class Saved:
    """The file: ``.keras`` or ``.h5`` of a Keras model, as it came, ``.pt2`` of a PyTorch module."""

    path: Path


def save(request: SaveRequest, folder: Path) -> Saved:
    """The stage: write the model into ``folder``.

    Raises:
        SourceError: it is no trained Keras or PyTorch model.
    """
    if request.source.framework not in SAVERS:
        raise SourceError(
            f"{request.source.request.path}: pruning and training need the trained Keras or PyTorch model; "
            f"a model of {request.source.framework} can only be run"
        )
    module, _, name = SAVERS[request.source.framework].partition(":")
    write: Any = getattr(importlib.import_module(module), name)
    return Saved(write(open_source(request.source.request), folder))
