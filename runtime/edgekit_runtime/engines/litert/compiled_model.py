"""Run a model with LiteRT's CompiledModel: on the GPU, or on the CPU with its repacked weights mapped from a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from edgekit_runtime.engines import EngineInfo, compile_cache
from edgekit_runtime.engines.litert.interpreter import LITERT_ERRORS, TranslateErrors, tensors
from edgekit_runtime.errors import EngineError, EngineUnavailable
from edgekit_runtime.host.machine import processor

if TYPE_CHECKING:
    from edgekit_runtime.engines import Engine, TensorInfo
    from edgekit_runtime.format.manifest import Variant
    from edgekit_runtime.tensors import Array

    Compiled = tuple[Any, tuple[TensorInfo, ...], tuple[TensorInfo, ...]]

PRECISION = "INFERENCE_PRECISION_HINT"
PRECISIONS = {"f32": "float32", "f16": "float16"}
UNSUPPORTED = (*LITERT_ERRORS, ImportError, AttributeError, TypeError)  # older versions lack the module or the option


def open_on_gpu(path: str, variant: Variant) -> CompiledEngine:
    """Compile a ``.tflite`` file for the GPU only, so that no operator falls back to the CPU.

    Float arithmetic is float32 unless the settings' ``INFERENCE_PRECISION_HINT`` is ``f16``.

    Raises:
        EngineUnavailable: this LiteRT has no GPU support, there is no GPU, or it cannot run the whole model.
    """
    precision = variant.settings.get(PRECISION, "f32")
    if precision not in PRECISIONS:
        raise EngineUnavailable(f"LiteRT computes in {' or '.join(PRECISIONS)} on the GPU, not in {precision}")
    with TranslateErrors(f"LiteRT cannot run {os.path.basename(path)} on the GPU", EngineUnavailable):
        options = import_module("ai_edge_litert.options")
        wanted = options.Options(
            hardware_accelerators=options.HardwareAccelerator.GPU,
            gpu_options=options.GpuOptions(enforce_f32=precision == "f32"),
        )
        library = os.path.dirname(str(options.__file__))
        facts = EngineInfo("GPU", PRECISIONS[precision], None, None, {"gpu": library})
        return CompiledEngine(_compile(path, wanted), facts)


def open_with_cached_weights(path: str, threads: int, artifact: str, version: str) -> CompiledEngine | None:
    """Compile a file for the CPU, with XNNPACK's repacked weights mapped from the compile cache.

    The weights are repacked once on a machine, and all engines share them: with the float MobileNetV2, each engine
    after the first takes 8 MB instead of 21 MB.

    Args:
        path: the file.
        threads: of the engine.
        artifact: the digest of the file.
        version: of LiteRT.

    Returns:
        None if the cache cannot be used, or this LiteRT does not support it.
    """
    key = {"artifact": artifact, "litert": version, "cpu": processor(), "threads": str(threads)}
    cached = compile_cache.find(key)
    weights_path = cached or compile_cache.temporary_path()
    if weights_path is None:
        return None
    try:
        options = import_module("ai_edge_litert.options")
        wanted = options.Options(
            hardware_accelerators=options.HardwareAccelerator.CPU,
            cpu_options=options.CpuOptions(num_threads=threads, xnnpack_weight_cache_path=weights_path),
        )
        compiled = _compile(path, wanted)
    except UNSUPPORTED:
        return None
    if cached is None and os.path.exists(weights_path):
        cached = compile_cache.add_file(key, weights_path)
    facts = EngineInfo("CPU", "float32", threads, None, {"packed weights": cached} if cached else {})
    return CompiledEngine(compiled, facts, reopen=lambda: open_with_cached_weights(path, threads, artifact, version))


def _compile(path: str, options: Any) -> Compiled:
    """Compile a model, and read the order and quantization of its tensors from the interpreter."""
    names = ("compiled_model", "interpreter")
    compiled_model, interpreter = (import_module(f"ai_edge_litert.{name}") for name in names)
    inputs, outputs = tensors(interpreter.Interpreter(model_path=path))
    return compiled_model.CompiledModel.from_file(path, options=options), inputs, outputs


class CompiledEngine:
    """A compiled model, with a buffer for each tensor."""

    def __init__(self, model: Compiled, facts: EngineInfo, reopen: Callable[[], Engine | None] | None = None) -> None:
        compiled, inputs, outputs = model
        self.inputs, self.outputs, self.facts, self._reopen = inputs, outputs, facts, reopen
        signature = compiled.get_signature_by_index(0)
        key = signature["key"]
        self._in_buffers, self._out_buffers = compiled.create_input_buffers(0), compiled.create_output_buffers(0)
        sides = (
            (signature["inputs"], compiled.get_input_tensor_details(key), inputs, self._in_buffers),
            (signature["outputs"], compiled.get_output_tensor_details(key), outputs, self._out_buffers),
        )
        self._in, self._out = ([_buffer(*side[:2], info, side[3]) for info in side[2]] for side in sides)
        self._compiled = compiled
        self._translate_errors = TranslateErrors(
            f"LiteRT failed while running the model on the {facts.device}", EngineError
        )

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Write, run, read; the results are copies."""
        with self._translate_errors:
            for buffer, array in zip(self._in, arrays):
                buffer.write(np.ascontiguousarray(array))
            self._compiled.run_by_index(0, self._in_buffers, self._out_buffers)
            return [
                buffer.read(int(np.prod(info.shape)), np.dtype(info.dtype).type).reshape(info.shape)
                for buffer, info in zip(self._out, self.outputs)
            ]

    def clone(self) -> Engine | None:
        """Open another engine on the same cached weights; None on the GPU, which runs one model after the other."""
        return self._reopen() if self._reopen else None

    def close(self) -> None:
        """Drop the buffers, then the compiled model."""
        self._in, self._out, self._in_buffers, self._out_buffers = [], [], [], []
        self._compiled = None


def _buffer(names: Sequence[str], details: dict[str, Any], info: TensorInfo, buffers: Sequence[Any]) -> Any:
    """Find the buffer of a tensor: the signature has its own names and its own order."""
    for name, buffer in zip(names, buffers):
        if details[name]["name"] == info.name:
            return buffer
    raise EngineUnavailable(f"LiteRT's compiled model has no tensor {info.name!r}")
