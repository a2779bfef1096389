"""``.tflite`` on the GPU, through LiteRT's compiled models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_runtime.engines import Facts
from edgekit_runtime.engines.litert import Mapped, tensors
from edgekit_runtime.errors import EngineError, EngineUnavailable

if TYPE_CHECKING:
    from edgekit_runtime.engines import TensorInfo
    from edgekit_runtime.manifest import Variant
    from edgekit_runtime.tensors import Array

PRECISION = "INFERENCE_PRECISION_HINT"
PRECISIONS = {"f32": "float32", "f16": "float16"}


def open_model(path: str, variant: Variant) -> LiteRTGPUEngine:
    """Compile a ``.tflite`` file for the GPU alone, so that nothing falls back to the CPU.

    Float arithmetic is float32 unless the settings' ``INFERENCE_PRECISION_HINT`` is ``f16``.

    Raises:
        EngineUnavailable: this LiteRT has no GPU support, there is no GPU, or it cannot run the whole model.
    """
    precision = variant.settings.get(PRECISION, "f32")
    if precision not in PRECISIONS:
        raise EngineUnavailable(f"LiteRT computes in {' or '.join(PRECISIONS)} on the GPU, not in {precision}")
    with Mapped(f"LiteRT cannot run {os.path.basename(path)} on the GPU", EngineUnavailable):
        parts = [import_module(f"ai_edge_litert.{name}") for name in ("compiled_model", "options", "interpreter")]
        compiled_model, options, interpreter = parts
        # The interpreter says the order of the tensors and their quantization, which a compiled model does not.
        inputs, outputs = tensors(interpreter.Interpreter(model_path=path))
        wanted = options.Options(
            hardware_accelerators=options.HardwareAccelerator.GPU,
            gpu_options=options.GpuOptions(enforce_f32=precision == "f32"),
        )
        compiled = compiled_model.CompiledModel.from_file(path, options=wanted)
        library = os.path.dirname(str(compiled_model.__file__))
        return LiteRTGPUEngine(
            compiled, inputs, outputs, Facts("GPU", PRECISIONS[precision], None, None, {"gpu": library})
        )


class LiteRTGPUEngine:
    """A compiled model with a buffer a tensor."""

    def __init__(
        self, compiled: Any, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...], facts: Facts
    ) -> None:
        self.inputs, self.outputs, self.facts = inputs, outputs, facts
        signature = compiled.get_signature_by_index(0)
        key = signature["key"]
        self._in_buffers, self._out_buffers = compiled.create_input_buffers(0), compiled.create_output_buffers(0)
        sides = (
            (signature["inputs"], compiled.get_input_tensor_details(key), inputs, self._in_buffers),
            (signature["outputs"], compiled.get_output_tensor_details(key), outputs, self._out_buffers),
        )
        self._in, self._out = ([_buffer(*side[:2], info, side[3]) for info in side[2]] for side in sides)
        self._compiled = compiled
        self._mapped = Mapped("LiteRT failed while running the model on the GPU", EngineError)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Write, run, read; the results are copies."""
        with self._mapped:
            for buffer, array in zip(self._in, arrays):
                buffer.write(np.ascontiguousarray(array))
            self._compiled.run_by_index(0, self._in_buffers, self._out_buffers)
            return [
                buffer.read(int(np.prod(info.shape)), np.dtype(info.dtype).type).reshape(info.shape)
                for buffer, info in zip(self._out, self.outputs)
            ]

    def twin(self) -> None:
        """There is one GPU, and it takes one model's work after the other."""

    def close(self) -> None:
        """Drop the buffers, then the compiled model."""
        self._in, self._out, self._in_buffers, self._out_buffers = [], [], [], []
        self._compiled = None


def _buffer(names: Sequence[str], details: dict[str, Any], info: TensorInfo, buffers: Sequence[Any]) -> Any:
    """The buffer of a tensor: the signature has its own names and its own order."""
    for name, buffer in zip(names, buffers):
        if details[name]["name"] == info.name:
            return buffer
    raise EngineUnavailable(f"LiteRT's compiled model has no tensor {info.name!r}")
