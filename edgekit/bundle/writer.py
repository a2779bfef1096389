"""Write a bundle: the same inputs give the same bytes, and a failure leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from edgekit_runtime import open_bundle
from edgekit_runtime.errors import MalformedBundle
from edgekit_runtime.format.archive import Entry, directory, local_header
from edgekit_runtime.format.extents import Extent
from edgekit_runtime.format.manifest import MANIFEST_NAME, FileRecord, Manifest
from edgekit_runtime.format.manifest_json import ENCRYPTION, manifest_to_json, parse_manifest

CHUNK_BYTES = 1 << 20
Content = Path | bytes | Extent
Measured = Mapping[str, tuple[int, str, int]]  # size in bytes, SHA-256, CRC-32


def write_bundle(
    manifest: Manifest,
    files: Mapping[str, Content],
    out: str | Path,
    *,
    as_directory: bool = False,
    encrypted: Collection[str] = (),
) -> Manifest:
    """Write the bundle whole, or leave ``out`` as it was.

    The bundle is built beside ``out``, read back as a board would, flushed to the disk and then moved into
    place in one step.

    Args:
        manifest: what the bundle says; its ``files`` are filled in here.
        files: by path in the bundle, a file or its content.
        out: a file, or a folder that does not exist yet, if it ends with ``/`` or ``as_directory`` is set.
        as_directory: write the tree as a folder, which is what a board keeps.
        encrypted: the paths of those whose content is encrypted.

    Returns:
        The manifest as written.

    Raises:
        MalformedBundle: the manifest breaks the format, or speaks of files that are not there.
        FileExistsError: ``out`` is to be a folder and there is something already.
        OSError: a file cannot be read, or the bundle cannot be written (a full disk).
    """
    measured = {path: _measure(content) for path, content in sorted(files.items())}
    records = tuple(
        FileRecord(path, size, digest, ENCRYPTION if path in encrypted else None)
        for path, (size, digest, _) in measured.items()
    )
    whole = replace(manifest, files=records)
    text = manifest_to_json(whole)
    parse_manifest(text)  # refuses what a board would refuse, before anything is written
    contents: dict[str, Content] = {MANIFEST_NAME: text, **{path: files[path] for path in measured}}
    _write(contents, {MANIFEST_NAME: _measure(text), **measured}, out, as_directory=as_directory)
    return whole


def write_contents(contents: Mapping[str, Content], out: str | Path, *, as_directory: bool = False) -> None:
    """Write a bundle of files that are all there already, whole, or leave ``out`` as it was.

    Args:
        contents: every file by its path, the manifest as it is to stand there among them.
        out, as_directory: as for ``write_bundle``.

    Raises:
        BundleError: what was written is no bundle.
        FileExistsError, OSError: as ``write_bundle``.
    """
    paths = [MANIFEST_NAME, *sorted(contents.keys() - {MANIFEST_NAME})]
    ordered = {path: contents[path] for path in paths}
    _write(ordered, {path: _measure(contents[path]) for path in paths}, out, as_directory=as_directory)


def write_beside(folder: Path, name: str, content: bytes) -> None:
    """Write one file of a bundle that is a folder, in one step; what had the name before is replaced."""
    with _beside(folder) as temporary:
        with temporary.open("wb") as file:
            file.write(content)
            _flush(file)
        os.replace(temporary, folder / name)
    _flush_folder(folder)


def _write(contents: Mapping[str, Content], measured: Measured, out: str | Path, *, as_directory: bool) -> None:
    """Write the contents in their order."""
    if as_directory or str(out).endswith(("/", os.sep)):
        _write_folder(contents, Path(out))
    else:
        _write_archive(contents, _entries(measured), Path(out))


def _chunks(content: Content) -> Iterator[bytes]:
    """The content in pieces, so that no artifact has to fit into memory."""
    if isinstance(content, bytes):
        yield content
        return
    left_bytes = content.size_bytes if isinstance(content, Extent) else sys.maxsize
    with content.open() if isinstance(content, Extent) else content.open("rb") as file:
        while piece := file.read(min(left_bytes, CHUNK_BYTES)):
            left_bytes -= len(piece)
            yield piece


def _measure(content: Content) -> tuple[int, str, int]:
    """Size in bytes, SHA-256 in hexadecimal, CRC-32."""
    size_bytes, digest, crc = 0, sha256(), 0
    for piece in _chunks(content):
        size_bytes += len(piece)
        digest.update(piece)
        crc = zlib.crc32(piece, crc)
    return size_bytes, digest.hexdigest(), crc


def _entries(measured: Measured) -> list[Entry]:
    """Where each file lies: one after the other, in the order of ``measured``."""
    entries: list[Entry] = []
    for path, (size_bytes, _, crc) in measured.items():
        offset = entries[-1].end_offset if entries else 0
        entries.append(Entry(path, size_bytes, crc, offset))
    return entries


def _write_archive(contents: Mapping[str, Content], entries: list[Entry], target: Path) -> None:
    with _beside(target) as temporary:
        with temporary.open("wb") as file:
            for entry in entries:
                file.write(local_header(entry))
                _copy(contents[entry.path], entry.size_bytes, file)
            file.write(directory(entries))
            _flush(file)
        _read_back(temporary)
        os.replace(temporary, target)
    _flush_folder(target.parent)


def _write_folder(contents: Mapping[str, Content], target: Path) -> None:
    with _beside(target) as temporary:
        temporary.mkdir()
        for path, content in contents.items():
            place = temporary / path
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as file:
                _copy(content, None, file)
                _flush(file)
        for folder in {parent for path in contents for parent in (temporary / path).parents}:
            if folder.is_relative_to(temporary):
                _flush_folder(folder)
        _read_back(temporary)
        if target.exists():
            raise FileExistsError(f"{target} is there already: remove it, or name another folder")
        os.replace(temporary, target)
    _flush_folder(target.parent)


def _copy(content: Content, size_bytes: int | None, file: BinaryIO) -> None:
    """Copy the content; it must still have the size that was measured, or the layout would slip."""
    written = sum(file.write(piece) for piece in _chunks(content))
    if size_bytes is not None and written != size_bytes:
        raise MalformedBundle(f"{content!r} changed while the bundle was written: write it again")


def _read_back(path: Path) -> None:
    """Open what was written as a board would, and hold every digest."""
    with open_bundle(path, trust=False) as bundle:  # it cannot be signed yet
        bundle.verify_all()


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A private place on the same file system as ``target``, gone afterwards whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder / target.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut; not every file system has such a thing."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
