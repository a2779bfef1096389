"""A cache of what engines compile from an artifact: compiled models and repacked weights.

Each entry is a file in ``models``, in the folder of the state cache, named ``KEY-SHA256``: the key is the digest of
everything that the content depends on, and the content is used only if its digest is right. The cache is optional: if
it cannot be read or written, engines start without it, after one warning.

``$EDGEKIT_MODEL_CACHE_MIB`` limits the total size (256 by default); 0 turns the cache off. The least recently used
entries are removed first, and half of the free disk space is left free.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress

from edgekit_runtime.host import state_cache
from edgekit_runtime.host.sha256 import sha256

LIMIT_NAME, LIMIT_MIB = "EDGEKIT_MODEL_CACHE_MIB", 256
_DAY_S = 86400.0
_CHUNK_BYTES = 1 << 20


def folder() -> str:
    """Return the folder of the entries."""
    return os.path.join(state_cache.folder(), "models")


def find(key: Mapping[str, str]) -> str | None:
    """Return the path of a key's entry; None if there is none. An entry with a wrong digest is removed.

    The time of last use is written at most once a day, to reduce flash wear.
    """
    if not _limit_bytes():
        return None
    name = _name(key)
    with suppress(OSError), os.scandir(folder()) as entries:
        for entry in entries:
            if not entry.name.startswith(f"{name}-"):
                continue
            if entry.name == f"{name}-{_digest(entry.path)}":
                if time.time() - entry.stat().st_mtime > _DAY_S:
                    os.utime(entry.path)
                return entry.path
            os.unlink(entry.path)
    return None


def temporary_path() -> str | None:
    """Return a path to write a new entry to, for ``add_file``; None if the cache is off or cannot be written."""
    if not _limit_bytes():
        return None
    try:
        os.makedirs(folder(), exist_ok=True)
        if not os.access(folder(), os.W_OK | os.X_OK):
            raise PermissionError("cannot be written to")
    except OSError as error:
        _warn(error)
        return None
    return os.path.join(folder(), f".{os.getpid()}-{os.urandom(6).hex()}")


def add_file(key: Mapping[str, str], path: str) -> str | None:
    """Move a file from a ``temporary_path`` into the cache; return its new path, or None if it was too large."""
    try:
        if os.path.getsize(path) > min(_limit_bytes(), _free_bytes()):
            os.unlink(path)
            return None
        entry = os.path.join(folder(), f"{_name(key)}-{_digest(path)}")
        os.replace(path, entry)
        _make_room(_limit_bytes())
    except OSError as error:
        with suppress(OSError):
            os.unlink(path)
        _warn(error)
        return None
    return entry


def add_content(key: Mapping[str, str], content: bytes) -> None:
    """Write an entry atomically."""
    path = temporary_path()
    if path is None or len(content) > min(_limit_bytes(), _free_bytes()):
        return
    try:
        with open(path, "wb") as file:
            file.write(content)
    except OSError as error:
        with suppress(OSError):
            os.unlink(path)
        _warn(error)
        return
    add_file(key, path)


def _name(key: Mapping[str, str]) -> str:
    content = json.dumps(sorted(key.items())).encode()
    digest = sha256(len(content))
    digest.update(content)
    return str(digest.hexdigest()[:32])


def _digest(path: str) -> str:
    digest = sha256(os.path.getsize(path))
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return str(digest.hexdigest())


def _limit_bytes() -> int:
    """Return the size limit; the default if the environment variable is not a number."""
    try:
        return max(0, int(os.environ.get(LIMIT_NAME, LIMIT_MIB))) << 20
    except ValueError:
        return LIMIT_MIB << 20


def _free_bytes() -> int:
    """Return the highest size of an entry: half of the free disk space."""
    if not hasattr(os, "statvfs"):
        return LIMIT_MIB << 20
    disk = os.statvfs(folder())
    return disk.f_bavail * disk.f_frsize // 2


def _make_room(limit_bytes: int) -> None:
    """Remove the least recently used entries above the limit, and the temporary files of killed processes."""
    total_bytes = 0
    for written, size_bytes, path in sorted(_entries(), reverse=True):
        if os.path.basename(path).startswith("."):  # another process may be writing it
            remove = time.time() - written > _DAY_S
        else:
            total_bytes += size_bytes
            remove = total_bytes > limit_bytes
        if remove:
            with suppress(FileNotFoundError):
                os.unlink(path)


def _entries() -> Iterator[tuple[float, int, str]]:
    """Yield the time of last use, size and path of each file; other processes may add and remove files meanwhile."""
    with os.scandir(folder()) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                found = entry.stat()
                yield found.st_mtime, found.st_size, entry.path


def _warn(error: OSError) -> None:
    """Warn that the cache cannot be used. Python shows a warning from the same line only once."""
    warnings.warn(
        f"compiled models are not cached on this machine: {folder()}: {error.strerror or error}. Models start more "
        f"slowly; set EDGEKIT_STATE to another folder, or {LIMIT_NAME}=0 to turn the cache off",
        RuntimeWarning,
        stacklevel=2,
    )
