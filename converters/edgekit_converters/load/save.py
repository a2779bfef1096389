"""Save: an open model as a file that its framework loads without edgekit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit_converters.execution.stage import Stage
from edgekit_converters.load import of_framework, open_source
from edgekit_converters.records import Source

# framework: "module:function", (LoadedModel, folder) -> Path
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
    """The file: ``.keras`` of a model of Keras 3, ``.h5`` of one of tf_keras, ``.pt2`` of a PyTorch module."""

    path: Path


def save(request: SaveRequest, folder: Path) -> Saved:
    """The stage: write the model into ``folder``.

    Raises:
        SourceError: it is no trained Keras or PyTorch model.
    """
    write = of_framework(SAVERS, request.source)
    return Saved(write(open_source(request.source.request), folder))


SAVE = Stage(save, toolchain=lambda request: request.source.toolchain)
