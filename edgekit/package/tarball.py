"""Tar archives whose bytes are a function of what is in them: owned by root, one date, in the order given."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from edgekit.package.bundle_contents import Contents, Piece
from edgekit.package.request import epoch

BLOCK_BYTES = 512


@dataclass(frozen=True)
class Member:
    """A file of an archive."""

    path: str
    content: bytes | Piece | Contents  # the last is the bundle as a file
    mode: int = 0o644

    @property
    def size_bytes(self) -> int:
        """Of the content."""
        if isinstance(self.content, bytes):
            return len(self.content)
        return self.content.size_bytes if isinstance(self.content, Piece) else self.content.file_bytes

    def chunks(self) -> Iterator[bytes]:
        """The content in pieces."""
        if isinstance(self.content, bytes):
            yield self.content
        else:
            yield from self.content.chunks() if isinstance(self.content, Piece) else self.content.file_chunks()


def tree(contents: Contents, prefix: str = "") -> list[Member]:
    """The bundle as a folder called ``prefix``."""
    return [Member(f"{prefix}{path}", piece) for path, piece in contents.pieces.items()]


def write_tar(file: BinaryIO, members: Iterable[Member], prefix: str = "") -> None:
    """Write the members, each folder before what is in it.

    A prefix, such as "./", begins all names, and comes first itself: whoever unpacks into a private folder opens it.
    """
    made: set[str] = set()
    if prefix:
        file.write(_header(prefix, 0, 0o755, tarfile.DIRTYPE))
    for member in members:
        for folder in reversed(PurePosixPath(member.path).parents):
            if str(folder) != "." and str(folder) not in made:
                made.add(str(folder))
                file.write(_header(f"{prefix}{folder}/", 0, 0o755, tarfile.DIRTYPE))
        file.write(_header(prefix + member.path, member.size_bytes, member.mode, tarfile.REGTYPE))
        for chunk in member.chunks():
            file.write(chunk)
        file.write(bytes(-member.size_bytes % BLOCK_BYTES))
    file.write(bytes(2 * BLOCK_BYTES))


def _header(path: str, size_bytes: int, mode: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(path)
    info.size, info.mode, info.mtime, info.type = size_bytes, mode, epoch(), kind
    info.uname = info.gname = "root"
    return info.tobuf(tarfile.GNU_FORMAT)
