"""An inventory: what the boards of a fleet said of themselves with ``python -m edgekit_runtime doctor --json``."""

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
class Engine:
    """An engine's library on a board, or why there is none."""

    library: str  # name and version; empty where there is none
    level: str  # the version in the numbering of bundles
    reason: str


@dataclass(frozen=True)
class BoardRecord:
    """A board, as far as it decides what may run there."""

    name: str  # unique in the inventory
    what: str  # the kind of board, for people
    arch: str
    memory_bytes: int | None
    runtime: str  # version of edgekit-runtime
    format_version: int
    disk_free_bytes: int | None
    engines: dict[str, Engine] = field(default_factory=dict)
    shown: dict[str, list[str]] = field(default_factory=dict)  # "engine:device" -> signs of such hardware
    delegates: dict[str, str] = field(default_factory=dict)  # name -> why its library cannot be had, or ""
    trusted: tuple[str, ...] | None = None  # ids of keys, one of which must have signed; None where nobody asks


def read_inventory(path: Path) -> list[BoardRecord]:
    """Read a file of one diagnosis, a JSON list of them or one after the other, or a folder of such files.

    A board is called by the ``name`` that somebody added to its diagnosis, else by its file in a folder, else by its
    host name; a name that is there again gets a number.

    Raises:
        DataError: a file cannot be read, or holds something else.
    """
    found = [(record, name) for file, name in _files(path) for record in _records(file)]
    if not found:
        raise DataError(f"{path}: holds no board: collect `python -m edgekit_runtime doctor --json` of each")
    records = [_board(record, name, f"{path}, board {place}") for place, (record, name) in enumerate(found, 1)]
    return _told_apart(records)


def _files(path: Path) -> list[tuple[Path, str]]:
    if path.is_dir():
        return [(file, file.stem) for file in sorted(path.iterdir()) if file.suffix in (".json", ".jsonl")]
    return [(path, "")]


def _records(file: Path) -> Iterator[dict[str, Any]]:
    """Every diagnosis of a file: values of JSON one after the other, lists taken apart."""
    try:
        text, at, decoder = file.read_text(encoding="utf-8"), 0, json.JSONDecoder()
        while (at := _SPACE.match(text, at).end()) < len(text):  # type: ignore[union-attr]  # nothing matches, too
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
            _text(each["engine"]): Engine(_text(each["library"]), _text(each["level"]), _text(each["reason"]))
            for each in record["engines"]
        }
        return BoardRecord(
            name=_text(record.get("name")) or stem or _text(record["host"]) or "board",
            what=_text(board["name"]) or _text(board["processor"]) or "unknown",
            arch=_text(board["arch"]),
            memory_bytes=_count(board["memory_bytes"]),
            runtime=_text(record["runtime"]),
            format_version=int(record["format_version"]),
            disk_free_bytes=_count(record["disk_free_bytes"]),
            engines=engines,
            shown={key: [_text(sign) for sign in signs] for key, signs in record["shown"].items()},
            delegates={_text(name): _text(reason) for name, reason in record["delegates"].items()},
            trusted=None if record["trusted"] is None else tuple(map(_text, record["trusted"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{where}: is no diagnosis of this version ({type(error).__name__}: {error}): "
            "collect `python -m edgekit_runtime doctor --json` with the edgekit-runtime that belongs to this edgekit"
        ) from error


def _text(value: Any) -> str:
    """A text on one line that can be shown on a terminal; "" of None."""
    if not isinstance(value, (str, type(None))):
        raise TypeError(f"{value!r} is no text")
    return "".join(filter(str.isprintable, " ".join((value or "").split())))


def _count(value: Any) -> int | None:
    if not isinstance(value, (int, type(None))):
        raise TypeError(f"{value!r} is no number of bytes")
    return value


def _told_apart(records: list[BoardRecord]) -> list[BoardRecord]:
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
