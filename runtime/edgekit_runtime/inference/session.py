"""One variant, opened: the application's arrays in, the application's arrays out.

The way from an application's array to the artifact's tensor and back is put together once, when the variant
is opened; a call then only walks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from edgekit_runtime.errors import EngineUnavailable
from edgekit_runtime.format.manifest import JoinedBinding
from edgekit_runtime.inference.engine_pool import Pool
from edgekit_runtime.inference.tensor_io import feed, fetch, join

if TYPE_CHECKING:
    from edgekit_runtime.engines import Engine, TensorInfo
    from edgekit_runtime.format.manifest import InputSpec, Manifest, OutputSpec, TensorBinding, Variant
    from edgekit_runtime.inference.tensor_io import Feed
    from edgekit_runtime.tensors import Array


class Session:
    """A variant in its engine, or in several of them when several threads come."""

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
        self.outputs = engine.outputs  # the artifact's own
        self._pool = Pool(engine)
        self._sides = tuple(zip(manifest.inputs, variant.inputs))
        in_order = sorted(zip((binding.index for binding in variant.inputs), range(len(self._sides))))
        self._order = [place for _, place in in_order]
        self._feeds = [(place, feed(*self._sides[place])) for place in self._order]
        self._raw_feeds: list[tuple[int, Feed]] | None = None
        self._fetches = [_fetch(spec, bound) for spec, bound in zip(manifest.outputs, variant.outputs)]
        self.run_one = self._one_way() if len(engine.inputs) == len(engine.outputs) == 1 else None

    def run(self, values: Sequence[Any], raw: bool = False) -> list[Array]:
        """Run once.

        Args:
            values: one an input, in the manifest's order; anything numpy can make an array of.
            raw: they are what the sensor gave, and the declared preprocessing is applied.

        Returns:
            One array an output, in the manifest's order, shapes and dtypes.

        Raises:
            InputMismatch: a value has the wrong shape or dtype, or is not finite.
            EngineError: the engine failed.
        """
        feeds = self._raw() if raw else self._feeds
        results = self._pool.run([way(values[place]) for place, way in feeds])
        return [way(results[index]) for index, way in self._fetches]

    def _one_way(self) -> Callable[[Any], Array]:
        """``run`` for a model of one input and one output: the call that is made most, without its loops."""
        ((_, feed_one),), ((_, fetch_one),), through = self._feeds, self._fetches, self._pool.run
        return lambda value: fetch_one(through([feed_one(value)])[0])

    def _raw(self) -> list[tuple[int, Feed]]:
        """The ways of raw inputs, put together when the first one comes."""
        if self._raw_feeds is None:
            from edgekit_runtime.inference.raw_input import raw_feed

            self._raw_feeds = [(place, raw_feed(*self._sides[place])) for place in self._order]
        return self._raw_feeds

    def share(self, engines: int) -> None:
        """Let as many threads run at once, each in an engine of its own, opened when it is first needed."""
        self._pool.most = engines

    def close(self) -> None:
        """Close the engines; those that are running when they have run."""
        self._pool.close()


def _fetch(spec: OutputSpec, bound: TensorBinding | JoinedBinding) -> tuple[Any, Callable[[Any], Array]]:
    """Which of the results to take, one or all of them, and their way."""
    if isinstance(bound, JoinedBinding):
        return slice(None), join(spec, bound)
    return bound.index, fetch(spec, bound)


def _check_tensors(manifest: Manifest, variant: Variant, engine: Engine) -> None:
    """The artifact has exactly the tensors that the manifest binds, in shape, dtype and quantization."""
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
            if have is None or not _same(shape, part, have):
                raise EngineUnavailable(
                    f"{side} {spec.name!r}: the artifact has {have} where tensor {part.index} is bound as "
                    f"{part.dtype} {list(shape)}, scale {part.scale}, zero point {part.zero_point}"
                )


def _shapes(
    spec: InputSpec | OutputSpec, binding: TensorBinding | JoinedBinding, tensors: Sequence[TensorInfo]
) -> Iterator[tuple[TensorBinding, tuple[int, ...]]]:
    """Each part with the shape it must have: along the axis, the last of them has what the others leave."""
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


def _same(shape: tuple[int, ...], binding: TensorBinding, have: TensorInfo) -> bool:
    """Whether they agree; a quantization only where both tell one, since not every artifact does."""
    if have.shape != shape or have.dtype != binding.dtype:
        return False
    if have.scale is None or binding.scale is None:
        return True
    # A scale is a float32 in the artifact and a decimal in the manifest.
    return np.float32(have.scale) == np.float32(binding.scale) and have.zero_point == binding.zero_point
