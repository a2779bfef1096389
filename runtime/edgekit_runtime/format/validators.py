"""Validators for untrusted JSON values. They return the checked value, or raise an error that names the key.

A validator is a function ``(value, where) -> value``; ``where`` is the key. ``manifest_json`` combines them into the
schema of the manifest.
"""

from __future__ import annotations

import math
import re
from typing import Any, Callable, NoReturn, TypeVar

from edgekit_runtime.errors import MalformedBundle
from edgekit_runtime.record import required_fields

T = TypeVar("T")
Check = Callable[[Any, str], T]


def refuse(where: str, problem: str) -> NoReturn:
    """Refuse the manifest, naming the key.

    Raises:
        MalformedBundle: always.
    """
    raise MalformedBundle(f"manifest.json: {where}: {problem}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def text(pattern: str | None = None, wanted: str = "printable text", most: int = 256) -> Check[str]:
    """Accept a printable string of 1 to ``most`` characters that matches the whole pattern."""
    compiled = re.compile(pattern) if pattern else None

    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or not 1 <= len(value) <= most or not value.isprintable():
            refuse(where, f"is {_shown(value)}, expected {wanted} of 1 to {most} characters")
        if compiled and not compiled.fullmatch(value):
            refuse(where, f"is {_shown(value)}, expected {wanted}")
        return value

    return check


_NAME = r"[A-Za-z0-9_@+=][A-Za-z0-9_@+=.-]*"
plain_name = text(_NAME, "letters, digits and _@+=.- (no leading dot or dash)", 96)
relative_path = text(f"{_NAME}(/{_NAME}){{0,7}}", "a relative path of plain names, '/' between them", 240)


def integer(low: int, high: int) -> Check[int]:
    """Accept an integer in ``low..high``, but not true or false."""

    def check(value: Any, where: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            refuse(where, f"is {_shown(value)}, expected an integer in {low}..{high}")
        return value

    return check


def number(low: float = -math.inf, *, above: float = -math.inf, most: float = math.inf) -> Check[float]:
    """Accept a finite number that is at least ``low``, greater than ``above`` and at most ``most``."""

    def check(value: Any, where: str) -> float:
        real = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or not low <= value <= most or value <= above:
            bound = f" above {above:g}" if above > -math.inf else f" of at least {low:g}" if low > -math.inf else ""
            bound += f" and at most {most:g}" if most < math.inf else ""
            refuse(where, f"is {_shown(value)}, expected a finite number{bound}")
        return float(value)

    return check


def boolean(value: Any, where: str) -> bool:
    """Accept true or false."""
    if not isinstance(value, bool):
        refuse(where, f"is {_shown(value)}, expected true or false")
    return value


def one_of(*allowed: str) -> Check[str]:
    """Accept one of these words."""

    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in allowed:
            refuse(where, f"is {_shown(value)}, expected one of {', '.join(allowed)}")
        return value

    return check


def optional(inner: Check[T]) -> Check[T | None]:
    """Accept null, or a value that ``inner`` accepts."""
    return lambda value, where: None if value is None else inner(value, where)


def list_of(inner: Check[T], least: int = 0, most: int = 64) -> Check[tuple[T, ...]]:
    """Accept a list of ``least`` to ``most`` values that ``inner`` accepts; return a tuple."""

    def check(value: Any, where: str) -> tuple[T, ...]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            refuse(where, f"is {_shown(value)}, expected a list of {least} to {most} values")
        return tuple(inner(item, f"{where}[{i}]") for i, item in enumerate(value))

    return check


def string_map(value: Any, where: str) -> dict[str, str]:
    """Accept an object whose values are strings."""
    return {key: text()(item, f"{where}.{key}") for key, item in any_object(value, where).items()}


def any_object(value: Any, where: str) -> dict[str, Any]:
    """Accept any object; the parser bounds its depth and size."""
    if not isinstance(value, dict):
        refuse(where, f"is {_shown(value)}, expected an object")
    return value


def object_with(value: Any, where: str, allowed: set[str], needed: set[str]) -> dict[str, Any]:
    """Accept an object that has all needed keys and only allowed ones."""
    found = any_object(value, where)
    for key in sorted(found.keys() - allowed):
        refuse(f"{where}.{key}".lstrip("."), f"unknown key; known keys are {', '.join(sorted(allowed))}")
    for key in sorted(needed - found.keys()):
        refuse(f"{where}.{key}".lstrip("."), "is missing")
    return found


def record(kind: type[T], **checks: Check[Any]) -> Check[T]:
    """Accept an object and return it as the dataclass ``kind``; keys with a default may be missing."""
    without_default = required_fields(kind)

    def check(value: Any, where: str) -> T:
        found = object_with(value, where, set(checks), without_default)
        return kind(**{key: checks[key](item, f"{where}.{key}") for key, item in found.items()})

    return check
