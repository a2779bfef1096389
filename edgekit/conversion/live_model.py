"""Save live models as files that worker processes can open; the model itself stays unchanged."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.plan.input_shape import parse_input_shape
from edgekit_converters.foreign_errors import short_message
from edgekit_converters.records import InputShape
from edgekit_runtime.errors import SourceError


def save(model: Any, input_shapes: tuple[str, ...], folder: Path) -> Path:
    """Save a live model into ``folder`` and return what to open.

    Only frameworks that the caller has imported are tried: the model's own is among them.

    Raises:
        SourceError: the object is no model, its input shape is unknown, or its framework cannot save it.
    """
    shapes = [parse_input_shape(text) for text in input_shapes]
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        return _save_module(torch, model, shapes, folder)
    for name in ("keras", "tf_keras"):
        framework = sys.modules.get(name)
        if framework is not None and isinstance(model, framework.Model):
            return _save_keras(model, shapes, folder)
    raise SourceError(f"{type(model).__name__} is neither a path, a Keras model nor a torch.nn.Module")


def _save_keras(model: Any, shapes: list[InputShape], folder: Path) -> Path:
    """Save as ``.keras``; with custom layers as a SavedModel, which does not need their code."""
    with _saving(model):
        if not model.built and len(shapes) == 1:
            model.build(shapes[0].shape)
        if not model.built:
            raise SourceError("the Keras model was never built: call it once, or give input_shape=(1, 224, 224, 3)")
        if all(_is_known(layer) for layer in _layers(model)):
            path = folder / "model.keras"
            model.save(path)
        else:
            path = folder / "model"
            model.export(str(path))
    return path


def _layers(model: Any) -> Iterator[Any]:
    yield model
    for layer in getattr(model, "layers", ()):
        yield from _layers(layer)


def _is_known(layer: Any) -> bool:
    """Tell whether Keras can load a layer from a file alone; a Lambda layer holds code of the caller."""
    return type(layer).__module__.split(".")[0] in ("keras", "tf_keras") and type(layer).__name__ != "Lambda"


def _save_module(torch: Any, model: Any, shapes: list[InputShape], folder: Path) -> Path:
    """Save as an exported program, traced in inference mode."""
    if not shapes:
        raise SourceError("the input shape of a torch.nn.Module is unknown; give input_shape=(1, 3, 224, 224)")
    examples = tuple(
        torch.from_numpy(np.zeros(input_shape.shape, input_shape.dtype or "float32"))
        for input_shape in _in_order(model, shapes)
    )
    was_training = [(module, module.training) for module in model.modules()]
    try:
        with _saving(model):
            program = torch.export.export(model.eval(), examples)
            torch.export.save(program, folder / "model.pt2")
    finally:
        for module, training in was_training:  # for each module: some may be frozen
            module.training = training
    return folder / "model.pt2"


def _in_order(model: Any, shapes: list[InputShape]) -> list[InputShape]:
    """Return named shapes in the order of ``forward``'s parameters, shapes without a name as they came."""
    parameters = list(inspect.signature(model.forward).parameters)
    unknown = [
        input_shape.name
        for input_shape in shapes
        if input_shape.name is not None and input_shape.name not in parameters
    ]
    if unknown:
        raise SourceError(f"forward() has no input {unknown[0]!r}; it has {', '.join(parameters)}")
    return sorted(shapes, key=lambda input_shape: parameters.index(input_shape.name) if input_shape.name else -1)


@contextlib.contextmanager
def _saving(model: Any) -> Iterator[None]:
    """Convert the errors of a framework that cannot save a model."""
    try:
        yield
    except SourceError:
        raise
    except Exception as error:  # saving may run code of the caller, which can raise anything
        raise SourceError(
            f"{type(model).__name__} cannot be saved to be converted: {short_message(error)}\n"
            f"pass a function that builds it instead: FILE.py:function"
        ) from error
