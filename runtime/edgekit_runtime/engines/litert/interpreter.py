"""``.tflite`` in LiteRT's interpreter, or tflite-runtime's where LiteRT has none (32-bit ARM).

On the CPU; litert_delegate.py has the delegates, litert_compiled.py LiteRT's compiled models.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from edgekit_runtime.engines import EngineInfo, Library, TensorInfo
from edgekit_runtime.errors import EngineError, EngineUnavailable, IncompatibleDevice

if TYPE_CHECKING:
    from edgekit_runtime.engines import Engine
    from edgekit_runtime.format.manifest import Variant
    from edgekit_runtime.tensors import Array

PACKAGES = ("ai_edge_litert", "tflite_runtime")
INSTALL = "pip install 'edgekit-runtime[litert]' (on 32-bit ARM: 'edgekit-runtime[tflite]')"
# Requirements are in TensorFlow's numbering, which a .tflite file's own metadata uses. LiteRT began its own
# after TensorFlow 2.17; these are the levels that each of its major versions at least reaches.
LEVELS = {"1": "2.17", "2": "2.20"}
# Weights that several engines had better share, as XNNPACK packs them; integers stay as they are in the file. A
# compiled model takes longer to start than an interpreter, so the first engine, often the only one, is none.
PACKED, PACKED_BYTES = ("float32", "float16"), 4 << 20
QUANTIZED = ("int8", "uint8", "int16")
NEWER_OPERATOR = re.compile(r"builtin opcode '(\w+)' version '(\d+)'")  # that the library does not know
FOREIGN = (ValueError, RuntimeError, OSError, SystemError)  # what LiteRT raises


class Mapped:
    """The one place where LiteRT's exceptions become ours. Reused: entering costs nothing."""

    def __init__(self, what: str, kind: type[EngineError]) -> None:
        self._what = what
        self._kind = kind

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (ImportError, SystemError)) and self._kind is EngineUnavailable:
            raise EngineUnavailable(f"{self._what}: {_missing(error)}") from error
        newer = NEWER_OPERATOR.search(str(error)) if isinstance(error, ValueError) else None
        if newer is not None:
            raise IncompatibleDevice(
                f"{self._what}: it has {newer[1]} of version {newer[2]}, which the library does not know: update that"
            ) from error
        if isinstance(error, FOREIGN):
            raise self._kind(f"{self._what}: {_gist(str(error))}") from error


def _gist(message: str) -> str:
    """What LiteRT says in one line, without the line that only says that a delegate did not load."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("Failed to load delegate from ")]
    return " ".join(telling) or "no reason given"


def _missing(error: BaseException) -> str:
    """Why the library does not import. tflite-runtime's error with numpy 2 never says the word numpy."""
    if isinstance(error, SystemError) or "numpy" in str(error):
        return f"the library was built for numpy 1, and numpy {np.__version__} is installed: pip install 'numpy<2'"
    return f"does not load ({error}): {INSTALL}"


def library() -> Library:
    """LiteRT, else tflite-runtime.

    Raises:
        EngineUnavailable: neither is installed, or the one that is does not load.
    """
    package, _ = interpreter_of()
    module = import_module(package)
    version = str(getattr(module, "__version__", "0"))
    level = LEVELS.get(version.split(".", maxsplit=1)[0], max(LEVELS.values())) if package == PACKAGES[0] else version
    return Library(package.replace("_", "-"), version, level, os.path.dirname(str(module.__file__)))


def interpreter_of() -> tuple[str, Any]:
    """The package and its Interpreter class. Only a package that is not there is passed over."""
    for package in PACKAGES:
        with suppress(ModuleNotFoundError):
            import_module(package)
            with Mapped(package.replace("_", "-"), EngineUnavailable):
                return package, import_module(f"{package}.interpreter").Interpreter
    raise EngineUnavailable(f"LiteRT is not installed: {INSTALL}")


def open_model(path: str, variant: Variant, threads: int | None, artifact: str = "") -> Engine:
    """Open a ``.tflite`` file. ``threads`` None means one, LiteRT's own default.

    Raises:
        EngineUnavailable: the library or the device is missing, or the file is refused.
        DelegateUnavailable: the variant's delegate is missing, refuses, or takes nothing of the model.
    """
    package, interpreter_class = interpreter_of()
    if variant.delegate is not None:
        from edgekit_runtime.engines.litert import delegate

        return delegate.open_model(path, variant, threads)
    if variant.device == "gpu" and package == PACKAGES[0]:
        from edgekit_runtime.engines.litert import compiled_model

        return compiled_model.open_on_gpu(path, variant)
    if variant.device != "cpu":
        raise EngineUnavailable(f"LiteRT runs on the {variant.device.upper()} here only through a delegate")
    with Mapped(f"LiteRT cannot open {os.path.basename(path)}", EngineUnavailable):
        interpreter = interpreter_class(model_path=path, num_threads=threads or 1)
        interpreter.allocate_tensors()
    facts = EngineInfo("CPU", "float32", threads or 1)
    return LiteRTEngine(interpreter, facts, again=lambda: _twin(path, variant, threads, artifact))


def _twin(path: str, variant: Variant, threads: int | None, artifact: str) -> Engine:
    """One more engine; where that saves much memory, on packed weights that all but the first one share."""
    if artifact and variant.scheme in PACKED and os.path.getsize(path) >= PACKED_BYTES:
        from edgekit_runtime.engines.litert import compiled_model

        engine = compiled_model.open_with_kept_weights(path, threads or 1, artifact)
        if engine is not None:
            return engine
    return open_model(path, variant, threads, artifact)


class LiteRTEngine:
    """An allocated interpreter."""

    def __init__(self, interpreter: Any, facts: EngineInfo, again: Callable[[], Engine] | None = None) -> None:
        self.facts = facts
        self.inputs, self.outputs = tensors(interpreter)
        details = interpreter.get_input_details(), interpreter.get_output_details()
        self._in, self._out = ([detail["index"] for detail in side] for side in details)
        self._interpreter = interpreter
        self._again = again
        self._mapped = Mapped("LiteRT failed while running the model", EngineError)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Set, invoke, get; the results are LiteRT's own copies."""
        interpreter = self._interpreter
        try:  # which costs nothing, where entering the context manager each time would be felt
            for index, array in zip(self._in, arrays):
                interpreter.set_tensor(index, array)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in self._out]
        except FOREIGN:
            with self._mapped:
                raise

    def twin(self) -> Engine | None:
        """One more on the same mapped file; a delegate's unit is given to one alone."""
        return self._again() if self._again else None

    def close(self) -> None:
        """Drop the interpreter, and with it the mapping of the file."""
        self._interpreter = None


def tensors(interpreter: Any) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """The artifact's inputs and outputs, in its own order."""
    details = interpreter.get_input_details(), interpreter.get_output_details()
    inputs, outputs = (tuple(_info(i, detail) for i, detail in enumerate(side)) for side in details)
    return inputs, outputs


def _info(place: int, detail: dict[str, Any]) -> TensorInfo:
    """A tensor as LiteRT tells of it. Only one scale for the whole tensor can be an application's."""
    dtype = np.dtype(detail["dtype"]).name
    scale, zero_point = detail["quantization"]
    quantized = bool(scale) and dtype in QUANTIZED
    return TensorInfo(
        index=place,
        name=str(detail["name"]),
        shape=tuple(int(dim) for dim in detail["shape"]),
        dtype=dtype,
        scale=float(scale) if quantized else None,
        zero_point=int(zero_point) if quantized else None,
    )
