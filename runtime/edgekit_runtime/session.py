"""One variant, opened: the application's arrays in, the application's arrays out.

The way from an application's array to the artifact's tensor and back is put together once, when the variant
is opened; a call then only walks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from edgekit_runtime.errors import EngineUnavailable, InputMismatch
from edgekit_runtime.tensors import dequantization_table, dequantize, quantizer

if TYPE_CHECKING:
    from edgekit_runtime.engines import Engine, TensorInfo
    from edgekit_runtime.manifest import InputSpec, Manifest, OutputSpec, TensorBinding, Variant
    from edgekit_runtime.tensors import Array

    Feed = Callable[[Any], Array]
    Fetch = Callable[[Array], Array]


class Session:
    """A variant in its engine. Not thread-safe: Model takes turns."""

    def __init__(self, manifest: Manifest, variant: Variant, engine: Engine) -> None:
        """Take over an open engine, which is closed if it does not fit.

        Raises:
            EngineUnavailable: the artifact's tensors are not those the manifest binds.
        """
        try:
            _check_tensors(manifest, variant, engine)
        except EngineUnavailable:
            engine.close()
            raise
        self._engine = engine
        feeds = [_feed(spec, binding) for spec, binding in zip(manifest.inputs, variant.inputs)]
        fetches = [_fetch(spec, binding) for spec, binding in zip(manifest.outputs, variant.outputs)]
        in_order = sorted(zip((binding.index for binding in variant.inputs), range(len(feeds))))
        self._feeds = [(place, feeds[place]) for _, place in in_order]
        self._fetches = [(binding.index, fetch) for binding, fetch in zip(variant.outputs, fetches)]

    def run(self, values: Sequence[Any]) -> list[Array]:
        """Run once.

        Args:
            values: one an input, in the manifest's order; anything numpy can make an array of.

        Returns:
            One array an output, in the manifest's order, shapes and dtypes.

        Raises:
            InputMismatch: a value has the wrong shape or dtype, or is not finite.
            EngineError: the engine failed.
        """
        results = self._engine.run([feed(values[place]) for place, feed in self._feeds])
        return [fetch(results[index]) for index, fetch in self._fetches]

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()


def _check_tensors(manifest: Manifest, variant: Variant, engine: Engine) -> None:
    """The artifact has exactly the tensors that the manifest binds, in shape, dtype and quantization."""
    _check_side("input", manifest.inputs, variant.inputs, engine.inputs)
    _check_side("output", manifest.outputs, variant.outputs, engine.outputs)


def _check_side(
    side: str,
    specs: Sequence[InputSpec | OutputSpec],
    bindings: Sequence[TensorBinding],
    tensors: Sequence[TensorInfo],
) -> None:
    if len(tensors) != len(bindings):
        raise EngineUnavailable(f"the artifact has {len(tensors)} {side}s, the manifest binds {len(bindings)}")
    for spec, binding in zip(specs, bindings):
        have = tensors[binding.index] if binding.index < len(tensors) else None
        if have is None or not _same(spec.shape, binding, have):
            raise EngineUnavailable(
                f"{side} {spec.name!r}: the artifact has {have} where tensor {binding.index} is bound as "
                f"{binding.dtype} {list(spec.shape)}, scale {binding.scale}, zero point {binding.zero_point}"
            )


def _same(shape: tuple[int, ...], binding: TensorBinding, have: TensorInfo) -> bool:
    """Whether they agree; a quantization only where both tell one, since not every artifact does."""
    if have.shape != shape or have.dtype != binding.dtype:
        return False
    if have.scale is None or binding.scale is None:
        return True
    # A scale is a float32 in the artifact and a decimal in the manifest.
    return np.float32(have.scale) == np.float32(binding.scale) and have.zero_point == binding.zero_point


def _feed(spec: InputSpec, binding: TensorBinding) -> Feed:
    """The way of one input; integers in the artifact's own dtype go in as they are."""
    shape, real, own = spec.shape, np.dtype(spec.dtype), np.dtype(binding.dtype)
    to_steps = None
    if binding.scale is not None and binding.zero_point is not None:
        to_steps = quantizer(binding.scale, binding.zero_point, own)
    as_it_is = own if own.kind in "iub" and (to_steps or own == real) else None

    def feed(value: Any) -> Array:
        array = value if type(value) is np.ndarray else np.asarray(value)
        if array.shape != shape:
            raise InputMismatch(f"{_named(spec)}: its shape is {list(array.shape)}")
        if as_it_is is not None and array.dtype == as_it_is:  # numpy holds None equal to float64
            return array
        return to_steps(_cast(spec, array, real)) if to_steps else _cast(spec, array, own)

    return feed


def _named(spec: InputSpec) -> str:
    return f"input {spec.name!r} must be {spec.dtype} {list(spec.shape)}"


def _cast(spec: InputSpec, array: Array, dtype: np.dtype[Any]) -> Array:
    """Cast an array: floats may be rounded, all else keeps its values, and nothing is NaN or infinite."""
    if array.dtype != dtype:
        if not _castable(array.dtype, dtype):
            raise InputMismatch(f"{_named(spec)}: its dtype is {array.dtype}{_advice(spec, array)}")
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused below
            cast = array.astype(dtype)
        if dtype.kind != "f" and not np.array_equal(cast, array):
            raise InputMismatch(f"{_named(spec)}: it has {array.dtype} values that {dtype} cannot hold")
        array = cast
    if dtype.kind == "f" and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        raise InputMismatch(f"{_named(spec)}: it has NaN, or values that are infinite as {dtype}, first at {bad}")
    return array


def _castable(have: np.dtype[Any], want: np.dtype[Any]) -> bool:
    """Float to float, integer to integer, bool to bool."""
    return have.kind == want.kind or (have.kind in "iu" and want.kind in "iu")


def _advice(spec: InputSpec, array: Array) -> str:
    """A raw image where the model's own numbers are wanted is the mistake everybody makes once."""
    if array.dtype == np.uint8 and spec.preprocessing is not None:
        return "; for a raw image call model(x, raw=True), which applies the declared preprocessing"
    return ""


def _fetch(spec: OutputSpec, binding: TensorBinding) -> Fetch:
    """The way of one output: a look-up for 8 bits, arithmetic for 16, a cast or nothing for all else."""
    want = np.dtype(spec.dtype)
    scale, zero_point = binding.scale, binding.zero_point
    if scale is not None and zero_point is not None:
        if np.dtype(binding.dtype).itemsize > 1:
            return lambda result: dequantize(result, scale, zero_point, want)
        look_up = dequantization_table(binding.dtype, scale, zero_point, spec.dtype).take
        return lambda result: look_up(result.view(np.uint8))
    if binding.dtype == spec.dtype:
        return lambda result: result
    return lambda result: result.astype(want)
