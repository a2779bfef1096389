"""Read a bundle from a file or a folder, and write it as either."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit_runtime import open_bundle
from edgekit_runtime.errors import DigestMismatch
from edgekit_runtime.format.archive import Entry, directory, local_header
from edgekit_runtime.format.extents import Extent, find_extents
from edgekit_runtime.format.manifest import MANIFEST_NAME, Manifest

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileContent:
    """The content of one file of a bundle."""

    extent: Extent

    @property
    def size_bytes(self) -> int:
        """The size of the content."""
        return self.extent.size_bytes

    def chunks(self) -> Iterator[bytes]:
        """Yield the content in chunks, so that no artifact has to fit into memory.

        Raises:
            DigestMismatch: the file became shorter while it was read.
        """
        left_bytes = self.size_bytes
        with self.extent.open() as file:
            while left_bytes:
                chunk = file.read(min(left_bytes, CHUNK_BYTES))
                if not chunk:
                    raise DigestMismatch(f"{self.extent.source} changed while it was packaged: package it again")
                left_bytes -= len(chunk)
                yield chunk


@dataclass(frozen=True)
class BundleContents:
    """The manifest of a bundle and its files, manifest.json first, the others sorted by path."""

    manifest: Manifest
    files: Mapping[str, FileContent]

    def read(self, path: str) -> bytes:
        """Return the content of one file."""
        return b"".join(self.files[path].chunks())

    @property
    def file_bytes(self) -> int:
        """The size of the bundle as a file."""
        entries = self._entries(dict.fromkeys(self.files, 0))
        return entries[-1].end_offset + len(directory(entries))

    def file_chunks(self) -> Iterator[bytes]:
        """Yield the bundle as a file, in chunks."""
        entries = self._entries({path: _crc(piece) for path, piece in self.files.items()})
        for entry in entries:
            yield local_header(entry)
            yield from self.files[entry.path].chunks()
        yield directory(entries)

    def write_file(self, target: Path) -> None:
        """Write the bundle as a file."""
        with target.open("wb") as file:
            file.writelines(self.file_chunks())

    def write_folder(self, target: Path) -> None:
        """Write the bundle as a folder."""
        for path, piece in self.files.items():
            target_file = target / path
            target_file.parent.mkdir(parents=True, exist_ok=True)
            with target_file.open("wb") as file:
                file.writelines(piece.chunks())

    def _entries(self, crcs: Mapping[str, int]) -> list[Entry]:
        entries: list[Entry] = []
        for path, piece in self.files.items():
            offset = entries[-1].end_offset if entries else 0
            entries.append(Entry(path, piece.size_bytes, crcs[path], offset))
        return entries


@contextmanager
def read_contents(bundle: Path) -> Iterator[BundleContents]:
    """Open a bundle and check all digests.

    Raises:
        BundleError: there is no bundle at the path, or it is damaged.
    """
    with open_bundle(bundle, trust=False) as opened:
        opened.verify_all()
        extents = find_extents(opened.path)  # of a store, its current generation
        order = sorted(extents, key=lambda path: (path != MANIFEST_NAME, path))
        yield BundleContents(opened.manifest, {path: FileContent(extents[path]) for path in order})


def _crc(piece: FileContent) -> int:
    crc = 0
    for chunk in piece.chunks():
        crc = zlib.crc32(chunk, crc)
    return crc
