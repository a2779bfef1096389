"""Artifacts: bind their tensors, and run them with the very engines the board uses."""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np

from edgekit_converters.formats import FORMATS, format_of
from edgekit_converters.records import Artifact
from edgekit_runtime.engines import TensorInfo, open_engine
from edgekit_runtime.errors import EngineError, ToolchainError
from edgekit_runtime.format.manifest import Golden, JoinedBinding, TensorBinding, Variant
from edgekit_runtime.tensors import dequantize, quantize

LONGEST_NAME = 256  # in a manifest; what litert-torch calls tensors inside a model may be longer


class LooseFiles:
    """Files outside any bundle, for engines that ask a bundle where a file is."""

    def local_path(self, path: str) -> str:
        """Return the path itself."""
        return path

    def digest(self, path: str) -> str:  # engines keep nothing of files that are still being made
        """Return that nobody knows."""
        return ""


class OpenArtifact:
    """An artifact in its engine, taking and giving real numbers in the source's order.

    Opens the twin of an artifact that this machine cannot run; ``artifact`` is the one that is open.
    """

    def __init__(self, artifact: Artifact, precision: str = "f32", *, threads: int = 1) -> None:
        self.artifact = artifact = artifact.runnable
        settings = {}
        if artifact.engine in FORMATS:  # the null engine has no format and takes no settings
            settings = format_of(artifact.engine).engine_settings(artifact.scheme, precision, "cpu")
        self.engine = open_engine(_variant(artifact, settings), LooseFiles(), threads)

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Run one sample; arrays are (1, ...) in the model's own units."""
        results = self.engine.run(entered(self.artifact, inputs))
        return [_left(results, bound) for bound in self.artifact.outputs]

    def parts(self, place: int) -> list[tuple[TensorBinding, tuple[slice, ...]]]:
        """Return the tensors that an output comes in, each with where in the output, (1, ...), its values are."""
        bound = self.artifact.outputs[place]
        if not isinstance(bound, JoinedBinding):
            return [(bound, ())]
        sizes = [self.engine.outputs[part.index].shape[bound.axis] for part in bound.parts]
        ends = [*accumulate(sizes)]
        before = (slice(None),) * bound.axis
        return [
            (part, (*before, slice(end - size, end))) for part, size, end in zip(bound.parts, sizes, ends, strict=True)
        ]

    def close(self) -> None:
        """Release the engine."""
        self.engine.close()


def entered(artifact: Artifact, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Return inputs in the source's order and units as the artifact's own: in its order, dtypes and quantization."""
    own: list[Any] = [None] * len(inputs)
    for array, binding in zip(inputs, artifact.inputs, strict=True):
        own[binding.index] = _enter(array, binding)
    return own


def bind(engine: str, scheme: str, files: tuple[Path, ...], notes: tuple[str, ...] = ()) -> Artifact:
    """Describe an artifact's tensors, in the source's order."""
    described = format_of(engine)
    opened = open_engine(_variant(Artifact(engine, scheme, files, (), ()), {}), LooseFiles(), 1)
    inputs, outputs = opened.inputs, opened.outputs
    opened.close()
    if described.tensor_order:
        ports = pkgutil.resolve_name(described.tensor_order)(files[0])
        inputs = tuple(inputs[port.position] for port in ports.inputs)
        outputs = tuple(outputs[port.position] for port in ports.outputs)
    bindings = tuple(map(_binding, inputs)), tuple(map(_binding, outputs))
    version = pkgutil.resolve_name(described.lowest_version)(files[0])
    return Artifact(engine, scheme, files, *bindings, notes, version)


def bind_made(stage: str, engine: str, scheme: str, files: tuple[Path, ...]) -> Artifact:
    """Bind what a toolchain has just made.

    Raises:
        ToolchainError: the engine refuses the file.
    """
    try:
        return bind(engine, scheme, files)
    except EngineError as error:
        raise ToolchainError(
            f"the toolchain made a {scheme} model that cannot be run: {error}",
            stage=stage,
            subject=engine,
            advice="try another --quantize scheme, or other devices",
        ) from error


def joined(artifact: Artifact, groups: tuple[tuple[int, int | None], ...]) -> Artifact:
    """Return an artifact with its outputs grouped: (how many tensors, the axis that joins them or None) an output."""
    tensors = iter(part for bound in artifact.outputs for part in bound.parts)
    taken = [(tuple(islice(tensors, count)), axis) for count, axis in groups]
    outputs = tuple(parts[0] if axis is None else JoinedBinding(axis, parts) for parts, axis in taken)
    return replace(artifact, outputs=outputs)


def joined_like(original: Artifact, made: Artifact) -> Artifact:
    """Return ``made`` with its outputs grouped as those of ``original``."""
    groups = tuple((len(bound.parts), getattr(bound, "axis", None)) for bound in original.outputs)
    return replace(joined(made, groups), spans=original.spans)


def scaled_like(original: Artifact, made: Artifact) -> Artifact:
    """Return ``made`` with the scales of ``original``: IR keeps a quantized file's integer inputs, not their scale."""

    def scaled(one: Any, like: Any) -> Any:
        same = one.dtype == like.dtype and one.scale is None
        return replace(one, scale=like.scale, zero_point=like.zero_point) if same else one

    return replace(
        made,
        inputs=tuple(map(scaled, made.inputs, original.inputs)),
        outputs=tuple(map(scaled, made.outputs, original.outputs)),
    )


def _variant(artifact: Artifact, settings: dict[str, str]) -> Variant:
    return Variant(
        name=f"{artifact.engine}-{artifact.scheme}",
        engine=artifact.engine,
        device="cpu",
        scheme=artifact.scheme,
        files=tuple(str(path) for path in artifact.files),
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        golden=Golden((), ()),
        settings=settings,
    )


def _binding(info: TensorInfo) -> TensorBinding:
    name = info.name if len(info.name) <= LONGEST_NAME else f"…{info.name[1 - LONGEST_NAME :]}"
    return TensorBinding(info.index, name, info.dtype, info.scale, info.zero_point)


def _enter(array: np.ndarray, binding: TensorBinding) -> np.ndarray:
    if binding.scale is None or binding.zero_point is None:
        return np.ascontiguousarray(array, dtype=binding.dtype)
    return quantize(array, binding.scale, binding.zero_point, binding.dtype)


def _left(results: list[np.ndarray], bound: TensorBinding | JoinedBinding) -> np.ndarray:
    if isinstance(bound, JoinedBinding):
        return np.concatenate([_leave(results[part.index], part) for part in bound.parts], bound.axis)
    return _leave(results[bound.index], bound)


def _leave(array: np.ndarray, binding: TensorBinding) -> np.ndarray:
    if binding.scale is None or binding.zero_point is None:
        return array
    return dequantize(array, binding.scale, binding.zero_point)
