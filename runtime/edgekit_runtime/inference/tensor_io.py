"""Build the conversions between the application's arrays and the artifact's tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from edgekit_runtime.errors import InputMismatch
from edgekit_runtime.tensors import dequantization_table, dequantize, quantizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit_runtime.format.manifest import InputSpec, JoinedBinding, OutputSpec, TensorBinding
    from edgekit_runtime.tensors import Array

    ToTensor = Callable[[Any], Array]
    FromTensor = Callable[[Array], Array]
    FromTensors = Callable[[Sequence[Array]], Array]

CALL_RAW = "call model(x, raw=True)"  # in messages; the command line replaces it with its option


def to_tensor(spec: InputSpec, binding: TensorBinding) -> ToTensor:
    """Return the conversion of an input. Integers in the artifact's own dtype are passed unchanged.

    The conversion raises InputMismatch for a wrong shape, a wrong kind of dtype, or values that are not finite.
    """
    shape, convert = spec.shape, value_converter(spec, binding)
    own = np.dtype(binding.dtype)
    unchanged = own if own.kind in "iub" and (binding.scale is not None or own == np.dtype(spec.dtype)) else None

    def convert_input(value: Any) -> Array:
        array = value if type(value) is np.ndarray else as_array(spec, value)
        if array.shape != shape:
            raise InputMismatch(f"{describe(spec)}: its shape is {list(array.shape)}{_advice(spec, array)}")
        if array.dtype is unchanged or (unchanged is not None and array.dtype == unchanged):
            return array  # numpy has one object for each built-in dtype, so the fast first test mostly decides
        return convert(array)

    return convert_input


def as_array(spec: InputSpec, value: Any) -> Array:
    """Convert a value to an array.

    Raises:
        InputMismatch: numpy cannot convert it, such as a list whose rows differ in length.
    """
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InputMismatch(f"{describe(spec)}: it is not an array: {error}") from error


def value_converter(spec: InputSpec, binding: TensorBinding) -> ToTensor:
    """Return the conversion of values from the input's dtype to the artifact's, for any shape."""
    real, own = np.dtype(spec.dtype), np.dtype(binding.dtype)
    if binding.scale is None or binding.zero_point is None:
        return lambda array: _cast(spec, array, own)
    quantize = quantizer(binding.scale, binding.zero_point, own)
    return lambda array: quantize(_cast(spec, array, real))


def describe(spec: InputSpec) -> str:
    """Describe the required input, for messages."""
    return f"input {spec.name!r} must be {spec.dtype} {list(spec.shape)}"


def _cast(spec: InputSpec, array: Array, dtype: np.dtype[Any]) -> Array:
    """Cast an array. Floats may be rounded, other values must not change, and all must be finite."""
    if array.dtype != dtype:
        if not _castable(array.dtype, dtype):
            raise InputMismatch(f"{describe(spec)}: its dtype is {array.dtype}{_advice(spec, array)}")
        with np.errstate(over="ignore"):  # an overflow gives infinity, which is refused below
            cast = array.astype(dtype)
        if dtype.kind != "f" and not np.array_equal(cast, array):
            raise InputMismatch(f"{describe(spec)}: it has {array.dtype} values that {dtype} cannot hold")
        array = cast
    if dtype.kind == "f" and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        raise InputMismatch(f"{describe(spec)}: it has NaN, or values that are infinite as {dtype}, first at {bad}")
    return array


def _castable(have: np.dtype[Any], want: np.dtype[Any]) -> bool:
    """Return whether both are floats, both integers, or both bool."""
    return have.kind == want.kind or (have.kind in "iu" and want.kind in "iu")


def _advice(spec: InputSpec, array: Array) -> str:
    """Return advice for a common mistake: a raw image without ``raw=True``; empty for other inputs."""
    if array.dtype != np.uint8 or (spec.preprocessing is None and spec.layout is None):
        return ""
    return f"; for a raw image {CALL_RAW}" + (
        ", which applies the declared preprocessing" if spec.preprocessing else ""
    )


def from_tensor(spec: OutputSpec, binding: TensorBinding) -> FromTensor:
    """Return the conversion of an output: a look-up for 8 bits, arithmetic for 16 bits, else a cast or nothing."""
    want = np.dtype(spec.dtype)
    scale, zero_point = binding.scale, binding.zero_point
    if scale is not None and zero_point is not None:
        if np.dtype(binding.dtype).itemsize > 1:
            return lambda result: dequantize(result, scale, zero_point, want)
        # A negative int8 as an index counts from the end of the table, which is where its bit pattern is.
        return dequantization_table(binding.dtype, scale, zero_point, spec.dtype).take
    if binding.dtype == spec.dtype:
        return lambda result: result
    return lambda result: result.astype(want)


def from_joined_tensors(spec: OutputSpec, binding: JoinedBinding) -> FromTensors:
    """Return the conversion of an output that is joined from several of the artifact's tensors."""
    parts = [(part.index, from_tensor(spec, part)) for part in binding.parts]
    return lambda results: np.concatenate([convert(results[index]) for index, convert in parts], binding.axis)
