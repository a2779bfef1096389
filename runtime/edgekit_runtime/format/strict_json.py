"""Decode untrusted JSON: bounded in size and depth, without repeated keys."""

from __future__ import annotations

from typing import Any

from edgekit_runtime.errors import MalformedBundle

MAX_MANIFEST_BYTES = 1 << 20
MAX_DEPTH = 24
_QUOTE = ord('"')
_NO_MARKS = bytes(set(range(256)) - set(b'"[]{}'))


def decode(data: bytes, name: str = "manifest.json") -> Any:
    """Decode JSON that is bounded in size and depth and has no NaN, infinities, repeated keys or broken Unicode.

    ``name`` is the source, for messages.

    Raises:
        MalformedBundle: the data breaks one of these rules.
    """
    import json

    if len(data) > MAX_MANIFEST_BYTES:
        raise MalformedBundle(f"{name}: has {len(data)} bytes, the limit is {MAX_MANIFEST_BYTES}")
    if _depth(data) > MAX_DEPTH:
        raise MalformedBundle(f"{name}: is nested deeper than {MAX_DEPTH} levels")
    try:
        document = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_repeats,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_bounded,
        )
        json.dumps(document, ensure_ascii=False).encode("utf-8")  # refuses lone surrogates
    except ValueError as error:  # JSONDecodeError and UnicodeError are ValueErrors
        raise MalformedBundle(f"{name}: is not JSON in UTF-8: {error}") from error
    return document


def _depth(data: bytes) -> int:
    """Return the nesting depth of brackets outside strings, without recursion and in at most the memory of ``data``."""
    depth = deepest = 0
    inside = False  # a string
    for mark in data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_MARKS):
        if mark == _QUOTE:
            inside = not inside
        elif not inside:
            depth += 1 if mark in b"[{" else -1
            deepest = max(deepest, depth)
    return deepest


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key is repeated among {sorted(found)}")
    return found


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not a number")


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{digits[:20]} is too large")
    return value


def _bounded(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"{digits[:20]}... is too large")
    return int(digits)
