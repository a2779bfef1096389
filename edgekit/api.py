"""The Python face of ``edgekit convert``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import pipeline
from edgekit.plan import Options, parse_input_shape, resolve
from edgekit.report import Report
from edgekit_converters.runner import Watch
from edgekit_runtime.errors import PlanError, SourceError


def convert(model: Any, output: str | Path | None = None, *, watch: Watch | None = None, **options: Any) -> Report:
    """Convert a model into a verified bundle.

    Args:
        model: what the command takes (a path, or ``"FILE.py:function"``), or a live Keras model or
            ``torch.nn.Module``; a module also needs ``input_shape``.
        output: the bundle's path; by default the model's name with ``.edgekit``, in the working directory.
        watch: told ``(stage, subject, done, total)`` as work goes on, from any thread.
        **options: the command's options with underscores (see :class:`edgekit.plan.Options`). An option that may
            be repeated takes one value or a sequence: ``device="raspberry-pi-5"``, ``quantize=["int8-static"]``.

    Returns:
        What was made and measured; ``report.bundle.path`` is the bundle.

    Raises:
        EdgekitError: the same errors as the command, with the same exit codes (see :mod:`edgekit_runtime.errors`).
    """
    fields = Options.__dataclass_fields__
    unknown = [name for name in options if name not in fields]
    if unknown:
        raise PlanError(f"unknown option {unknown[0]!r}; known: {', '.join(fields)}")
    given = {name: _as_option(name, value) for name, value in options.items()}
    if output is not None:
        given["output"] = str(output)
    with tempfile.TemporaryDirectory(prefix="edgekit-model-") as folder:
        if not isinstance(model, (str, Path)):
            given.setdefault("name", type(model).__name__.lower())
            given.setdefault("output", f"{given['name']}.edgekit")
            model = _save_live(model, given.get("input_shape", ()), Path(folder))
            given["input_shape"] = ()
        return pipeline.convert(resolve(Options(**given, model=str(model))), watch)


def _as_option(name: str, value: Any) -> Any:
    """Let options be given as Python users would: a path, one value for many, a shape as a tuple of numbers."""
    if name == "input_shape":
        return _input_shapes(value)
    if isinstance(value, Path):
        return str(value)
    if str(Options.__dataclass_fields__[name].type).startswith("tuple") and value is not None:
        single = isinstance(value, (str, Path, int, float))
        return (str(value) if isinstance(value, Path) else value,) if single else tuple(value)
    return value


def _input_shapes(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, dict):
        return tuple(f"{name}={','.join(map(str, shape))}" for name, shape in value.items())
    if all(isinstance(size, int) for size in value):
        return (",".join(map(str, value)),)
    return tuple(shape if isinstance(shape, str) else ",".join(map(str, shape)) for shape in value)


def _save_live(model: Any, input_shapes: tuple[str, ...], folder: Path) -> Path:
    """Save a live model as a file the pipeline can open in a process of its own.

    Only frameworks the caller has imported are asked: a live model has imported its own.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        if not input_shapes:
            raise SourceError("a torch.nn.Module does not say what it takes; give input_shape=(1, 3, 224, 224)")
        shapes = [parse_input_shape(text) for text in input_shapes]
        examples = [torch.from_numpy(np.zeros(said.shape, said.dtype or "float32")) for said in shapes]
        was_training = model.training
        program = torch.export.export(model.eval(), tuple(examples))
        model.train(was_training)
        torch.export.save(program, folder / "model.pt2")
        return folder / "model.pt2"
    for name in ("keras", "tf_keras"):
        framework = sys.modules.get(name)
        if framework is not None and isinstance(model, framework.Model):
            path = folder / "model.keras"
            model.save(path)
            return path
    raise SourceError(f"{type(model).__name__} is neither a path, a Keras model nor a torch.nn.Module")
