"""``.tflite`` files in LiteRT, or in tflite-runtime where LiteRT has no wheel (32-bit ARM).

``open_model`` selects how a variant runs: interpreter.py on the CPU, delegate.py with a delegate, compiled_model.py on
the GPU.
"""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgekit_runtime.engines import ENGINES, EngineInfo, Library
from edgekit_runtime.engines.litert.interpreter import INSTALL, LiteRTEngine, TranslateErrors
from edgekit_runtime.errors import EngineUnavailable

if TYPE_CHECKING:
    from edgekit_runtime.engines import Engine
    from edgekit_runtime.format.manifest import Variant

PACKAGES = ENGINES["litert"].packages
WHEELS = {
    "x86_64": ("litert", "2.27"),
    "aarch64": ("litert", "2.27"),
    "armv7l": ("tflite", "2.34", "neon", "3.11"),
}
# Requirements use TensorFlow's version numbers, as the metadata of .tflite files does. LiteRT has its own numbers since
# TensorFlow 2.17: here is the lowest TensorFlow version that each of its major versions corresponds to.
TENSORFLOW_LEVELS = {"1": "2.17", "2": "2.20"}
# Schemes whose weights XNNPACK repacks (integer weights are used as they are in the file), and the file size from which
# clones share repacked weights. The first engine never does: a compiled model takes longer to start.
REPACKED_SCHEMES, MIN_SHARED_BYTES = ("float32", "float16"), 4 << 20


def library() -> Library:
    """Import LiteRT, or tflite-runtime.

    Raises:
        EngineUnavailable: neither is installed, or the installed one does not load.
    """
    package, _ = import_interpreter()
    module = import_module(package)
    version = str(getattr(module, "__version__", "0"))
    major = version.split(".", maxsplit=1)[0]
    level = TENSORFLOW_LEVELS.get(major, max(TENSORFLOW_LEVELS.values())) if package == PACKAGES[0] else version
    return Library(package.replace("_", "-"), version, level, os.path.dirname(str(module.__file__)))


def import_interpreter() -> tuple[str, Any]:
    """Import the first package that is installed, and return its name and its Interpreter class.

    Raises:
        EngineUnavailable: none is installed, or the first that is does not load.
    """
    for package in PACKAGES:
        with suppress(ModuleNotFoundError):
            import_module(package)
            with TranslateErrors(package.replace("_", "-"), EngineUnavailable):
                return package, import_module(f"{package}.interpreter").Interpreter
    raise EngineUnavailable(f"LiteRT is not installed: {INSTALL}")


def open_model(path: str, variant: Variant, threads: int | None, artifact: str = "") -> Engine:
    """Open a ``.tflite`` file on the variant's device, with its delegate.

    Args:
        path: the file.
        variant: the device, the delegate and their settings.
        threads: None means 1, which is LiteRT's default.
        artifact: the digest of the file; empty to keep nothing in the compile cache.

    Raises:
        EngineUnavailable: the library or the device is missing, or LiteRT refuses the file.
        DelegateUnavailable: the variant's delegate is missing, refuses the model, or supports none of its operators.
    """
    package, interpreter_class = import_interpreter()
    if variant.delegate is not None:
        from edgekit_runtime.engines.litert import delegate

        return delegate.open_model(package, interpreter_class, path, variant, threads)
    if variant.device == "gpu" and package == PACKAGES[0]:
        from edgekit_runtime.engines.litert import compiled_model

        return compiled_model.open_on_gpu(path, variant)
    if variant.device != "cpu":
        raise EngineUnavailable(f"LiteRT runs on the {variant.device.upper()} here only through a delegate")
    with TranslateErrors(f"LiteRT cannot open {os.path.basename(path)}", EngineUnavailable):
        interpreter = interpreter_class(model_path=path, num_threads=threads or 1)
        interpreter.allocate_tensors()
    facts = EngineInfo("CPU", "float32", threads or 1)
    return LiteRTEngine(interpreter, facts, reopen=lambda: _clone(path, variant, threads, artifact))


def _clone(path: str, variant: Variant, threads: int | None, artifact: str) -> Engine:
    """Open another engine; on shared, repacked weights if that saves much memory."""
    if artifact and variant.scheme in REPACKED_SCHEMES and os.path.getsize(path) >= MIN_SHARED_BYTES:
        from edgekit_runtime.engines.litert import compiled_model

        engine = compiled_model.open_with_cached_weights(path, threads or 1, artifact, library().version)
        if engine is not None:
            return engine
    return open_model(path, variant, threads, artifact)
