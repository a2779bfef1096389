"""The way of one array between the application and the artifact's tensor, put together once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from edgekit_runtime.errors import InputMismatch
from edgekit_runtime.tensors import dequantization_table, dequantize, quantizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit_runtime.format.manifest import InputSpec, JoinedBinding, OutputSpec, TensorBinding
    from edgekit_runtime.tensors import Array

    Feed = Callable[[Any], Array]
    Fetch = Callable[[Array], Array]
    Join = Callable[[Sequence[Array]], Array]

CALL_RAW = "call model(x, raw=True)"  # on a command line it is an option, and this is what its message replaces


def feed(spec: InputSpec, binding: TensorBinding) -> Feed:
    """The way of one input; integers in the artifact's own dtype go in as they are.

    The function raises InputMismatch for what has another shape, another kind of dtype, or is not finite.
    """
    shape, convert = spec.shape, converter(spec, binding)
    own = np.dtype(binding.dtype)
    as_it_is = own if own.kind in "iub" and (binding.scale is not None or own == np.dtype(spec.dtype)) else None

    def way(value: Any) -> Array:
        array = value if type(value) is np.ndarray else array_of(spec, value)
        if array.shape != shape:
            raise InputMismatch(f"{named(spec)}: its shape is {list(array.shape)}{_advice(spec, array)}")
        if array.dtype is as_it_is or (as_it_is is not None and array.dtype == as_it_is):
            return array  # numpy has one object for each of its own dtypes, so the first question mostly settles it
        return convert(array)

    return way


def array_of(spec: InputSpec, value: Any) -> Array:
    """Anything that numpy makes an array of.

    Raises:
        InputMismatch: it makes none of it, as of a list whose rows differ in length.
    """
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InputMismatch(f"{named(spec)}: it is no array: {error}") from error


def converter(spec: InputSpec, binding: TensorBinding) -> Feed:
    """From the input's dtype to the artifact's, element by element: whatever the shape."""
    real, own = np.dtype(spec.dtype), np.dtype(binding.dtype)
    if binding.scale is None or binding.zero_point is None:
        return lambda array: _cast(spec, array, own)
    to_steps = quantizer(binding.scale, binding.zero_point, own)
    return lambda array: to_steps(_cast(spec, array, real))


def named(spec: InputSpec) -> str:
    """What an input must be, for messages."""
    return f"input {spec.name!r} must be {spec.dtype} {list(spec.shape)}"


def _cast(spec: InputSpec, array: Array, dtype: np.dtype[Any]) -> Array:
    """Cast an array: floats may be rounded, all else keeps its values, and nothing is NaN or infinite."""
    if array.dtype != dtype:
        if not _castable(array.dtype, dtype):
            raise InputMismatch(f"{named(spec)}: its dtype is {array.dtype}{_advice(spec, array)}")
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused below
            cast = array.astype(dtype)
        if dtype.kind != "f" and not np.array_equal(cast, array):
            raise InputMismatch(f"{named(spec)}: it has {array.dtype} values that {dtype} cannot hold")
        array = cast
    if dtype.kind == "f" and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        raise InputMismatch(f"{named(spec)}: it has NaN, or values that are infinite as {dtype}, first at {bad}")
    return array


def _castable(have: np.dtype[Any], want: np.dtype[Any]) -> bool:
    """Float to float, integer to integer, bool to bool."""
    return have.kind == want.kind or (have.kind in "iu" and want.kind in "iu")


def _advice(spec: InputSpec, array: Array) -> str:
    """A raw image where the model's own numbers are wanted is the mistake everybody makes once."""
    if array.dtype != np.uint8 or (spec.preprocessing is None and spec.layout is None):
        return ""
    return f"; for a raw image {CALL_RAW}" + (
        ", which applies the declared preprocessing" if spec.preprocessing else ""
    )


def join(spec: OutputSpec, binding: JoinedBinding) -> Join:
    """The way of one output that the artifact gives in several tensors: from all of its results."""
    ways = [(part.index, fetch(spec, part)) for part in binding.parts]
    return lambda results: np.concatenate([way(results[index]) for index, way in ways], binding.axis)


def fetch(spec: OutputSpec, binding: TensorBinding) -> Fetch:
    """The way of one output: a look-up for 8 bits, arithmetic for 16, a cast or nothing for all else."""
    want = np.dtype(spec.dtype)
    scale, zero_point = binding.scale, binding.zero_point
    if scale is not None and zero_point is not None:
        if np.dtype(binding.dtype).itemsize > 1:
            return lambda result: dequantize(result, scale, zero_point, want)
        # Counted from the end, a negative int8 is the place of its own bit pattern.
        return dequantization_table(binding.dtype, scale, zero_point, spec.dtype).take
    if binding.dtype == spec.dtype:
        return lambda result: result
    return lambda result: result.astype(want)
