"""``.tflite`` through LiteRT's compiled models: on the GPU, or on the CPU with its packed weights kept in a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from edgekit_runtime.engines import EngineInfo, compile_cache
from edgekit_runtime.engines.litert.interpreter import FOREIGN, Mapped, library, tensors
from edgekit_runtime.errors import EngineError, EngineUnavailable
from edgekit_runtime.placement.golden_check import processor

if TYPE_CHECKING:
    from edgekit_runtime.engines import Engine, TensorInfo
    from edgekit_runtime.format.manifest import Variant
    from edgekit_runtime.tensors import Array

    Compiled = tuple[Any, tuple[TensorInfo, ...], tuple[TensorInfo, ...]]

PRECISION = "INFERENCE_PRECISION_HINT"
PRECISIONS = {"f32": "float32", "f16": "float16"}
UNABLE = (*FOREIGN, ImportError, AttributeError, TypeError)  # older versions lack the module, or the option


def open_on_gpu(path: str, variant: Variant) -> CompiledEngine:
    """Compile a ``.tflite`` file for the GPU alone, so that nothing falls back to the CPU.

    Float arithmetic is float32 unless the settings' ``INFERENCE_PRECISION_HINT`` is ``f16``.

    Raises:
        EngineUnavailable: this LiteRT has no GPU support, there is no GPU, or it cannot run the whole model.
    """
    precision = variant.settings.get(PRECISION, "f32")
    if precision not in PRECISIONS:
        raise EngineUnavailable(f"LiteRT computes in {' or '.join(PRECISIONS)} on the GPU, not in {precision}")
    with Mapped(f"LiteRT cannot run {os.path.basename(path)} on the GPU", EngineUnavailable):
        options = import_module("ai_edge_litert.options")
        wanted = options.Options(
            hardware_accelerators=options.HardwareAccelerator.GPU,
            gpu_options=options.GpuOptions(enforce_f32=precision == "f32"),
        )
        library = os.path.dirname(str(options.__file__))
        facts = EngineInfo("GPU", PRECISIONS[precision], None, None, {"gpu": library})
        return CompiledEngine(_compiled(path, wanted), facts)


def open_with_kept_weights(path: str, threads: int, artifact: str) -> CompiledEngine | None:
    """Compile a file for the CPU, with the weights as XNNPACK packs them mapped from the cache.

    They are then packed once a machine, and all engines on them share them: of MobileNetV2 in float, each engine
    after the first takes 8 MB instead of 21.

    Args:
        path: the file.
        threads: of the engine.
        artifact: the digest of the file.

    Returns:
        None where nothing can be kept, or this LiteRT cannot do it.
    """
    key = {"artifact": artifact, "litert": library().version, "cpu": processor(), "threads": str(threads)}
    kept = compile_cache.find(key)
    packed = kept or compile_cache.aside()
    if packed is None:
        return None
    try:
        options = import_module("ai_edge_litert.options")
        wanted = options.Options(
            hardware_accelerators=options.HardwareAccelerator.CPU,
            cpu_options=options.CpuOptions(num_threads=threads, xnnpack_weight_cache_path=packed),
        )
        compiled = _compiled(path, wanted)
    except UNABLE:
        return None
    if kept is None and os.path.exists(packed):
        kept = compile_cache.keep(key, packed)
    facts = EngineInfo("CPU", "float32", threads, None, {"packed weights": kept} if kept else {})
    return CompiledEngine(compiled, facts, again=lambda: open_with_kept_weights(path, threads, artifact))


def _compiled(path: str, wanted: Any) -> Compiled:
    """A compiled model, and its tensors as the interpreter tells them: order and quantization."""
    names = ("compiled_model", "interpreter")
    compiled_model, interpreter = (import_module(f"ai_edge_litert.{name}") for name in names)
    inputs, outputs = tensors(interpreter.Interpreter(model_path=path))
    return compiled_model.CompiledModel.from_file(path, options=wanted), inputs, outputs


class CompiledEngine:
    """A compiled model with a buffer a tensor."""

    def __init__(self, model: Compiled, facts: EngineInfo, again: Callable[[], Engine | None] | None = None) -> None:
        compiled, inputs, outputs = model
        self.inputs, self.outputs, self.facts, self._again = inputs, outputs, facts, again
        signature = compiled.get_signature_by_index(0)
        key = signature["key"]
        self._in_buffers, self._out_buffers = compiled.create_input_buffers(0), compiled.create_output_buffers(0)
        sides = (
            (signature["inputs"], compiled.get_input_tensor_details(key), inputs, self._in_buffers),
            (signature["outputs"], compiled.get_output_tensor_details(key), outputs, self._out_buffers),
        )
        self._in, self._out = ([_buffer(*side[:2], info, side[3]) for info in side[2]] for side in sides)
        self._compiled = compiled
        self._mapped = Mapped(f"LiteRT failed while running the model on the {facts.device}", EngineError)

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

    def twin(self) -> Engine | None:
        """One more on the same kept weights; there is one GPU, and it takes one model's work after the other."""
        return self._again() if self._again else None

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
