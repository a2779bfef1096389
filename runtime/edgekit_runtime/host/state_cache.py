"""What this machine has learned: verdicts, choices and checks that are costly to come by and quick to read.

One small JSON file an entry, in ``$EDGEKIT_STATE``, else ``edgekit-runtime`` in the user's cache folder. An entry is
found again only under exactly the key it was kept under, so whoever keeps it puts into the key all that it depends
on. It is never required: where nothing can be read or written, nothing is known.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from edgekit_runtime.host.sha256 import sha256

LIMIT = 512  # entries a topic; the oldest go first


def folder() -> str:
    """Where entries are kept; for a user without a home, as services may have, a place that nothing can be in."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(cache):
        cache = os.devnull
    return os.environ.get("EDGEKIT_STATE") or os.path.join(cache, "edgekit-runtime")


def recall(topic: str, key: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what was kept under exactly this key, or None."""
    try:
        with open(_path(topic, key), encoding="utf-8") as file:
            entry = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    known = isinstance(entry, dict) and entry.get("key") == dict(key) and isinstance(entry.get("value"), dict)
    return entry["value"] if known else None


def remember(topic: str, key: Mapping[str, str], value: Mapping[str, Any]) -> bool:
    """Keep a value under a key; tell whether it could be kept. Nothing is written when it is there already."""
    if recall(topic, key) == dict(value):
        return True
    import tempfile  # costs more than all the rest, and is seldom needed

    path = _path(topic, key)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=os.path.dirname(path))
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"key": dict(key), "value": dict(value)}, file)
            os.replace(aside, path)
        except OSError:
            os.unlink(aside)
            raise
        _forget_oldest(os.path.dirname(path))
    except OSError:
        return False
    return True


def forget(topic: str, key: Mapping[str, str]) -> None:
    """Drop what was kept under a key."""
    with suppress(OSError):
        os.unlink(_path(topic, key))


def _path(topic: str, key: Mapping[str, str]) -> str:
    told = json.dumps(sorted(key.items())).encode()
    digest = sha256(len(told))
    digest.update(told)
    return os.path.join(folder(), topic, f"{digest.hexdigest()[:32]}.json")


def _forget_oldest(place: str) -> None:
    paths = [entry.path for entry in os.scandir(place)]
    if len(paths) > LIMIT:
        for path in sorted(paths, key=os.path.getmtime)[: len(paths) - LIMIT]:
            os.unlink(path)
