"""``.tflite`` on the CPU: LiteRT's interpreter, or tflite-runtime's where LiteRT has none (32-bit ARM)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_runtime.engines import Library, TensorInfo
from edgekit_runtime.errors import DelegateUnavailable, EngineError, EngineUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from edgekit_runtime.manifest import Variant
    from edgekit_runtime.tensors import Array

PACKAGES = ("ai_edge_litert", "tflite_runtime")
INSTALL = "pip install 'edgekit-runtime[litert]' (on 32-bit ARM: 'edgekit-runtime[tflite]')"
# Requirements are in TensorFlow's numbering, which a .tflite file's own metadata uses. LiteRT began its own
# after TensorFlow 2.17; these are the levels that each of its major versions at least reaches.
LEVELS = {"1": "2.17", "2": "2.20"}
QUANTIZED = ("int8", "uint8", "int16")


class _Mapped:
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
        if isinstance(error, (ValueError, RuntimeError, OSError, SystemError)):
            raise self._kind(f"{self._what}: {str(error).strip() or type(error).__name__}") from error


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
    package, _ = _interpreter()
    version = str(getattr(import_module(package), "__version__", "0"))
    level = LEVELS.get(version.split(".", maxsplit=1)[0], max(LEVELS.values())) if package == PACKAGES[0] else version
    return Library(package.replace("_", "-"), version, level)


def _interpreter() -> tuple[str, Any]:
    """The package and its Interpreter class. Only a package that is not there is passed over."""
    for package in PACKAGES:
        with suppress(ModuleNotFoundError):
            import_module(package)
            with _Mapped(package.replace("_", "-"), EngineUnavailable):
                return package, import_module(f"{package}.interpreter").Interpreter
    raise EngineUnavailable(f"LiteRT is not installed: {INSTALL}")


def open_model(path: Path, variant: Variant, threads: int | None) -> LiteRTEngine:
    """Open a ``.tflite`` file. ``threads`` None means one, LiteRT's own default.

    Raises:
        EngineUnavailable: the library is missing, the device is not the CPU, or the file is refused.
        DelegateUnavailable: the variant wants a delegate; this version drives none.
    """
    if variant.delegate is not None:
        raise DelegateUnavailable(f"this edgekit-runtime cannot load the delegate {variant.delegate!r}")
    if variant.device != "cpu":
        raise EngineUnavailable(f"LiteRT runs on the CPU here, not on {variant.device!r}")
    _, interpreter_class = _interpreter()
    with _Mapped(f"LiteRT cannot open {path.name}", EngineUnavailable):
        interpreter = interpreter_class(model_path=str(path), num_threads=threads or 1)
        interpreter.allocate_tensors()
    return LiteRTEngine(interpreter)


class LiteRTEngine:
    """An allocated interpreter."""

    def __init__(self, interpreter: Any) -> None:
        details = interpreter.get_input_details(), interpreter.get_output_details()
        self.inputs, self.outputs = (tuple(_info(i, d) for i, d in enumerate(side)) for side in details)
        self._in, self._out = ([detail["index"] for detail in side] for side in details)
        self._interpreter = interpreter
        self._mapped = _Mapped("LiteRT failed while running the model", EngineError)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Set, invoke, get; the results are LiteRT's own copies."""
        interpreter = self._interpreter
        with self._mapped:
            for index, array in zip(self._in, arrays):
                interpreter.set_tensor(index, array)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in self._out]

    def close(self) -> None:
        """Drop the interpreter, and with it the mapping of the file."""
        self._interpreter = None


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
