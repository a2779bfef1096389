"""Writing IR: shapes fixed, tensors named after the source's, image inputs in the application's layout."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openvino as ov
from openvino import opset13, preprocess

from edgekit_converters.foreign_errors import short_message
from edgekit_converters.frameworks.live_model import LoadedModel
from edgekit_runtime.errors import EdgekitError, ToolchainError, UnsupportedOperator

MISSING_OPERATOR = re.compile(
    r"No conversion rule found for operations?:? ([\w:., ]+)|[Uu]nsupported operation:? (\w+)"
)

OPERATORS = frozenset(name.replace("_", "") for name in dir(opset13))  # "reducemean" for ReduceMean
AUTOMATIC_NAME = re.compile(r"([A-Z][A-Za-z0-9]*)_\d+(?![A-Za-z0-9])")


# what OpenVINO raises where a model is read, changed, run and written
FAILURES = (RuntimeError, ValueError, TypeError)
# its frontends and NNCF have classes that share no other, and raise this one bare
ANY = (Exception,)


@contextlib.contextmanager
def openvino_errors(stage: str = "lower", failures: tuple[type[Exception], ...] = FAILURES) -> Iterator[None]:
    """Map what OpenVINO raises; a frontend and NNCF raise ``ANY``."""
    try:
        yield
    except EdgekitError:
        raise
    except failures as error:
        missing = MISSING_OPERATOR.search(str(error))
        if missing:
            raise UnsupportedOperator(
                f"OpenVINO has no conversion for {(missing.group(1) or missing.group(2)).strip()}",
                stage=stage,
                subject="openvino",
                advice="replace the operation in the model, or convert for TFLite alone: --device raspberry-pi-5",
            ) from error
        raise ToolchainError(short_message(error), stage=stage, subject="openvino") from error


def convert(model: Any, place_of: Callable[[str], str] = lambda _: "", **options: Any) -> ov.Model:
    """Read a model of another framework with OpenVINO's frontends.

    OpenVINO names only the operator that it lacks; ``place_of`` tells where that is, such as `` in layer 'head'``.
    """
    try:
        with openvino_errors(failures=ANY):
            return ov.convert_model(model, **options)
    except UnsupportedOperator as refusal:
        refusal.args = (refusal.args[0] + place_of(refusal.args[0].rpartition(" ")[2]),)
        raise


def save(model: ov.Model, live: LoadedModel, folder: Path) -> tuple[Path, ...]:
    """Write a model as float32 IR whose inputs and outputs are the source's, in name, order and layout."""
    with openvino_errors():
        model = _in_order(model)
        if len(model.inputs) == len(live.inputs):
            _name_and_fix(model, live)
            model = _move_channels(model, live)
        return write(model, folder)


def write(model: ov.Model, folder: Path, *, half: bool = False) -> tuple[Path, ...]:
    """Write ``model.xml`` and ``model.bin``; equal models give equal bytes, whatever this process made before.

    OpenVINO names what has no name by its type and a count of all nodes its process ever made, which differs from run
    to run. Those nodes are counted anew in the order of the graph; telling names and tensors' names stay.
    """
    _number_anew(model, {})
    path = folder / "model.xml"
    ov.save_model(model, path, compress_to_fp16=half)
    return path, path.with_suffix(".bin")


def _number_anew(model: ov.Model, names: dict[str, str]) -> None:
    """Rename ``Type_123`` and what is named after it (``Type_123/scale``); ``names`` holds old names and new ones."""
    for node in model.get_ordered_ops():
        automatic = AUTOMATIC_NAME.match(node.get_friendly_name())
        if automatic and automatic.group(1).lower() in OPERATORS:
            new = names.setdefault(automatic.group(), f"{automatic.group(1)}_{len(names)}")
            node.set_friendly_name(new + node.get_friendly_name()[automatic.end() :])
        for body in _bodies(node):
            _number_anew(body, names)


def _bodies(node: Any) -> tuple[ov.Model, ...]:
    """Return the graphs inside a loop or a branch."""
    kind = node.get_type_name()
    if kind == "If":
        return node.get_then_body(), node.get_else_body()
    return (node.get_function(),) if kind in ("Loop", "TensorIterator") else ()


def _in_order(model: ov.Model) -> ov.Model:
    """Sort inputs and outputs that carry their place in their name; a SavedModel sorts them as text."""

    def place(port: Any) -> int:
        found = [re.fullmatch(r"(?:input|output)_(\d+)", name) for name in port.get_names()]
        return next((int(match.group(1)) for match in found if match), 0)

    inputs, outputs = sorted(model.inputs, key=place), sorted(model.outputs, key=place)
    return ov.Model(
        [output.get_node() for output in outputs],
        [port.get_node() for port in inputs],
        model.get_friendly_name(),
    )


def _name_and_fix(model: ov.Model, live: LoadedModel) -> None:
    shapes = {}
    for port, spec, moved in zip(model.inputs, live.inputs, live.moved or (False,) * len(live.inputs), strict=True):
        port.get_tensor().set_names({spec.name})
        batch, *rest = spec.shape
        shapes[port] = [batch, rest[-1], *rest[:-1]] if moved else [batch, *rest]
    for output, told_of in zip(model.outputs, live.outputs, strict=False):
        output.get_tensor().set_names({told_of.name})
    model.reshape(shapes)


def _move_channels(model: ov.Model, live: LoadedModel) -> ov.Model:
    """Let NCHW inputs take NHWC: one transpose at the entrance, which plugins fold into their first layer."""
    if not any(live.moved):
        return model
    prepost = preprocess.PrePostProcessor(model)
    for index, moved in enumerate(live.moved):
        if moved:
            entrance = prepost.input(index)
            entrance.tensor().set_layout(ov.Layout("NHWC"))
            entrance.model().set_layout(ov.Layout("NCHW"))
    return prepost.build()
