"""The Python API: ``edgekit.convert`` and ``edgekit.prune``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit import pipeline
from edgekit.conversion import live_model
from edgekit.plan.option_declaration import build
from edgekit.plan.options import ConversionOptions, PruneOptions
from edgekit.pruning import command
from edgekit.pruning.command import PruneCommandReport
from edgekit.pruning.options import plan_pruned_conversion
from edgekit.report.conversion_report import Report
from edgekit_converters.execution.runner import Watch
from edgekit_runtime.errors import PlanError


def convert(model: Any, output: str | Path | None = None, *, watch: Watch | None = None, **options: Any) -> Report:
    """Convert a model into a verified bundle.

    Args:
        model: a path, ``"FILE.py:function"``, or a live Keras model or
            ``torch.nn.Module``; a module also needs ``input_shape``.
        output: the bundle's path; by default the model's name with ``.edgekit``, in the working directory.
        watch: called with ``(stage, subject, done, total)`` from any thread; during training also with a status text.
        **options: the command's options with underscores (see :mod:`edgekit.plan.options`). An option that may be
            repeated takes one value or a sequence: ``device="raspberry-pi-5"``, ``quantize=["int8-static"]``.

    Returns:
        The report; ``report.bundle.path`` is the bundle.

    Raises:
        EdgekitError: the same errors as the command, with the same exit codes (see :mod:`edgekit_runtime.errors`).
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-model-") as folder:
        values = _values(model, output, options, Path(folder), ".edgekit")
        plan, pruning = plan_pruned_conversion(build(ConversionOptions, values))
        return pipeline.convert(plan, watch, pruning)


def prune(
    model: Any, output: str | Path | None = None, *, watch: Watch | None = None, **options: Any
) -> PruneCommandReport:
    """Remove the least important channels of a model, and fine-tune it.

    Args:
        model: a path, ``"FILE.py:function"``, or a live Keras model.
        output: the file to write; by default the model's name with ``-pruned``, in the working directory.
        watch: as for :func:`convert`.
        **options: the command's options with underscores: ``prune_to="latency=0.5"``, ``train="train.npz"``.

    Returns:
        The report; ``report.model.path`` is the file.

    Raises:
        EdgekitError: the same errors as the command, with the same exit codes.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-model-") as folder:
        values = _values(model, output, options, Path(folder), "")
        return command.prune(command.plan_prune(build(PruneOptions, values)), watch)


def _values(
    model: Any, output: str | Path | None, options: Mapping[str, Any], folder: Path, suffix: str
) -> dict[str, Any]:
    """Return the command's options by name; a live model becomes a file in ``folder``.

    Args:
        model: a path, or a live model.
        output: the file to write.
        options: the other options by name.
        folder: for the file of a live model.
        suffix: of the output, if it is named after a live model.
    """
    values = dict(options) | ({} if output is None else {"output": output})
    if "input_shape" in values:
        values["input_shape"] = _input_shapes(values["input_shape"])
    if not isinstance(model, (str, Path)):
        values.setdefault("name", type(model).__name__.lower())
        if suffix:
            values.setdefault("output", f"{values['name']}{suffix}")
        model = live_model.save(model, values.pop("input_shape", ()), folder)
    return values | {"model": model}


def _input_shapes(value: Any) -> tuple[str, ...]:
    """Return shapes as the command line takes them, from a text, a shape, a mapping by name, or several of them."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Mapping):
        return tuple(f"{name}={_shape_text(shape)}" for name, shape in value.items())
    if isinstance(value, Sequence) and all(isinstance(size, int) for size in value):
        return (_shape_text(value),)
    if not isinstance(value, Sequence):
        raise PlanError(f"input_shape is {value!r}; wanted such as (1, 3, 224, 224), or {{'image': (1, 3, 224, 224)}}")
    return tuple(shape if isinstance(shape, str) else _shape_text(shape) for shape in value)


def _shape_text(shape: Any) -> str:
    return shape if isinstance(shape, str) else ",".join(map(str, shape))
