"""Frameworks: how the models of each one are loaded, traced, saved, pruned and trained.

A framework is one file in this folder with a ``FRAMEWORK``, and one line in ``FRAMEWORKS``. The record names functions
as "module:function", so that reading it imports no framework. To lower its models to an artifact format, add a line to
the ``lowerings`` of that format. The other files here are code that several stages need for Keras or PyTorch.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgekit_converters.toolchain import Toolchain

FRAMEWORKS = {  # framework of an open model: "module:FRAMEWORK"
    "keras": "edgekit_converters.frameworks.keras:FRAMEWORK",
    "torch": "edgekit_converters.frameworks.torch:FRAMEWORK",
    "tflite": "edgekit_converters.frameworks.tflite:FRAMEWORK",
    "openvino": "edgekit_converters.frameworks.openvino:FRAMEWORK",
}


@dataclass(frozen=True)
class Loader:
    """How one kind of model file is loaded."""

    function: str  # "module:function", (SourceRequest) -> LoadedModel
    toolchain: str  # whose worker process runs it
    suffixes: tuple[str, ...] = ()  # of the file name
    saved_suffixes: tuple[str, ...] = ()  # of the file that a pruned or trained model of this kind is saved as


@dataclass(frozen=True)
class TrainableModels:
    """How models that hold trainable layers are wrapped, saved, pruned and trained."""

    packages: tuple[str, ...]  # top-level packages that define the classes of its models
    toolchain: Toolchain  # its name is that of the framework
    wrapper: str  # (model object, SourceRequest, code=) -> LoadedModel
    saver: str  # (LoadedModel, folder) -> path
    pruner: str  # a module with the functions of edgekit_converters.prune.Pruner
    student: str  # (SourceRequest, Settings) -> Student
    attention_maps: str  # (LoadedModel) -> a function (inputs) -> (outputs, attention maps)
    seed: Callable[[int], None]  # seeds its random numbers, if the process has imported it
    reset_names: Callable[[], None] = lambda: None  # restarts its automatic layer names, if the process has imported it


@dataclass(frozen=True)
class Framework:
    """One framework. Strings are "module:function"; (...) -> ... is what the function takes and returns."""

    name: str  # a key of FRAMEWORKS
    loaders: Mapping[str, Loader]  # by kind of model file
    tracer: str  # (LoadedModel, inputs: (1, ...) in application layout) -> Steps
    trainable: TrainableModels | None = None  # None: its models can be run and lowered only


def framework(name: str) -> Framework:
    """Return the record of a framework."""
    found: Framework = pkgutil.resolve_name(FRAMEWORKS[name])
    return found


def trainable_frameworks() -> dict[str, TrainableModels]:
    """Return the frameworks whose models can be pruned and trained, by name."""
    found = {name: framework(name).trainable for name in FRAMEWORKS}
    return {name: trainable for name, trainable in found.items() if trainable is not None}
