"""Tar archives with reproducible bytes, and the package format ``tar``: an overlay for a root file system.

All members are owned by root, have one date, and stand in the given order.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from edgekit.package.bundle_contents import BundleContents, FileContent
from edgekit.package.request import READ_ONLY_FOLDER, PackageRequest, epoch

BLOCK_BYTES = 512


@dataclass(frozen=True)
class Member:
    """A file of an archive."""

    path: str
    content: bytes | FileContent | BundleContents  # BundleContents: the whole bundle as one file
    mode: int = 0o644

    @property
    def size_bytes(self) -> int:
        """The size of the content."""
        if isinstance(self.content, bytes):
            return len(self.content)
        return self.content.size_bytes if isinstance(self.content, FileContent) else self.content.file_bytes

    def chunks(self) -> Iterator[bytes]:
        """Yield the content in chunks."""
        if isinstance(self.content, bytes):
            yield self.content
        else:
            yield from self.content.chunks() if isinstance(self.content, FileContent) else self.content.file_chunks()


def write(request: PackageRequest, contents: BundleContents, out: Path) -> list[str]:
    """Write a tar archive to unpack over a root file system. It holds the bundle as a folder, to be memory-mapped."""
    folder = request.path or f"{READ_ONLY_FOLDER}/{request.name}"
    with out.open("wb") as file:
        write_tar(file, folder_members(contents, f"{folder[1:]}/"))
    return [f"unpack it over the root file system; applications load({folder!r})"]


def folder_members(contents: BundleContents, prefix: str = "") -> list[Member]:
    """Return the files of a bundle as members whose paths start with ``prefix``."""
    return [Member(f"{prefix}{path}", content) for path, content in contents.files.items()]


def write_tar(file: BinaryIO, members: Iterable[Member], prefix: str = "") -> None:
    """Write the members, each folder before its content.

    A prefix such as "./" starts every name, and is itself the first member, so that unpacking sets the mode of the
    target folder.
    """
    folders: set[str] = set()
    if prefix:
        file.write(_header(prefix, 0, 0o755, tarfile.DIRTYPE))
    for member in members:
        for folder in reversed(PurePosixPath(member.path).parents):
            if str(folder) != "." and str(folder) not in folders:
                folders.add(str(folder))
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
