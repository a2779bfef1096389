"""Load PyTorch modules, saved ``torch.export`` programs, and pickles if the user allows them."""

from __future__ import annotations

import contextlib
import inspect
import os
import pickle
import pkgutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekit_converters.foreign_errors import short_message
from edgekit_converters.frameworks import trainable_frameworks
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.frameworks.torch_calls import (
    FlatModule,
    channels_first,
    example_inputs,
    is_exported_program,
    random_input,
    tensors_of,
)
from edgekit_converters.load import fixed_shape, given_shapes, in_batches, refuse_repeated
from edgekit_converters.records import InputShape, SourceRequest
from edgekit_runtime.errors import SourceError
from edgekit_runtime.format.manifest import InputSpec, OutputSpec

torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))  # artifacts are verified at the same time
IMAGE_CHANNELS = (1, 3, 4)  # sizes of the second dimension that mark a 4-D input as an image


@contextlib.contextmanager
def torch_errors(path: Path, failed: str = "PyTorch cannot load it") -> Iterator[None]:
    """Turn errors of PyTorch while loading or first running into a SourceError that says what to do."""
    try:
        yield
    except pickle.UnpicklingError as error:
        if not _looks_saved_by_torch(path):
            raise SourceError(f"{path}: not a file that PyTorch has saved") from error
        raise SourceError(
            f"{path}: holds pickled objects, which run code when loaded; if you trust the file, add --allow-pickle "
            f"(safer: save the weights alone with torch.save(model.state_dict(), ...))"
        ) from error
    except (
        AssertionError,
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        EOFError,
        OSError,
        ImportError,
        zipfile.BadZipFile,
    ) as error:
        raise SourceError(f"{path}: {failed} ({short_message(error)})") from error


def _looks_saved_by_torch(path: Path) -> bool:
    """Tell a refused pickle from other files: ``torch.save`` writes ZIP files, and before 1.6 plain pickles."""
    with path.open("rb") as file:
        return zipfile.is_zipfile(path) or file.read(1) == pickle.PROTO


def load_program(request: SourceRequest) -> LoadedModel:
    """Load a ``.pt2`` program, which describes its inputs."""
    with torch_errors(request.path):
        program = torch.export.load(request.path)
        module = program.module()
        nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
        values = [nodes[name].meta["val"] for name in program.graph_signature.user_inputs]
    names = [str(name) for name in program.graph_signature.user_inputs]
    shapes = [
        InputShape(_program_shape(request, input_shape, name, value), name, str(value.dtype).removeprefix("torch."))
        for name, value, input_shape in zip(names, values, given_shapes(request, names), strict=True)
    ]
    return _loaded(module, names, shapes, request)


def _program_shape(
    request: SourceRequest, input_shape: InputShape | None, name: str, value: torch.Tensor
) -> tuple[int, ...]:
    sizes = tuple(size if isinstance(size, int) else None for size in value.shape)  # else symbolic: left open
    if sizes and sizes[0] not in (1, None):
        raise SourceError(
            f"{request.path}: input {name!r} was exported with a fixed batch of {sizes[0]}; "
            f"export with example inputs of batch 1, or with a dynamic batch"
        )
    return fixed_shape(name, sizes, input_shape)


def load_pickle(request: SourceRequest) -> LoadedModel:
    """Load a pickled module, if the user allows it."""
    code = "; a pickled module needs the code it was made from: add its folder to PYTHONPATH"
    content = _read(request.path, code if request.allow_pickle else "", allow_pickle=request.allow_pickle)
    if not isinstance(content, torch.nn.Module):
        raise SourceError(
            f"{request.path}: holds weights, not a model; give the function that builds the model, too: "
            f"edgekit convert FILE.py:function --weights {request.path.name} --input-shape 1,3,224,224"
        )
    return from_module(content, request)


def _read(path: Path, hint: str = "", *, allow_pickle: bool) -> Any:
    with torch_errors(path, "PyTorch cannot load it" + hint):
        if not _looks_saved_by_torch(path):
            raise SourceError(f"{path}: not a file that PyTorch has saved")
        if _is_torchscript(path):
            raise SourceError(
                f"{path}: is TorchScript, which edgekit does not support; save the module with torch.export instead: "
                f"torch.export.save(torch.export.export(model, (example,)), 'model.pt2')"
            )
        return torch.load(path, map_location="cpu", weights_only=not allow_pickle)


def _is_torchscript(path: Path) -> bool:
    """Tell ``torch.jit.save`` from ``torch.save``: only the former stores constants and code beside the tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def from_module(module: torch.nn.Module, request: SourceRequest, *, code: tuple[Path, ...] = ()) -> LoadedModel:
    """Wrap a module, and load its weights if there are any.

    Raises:
        SourceError: the weights do not fit, or no input shape was given.
    """
    if not request.input_shapes:
        raise SourceError(
            f"{request.path}: a PyTorch module does not describe its inputs; "
            f"give every input's shape, such as --input-shape 1,3,224,224"
        )
    parameters = inspect.signature(module.forward).parameters.values()
    names = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    if any(one.kind == one.VAR_POSITIONAL for one in parameters):  # *tensors: as many as are said, by any name
        refuse_repeated(request)
        more = request.input_shapes[len(names) :]
        names += [input_shape.name or f"input_{index}" for index, input_shape in enumerate(more, len(names))]
    named_shapes = zip(names, given_shapes(request, names), strict=True)
    given = {name: input_shape for name, input_shape in named_shapes if input_shape}
    if request.cuts:
        repeat_cuts = pkgutil.resolve_name(f"{trainable_frameworks()['torch'].pruner}:repeat_cuts")
        with torch_errors(request.path, "the cuts of the pruned module cannot be repeated"):
            module = repeat_cuts(
                module,
                tuple(random_input(input_shape.shape, input_shape.dtype) for input_shape in given.values()),
                request.cuts,
            )
    if request.weights:
        load_weights(module, request.weights, allow_pickle=request.allow_pickle)
    return _loaded(module.eval(), list(given), list(given.values()), request, code)


def load_weights(module: torch.nn.Module, path: Path, *, allow_pickle: bool = False) -> None:
    """Load a state dict, also one that a training script has wrapped or prefixed.

    Raises:
        SourceError: it is not a state dict, has pickled objects, or does not fit the module.
    """
    content = _read(path, allow_pickle=allow_pickle)
    if isinstance(content, torch.nn.Module):
        content = content.state_dict()
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise SourceError(f"{path}: not a state dict (a dictionary of tensors)")
    if all(key.startswith("module.") for key in content):
        content = {key.removeprefix("module."): value for key, value in content.items()}
    try:
        module.load_state_dict(content)
    except RuntimeError as error:
        detail = "\n".join(line.strip()[:300] for line in str(error).splitlines()[:4])
        raise SourceError(f"{path}: the weights do not fit {type(module).__name__}:\n{detail}") from error


def _loaded(
    module: torch.nn.Module,
    names: list[str],
    shapes: list[InputShape],
    request: SourceRequest,
    code: tuple[Path, ...] = (),
) -> LoadedModel:
    flat = FlatModule(module)
    moved = tuple(not request.keep_layout and _is_image(input_shape.shape) for input_shape in shapes)
    inputs = tuple(
        _input_spec(name, input_shape, channels_last=last)
        for name, input_shape, last in zip(names, shapes, moved, strict=True)
    )

    def run(batch: list[np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [result.numpy() for result in flat(*tensors_of(batch, moved))]

    with torch_errors(request.path, _cannot_run(shapes)):
        results = run([np.zeros(spec.shape, spec.dtype) for spec in inputs])
        structure = _output_names(module, inputs, moved)
    names = structure if len(structure) == len(results) else [f"output_{i}" for i in range(len(results))]
    outputs = tuple(
        OutputSpec(name, tuple(result.shape), result.dtype.name) for name, result in zip(names, results, strict=True)
    )
    notes = tuple(
        f"input {spec.name!r} takes NHWC {spec.shape} (--keep-layout keeps NCHW)"
        for spec, last in zip(inputs, moved, strict=True)
        if last
    )
    return LoadedModel("torch", inputs, outputs, in_batches(run), flat, transposed=moved, code=code, notes=notes)


def _cannot_run(shapes: list[InputShape]) -> str:
    """Return the error message, with the assumed dtype of inputs if it was not given."""
    failed = "the module cannot run on inputs of the shapes given"
    if all(input_shape.dtype for input_shape in shapes):
        return failed
    return f"{failed}, with float32; for integers, such as token ids, give --input-shape 1,128:int64"


def save(live: LoadedModel, folder: Path) -> Path:
    """Save an open module as a program that ``torch.export.load`` opens without edgekit, for any batch if possible.

    Raises:
        SourceError: it is such a program already, or ``torch.export`` cannot export it.
    """
    path = folder / "model.pt2"
    module = live.handle.module
    if is_exported_program(module):
        raise SourceError(
            "a torch.export program can be run, but not pruned or trained; give the module it was made from: "
            "FILE.py:function --weights FILE --input-shape 1,3,224,224"
        )
    failed = "torch.export cannot export its forward pass; remove control flow that depends on tensor values"
    with torch_errors(Path(type(module).__name__), failed):
        inputs = example_inputs(live)
        torch.export.save(_any_batch(module, inputs) or torch.export.export(module, inputs), path)
    return path


def _any_batch(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
    """Export with a free batch size, and check it with another size; None if the module fixes its batch."""
    two, three = (tuple(torch.cat([one] * count) for one in inputs) for count in (2, 3))
    free: Any = tuple({0: torch.export.Dim.AUTO} for _ in inputs)
    if any(one.kind == one.VAR_POSITIONAL for one in inspect.signature(module.forward).parameters.values()):
        free = (free,)
    try:
        program = torch.export.export(module, two, dynamic_shapes=free)
        program.module()(*three)
    except (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError):
        return None
    return program


def _output_names(module: torch.nn.Module, inputs: tuple[InputSpec, ...], moved: tuple[bool, ...]) -> list[str]:
    """Return the names of the outputs: the keys of a dictionary, else "output", or "output_0" and so on."""
    zeros = [
        torch.zeros(channels_first(spec.shape) if last else spec.shape, dtype=getattr(torch, spec.dtype))
        for spec, last in zip(inputs, moved, strict=True)
    ]
    with torch.inference_mode():
        result: Any = module(*zeros)
    if isinstance(result, dict):
        return [str(key) for key in result]
    return ["output"]


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[1] in IMAGE_CHANNELS


def _input_spec(name: str, input_shape: InputShape, *, channels_last: bool) -> InputSpec:
    dtype = input_shape.dtype or "float32"
    if channels_last:
        batch, channels, height, width = input_shape.shape
        return InputSpec(name, (batch, height, width, channels), dtype, layout="NHWC")
    return InputSpec(name, input_shape.shape, dtype, layout="NCHW" if _is_image(input_shape.shape) else None)
