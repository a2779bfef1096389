"""Bind the tensors of artifacts to the source's, and run artifacts with the engines that the board uses."""

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

MAX_NAME_LENGTH = 256  # in a manifest; litert-torch may give tensors longer names


class LooseFiles:
    """Files outside a bundle, for engines that ask a bundle for the path of a file."""

    def local_path(self, path: str) -> str:
        """Return the path itself."""
        return path

    def digest(self, path: str) -> str:  # engines cache nothing of files without a digest
        """Return no digest."""
        return ""


class OpenArtifact:
    """An artifact open in its engine; inputs and outputs are real numbers in the source's order.

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
        results = self.engine.run(artifact_inputs(self.artifact, inputs))
        return [_output(results, bound) for bound in self.artifact.outputs]

    def parts(self, place: int) -> list[tuple[TensorBinding, tuple[slice, ...]]]:
        """Return the tensors of an output, each with its slice of the output, (1, ...)."""
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


def artifact_inputs(artifact: Artifact, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Convert inputs in the source's order and units to the artifact's order, dtypes and quantization."""
    own: list[Any] = [None] * len(inputs)
    for array, binding in zip(inputs, artifact.inputs, strict=True):
        own[binding.index] = _to_tensor(array, binding)
    return own


def bind(engine: str, scheme: str, files: tuple[Path, ...], notes: tuple[str, ...] = ()) -> Artifact:
    """Describe an artifact's tensors, in the source's order."""
    artifact_format = format_of(engine)
    opened = open_engine(_variant(Artifact(engine, scheme, files, (), ()), {}), LooseFiles(), 1)
    inputs, outputs = opened.inputs, opened.outputs
    opened.close()
    if artifact_format.tensor_order:
        ports = pkgutil.resolve_name(artifact_format.tensor_order)(files[0])
        inputs = tuple(inputs[port.position] for port in ports.inputs)
        outputs = tuple(outputs[port.position] for port in ports.outputs)
    bindings = tuple(map(_binding, inputs)), tuple(map(_binding, outputs))
    version = pkgutil.resolve_name(artifact_format.lowest_version)(files[0])
    return Artifact(engine, scheme, files, *bindings, notes, version)


def bind_built(stage: str, engine: str, scheme: str, files: tuple[Path, ...]) -> Artifact:
    """Bind an artifact that a toolchain has just written.

    Raises:
        ToolchainError: the engine refuses the file.
    """
    try:
        return bind(engine, scheme, files)
    except EngineError as error:
        raise ToolchainError(
            f"the toolchain wrote a {scheme} model that cannot be run: {error}",
            stage=stage,
            subject=engine,
            advice="use another --quantize scheme, or other devices",
        ) from error


def group_outputs(artifact: Artifact, groups: tuple[tuple[int, int | None], ...]) -> Artifact:
    """Return an artifact with its outputs grouped: (number of tensors, the axis that joins them or None) an output."""
    tensors = iter(part for bound in artifact.outputs for part in bound.parts)
    grouped = [(tuple(islice(tensors, count)), axis) for count, axis in groups]
    outputs = tuple(parts[0] if axis is None else JoinedBinding(axis, parts) for parts, axis in grouped)
    return replace(artifact, outputs=outputs)


def group_outputs_like(original: Artifact, built: Artifact) -> Artifact:
    """Return ``built`` with its outputs grouped as those of ``original``."""
    groups = tuple((len(bound.parts), getattr(bound, "axis", None)) for bound in original.outputs)
    return replace(group_outputs(built, groups), part_ranges=original.part_ranges)


def with_scales_of(original: Artifact, built: Artifact) -> Artifact:
    """Return ``built`` with the scales of ``original``: IR keeps a quantized file's integer inputs, not their scale."""

    def scaled(one: Any, like: Any) -> Any:
        same = one.dtype == like.dtype and one.scale is None
        return replace(one, scale=like.scale, zero_point=like.zero_point) if same else one

    return replace(
        built,
        inputs=tuple(map(scaled, built.inputs, original.inputs)),
        outputs=tuple(map(scaled, built.outputs, original.outputs)),
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
    name = info.name if len(info.name) <= MAX_NAME_LENGTH else f"…{info.name[1 - MAX_NAME_LENGTH :]}"
    return TensorBinding(info.index, name, info.dtype, info.scale, info.zero_point)


def _to_tensor(array: np.ndarray, binding: TensorBinding) -> np.ndarray:
    if binding.scale is None or binding.zero_point is None:
        return np.ascontiguousarray(array, dtype=binding.dtype)
    return quantize(array, binding.scale, binding.zero_point, binding.dtype)


def _output(results: list[np.ndarray], bound: TensorBinding | JoinedBinding) -> np.ndarray:
    if isinstance(bound, JoinedBinding):
        return np.concatenate([_from_tensor(results[part.index], part) for part in bound.parts], bound.axis)
    return _from_tensor(results[bound.index], bound)


def _from_tensor(array: np.ndarray, binding: TensorBinding) -> np.ndarray:
    if binding.scale is None or binding.zero_point is None:
        return array
    return dequantize(array, binding.scale, binding.zero_point)
