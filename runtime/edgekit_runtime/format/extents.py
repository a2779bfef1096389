"""Find the files of a bundle in an untrusted folder or archive."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, Union

from edgekit_runtime.errors import DigestMismatch, MalformedBundle
from edgekit_runtime.format.manifest import MANIFEST_NAME, MAX_FILES, SIGNATURE_NAME
from edgekit_runtime.format.strict_json import MAX_MANIFEST_BYTES
from edgekit_runtime.record import dataclass

if TYPE_CHECKING:
    from edgekit_runtime.format.archive import Entry

BundlePath = Union[str, "os.PathLike[str]"]
MAX_SIGNATURE_BYTES = 1 << 20


@dataclass(frozen=True)
class Extent:
    """The location of a file's content: a file of a folder, or a range of an archive."""

    source: str
    offset: int
    size_bytes: int
    whole: bool  # the source has only this content

    def open(self) -> BinaryIO:
        """Open the source, positioned at the content."""
        file = open(self.source, "rb")  # noqa: SIM115  # the caller closes it
        file.seek(self.offset)
        return file


def find_extents(name: str) -> dict[str, Extent]:
    """Return every file of the bundle ``name``, by its path in the bundle.

    Raises:
        MalformedBundle: it is neither a folder of plain files nor a valid archive.
        DigestMismatch: the manifest or the signature in an archive is damaged.
        OSError: the bundle cannot be read.
    """
    return _folder_extents(name) if os.path.isdir(name) else _archive_extents(name)


def _archive_extents(name: str) -> dict[str, Extent]:
    """Return the extents of an archive; the manifest must be its first entry and match its CRC."""
    from edgekit_runtime.format import archive  # not needed for a folder

    with open(name, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise MalformedBundle(f"{name}: is neither a file nor a folder")
        entries = archive.read_entries(file, name)
        if not entries or entries[0].path != MANIFEST_NAME:
            raise MalformedBundle(f"{name}: {MANIFEST_NAME} is not its first file")
        for entry in entries:
            if entry.path in (MANIFEST_NAME, SIGNATURE_NAME):
                _check_crc(name, file, entry)
    extents = {e.path: Extent(name, e.data_offset, e.size_bytes, whole=False) for e in entries}
    if len(extents) != len(entries):
        raise MalformedBundle(f"{name}: a file is listed twice")
    return extents


def _check_crc(name: str, file: BinaryIO, entry: Entry) -> None:
    """Check the CRC of the manifest or the signature, which no digest covers."""
    from binascii import crc32

    if entry.size_bytes > MAX_MANIFEST_BYTES:
        raise MalformedBundle(f"{name}: {entry.path} has {entry.size_bytes} bytes, the limit is {MAX_MANIFEST_BYTES}")
    file.seek(entry.data_offset)
    if crc32(file.read(entry.size_bytes)) != entry.crc32:
        raise DigestMismatch(f"{name}: {entry.path} is damaged: copy the bundle again")


def _folder_extents(name: str) -> dict[str, Extent]:
    """Return the extents of a folder. The folder may be a link; links and special files in it are refused."""
    root = os.path.realpath(name)
    extents: dict[str, Extent] = {}
    for entry in _walk(root, name, depth=0):
        if len(extents) > MAX_FILES + 2:
            raise MalformedBundle(f"{name}: has more than {MAX_FILES} files")
        path = os.path.relpath(entry.path, root).replace(os.sep, "/")
        extents[path] = Extent(entry.path, 0, entry.stat(follow_symlinks=False).st_size, whole=True)
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
