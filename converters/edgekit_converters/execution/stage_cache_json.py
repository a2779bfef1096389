"""Records as JSON, as the cache stores them, and the files they name.

msgspec and cattrs need a type or a tag for each union of records, and know no paths relative to a folder; with both
added the code would not be shorter than this.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def encode(value: Any, root: Path) -> Any:
    """Turn a record into JSON-able data; paths under ``root`` are stored relative to it."""
    if isinstance(value, Path):
        inside = value.is_relative_to(root)
        return {"$path": str(value.relative_to(root) if inside else value), "inside": inside}
    if is_dataclass(value) and not isinstance(value, type):
        kind = f"{type(value).__module__}:{type(value).__qualname__}"
        return {"$record": kind} | {f.name: encode(getattr(value, f.name), root) for f in fields(value)}
    if isinstance(value, (tuple, list)):
        return [encode(item, root) for item in value]
    if isinstance(value, Mapping):
        return {key: encode(item, root) for key, item in value.items()}
    return value


def decode(value: Any, root: Path) -> Any:
    """Turn :func:`encode`'s data back into the record; sequences become tuples.

    Raises:
        ValueError: the data names a record of another package.
    """
    if isinstance(value, list):
        return tuple(decode(item, root) for item in value)
    if not isinstance(value, dict):
        return value
    if "$path" in value:
        return root / value["$path"] if value["inside"] else Path(value["$path"])
    if "$record" not in value:
        return {key: decode(item, root) for key, item in value.items()}
    module, _, name = value["$record"].partition(":")
    if module.split(".")[0] not in {"edgekit_converters", "edgekit_runtime"}:
        raise ValueError(f"not a record of edgekit: {module}")
    kind = getattr(importlib.import_module(module), name)
    return kind(**{key: decode(item, root) for key, item in value.items() if key != "$record"})


def paths_in(value: Any) -> Iterator[Path]:
    """Yield every path in a record, depth first."""
    if isinstance(value, Path):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from paths_in(getattr(value, field.name))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from paths_in(item)
