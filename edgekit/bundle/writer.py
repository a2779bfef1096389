"""Write bundles. The same inputs give the same bytes; a failure leaves no partial file."""

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
Measurements = Mapping[str, tuple[int, str, int]]  # size in bytes, SHA-256, CRC-32


def write_bundle(
    manifest: Manifest,
    files: Mapping[str, Content],
    out: str | Path,
    *,
    as_directory: bool = False,
    encrypted: Collection[str] = (),
) -> Manifest:
    """Write a bundle completely, or leave ``out`` as it was.

    The bundle is written to a temporary path next to ``out``, flushed, verified as a board does, and then renamed.

    Args:
        manifest: the manifest without ``files``, which are filled in here.
        files: each file or its content, by path in the bundle.
        out: a file, or a folder that does not exist yet, if it ends with ``/`` or ``as_directory`` is set.
        as_directory: write a folder, the form that a board keeps.
        encrypted: paths of the files whose content is encrypted.

    Returns:
        The manifest as written.

    Raises:
        MalformedBundle: the manifest breaks the format, or names missing files.
        FileExistsError: a folder is to be written and ``out`` exists already.
        OSError: a file cannot be read, or the bundle cannot be written, for example because the disk is full.
    """
    measured = {path: _measure(content) for path, content in sorted(files.items())}
    records = tuple(
        FileRecord(path, size, digest, ENCRYPTION if path in encrypted else None)
        for path, (size, digest, _) in measured.items()
    )
    complete = replace(manifest, files=records)
    text = manifest_to_json(complete)
    parse_manifest(text)  # refuses what a board would refuse, before writing
    contents: dict[str, Content] = {MANIFEST_NAME: text, **{path: files[path] for path in measured}}
    _write(contents, {MANIFEST_NAME: _measure(text), **measured}, out, as_directory=as_directory)
    return complete


def write_contents(contents: Mapping[str, Content], out: str | Path, *, as_directory: bool = False) -> None:
    """Write a bundle from all its files, including a finished manifest, or leave ``out`` as it was.

    Args:
        contents: every file by its path, including the manifest.
        out, as_directory: as for ``write_bundle``.

    Raises:
        BundleError: the files do not form a valid bundle.
        FileExistsError, OSError: as ``write_bundle``.
    """
    paths = [MANIFEST_NAME, *sorted(contents.keys() - {MANIFEST_NAME})]
    ordered = {path: contents[path] for path in paths}
    _write(ordered, {path: _measure(contents[path]) for path in paths}, out, as_directory=as_directory)


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Write one file of a bundle folder in one step, replacing an existing one."""
    with _temporary_path(folder) as temporary:
        with temporary.open("wb") as file:
            file.write(content)
            _sync(file)
        os.replace(temporary, folder / name)
    _sync_folder(folder)


def _write(contents: Mapping[str, Content], measured: Measurements, out: str | Path, *, as_directory: bool) -> None:
    """Write the contents in their order, as a folder or an archive."""
    if as_directory or str(out).endswith(("/", os.sep)):
        _write_folder(contents, Path(out))
    else:
        _write_archive(contents, _entries(measured), Path(out))


def _chunks(content: Content) -> Iterator[bytes]:
    """Yield the content in chunks, so that no artifact has to fit into memory."""
    if isinstance(content, bytes):
        yield content
        return
    left_bytes = content.size_bytes if isinstance(content, Extent) else sys.maxsize
    with content.open() if isinstance(content, Extent) else content.open("rb") as file:
        while piece := file.read(min(left_bytes, CHUNK_BYTES)):
            left_bytes -= len(piece)
            yield piece


def _measure(content: Content) -> tuple[int, str, int]:
    """Return the size in bytes, the SHA-256 in hexadecimal and the CRC-32."""
    size_bytes, digest, crc = 0, sha256(), 0
    for piece in _chunks(content):
        size_bytes += len(piece)
        digest.update(piece)
        crc = zlib.crc32(piece, crc)
    return size_bytes, digest.hexdigest(), crc


def _entries(measured: Measurements) -> list[Entry]:
    """Return the archive entries, one after the other in the order of ``measured``."""
    entries: list[Entry] = []
    for path, (size_bytes, _, crc) in measured.items():
        offset = entries[-1].end_offset if entries else 0
        entries.append(Entry(path, size_bytes, crc, offset))
    return entries


def _write_archive(contents: Mapping[str, Content], entries: list[Entry], target: Path) -> None:
    with _temporary_path(target) as temporary:
        with temporary.open("wb") as file:
            for entry in entries:
                file.write(local_header(entry))
                _copy(contents[entry.path], entry.size_bytes, file)
            file.write(directory(entries))
            _sync(file)
        _verify(temporary)
        os.replace(temporary, target)
    _sync_folder(target.parent)


def _write_folder(contents: Mapping[str, Content], target: Path) -> None:
    with _temporary_path(target) as temporary:
        temporary.mkdir()
        for path, content in contents.items():
            target_file = temporary / path
            target_file.parent.mkdir(parents=True, exist_ok=True)
            with target_file.open("wb") as file:
                _copy(content, None, file)
                _sync(file)
        for folder in {parent for path in contents for parent in (temporary / path).parents}:
            if folder.is_relative_to(temporary):
                _sync_folder(folder)
        _verify(temporary)
        if target.exists():
            raise FileExistsError(f"{target} exists already: remove it, or choose another folder")
        os.replace(temporary, target)
    _sync_folder(target.parent)


def _copy(content: Content, size_bytes: int | None, file: BinaryIO) -> None:
    """Copy the content, and check that it still has the measured size, on which the layout depends."""
    written = sum(file.write(piece) for piece in _chunks(content))
    if size_bytes is not None and written != size_bytes:
        raise MalformedBundle(f"{content!r} changed while the bundle was written: write it again")


def _verify(path: Path) -> None:
    """Open the written bundle as a board does, and check all digests."""
    with open_bundle(path, trust=False) as bundle:  # not signed yet
        bundle.verify_all()


@contextmanager
def _temporary_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path on the file system of ``target``; it is removed at the end, also after an error."""
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder / target.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Flush the names in a folder, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
