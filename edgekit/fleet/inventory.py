"""Read the inventory of a fleet: the output of ``python -m edgekit_runtime doctor --json`` of its boards."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from edgekit_runtime.errors import DataError

_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class BoardEngine:
    """The library of an engine on a board, or the reason why it is missing."""

    library: str  # name and version; empty if it is not installed
    level: str  # the version, as requirements in manifests count it
    reason: str


@dataclass(frozen=True)
class BoardRecord:
    """The properties of a board that decide what it can run."""

    name: str  # unique in the inventory
    kind: str  # product name, for people
    arch: str
    memory_bytes: int | None
    runtime: str  # version of edgekit-runtime
    format_version: int
    disk_free_bytes: int | None
    engines: dict[str, BoardEngine] = field(default_factory=dict)
    hardware_signs: dict[str, list[str]] = field(default_factory=dict)  # "engine:device" -> evidence of such hardware
    delegates: dict[str, str] = field(default_factory=dict)  # name -> why its library is missing, or ""
    trusted: tuple[str, ...] | None = None  # ids of the trusted keys; None if no signature is required


def read_inventory(path: Path) -> list[BoardRecord]:
    """Read a file with one or more doctor reports, as JSON values or as a list, or a folder of such files.

    The name of a board is the ``name`` added to its report, else the name of its file in a folder, else its host
    name. Repeated names get a number.

    Raises:
        DataError: a file cannot be read, or has other content.
    """
    found = [(record, name) for file, name in _files(path) for record in _records(file)]
    if not found:
        raise DataError(f"{path}: has no board: collect `python -m edgekit_runtime doctor --json` of each board")
    records = [_board(record, name, f"{path}, board {place}") for place, (record, name) in enumerate(found, 1)]
    return _with_unique_names(records)


def _files(path: Path) -> list[tuple[Path, str]]:
    if path.is_dir():
        return [(file, file.stem) for file in sorted(path.iterdir()) if file.suffix in (".json", ".jsonl")]
    return [(path, "")]


def _records(file: Path) -> Iterator[dict[str, Any]]:
    """Yield every report of a file; lists are flattened."""
    try:
        text, at, decoder = file.read_text(encoding="utf-8"), 0, json.JSONDecoder()
        while (at := _SPACE.match(text, at).end()) < len(text):  # type: ignore[union-attr]  # matches an empty string, too
            value, at = decoder.raw_decode(text, at)
            yield from value if isinstance(value, list) else [value]
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: is not JSON: {error}") from error


def _board(record: Any, stem: str, where: str) -> BoardRecord:
    try:
        board = record["board"]
        engines = {
            _text(each["engine"]): BoardEngine(_text(each["library"]), _text(each["level"]), _text(each["reason"]))
            for each in record["engines"]
        }
        return BoardRecord(
            name=_text(record.get("name")) or stem or _text(record["host"]) or "board",
            kind=_text(board["name"]) or _text(board["processor"]) or "unknown",
            arch=_text(board["arch"]),
            memory_bytes=_count(board["memory_bytes"]),
            runtime=_text(record["runtime"]),
            format_version=int(record["format_version"]),
            disk_free_bytes=_count(record["disk_free_bytes"]),
            engines=engines,
            hardware_signs={key: [_text(sign) for sign in signs] for key, signs in record["shown"].items()},
            delegates={_text(name): _text(reason) for name, reason in record["delegates"].items()},
            trusted=None if record["trusted"] is None else tuple(map(_text, record["trusted"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{where}: is not a doctor report of this version ({type(error).__name__}: {error}): "
            "collect `python -m edgekit_runtime doctor --json` with the edgekit-runtime of this edgekit"
        ) from error


def _text(value: Any) -> str:
    """Return a text as one printable line; "" for None."""
    if not isinstance(value, (str, type(None))):
        raise TypeError(f"{value!r} is not a text")
    return "".join(filter(str.isprintable, " ".join((value or "").split())))


def _count(value: Any) -> int | None:
    if not isinstance(value, (int, type(None))):
        raise TypeError(f"{value!r} is not a number of bytes")
    return value


def _with_unique_names(records: list[BoardRecord]) -> list[BoardRecord]:
    seen: Counter[str] = Counter()
    taken = {record.name for record in records}
    apart = []
    for record in records:
        seen[record.name] += 1
        name = record.name
        if seen[name] > 1:
            numbered = (f"{record.name}#{number}" for number in count(seen[name]))
            name = next(free for free in numbered if free not in taken)
            taken.add(name)
        apart.append(replace(record, name=name))
    return apart
