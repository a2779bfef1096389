"""Reads what the user's own function yields: FILE.py:callable."""

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

from edgekit_converters.data.samples import Array, Block, DataRequest, Samples, spread, spread_note
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import InputSpec

ACCEPTS = "FILE.py:callable that yields (inputs, label) or inputs"
_END = object()


def reads(spec: str) -> bool:
    """Whether this reader is meant."""
    return spec.endswith(".py") or ".py:" in spec


def read(request: DataRequest) -> Samples:
    """Call the function without arguments and read the samples it yields or returns, one at a time.

    A sample is its inputs or a pair ``(inputs, label)``. Inputs are an array, a dict by input name, or a
    tuple in the model's order; each may have a leading batch dimension of 1. With one model input a pair is
    always ``(input, label)``; with several, a tuple is the inputs, unless it is a pair that starts with a
    tuple or dict.

    Of something with a length and positions (a list, a dataset) ``request.samples`` takes an even spread; of
    anything else the first ones, since how many there are cannot be known.

    Raises:
        DataError: the file or function is missing, the function raised (with its file and line), or a sample
            is not made of the model's inputs.
    """
    path, called = split(request.spec, ACCEPTS)
    function = load_function(path, called, ACCEPTS)
    with users_code(path):
        yielded = function()
        sized = hasattr(yielded, "__len__") and hasattr(yielded, "__getitem__")
        total = len(yielded) if sized else None
        items = iter(()) if sized else iter(yielded)
    if total is not None:
        chosen = spread(total, request.samples)
        items, notes = (yielded[index] for index in chosen), spread_note(len(chosen), total)
    else:
        chosen, items = None, islice(items, request.samples)
        notes = (f"at most the first {request.samples} samples of {called}()",) if request.samples else ()
    return Samples(_blocks(items, chosen, request.inputs, path), request.layout, notes=notes)


def split(spec: str, wanted: str) -> tuple[Path, str]:
    """Return the file and the name of ``FILE.py:function``.

    Raises:
        DataError: it is not of that form, or there is no such file.
    """
    file, _, called = spec.rpartition(":")
    if not file.endswith(".py") or not called.isidentifier():
        raise DataError(f"{spec}: name the function too; wanted {wanted}")
    if not Path(file).is_file():
        raise DataError(f"{file}: no such file; wanted {wanted}")
    return Path(file), called


def load_function(path: Path, called: str, wanted: str) -> Any:
    """Run the user's file as a module whose neighbours can be imported, as Python would run it.

    Raises:
        DataError: it raises, or has no such function.
    """
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(f"edgekit_user_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # a .py file always has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with users_code(path):
        spec.loader.exec_module(module)
    function = getattr(module, called, None)
    if not callable(function):
        raise DataError(f"{path}: no function {called!r} in it; wanted {wanted}")
    return function


@contextmanager
def users_code(path: Path) -> Iterator[None]:
    """Turn whatever the user's code raises into a DataError with the line it came from."""
    try:
        yield
    except (Exception, SystemExit) as error:  # anything can come out of code that is not ours
        line = _line(error, path)
        where = f"{path}:{line}" if line else str(path)
        raise DataError(f"{where}: {type(error).__name__}: {error}") from error


def _line(error: BaseException, path: Path) -> int | None:
    """The innermost line of the user's file that the error passed through."""
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
        with users_code(path):
            item = next(items, _END)
        if item is _END:
            return
        name = f"{path}: sample {chosen[taken] if chosen else taken}"
        given, label = _pair(item, len(inputs))
        values = _in_order(given, inputs, name)
        arrays = tuple(_one(value, spec, name) for value, spec in zip(values, inputs, strict=True))
        yield Block(arrays, None if label is None else _array(label, f"{name}: label")[np.newaxis], (name,))
        taken += 1


def _pair(item: Any, inputs: int) -> tuple[Any, Any]:
    """The inputs and the label, or None, of what was yielded."""
    if isinstance(item, tuple) and len(item) == 2 and (inputs == 1 or isinstance(item[0], (tuple, dict))):
        return item[0], item[1]
    return item, None


def _in_order(given: Any, inputs: tuple[InputSpec, ...], name: str) -> list[Any]:
    """The values of the model's inputs, in the model's order."""
    names = [spec.name for spec in inputs]
    if isinstance(given, dict):
        if set(given) != set(names):
            raise DataError(
                f"{name}: inputs are named {', '.join(map(str, given))}; the model's are {', '.join(names)}"
            )
        return [given[key] for key in names]
    values = list(given) if isinstance(given, tuple) else [given]
    if len(values) != len(names):
        raise DataError(f"{name}: {len(values)} inputs; the model has {len(names)}: {', '.join(names)}")
    return values


def _one(value: Any, spec: InputSpec, name: str) -> Array:
    """One sample of one input as a block of one, (1, *sample shape)."""
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
