"""Translate LiteRT's exceptions into edgekit's errors."""

from __future__ import annotations

import re
from types import TracebackType

import numpy as np

from edgekit_runtime.errors import EngineError, EngineUnavailable, IncompatibleDevice

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
