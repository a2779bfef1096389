"""Artifacts: bind their tensors, and run them with the very engines the board uses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from edgekit_converters.records import Artifact
from edgekit_runtime.engines import TensorInfo, open_engine
from edgekit_runtime.manifest import Golden, TensorBinding, Variant
from edgekit_runtime.tensors import dequantize, quantize

PLACED = re.compile(r"(?:input|args|output)_(\d+)")  # names that carry their place


class LooseFiles:
    """Files outside any bundle, for engines that ask a bundle where a file is."""

    def local_path(self, path: str) -> Path:
        """Return the path itself."""
        return Path(path)


class OpenArtifact:
    """An artifact in its engine, taking and giving real numbers in the source's order."""

    def __init__(self, artifact: Artifact, settings: dict[str, str], *, threads: int = 1) -> None:
        self.artifact = artifact
        self.engine = open_engine(_variant(artifact, settings), LooseFiles(), threads)

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Run one sample; arrays are (1, ...) in the model's own units."""
        own: list[Any] = [None] * len(inputs)
        for array, binding in zip(inputs, self.artifact.inputs, strict=True):
            own[binding.index] = _enter(array, binding)
        results = self.engine.run(own)
        return [_leave(results[binding.index], binding) for binding in self.artifact.outputs]

    def close(self) -> None:
        """Release the engine."""
        self.engine.close()


def settings_for(engine: str, precision: str) -> dict[str, str]:
    """Return the settings that pin an engine's numbers; LiteRT's CPU computes float32 unless told otherwise."""
    return {"INFERENCE_PRECISION_HINT": precision} if engine == "openvino" else {}


def bind(engine: str, scheme: str, files: tuple[Path, ...], notes: tuple[str, ...] = ()) -> Artifact:
    """Describe an artifact's tensors, in the source's order."""
    opened = open_engine(_variant(Artifact(engine, scheme, files, (), ()), {}), LooseFiles(), 1)
    inputs, outputs = opened.inputs, opened.outputs
    opened.close()
    if engine == "litert":
        input_order, output_order = _signature_order(files[0])
        inputs = tuple(inputs[index] for index in input_order or range(len(inputs)))
        outputs = tuple(outputs[index] for index in output_order or range(len(outputs)))
    return Artifact(engine, scheme, files, tuple(map(_binding, inputs)), tuple(map(_binding, outputs)), notes)


def signature(path: Path) -> tuple[str | None, list[str], list[str]]:
    """Return a ``.tflite`` file's signature: its key, and its input and output names in the order of their places.

    Files without a signature give None and the tensors' own names.
    """
    interpreter = open_interpreter(path)
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        return (
            None,
            [detail["name"] for detail in interpreter.get_input_details()],
            [detail["name"] for detail in interpreter.get_output_details()],
        )
    ((key, names),) = signatures.items()
    return key, sorted(names["inputs"], key=_place), sorted(names["outputs"], key=_place)


def _signature_order(path: Path) -> tuple[list[int], list[int]]:
    """Return, input by input and output by output of the source, the position in the interpreter's lists.

    Empty where the names do not carry a place: then the file's own order is the source's.
    """
    key, inputs, outputs = signature(path)
    if key is None:
        return [], []
    interpreter = open_interpreter(path)
    runner = interpreter.get_signature_runner(key)
    return (
        _positions(inputs, runner.get_input_details(), interpreter.get_input_details()),
        _positions(outputs, runner.get_output_details(), interpreter.get_output_details()),
    )


def _positions(names: list[str], by_name: dict[str, Any], listed: list[Any]) -> list[int]:
    if not all(PLACED.fullmatch(name) for name in names):
        return []
    indices = [detail["index"] for detail in listed]
    return [indices.index(by_name[name]["index"]) for name in names]


def open_interpreter(path: Path) -> Any:
    """Open a ``.tflite`` file with LiteRT's interpreter, for what the runtime's engine does not tell."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    return interpreter


def _place(name: str) -> int:
    match = PLACED.fullmatch(name)
    return int(match.group(1)) if match else 0


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
    return TensorBinding(info.index, info.name, info.dtype, info.scale, info.zero_point)


def _enter(array: np.ndarray, binding: TensorBinding) -> np.ndarray:
    if binding.scale is None or binding.zero_point is None:
        return np.ascontiguousarray(array, dtype=binding.dtype)
    return quantize(array, binding.scale, binding.zero_point, binding.dtype)


def _leave(array: np.ndarray, binding: TensorBinding) -> np.ndarray:
    if binding.scale is None or binding.zero_point is None:
        return array
    return dequantize(array, binding.scale, binding.zero_point)
