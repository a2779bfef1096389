"""Stage results by content: a stage never runs twice for the same files, options and versions.

An entry is a folder ``<root>/<key>/`` with the stage's files, ``record.json`` and ``digests.json``. It is built
in another folder and renamed into place. On read every file of the entry, and every file outside that its record
refers to, is compared with its digest; an entry that does not match is deleted. The cache has a size limit: the
least recently used entries are removed first.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import edgekit_converters
import edgekit_runtime
from edgekit_converters.execution.stage_cache_json import decode, encode, paths_in

DEFAULT_LIMIT_MIB = 4096


def cache_root() -> Path:
    """Return the cache folder: ``$EDGEKIT_CACHE``, else ``edgekit`` in the user's cache folder."""
    if "EDGEKIT_CACHE" in os.environ:
        return Path(os.environ["EDGEKIT_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgekit"


class Cache:
    """A store of stage results with a size limit.

    Args:
        root: its folder, created when missing.
        enabled: if not, nothing is read and nothing is stored.
        limit_mib: above this size the least recently used entries are removed; ``$EDGEKIT_CACHE_MIB`` sets the default.
    """

    def __init__(self, root: Path, *, enabled: bool = True, limit_mib: int | None = None) -> None:
        self.root = root
        self.limit_mib = int(os.environ.get("EDGEKIT_CACHE_MIB", DEFAULT_LIMIT_MIB)) if limit_mib is None else limit_mib
        self.enabled = enabled and _writable(root)

    def get(self, key: str) -> Any | None:
        """Return the record stored under ``key``, after checking its files, or None."""
        folder = self.root / key
        if not self.enabled or not folder.is_dir():
            return None
        try:
            digests = json.loads((folder / "digests.json").read_text())
            if "record.json" not in digests or any(digest(folder / name) != kept for name, kept in digests.items()):
                raise ValueError("changed since it was stored")
            record = decode(json.loads((folder / "record.json").read_text()), folder)
            os.utime(folder)
        except (
            OSError,
            ValueError,
            TypeError,
            AttributeError,
            KeyError,
        ):  # damaged, stale, or of another edgekit
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return record

    def put(self, key: str, record: Any, folder: Path) -> Any:
        """Store a record and the folder that its stage wrote; return the record with the stored files.

        Nothing is stored, and no error raised, if the cache cannot be written to.
        """
        if not self.enabled:
            return record
        target = self.root / key
        try:
            with tempfile.TemporaryDirectory(prefix=".new-", dir=self.root) as aside:
                staged = Path(aside) / "entry"
                shutil.copytree(folder, staged)
                content = json.dumps(encode(record, folder))
                (staged / "record.json").write_text(content)
                names = [str(path.relative_to(staged)) for path in sorted(staged.rglob("*")) if path.is_file()]
                names += [str(path) for path in paths_in(record) if not path.is_relative_to(folder)]
                # joining an absolute name to the folder gives the absolute name: both kinds are read alike
                (staged / "digests.json").write_text(json.dumps({name: digest(staged / name) for name in names}))
                staged.rename(target)
        except OSError:  # a full or read-only disk, or another process stored the same result first
            return record
        self._trim()
        return decode(json.loads(content), target) if target.is_dir() else record

    def _trim(self) -> None:
        """Remove the least recently used entries until the others fit."""
        entries = [path for path in self.root.iterdir() if (path / "digests.json").is_file()]
        room_bytes = self.limit_mib * 2**20
        for entry in sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True):
            room_bytes -= sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
            if room_bytes < 0:
                shutil.rmtree(entry, ignore_errors=True)


def _writable(root: Path) -> bool:
    """Create the folder and return whether it can be written to; edgekit also works without a cache."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(root, os.W_OK)


def key(stage: str, request: Any, versions: Mapping[str, str]) -> str:
    """Return the key of a stage's result: sha256 over the stage, the request by content, and the versions."""
    content = json.dumps([stage, _by_content(request), dict(versions)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def code_version() -> str:
    """Return the digest of the code that makes results: this package's and the runtime's.

    A version number would not change while the code is edited, and stale results would be found.
    """
    files = [file for package in (edgekit_converters, edgekit_runtime) for file in _sources(package)]
    return hashlib.sha256("".join(digest(file) for file in files).encode()).hexdigest()


def _sources(package: ModuleType) -> list[Path]:
    return sorted(Path(str(package.__file__)).parent.rglob("*.py"))


def digest(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's names and contents.

    Raises:
        OSError: the path does not exist or cannot be read.
    """
    if path.is_dir():
        files = [item for item in sorted(path.rglob("*")) if item.is_file()]
        listing = json.dumps([(str(item.relative_to(path)), digest(item)) for item in files])
        return hashlib.sha256(listing.encode()).hexdigest()
    status = path.stat()
    return _file_digest(path, status.st_mtime_ns, status.st_size, status.st_ino)


@functools.lru_cache(maxsize=4096)
def _file_digest(path: Path, _modified_ns: int, _size_bytes: int, _inode: int) -> str:
    """Digest a file; read it again only if its time, size or inode changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _by_content(value: Any) -> Any:
    """Turn a request into JSON-able data in which files are replaced by their digests."""
    if isinstance(value, Path):
        return digest(value)
    if is_dataclass(value) and not isinstance(value, type):
        if hasattr(value, "sha256"):  # a record that carries its content's digest stands for its content
            return value.sha256
        return [type(value).__name__, *(_by_content(getattr(value, field.name)) for field in fields(value))]
    if isinstance(value, (tuple, list)):
        return [_by_content(item) for item in value]
    return value
