"""Read and lay out the ZIP archive of a bundle, in its only valid form.

All bytes outside the files' contents follow from the path, size and CRC-32 of the entries in order. So the reader does
not interpret headers: it computes the expected bytes and compares. This refuses compression, encryption, links,
comments, overlaps, gaps and hidden data, and no other program can read different files from the same archive.

Layout (docs/bundle-format.md has the fields): for each entry a local header, its path, an extra field of zeros that
aligns the content to 64 bytes, and the content; then the directory and its end record.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

from edgekit_runtime.errors import MalformedBundle
from edgekit_runtime.record import dataclass

ALIGNMENT_BYTES = 64  # so that contents can be memory-mapped and read by vector units
MAX_ENTRIES = 1026  # 1024 files, manifest.json and model.sig
MAX_PATH_BYTES = 240

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_EXTRA = struct.Struct("<3H")  # id, bytes that follow, alignment; zeros fill the rest
_EXTRA_ID = 0xD935  # the padding field of Android's zipalign
_VERSION = 20
_MADE_BY = (3 << 8) | _VERSION  # Unix, which gives the mode below its meaning
_DATE = (1 << 5) | 1  # 1980-01-01, the earliest date in a ZIP
_MODE = 0o100644 << 16  # a regular file
_MAX_DIRECTORY_BYTES = MAX_ENTRIES * (_CENTRAL.size + MAX_PATH_BYTES)


@dataclass(frozen=True)
class Entry:
    """One file of the archive."""

    path: str
    size_bytes: int
    crc32: int
    header_offset: int  # start of its local header

    @property
    def data_offset(self) -> int:
        """The start of the content, a multiple of ``ALIGNMENT_BYTES``."""
        least = self.header_offset + _LOCAL.size + len(self.path) + _EXTRA.size
        return -(-least // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

    @property
    def end_offset(self) -> int:
        """The start of the next header."""
        return self.data_offset + self.size_bytes


class _Central(NamedTuple):
    """A directory record in file order; the field names are for messages."""

    signature: bytes
    made_by: int
    version_needed: int
    flags: int
    compression: int
    time: int
    date: int
    crc32: int
    stored_bytes: int
    size_bytes: int
    path_bytes: int
    extra_bytes: int
    comment_bytes: int
    disk: int
    internal_attributes: int
    external_attributes: int
    header_offset: int


def local_header(entry: Entry) -> bytes:
    """Return all bytes of an entry before its content."""
    path = entry.path.encode("ascii")
    extra_bytes = entry.data_offset - entry.header_offset - _LOCAL.size - len(path)
    fields = (b"PK\3\4", _VERSION, 0, 0, 0, _DATE, entry.crc32, entry.size_bytes, entry.size_bytes)
    extra = _EXTRA.pack(_EXTRA_ID, extra_bytes - 4, ALIGNMENT_BYTES).ljust(extra_bytes, b"\0")
    return _LOCAL.pack(*fields, len(path), extra_bytes) + path + extra


def directory(entries: Sequence[Entry]) -> bytes:
    """Return all bytes after the content of the last entry."""
    records = b"".join(_CENTRAL.pack(*_central(e)) + e.path.encode("ascii") for e in entries)
    start = entries[-1].end_offset if entries else 0
    return records + _END.pack(b"PK\5\6", 0, 0, len(entries), len(entries), len(records), start, 0)


def _central(entry: Entry) -> _Central:
    size = entry.size_bytes
    names = (entry.crc32, size, size, len(entry.path), 0, 0, 0, 0, _MODE, entry.header_offset)
    return _Central(b"PK\1\2", _MADE_BY, _VERSION, 0, 0, 0, _DATE, *names)


def read_entries(file: BinaryIO, name: str) -> tuple[Entry, ...]:
    """Read the entries of an archive and check every byte except the contents.

    Reads the end record, the directory and each local header; allocates no more than the limits above.

    Raises:
        MalformedBundle: a byte differs from the only valid form; ``name`` is the archive, for messages.
    """
    records, count, start = _read_directory(file, name)
    entries: list[Entry] = []
    position = offset = 0
    while position < len(records):
        entry, position = _read_record(records, position, offset, name)
        file.seek(entry.header_offset)
        header = local_header(entry)
        if file.read(len(header)) != header:
            raise MalformedBundle(f"{name}: the header of {entry.path} differs from its directory record")
        entries.append(entry)
        offset = entry.end_offset
    if offset != start or len(entries) != count:
        raise MalformedBundle(f"{name}: has bytes that belong to no file")
    return tuple(entries)


def _read_directory(file: BinaryIO, name: str) -> tuple[bytes, int, int]:
    """Return the bytes of the directory, the number of records and its start, from the end record."""
    total_bytes = file.seek(0, 2)
    if total_bytes < _END.size:
        raise MalformedBundle(f"{name}: is not a bundle, or is cut off: it has {total_bytes} bytes")
    file.seek(total_bytes - _END.size)
    signature, disk, first, here, count, size, start, comment = _END.unpack(file.read(_END.size))
    if signature != b"PK\5\6" or disk or first or comment or here != count:
        raise MalformedBundle(f"{name}: is not a bundle, or is cut off: no end record in its last {_END.size} bytes")
    if count > MAX_ENTRIES or size > _MAX_DIRECTORY_BYTES:
        raise MalformedBundle(f"{name}: has {count} files in a directory of {size} bytes, over the limits")
    if start + size + _END.size != total_bytes:
        raise MalformedBundle(f"{name}: its directory is not where its end record says")
    file.seek(start)
    return file.read(size), count, start


def _read_record(records: bytes, position: int, offset: int, name: str) -> tuple[Entry, int]:
    """Return the record at ``position``, whose local header must start at ``offset``, and the next position."""
    if position + _CENTRAL.size > len(records):
        raise MalformedBundle(f"{name}: its directory is cut off")
    found = _Central(*_CENTRAL.unpack_from(records, position))
    end = position + _CENTRAL.size + found.path_bytes
    raw = records[position + _CENTRAL.size : end]
    if not 1 <= found.path_bytes <= MAX_PATH_BYTES or end > len(records) or not raw.isascii():
        raise MalformedBundle(f"{name}: the name of a file is not 1 to {MAX_PATH_BYTES} ASCII characters: {raw[:80]!r}")
    entry = Entry(raw.decode("ascii"), found.size_bytes, found.crc32, offset)
    for key, have, want in zip(_Central._fields, found, _central(entry)):
        if have != want:
            raise MalformedBundle(f"{name}: file {entry.path!r}: {key} is {have!r}, must be {want!r}")
    return entry, end
