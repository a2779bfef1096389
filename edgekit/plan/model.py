"""The model to open: how it is loaded, and its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.plan.input_shape import parse_input_shape
from edgekit.plan.option_declaration import check_paths
from edgekit.plan.options import ModelInput
from edgekit_converters.load import kind_of
from edgekit_converters.records import SourceRequest
from edgekit_runtime.errors import PlanError, SourceError


@dataclass(frozen=True)
class ModelPlan:
    """A model that is not opened yet."""

    source: SourceRequest
    name: str


def plan_model(options: ModelInput) -> ModelPlan:
    """Find out what kind of model the options name, and how it is loaded.

    Raises:
        SourceError: the model or a file that belongs to it is not there.
        PlanError: options do not fit this kind of model.
    """
    if not options.model:
        raise PlanError("no model given; try: edgekit convert model.keras -o model.edgekit")
    text, function = options.model, None
    if ".py:" in text:
        text, _, function = text.rpartition(":")
    path = Path(text)
    kind = kind_of(path)
    if kind == "python" and not function:
        raise SourceError(f"{path}: name the function that returns the model, such as {path.name}:build")
    if options.weights and kind != "python":
        raise PlanError("--weights goes with FILE.py:function; other models contain their weights")
    check_paths(options)
    source = SourceRequest(
        kind=kind,
        path=path.absolute(),
        function=function,
        weights=Path(options.weights).absolute() if options.weights else None,
        input_shapes=tuple(parse_input_shape(text) for text in options.input_shape),
        custom_objects=Path(options.custom_objects).absolute() if options.custom_objects else None,
        allow_pickle=options.allow_pickle,
        keep_layout=options.keep_layout,
    )
    return ModelPlan(source, options.name or path.stem or "model")
