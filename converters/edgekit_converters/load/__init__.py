"""Load: open a model of any kind, and describe its inputs and outputs.

One file for each framework; its record in ``frameworks`` names the loaders. A loader turns a :class:`SourceRequest`
into a :class:`LoadedModel`, which never leaves its process; :func:`open_source` keeps it for the other stages there.
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgekit_converters.execution.stage import Stage
from edgekit_converters.frameworks import TrainableModels, framework
from edgekit_converters.frameworks.loaded_model import Arrays, LoadedModel
from edgekit_converters.frameworks.loaders import LOADERS
from edgekit_converters.records import InputShape, Source, SourceRequest
from edgekit_runtime.errors import SourceError


def kind_of(path: Path) -> str:
    """Return the kind of a model file or folder, by its name.

    Raises:
        SourceError: the path does not exist, or is not a supported model.
    """
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder")
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "saved_model"
        raise SourceError(f"{path}: a folder, but not a SavedModel (it has no saved_model.pb)")
    for kind, loader in LOADERS.items():
        if path.suffix.lower() in loader.suffixes:
            return kind
    known = ", ".join(suffix for loader in LOADERS.values() for suffix in loader.suffixes)
    raise SourceError(f"{path}: not a supported model ({known}, FILE.py:function, or a SavedModel folder)")


def load(request: SourceRequest, _folder: Path) -> Source:
    """Open a model, and return its description.

    Raises:
        SourceError: it cannot be read, or needs more information; the message says which option to add.
    """
    live = open_source(request)
    for name, shape in [(spec.name, spec.shape) for spec in live.inputs] + [
        (spec.name, spec.shape) for spec in live.outputs
    ]:
        if shape[:1] != (1,):
            raise SourceError(
                f"{request.path}: {name!r} has the shape {shape}; every input and output needs a first "
                f"dimension for the batch, of 1: add it in the model"
            )
    return Source(
        request=request,
        framework=live.framework,
        inputs=live.inputs,
        outputs=live.outputs,
        transposed=live.transposed or (False,) * len(live.inputs),
        scheme=live.scheme,
        code=live.code,
        notes=live.notes,
    )


LOAD = Stage(load, toolchain=lambda request: request.toolchain)


@functools.lru_cache(maxsize=1)
def open_source(request: SourceRequest) -> LoadedModel:
    """Open a model, once in this process."""
    live: LoadedModel = pkgutil.resolve_name(LOADERS[request.kind].function)(request)
    return live


def reopen(request: SourceRequest) -> LoadedModel:
    """Open a model again, as an object of its own that may be changed."""
    live: LoadedModel = open_source.__wrapped__(request)
    return live


def trainable(source: Source) -> TrainableModels:
    """Return how models of a source's framework are saved, pruned and trained.

    Raises:
        SourceError: they can be run only.
    """
    found = framework(source.framework).trainable
    if found is None:
        kind = source.scheme if source.quantized else source.framework
        raise SourceError(
            f"{source.request.path}: a {kind} model can be run, but not pruned or trained; give the trained Keras "
            f"model (.keras, .h5), or the function that builds the PyTorch module (FILE.py:function)"
        )
    return found


def fixed_shape(name: str, shape: tuple[int | None, ...], input_shape: InputShape | None) -> tuple[int, ...]:
    """Return the shape of an input with batch 1 and no open dimension.

    Raises:
        SourceError: a dimension is open and not given, or the given shape does not fit.
    """
    if input_shape is not None:
        fits = len(input_shape.shape) == len(shape) and all(
            wanted is None or wanted == given or position == 0
            for position, (wanted, given) in enumerate(zip(shape, input_shape.shape, strict=True))
        )
        if not fits:
            raise SourceError(f"input {name!r}: --input-shape is {input_shape.shape}, but the model has {shape}")
        return input_shape.shape
    if any(size is None for size in shape[1:]):
        example = ",".join("1" if index == 0 else str(size or "N") for index, size in enumerate(shape))
        raise SourceError(
            f"input {name!r}: the model's shape {shape} is open; give the size, such as --input-shape {name}={example}"
        )
    return (1, *(int(size) for size in shape[1:] if size is not None))


def given_shapes(request: SourceRequest, names: Sequence[str]) -> tuple[InputShape | None, ...]:
    """Return the shape that the user gave for each input: by name, else in the order of the inputs without one.

    Raises:
        SourceError: a name is unknown or repeated, or there are more shapes than inputs.
    """
    named = {input_shape.name: input_shape for input_shape in request.input_shapes if input_shape.name is not None}
    unnamed = [input_shape for input_shape in request.input_shapes if input_shape.name is None]
    refuse_repeated(request)
    unknown = [name for name in named if name not in names]
    if unknown:
        raise SourceError(f"{request.path}: --input-shape: no input {unknown[0]!r}; there are {', '.join(names)}")
    if len(request.input_shapes) > len(names):
        raise SourceError(
            f"{request.path}: --input-shape is given {len(request.input_shapes)} times; "
            f"the inputs are {', '.join(names)}"
        )
    rest = iter(unnamed)
    return tuple(named[name] if name in named else next(rest, None) for name in names)


def refuse_repeated(request: SourceRequest) -> None:
    """Refuse two shapes for one input.

    Raises:
        SourceError: with the name of the input.
    """
    names = [input_shape.name for input_shape in request.input_shapes if input_shape.name is not None]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise SourceError(f"{request.path}: --input-shape gives the shape of input {repeated[0]!r} more than once")


def one_by_one(run: Callable[[Arrays], Arrays], batch: Arrays) -> Arrays:
    """Run a batch sample by sample; arrays are (n, ...) in and out."""
    rows = [run([array[index : index + 1] for array in batch]) for index in range(len(batch[0]))]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def in_batches(run: Callable[[Arrays], Arrays]) -> Callable[[Arrays], Arrays]:
    """Return ``run`` for any batch size: in batches if that gives the same results as single samples, else one by one.

    The batch size may be fixed in the file or in the code (``reshape(1, -1)``), so the first batch is run both ways.
    """
    proven: list[bool] = []

    def run_any(batch: Arrays) -> Arrays:
        if len(batch[0]) == 1:
            return run(batch)
        if not proven:
            proven.append(_gives_the_same(run, [array[:2] for array in batch]))
        return run(batch) if proven[0] else one_by_one(run, batch)

    return run_any


def _gives_the_same(run: Callable[[Arrays], Arrays], pair: Arrays) -> bool:
    try:
        together = run(pair)
    except Exception:  # noqa: BLE001 - whatever a framework, or a module's own code, refuses is run one by one
        return False
    apart = one_by_one(run, pair)
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-3, atol=1e-5 * max(1.0, float(np.abs(b).max(initial=0))))
        for a, b in zip(together, apart, strict=True)
    )
