"""Run a model in LiteRT's interpreter, on the CPU or with a delegate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from edgekit_runtime.engines import EngineInfo, TensorInfo
from edgekit_runtime.errors import EngineError, EngineUnavailable, IncompatibleDevice

if TYPE_CHECKING:
    from edgekit_runtime.engines import Engine
    from edgekit_runtime.tensors import Array

QUANTIZED_DTYPES = ("int8", "uint8", "int16")
INSTALL = "pip install 'edgekit-runtime[litert]' (on 32-bit ARM: 'edgekit-runtime[tflite]')"
UNKNOWN_OPERATOR = re.compile(r"builtin opcode '(\w+)' version '(\d+)'")  # of an operator that the library lacks
LITERT_ERRORS = (ValueError, RuntimeError, OSError, SystemError)  # what LiteRT raises


class TranslateErrors:
    """Context manager that raises LiteRT's exceptions as edgekit errors. It can be entered any number of times."""

    def __init__(self, failed: str, error_type: type[EngineError]) -> None:
        """Describe what failed, for the message, and the error to raise."""
        self._failed = failed
        self._error_type = error_type

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (ImportError, SystemError)) and self._error_type is EngineUnavailable:
            raise EngineUnavailable(f"{self._failed}: {_import_problem(error)}") from error
        operator = UNKNOWN_OPERATOR.search(str(error)) if isinstance(error, ValueError) else None
        if operator is not None:
            raise IncompatibleDevice(
                f"{self._failed}: it uses version {operator[2]} of {operator[1]}, which the installed library does not "
                "support: update the library"
            ) from error
        if isinstance(error, LITERT_ERRORS):
            raise self._error_type(f"{self._failed}: {_one_line(str(error))}") from error


def _one_line(message: str) -> str:
    """Join LiteRT's message to one line, without the line that only says that a delegate did not load."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    useful = [line for line in lines if not line.startswith("Failed to load delegate from ")]
    return " ".join(useful) or "no reason given"


def _import_problem(error: BaseException) -> str:
    """Explain why the library does not import. tflite-runtime's error with numpy 2 does not mention numpy."""
    if isinstance(error, SystemError) or "numpy" in str(error):
        return f"the library was built for numpy 1, and numpy {np.__version__} is installed: pip install 'numpy<2'"
    return f"does not load ({error}): {INSTALL}"


class LiteRTEngine:
    """An interpreter whose tensors are allocated."""

    def __init__(self, interpreter: Any, facts: EngineInfo, reopen: Callable[[], Engine] | None = None) -> None:
        self.facts = facts
        self.inputs, self.outputs = tensors(interpreter)
        details = interpreter.get_input_details(), interpreter.get_output_details()
        self._in, self._out = ([detail["index"] for detail in side] for side in details)
        self._interpreter = interpreter
        self._reopen = reopen
        self._translate_errors = TranslateErrors("LiteRT failed while running the model", EngineError)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Set, invoke, get; the results are LiteRT's own copies."""
        interpreter = self._interpreter
        try:  # try is free, while entering the context manager in each call would be measurable
            for index, array in zip(self._in, arrays):
                interpreter.set_tensor(index, array)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in self._out]
        except LITERT_ERRORS:
            with self._translate_errors:
                raise

    def clone(self) -> Engine | None:
        """Open another interpreter on the same mapped file; None with a delegate, whose device serves only one."""
        return self._reopen() if self._reopen else None

    def close(self) -> None:
        """Drop the interpreter, and with it the mapping of the file."""
        self._interpreter = None


def tensors(interpreter: Any) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Return the artifact's inputs and outputs, in its own order."""
    details = interpreter.get_input_details(), interpreter.get_output_details()
    inputs, outputs = (tuple(_info(i, detail) for i, detail in enumerate(side)) for side in details)
    return inputs, outputs


def _info(index: int, detail: dict[str, Any]) -> TensorInfo:
    """Convert LiteRT's details of a tensor. A scale is kept only if it holds for the whole tensor."""
    dtype = np.dtype(detail["dtype"]).name
    scale, zero_point = detail["quantization"]
    quantized = bool(scale) and dtype in QUANTIZED_DTYPES
    return TensorInfo(
        index=index,
        name=str(detail["name"]),
        shape=tuple(int(dim) for dim in detail["shape"]),
        dtype=dtype,
        scale=float(scale) if quantized else None,
        zero_point=int(zero_point) if quantized else None,
    )
