"""Write OpenVINO IR with fixed shapes, the source's tensor names, and image inputs in the application's layout."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openvino as ov
from openvino import opset13, preprocess

from edgekit_converters.foreign_errors import short_message
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_runtime.errors import EdgekitError, ToolchainError, UnsupportedOperator

MISSING_OPERATOR = re.compile(
    r"No conversion rule found for operations?:? ([\w:., ]+)|[Uu]nsupported operation:? (\w+)"
)

OPERATORS = frozenset(name.replace("_", "") for name in dir(opset13))  # "reducemean" for ReduceMean
AUTOMATIC_NAME = re.compile(r"([A-Z][A-Za-z0-9]*)_\d+(?![A-Za-z0-9])")


# exceptions of OpenVINO when it reads, changes, runs and writes a model
FAILURES = (RuntimeError, ValueError, TypeError)
# its frontends and NNCF raise classes of their own, and bare Exception
ALL_FAILURES = (Exception,)


@contextlib.contextmanager
def openvino_errors(stage: str = "lower", failures: tuple[type[Exception], ...] = FAILURES) -> Iterator[None]:
    """Map OpenVINO's exceptions; use ``ALL_FAILURES`` for its frontends and NNCF."""
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
                advice="replace the operation in the model, or convert for TFLite only: --device raspberry-pi-5",
            ) from error
        raise ToolchainError(short_message(error), stage=stage, subject="openvino") from error


def convert(model: Any, location_of: Callable[[str], str] = lambda _: "", **options: Any) -> ov.Model:
    """Read a model of another framework with OpenVINO's frontends.

    OpenVINO names only the unsupported operator; ``location_of`` returns its location, such as `` in layer 'head'``.
    """
    try:
        with openvino_errors(failures=ALL_FAILURES):
            return ov.convert_model(model, **options)
    except UnsupportedOperator as refusal:
        refusal.args = (refusal.args[0] + location_of(refusal.args[0].rpartition(" ")[2]),)
        raise


def save(model: ov.Model, live: LoadedModel, folder: Path) -> tuple[Path, ...]:
    """Write a model as float32 IR with the source's inputs and outputs: their names, order and layout."""
    with openvino_errors():
        model = _in_order(model)
        if len(model.inputs) == len(live.inputs):
            _name_and_fix(model, live)
            model = _move_channels(model, live)
        return write(model, folder)


def write(model: ov.Model, folder: Path, *, half: bool = False) -> tuple[Path, ...]:
    """Write ``model.xml`` and ``model.bin``; equal models give equal bytes in any process.

    OpenVINO names an unnamed node by its type and a count of all nodes of its process, which differs from run to run.
    Those nodes are renumbered in the order of the graph; other names and the names of tensors stay.
    """
    _renumber(model, {})
    path = folder / "model.xml"
    ov.save_model(model, path, compress_to_fp16=half)
    return path, path.with_suffix(".bin")


def _renumber(model: ov.Model, names: dict[str, str]) -> None:
    """Rename ``Type_123`` and names derived from it (``Type_123/scale``); ``names`` maps old names to new ones."""
    for node in model.get_ordered_ops():
        automatic = AUTOMATIC_NAME.match(node.get_friendly_name())
        if automatic and automatic.group(1).lower() in OPERATORS:
            new = names.setdefault(automatic.group(), f"{automatic.group(1)}_{len(names)}")
            node.set_friendly_name(new + node.get_friendly_name()[automatic.end() :])
        for body in _bodies(node):
            _renumber(body, names)


def _bodies(node: Any) -> tuple[ov.Model, ...]:
    """Return the graphs inside a loop or a condition."""
    kind = node.get_type_name()
    if kind == "If":
        return node.get_then_body(), node.get_else_body()
    return (node.get_function(),) if kind in ("Loop", "TensorIterator") else ()


def _in_order(model: ov.Model) -> ov.Model:
    """Sort inputs and outputs that have their position in their name; a SavedModel sorts them as text."""

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
    for port, spec, moved in zip(
        model.inputs, live.inputs, live.transposed or (False,) * len(live.inputs), strict=True
    ):
        port.get_tensor().set_names({spec.name})
        batch, *rest = spec.shape
        shapes[port] = [batch, rest[-1], *rest[:-1]] if moved else [batch, *rest]
    for output, named in zip(model.outputs, live.outputs, strict=False):
        output.get_tensor().set_names({named.name})
    model.reshape(shapes)


def _move_channels(model: ov.Model, live: LoadedModel) -> ov.Model:
    """Make NCHW inputs NHWC with one transpose, which plugins fold into their first layer."""
    if not any(live.transposed):
        return model
    prepost = preprocess.PrePostProcessor(model)
    for index, moved in enumerate(live.transposed):
        if moved:
            port = prepost.input(index)
            port.tensor().set_layout(ov.Layout("NHWC"))
            port.model().set_layout(ov.Layout("NCHW"))
    return prepost.build()
