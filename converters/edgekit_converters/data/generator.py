"""Read the samples that a function of the user yields: FILE.py:callable."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgekit_converters.data.samples import Array, Block, DataRequest, Samples, spread_note, spread_positions
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import InputSpec

ACCEPTS = "FILE.py:callable that yields (inputs, label) or inputs"
_END = object()


def reads(spec: str) -> bool:
    """Return whether the spec names a function."""
    return spec.endswith(".py") or ".py:" in spec


def read(request: DataRequest) -> Samples:
    """Call the function without arguments and read the samples it yields or returns, one at a time.

    A sample is its inputs or a pair ``(inputs, label)``. Inputs are an array, a dict by input name, or a
    tuple in the model's order; each may have a leading batch dimension of 1. With one model input a pair is
    always ``(input, label)``; with several, a tuple is the inputs, unless it is a pair that starts with a
    tuple or dict.

    ``request.samples`` selects samples evenly spread over a sequence (a list, a dataset), and the first samples of
    anything else, whose length is unknown.

    Raises:
        DataError: the file or function is missing, the function raised (with its file and line), or a sample
            does not have the model's inputs.
    """
    path, called = split_spec(request.spec, ACCEPTS)
    function = load_function(path, called, ACCEPTS)
    with user_errors(path):
        yielded = function()
        sized = hasattr(yielded, "__len__") and hasattr(yielded, "__getitem__")
        total = len(yielded) if sized else None
        items = iter(()) if sized else iter(yielded)
    if total is not None:
        chosen = spread_positions(total, request.samples)
        items, notes = (yielded[index] for index in chosen), spread_note(len(chosen), total)
    else:
        chosen, items = None, islice(items, request.samples)
        notes = (f"at most the first {request.samples} samples of {called}()",) if request.samples else ()
    return Samples(_blocks(items, chosen, request.inputs, path), request.layout, notes=notes)


def split_spec(spec: str, wanted: str) -> tuple[Path, str]:
    """Return the file and the name of ``FILE.py:function``.

    Raises:
        DataError: the text has another form, or there is no such file.
    """
    file, _, called = spec.rpartition(":")
    if not file.endswith(".py") or not called.isidentifier():
        raise DataError(f"{spec}: name the function too; wanted {wanted}")
    if not Path(file).is_file():
        raise DataError(f"{file}: no such file; wanted {wanted}")
    return Path(file), called


def load_function(path: Path, called: str, wanted: str) -> Any:
    """Run the user's file as a module; modules beside it can be imported, as when Python runs it.

    Raises:
        DataError: the file raises, or has no such function.
    """
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(f"edgekit_user_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # a .py file always has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with user_errors(path):
        spec.loader.exec_module(module)
    function = getattr(module, called, None)
    if not callable(function):
        raise DataError(f"{path}: no function {called!r} in it; wanted {wanted}")
    return function


@contextmanager
def user_errors(path: Path) -> Iterator[None]:
    """Convert any error of the user's code to a DataError with its line."""
    try:
        yield
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        line = _line(error, path)
        where = f"{path}:{line}" if line else str(path)
        raise DataError(f"{where}: {type(error).__name__}: {error}") from error


def _line(error: BaseException, path: Path) -> int | None:
    """Return the innermost line of the user's file in the traceback."""
    if isinstance(error, SyntaxError):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    return lines[-1] if lines else None


def _blocks(
    items: Iterator[Any], chosen: list[int] | None, inputs: tuple[InputSpec, ...], path: Path
) -> Iterator[Block]:
    taken = 0
    while True:
        with user_errors(path):
            item = next(items, _END)
        if item is _END:
            return
        name = f"{path}: sample {chosen[taken] if chosen else taken}"
        sample, label = _pair(item, len(inputs))
        values = _in_order(sample, inputs, name)
        arrays = tuple(_single(value, spec, name) for value, spec in zip(values, inputs, strict=True))
        yield Block(arrays, None if label is None else _array(label, f"{name}: label")[np.newaxis], (name,))
        taken += 1


def _pair(item: Any, inputs: int) -> tuple[Any, Any]:
    """Return the inputs and the label, or None, of a yielded sample."""
    if isinstance(item, tuple) and len(item) == 2 and (inputs == 1 or isinstance(item[0], (tuple, dict))):
        return item[0], item[1]
    return item, None


def _in_order(sample: Any, inputs: tuple[InputSpec, ...], name: str) -> list[Any]:
    """Return the values of the inputs in the model's order."""
    names = [spec.name for spec in inputs]
    if isinstance(sample, dict):
        if set(sample) != set(names):
            raise DataError(
                f"{name}: inputs are named {', '.join(map(str, sample))}; the model's are {', '.join(names)}"
            )
        return [sample[key] for key in names]
    values = list(sample) if isinstance(sample, tuple) else [sample]
    if len(values) != len(names):
        raise DataError(f"{name}: {len(values)} inputs; the model has {len(names)}: {', '.join(names)}")
    return values


def _single(value: Any, spec: InputSpec, name: str) -> Array:
    """Return one sample of one input as a block, (1, *sample shape)."""
    array = _array(value, f"{name}: input {spec.name!r}")
    batched = array.ndim == len(spec.shape) and array.shape[0] == 1
    return array if batched else array[np.newaxis]


def _array(value: Any, name: str) -> Array:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors that want a detach() first
        raise DataError(f"{name} is not an array of numbers: {error}") from error
    if array.dtype == object:
        raise DataError(f"{name} is {type(value).__name__}, not an array of numbers")
    return array
