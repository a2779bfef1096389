"""Save an open model as a file that its framework loads without edgekit."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit_converters.execution.stage import Stage
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.load import open_source, trainable
from edgekit_converters.records import Source


@dataclass(frozen=True)
class SaveRequest:
    """Save a model."""

    source: Source


@dataclass(frozen=True)
class SavedFile:
    """The file: ``.keras`` for Keras 3, ``.h5`` for tf_keras, ``.pt2`` for a PyTorch module."""

    path: Path


def save(request: SaveRequest, folder: Path) -> SavedFile:
    """Write the model into ``folder``, as a file that its framework loads without edgekit.

    Raises:
        SourceError: it is not a trained Keras or PyTorch model.
    """
    write: Callable[[LoadedModel, Path], Path] = pkgutil.resolve_name(trainable(request.source).saver)
    return SavedFile(write(open_source(request.source.request), folder))


SAVE = Stage(save, toolchain=lambda request: request.source.toolchain)
