"""What engines make of an artifact and may use again: compiled models and packed weights.

One file an entry, in ``models`` beside the memory's entries, named ``KEY-SHA256``: the key is the digest of all that
the content depends on, and a content is used only while it has its own digest. Nothing here is ever required: where
nothing can be read or written, engines start as without it, and that is said once.

``$EDGEKIT_MODEL_CACHE_MIB`` bounds all entries together (256); with 0 there are none. What was not used for longest
goes first, and half of what a disk has free stays free.
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
    """Where entries are kept."""
    return os.path.join(state_cache.folder(), "models")


def find(key: Mapping[str, str]) -> str | None:
    """The path of what was kept under a key, if it still is what was kept; else it is dropped.

    A file is marked as used once a day at most, to spare flash memory.
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


def aside() -> str | None:
    """A path for a library to write an entry to, which ``keep`` then takes; None where nothing can be kept."""
    if not _limit_bytes():
        return None
    try:
        os.makedirs(folder(), exist_ok=True)
        if not os.access(folder(), os.W_OK | os.X_OK):
            raise PermissionError("cannot be written to")
    except OSError as error:
        _say(error)
        return None
    return os.path.join(folder(), f".{os.getpid()}-{os.urandom(6).hex()}")


def keep(key: Mapping[str, str], path: str) -> str | None:
    """Take the file at a path of ``aside`` as the entry of a key; None, and it is gone, where there is no room."""
    try:
        if os.path.getsize(path) > min(_limit_bytes(), _free_bytes()):
            os.unlink(path)
            return None
        kept = os.path.join(folder(), f"{_name(key)}-{_digest(path)}")
        os.replace(path, kept)
        _make_room(_limit_bytes())
    except OSError as error:
        with suppress(OSError):
            os.unlink(path)
        _say(error)
        return None
    return kept


def keep_content(key: Mapping[str, str], content: bytes) -> None:
    """Write an entry, whole or not at all."""
    path = aside()
    if path is None or len(content) > min(_limit_bytes(), _free_bytes()):
        return
    try:
        with open(path, "wb") as file:
            file.write(content)
    except OSError as error:
        with suppress(OSError):
            os.unlink(path)
        _say(error)
        return
    keep(key, path)


def _name(key: Mapping[str, str]) -> str:
    told = json.dumps(sorted(key.items())).encode()
    digest = sha256(len(told))
    digest.update(told)
    return str(digest.hexdigest()[:32])


def _digest(path: str) -> str:
    digest = sha256(os.path.getsize(path))
    with open(path, "rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
    return str(digest.hexdigest())


def _limit_bytes() -> int:
    """The bound; the usual one where the environment says something else than a number."""
    try:
        return max(0, int(os.environ.get(LIMIT_NAME, LIMIT_MIB))) << 20
    except ValueError:
        return LIMIT_MIB << 20


def _free_bytes() -> int:
    """What an entry may take of the disk: half of what is free."""
    if not hasattr(os, "statvfs"):
        return LIMIT_MIB << 20
    disk = os.statvfs(folder())
    return disk.f_bavail * disk.f_frsize // 2


def _make_room(limit_bytes: int) -> None:
    """Remove the entries that were not used for longest, and what killed processes left."""
    total_bytes = 0
    for written, size_bytes, path in sorted(_entries(), reverse=True):
        if os.path.basename(path).startswith("."):  # another process may be writing it
            gone = time.time() - written > _DAY_S
        else:
            total_bytes += size_bytes
            gone = total_bytes > limit_bytes
        if gone:
            with suppress(FileNotFoundError):
                os.unlink(path)


def _entries() -> Iterator[tuple[float, int, str]]:
    """When each file was last used, its bytes and its path; other processes make and remove them meanwhile."""
    with os.scandir(folder()) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                found = entry.stat()
                yield found.st_mtime, found.st_size, entry.path


def _say(error: OSError) -> None:
    """Python shows a warning of one place once."""
    warnings.warn(
        f"compiled models are not kept on this machine: {folder()}: {error.strerror or error}. Models start as "
        f"without; {LIMIT_NAME}=0 asks for no cache, EDGEKIT_STATE for another place",
        RuntimeWarning,
        stacklevel=2,
    )
