"""Open a bundle, refusing before anything is allocated, and give out its files once their digests hold."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Callable, Union

import numpy as np

from edgekit_runtime import npy
from edgekit_runtime.digest import sha256
from edgekit_runtime.errors import BundleError, DigestMismatch, MalformedBundle
from edgekit_runtime.manifest import (
    MANIFEST_NAME,
    MAX_FILES,
    SIGNATURE_NAME,
    FileRecord,
    Manifest,
    parse,
)
from edgekit_runtime.record import dataclass
from edgekit_runtime.scratch import Scratch
from edgekit_runtime.strict_json import MAX_MANIFEST_BYTES

if TYPE_CHECKING:
    from edgekit_runtime.archive import Entry
    from edgekit_runtime.tensors import Array

BundlePath = Union[str, "os.PathLike[str]"]

MAX_SIGNATURE_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 14


@dataclass(frozen=True)
class _Extent:
    """Where a file's content lies: a whole file of a folder, or a stretch of an archive."""

    source: str
    offset: int
    size_bytes: int
    whole: bool  # the source is nothing but this content

    def open(self) -> BinaryIO:
        """The source, positioned at the content."""
        file = open(self.source, "rb")  # noqa: SIM115  # the caller closes it
        file.seek(self.offset)
        return file


def open_bundle(path: BundlePath) -> Bundle:
    """Open a ``.edgekit`` archive or the same tree as a folder.

    Checks structure, bounds, manifest, and that there is every listed file in its size and no other. Contents
    are held against their digests when they are used, or all at once by ``Bundle.verify_all``.

    Raises:
        MalformedBundle: there is no bundle at the path, or it breaks the format.
        UnsupportedVersion: a newer edgekit wrote it.
    """
    name = os.fspath(path)
    try:
        extents = _folder_extents(name) if os.path.isdir(name) else _archive_extents(name)
        manifest = _manifest(name, extents)
    except OSError as error:
        raise MalformedBundle(f"{name}: cannot be read: {error.strerror or error}") from error
    _match(name, manifest, extents)
    return Bundle(name, manifest, extents)


def _archive_extents(name: str) -> dict[str, _Extent]:
    """The extents of an archive; its manifest is the first entry and has the CRC its header says."""
    from edgekit_runtime import archive  # a folder does without

    with open(name, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise MalformedBundle(f"{name}: is neither a file nor a folder")
        entries = archive.read_entries(file, name)
        if not entries or entries[0].path != MANIFEST_NAME:
            raise MalformedBundle(f"{name}: {MANIFEST_NAME} is not its first file")
        for entry in entries:
            if entry.path in (MANIFEST_NAME, SIGNATURE_NAME):
                _check_crc(name, file, entry)
    extents = {e.path: _Extent(name, e.data_offset, e.size_bytes, whole=False) for e in entries}
    if len(extents) != len(entries):
        raise MalformedBundle(f"{name}: a file is there twice")
    return extents


def _check_crc(name: str, file: BinaryIO, entry: Entry) -> None:
    """Hold the manifest, which no digest covers, against the archive's own checksum."""
    from binascii import crc32

    if entry.size_bytes > MAX_MANIFEST_BYTES:
        raise MalformedBundle(f"{name}: {entry.path} has {entry.size_bytes} bytes, over the bound")
    file.seek(entry.data_offset)
    if crc32(file.read(entry.size_bytes)) != entry.crc32:
        raise DigestMismatch(f"{name}: {entry.path} is damaged: copy the bundle again")


def _folder_extents(name: str) -> dict[str, _Extent]:
    """The extents of a folder. Links and special files in it are refused; it may be a link itself."""
    root = os.path.realpath(name)
    extents: dict[str, _Extent] = {}
    for entry in _walk(root, name, depth=0):
        if len(extents) > MAX_FILES + 2:
            raise MalformedBundle(f"{name}: has more than {MAX_FILES} files")
        path = os.path.relpath(entry.path, root).replace(os.sep, "/")
        extents[path] = _Extent(entry.path, 0, entry.stat(follow_symlinks=False).st_size, whole=True)
    return extents


def _walk(folder: str, name: str, depth: int) -> Iterator[os.DirEntry[str]]:
    if depth > 8:
        raise MalformedBundle(f"{name}: folders are nested deeper than 8: {folder}")
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, name, depth + 1)
            elif entry.is_file(follow_symlinks=False):
                yield entry
            else:
                raise MalformedBundle(f"{name}: {entry.path} is a link or a special file")


def _manifest(name: str, extents: Mapping[str, _Extent]) -> Manifest:
    extent = extents.get(MANIFEST_NAME)
    if extent is None:
        raise MalformedBundle(f"{name}: is not a bundle: there is no {MANIFEST_NAME} in it")
    if extent.size_bytes > MAX_MANIFEST_BYTES:
        raise MalformedBundle(f"{name}: {MANIFEST_NAME} has {extent.size_bytes} bytes, over the bound")
    with extent.open() as file:
        data = file.read(extent.size_bytes)
    try:
        return parse(data)
    except BundleError as error:
        raise type(error)(f"{name}: {error}") from error


def _match(name: str, manifest: Manifest, extents: Mapping[str, _Extent]) -> None:
    """Refuse what is unlisted, missing or of another size."""
    listed = {record.path: record.size_bytes for record in manifest.files}
    for path in sorted(extents.keys() - listed.keys() - {MANIFEST_NAME, SIGNATURE_NAME}):
        raise MalformedBundle(f"{name}: {path!r} is in the bundle and not in its manifest")
    for path, size_bytes in listed.items():
        if path not in extents:
            raise MalformedBundle(f"{name}: {path!r} is in the manifest and not in the bundle")
        if extents[path].size_bytes != size_bytes:
            have = extents[path].size_bytes
            raise MalformedBundle(f"{name}: {path!r} has {have} bytes where the manifest says {size_bytes}")
    if SIGNATURE_NAME in extents and extents[SIGNATURE_NAME].size_bytes > MAX_SIGNATURE_BYTES:
        raise MalformedBundle(f"{name}: {SIGNATURE_NAME} is larger than {MAX_SIGNATURE_BYTES} bytes")


class Bundle:
    """An open bundle. Nothing leaves it before its SHA-256 has been held against the manifest.

    Attributes:
        manifest: what the bundle says of itself.
    """

    def __init__(self, name: str, manifest: Manifest, extents: Mapping[str, _Extent]) -> None:
        self.manifest = manifest
        self._name = name
        self._extents = extents
        self._records: dict[str, FileRecord] = {record.path: record for record in manifest.files}
        self._held: set[str] = set()  # paths of whole files whose digest has been checked
        self._scratch: Scratch | None = None

    def __repr__(self) -> str:
        return f"<Bundle {self._name!r}>"

    @property
    def path(self) -> str:
        """Where the bundle was opened."""
        return self._name

    def read(self, path: str) -> bytes:
        """The content of a listed file.

        Raises:
            DigestMismatch: it is not the file that was packed.
            MalformedBundle: the path is not listed, or the file cannot be read any more.
        """
        with _reading(self._name, path), self._extent(path).open() as file:
            data = file.read(self._extents[path].size_bytes)
        self._hold(path, data)
        return data

    def array(self, path: str) -> Array:
        """The array of a listed ``.npy`` file, mapped read-only from where it lies.

        Raises:
            MalformedBundle: it is not a plain ``.npy`` (pickled objects are refused) of exactly its size.
            DigestMismatch: it is not the file that was packed.
        """
        extent = self._extent(path)
        if extent.size_bytes < 16:
            raise MalformedBundle(f"{self._name}: {path}: is not an .npy file")
        with _reading(self._name, path), extent.open() as file:
            shape = (extent.size_bytes,)
            content = np.memmap(file, dtype=np.uint8, mode="r", offset=extent.offset, shape=shape)
        self._hold(path, content)
        return npy.view(content, f"{self._name}: {path}")

    def local_path(self, path: str) -> str:
        """A real file with the content, for engines that open files themselves.

        In a folder that is the file itself; from an archive it is taken out into a private folder that
        ``close`` removes, under its own relative path, so that files which belong together stay together.

        Raises:
            DigestMismatch: it is not the file that was packed.
            EngineUnavailable: there is no room for it, or no place.
        """
        extent = self._extent(path)
        if path not in self._held:
            if extent.whole:
                self._digest(path)
            else:
                self._private().write(path, lambda write: self._digest(path, write))
            self._held.add(path)
        return extent.source if extent.whole else os.path.join(self.scratch(), *path.split("/"))

    def digest(self, path: str) -> str:
        """The SHA-256 that the manifest gives for a listed file, in hexadecimal digits."""
        return self._records[path].sha256

    def verify_all(self) -> None:
        """Hold every file against its digest.

        Raises:
            DigestMismatch: the first file that is not the one that was packed.
        """
        for path in self._records:
            self._digest(path)

    def scratch(self) -> str:
        """A private folder that goes when the bundle is closed, also for children, which may be killed.

        Raises:
            EngineUnavailable: there is no place for it.
        """
        return self._private().path

    def _private(self) -> Scratch:
        if self._scratch is None:
            self._scratch = Scratch()
        return self._scratch

    def close(self) -> None:
        """Remove what was taken out of an archive. Paths given out before are not valid any more."""
        if self._scratch is not None:
            self._scratch.remove()
            self._scratch = None
            self._held.clear()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _extent(self, path: str) -> _Extent:
        if path not in self._records:
            raise MalformedBundle(f"{self._name}: {path!r} is not in the manifest's files")
        return self._extents[path]

    def _digest(self, path: str, copy: Callable[[bytes], Any] | None = None) -> None:
        """Read a file in pieces, copying it on the way if asked, and hold it against its digest."""
        digest = sha256(self._extents[path].size_bytes)
        for piece in self._pieces(path):
            digest.update(piece)
            if copy is not None:
                copy(piece)
        self._compare(path, digest.hexdigest())

    def _pieces(self, path: str) -> Iterator[bytes]:
        left_bytes = self._extents[path].size_bytes
        with _reading(self._name, path), self._extents[path].open() as source:
            while piece := source.read(min(left_bytes, _CHUNK_BYTES)):
                left_bytes -= len(piece)
                yield piece

    def _hold(self, path: str, content: Any) -> None:
        digest = sha256(len(content))
        digest.update(content)
        self._compare(path, digest.hexdigest())

    def _compare(self, path: str, have: str) -> None:
        want = self._records[path].sha256
        if have != want:
            raise DigestMismatch(
                f"{self._name}: {path} is not the file that was packed: sha256 {have[:12]}..., "
                f"the manifest says {want[:12]}...: copy the bundle again"
            )


class _reading:  # a statement, not a thing: with _reading(...)
    """Turn a failed read into a refusal that names the bundle and the file."""

    def __init__(self, name: str, path: str) -> None:
        self._where = f"{name}: {path}"

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (OSError, ValueError)):  # mmap's word for a file that became too short is ValueError
            why = getattr(error, "strerror", None) or error
            raise MalformedBundle(f"{self._where}: cannot be read: {why}") from error
