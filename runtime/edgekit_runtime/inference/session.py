"""Run an opened variant on the application's arrays.

The conversions between the application's arrays and the artifact's tensors are built once, when the variant is opened,
so that a call does as little as possible.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from edgekit_runtime.errors import EngineUnavailable
from edgekit_runtime.format.manifest import JoinedBinding
from edgekit_runtime.inference.engine_pool import EnginePool
from edgekit_runtime.inference.tensor_io import from_joined_tensors, from_tensor, to_tensor

if TYPE_CHECKING:
    from edgekit_runtime.engines import Engine, TensorInfo
    from edgekit_runtime.format.manifest import InputSpec, Manifest, OutputSpec, TensorBinding, Variant
    from edgekit_runtime.inference.tensor_io import ToTensor
    from edgekit_runtime.tensors import Array


class Session:
    """A variant in its engine, or in several engines when several threads call it."""

    def __init__(self, manifest: Manifest, variant: Variant, engine: Engine) -> None:
        """Take over an open engine. It is closed if it does not match the manifest.

        Raises:
            EngineUnavailable: the artifact's tensors do not match the manifest's bindings.
        """
        try:
            _check_tensors(manifest, variant, engine)
        except EngineUnavailable:
            engine.close()
            raise
        self.outputs = engine.outputs  # the artifact's own
        self._pool = EnginePool(engine)
        self._inputs = tuple(zip(manifest.inputs, variant.inputs))
        by_tensor = sorted(zip((binding.index for binding in variant.inputs), range(len(self._inputs))))
        self._order = [position for _, position in by_tensor]  # of the inputs, as the artifact takes them
        self._to_tensors = [(position, to_tensor(*self._inputs[position])) for position in self._order]
        self._raw_to_tensors: list[tuple[int, ToTensor]] | None = None
        self._from_tensors = [_from_tensors(spec, bound) for spec, bound in zip(manifest.outputs, variant.outputs)]
        self.run_one = self._make_run_one() if len(engine.inputs) == len(engine.outputs) == 1 else None

    def run(self, values: Sequence[Any], raw: bool = False) -> list[Array]:
        """Run once.

        Args:
            values: one for each input, in the manifest's order; anything that numpy converts to an array.
            raw: they are sensor data, and the bundle's preprocessing is applied.

        Returns:
            One array for each output, in the manifest's order, shapes and dtypes.

        Raises:
            InputMismatch: a value has the wrong shape or dtype, or is not finite.
            EngineError: the engine failed.
        """
        to_tensors = self._raw() if raw else self._to_tensors
        results = self._pool.run([convert(values[position]) for position, convert in to_tensors])
        return [convert(results[index]) for index, convert in self._from_tensors]

    def _make_run_one(self) -> Callable[[Any], Array]:
        """Return ``run`` for one input and one output, the most common case, without its loops."""
        ((_, to_input),), ((_, from_output),), run = self._to_tensors, self._from_tensors, self._pool.run
        return lambda value: from_output(run([to_input(value)])[0])

    def _raw(self) -> list[tuple[int, ToTensor]]:
        """Return the conversions of raw inputs, which are built for the first one."""
        if self._raw_to_tensors is None:
            from edgekit_runtime.inference.raw_input import raw_to_tensor

            self._raw_to_tensors = [(position, raw_to_tensor(*self._inputs[position])) for position in self._order]
        return self._raw_to_tensors

    def share(self, engines: int) -> None:
        """Let this many threads run at once, each in its own engine, opened when it is first needed."""
        self._pool.max_engines = engines

    def close(self) -> None:
        """Close the engines; those in use when their calls end."""
        self._pool.close()


def _from_tensors(spec: OutputSpec, bound: TensorBinding | JoinedBinding) -> tuple[Any, Callable[[Any], Array]]:
    """Return the index of the output's tensor, or a slice of all tensors for joined ones, and their conversion."""
    if isinstance(bound, JoinedBinding):
        return slice(None), from_joined_tensors(spec, bound)
    return bound.index, from_tensor(spec, bound)


def _check_tensors(manifest: Manifest, variant: Variant, engine: Engine) -> None:
    """Check that the artifact has exactly the tensors that the manifest binds, in shape, dtype and quantization."""
    _check_side("input", manifest.inputs, variant.inputs, engine.inputs)
    _check_side("output", manifest.outputs, variant.outputs, engine.outputs)


def _check_side(
    side: str,
    specs: Sequence[InputSpec | OutputSpec],
    bindings: Sequence[TensorBinding | JoinedBinding],
    tensors: Sequence[TensorInfo],
) -> None:
    bound = sum(len(binding.parts) for binding in bindings)
    if len(tensors) != bound:
        raise EngineUnavailable(f"the artifact has {len(tensors)} {side}s, the manifest binds {bound}")
    for spec, binding in zip(specs, bindings):
        for part, shape in _shapes(spec, binding, tensors):
            have = tensors[part.index] if part.index < len(tensors) else None
            if have is None or not _matches(shape, part, have):
                raise EngineUnavailable(
                    f"{side} {spec.name!r}: the artifact has {have} where tensor {part.index} is bound as "
                    f"{part.dtype} {list(shape)}, scale {part.scale}, zero point {part.zero_point}"
                )


def _shapes(
    spec: InputSpec | OutputSpec, binding: TensorBinding | JoinedBinding, tensors: Sequence[TensorInfo]
) -> Iterator[tuple[TensorBinding, tuple[int, ...]]]:
    """Yield each part with its required shape: along the axis, the last part has the rest of the size."""
    if not isinstance(binding, JoinedBinding):
        yield binding, spec.shape
        return
    before, left, behind = spec.shape[: binding.axis], spec.shape[binding.axis], spec.shape[binding.axis + 1 :]
    for part in binding.parts[:-1]:
        have = tensors[part.index].shape if part.index < len(tensors) else ()
        size = have[binding.axis] if binding.axis < len(have) else 0
        left -= size
        yield part, (*before, size, *behind)
    yield binding.parts[-1], (*before, left, *behind)


def _matches(shape: tuple[int, ...], binding: TensorBinding, have: TensorInfo) -> bool:
    """Return whether they match; the quantization is compared only if both have one, since some artifacts lack it."""
    if have.shape != shape or have.dtype != binding.dtype:
        return False
    if have.scale is None or binding.scale is None:
        return True
    # A scale is a float32 in the artifact and a decimal in the manifest.
    return np.float32(have.scale) == np.float32(binding.scale) and have.zero_point == binding.zero_point
