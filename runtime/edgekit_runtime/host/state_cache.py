"""A cache of results that take long to compute on this machine: probes, golden checks, thread counts.

Each entry is a small JSON file in ``$EDGEKIT_STATE``, or else in ``edgekit-runtime`` in the user's cache folder. An
entry is found only under exactly its key, so the key must have everything that the result depends on. The cache is
optional: if it cannot be read or written, every look-up misses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from edgekit_runtime.host.sha256 import sha256

MAX_ENTRIES = 512  # of a topic; the oldest are removed first


def folder() -> str:
    """Return the folder of the cache; for a user without a home folder, a path at which nothing can be written."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(cache):
        cache = os.devnull
    return os.environ.get("EDGEKIT_STATE") or os.path.join(cache, "edgekit-runtime")


def get(topic: str, key: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the value of a key; None if there is none."""
    try:
        with open(_path(topic, key), encoding="utf-8") as file:
            entry = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    valid = isinstance(entry, dict) and entry.get("key") == dict(key) and isinstance(entry.get("value"), dict)
    return entry["value"] if valid else None


def put(topic: str, key: Mapping[str, str], value: Mapping[str, Any]) -> bool:
    """Write the value of a key if it is not there already; return whether it is there now."""
    if get(topic, key) == dict(value):
        return True
    import tempfile  # slow to import and rarely needed

    path = _path(topic, key)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({"key": dict(key), "value": dict(value)}, file)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
        _delete_oldest(os.path.dirname(path))
    except OSError:
        return False
    return True


def delete(topic: str, key: Mapping[str, str]) -> None:
    """Delete the entry of a key, if there is one."""
    with suppress(OSError):
        os.unlink(_path(topic, key))


def _path(topic: str, key: Mapping[str, str]) -> str:
    content = json.dumps(sorted(key.items())).encode()
    digest = sha256(len(content))
    digest.update(content)
    return os.path.join(folder(), topic, f"{digest.hexdigest()[:32]}.json")


def _delete_oldest(topic_folder: str) -> None:
    paths = [entry.path for entry in os.scandir(topic_folder)]
    if len(paths) > MAX_ENTRIES:
        for path in sorted(paths, key=os.path.getmtime)[: len(paths) - MAX_ENTRIES]:
            os.unlink(path)
