"""A small valid bundle, and fixtures to write hostile ones: raw files, raw manifest, raw archive."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def npy(array: Any) -> bytes:
    """Return an array as the bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


@dataclass
class Entry:
    """A file of the archive, with all header fields that an attacker can set."""

    path: bytes
    content: bytes
    local: dict[str, int] = field(default_factory=dict)  # fields that differ in the local header
    central: dict[str, int] = field(default_factory=dict)  # fields that differ in the directory
    offset: int | None = None  # where the directory says the local header is
    local_path: bytes | None = None
    between: bytes = b""  # bytes put before the local header


@dataclass
class Tiny:
    """An unwritten bundle: its files and its manifest as JSON, both to be modified."""

    files: dict[str, bytes]
    document: dict[str, Any]

    def list_files(self) -> None:
        """List the current files in the manifest."""
        self.document["files"] = [
            {"path": path, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for path, data in sorted(self.files.items())
        ]

    def entries(self, manifest: bytes | None = None) -> list[Entry]:
        """Return the entries of a valid archive."""
        text = json.dumps(self.document).encode() if manifest is None else manifest
        files = [(b"manifest.json", text)]
        files += [(path.encode(), data) for path, data in sorted(self.files.items())]
        return [Entry(path, data) for path, data in files]


def archive_bytes(entries: list[Entry], *, before: bytes = b"", end: dict[str, int] | None = None) -> bytes:
    """Return an archive as in docs/bundle-format.md, except for the fields that were changed."""
    data, records = bytearray(before), bytearray()
    for entry in entries:
        data += entry.between
        start = len(data)
        path = entry.path if entry.local_path is None else entry.local_path
        content_at = -(-(start + 30 + len(path) + 6) // 64) * 64
        extra = struct.pack("<3H", 0xD935, content_at - start - 30 - len(path) - 4, 64)
        extra = extra.ljust(content_at - start - 30 - len(path), b"\0")
        fields = {
            **{"version": 20, "flags": 0, "compression": 0, "time": 0, "date": 33},
            **{"crc": zlib.crc32(entry.content), "stored": len(entry.content), "size": len(entry.content)},
        }
        local = {**fields, **entry.local}
        data += struct.pack("<4s5H3I2H", b"PK\3\4", *local.values(), len(path), len(extra)) + path + extra
        data += entry.content
        central = {**fields, "comment": 0, "disk": 0, "internal": 0, "external": 0o100644 << 16, **entry.central}
        *head, comment, disk, internal, external = central.values()
        at = start if entry.offset is None else entry.offset
        rest = (len(entry.path), 0, comment, disk, internal, external, at)
        records += struct.pack("<4sH5H3I5H2I", b"PK\1\2", 0x0314, *head, *rest) + entry.path
    tail = {"disk": 0, "first": 0, "here": len(entries), "count": len(entries)}
    tail |= {"size": len(records), "start": len(data), "comment": 0} | (end or {})
    return bytes(data + records + struct.pack("<4s4H2IH", b"PK\5\6", *tail.values()))


@pytest.fixture
def tiny() -> Tiny:
    """A valid bundle: the identity of two numbers."""
    binding = {"index": 0, "name": "x", "dtype": "float32"}
    files = {
        "golden/x.npy": npy(np.zeros((1, 1, 2), np.float32)),
        "golden/y.npy": npy(np.zeros((1, 1, 2), np.float32)),
        "variants/v/eye.npy": npy(np.eye(2, dtype=np.float32)),
    }
    document = {
        "format_version": 1,
        "model": {"name": "tiny", "version": "1"},
        "inputs": [{"name": "x", "shape": [1, 2], "dtype": "float32"}],
        "outputs": [{"name": "y", "shape": [1, 2], "dtype": "float32"}],
        "variants": [
            {
                "name": "v",
                "engine": "null",
                "device": "cpu",
                "scheme": "float32",
                "files": ["variants/v/eye.npy"],
                "inputs": [binding],
                "outputs": [binding],
                "golden": {"outputs": ["golden/y.npy"], "max_abs": [0.0]},
            }
        ],
        "golden_inputs": ["golden/x.npy"],
    }
    bundle = Tiny(files, document)
    bundle.list_files()
    return bundle


@pytest.fixture
def signed(repository: Path) -> dict[str, bytes]:
    """The files of a valid signed bundle in their order, to be modified."""
    with zipfile.ZipFile(repository / "tests" / "compat" / "0.1.0.edgekit") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def lay_out() -> Callable[..., bytes]:
    """Return entries, or files by path, as an archive."""

    def spelled(what: list[Entry] | dict[str, bytes], **how: Any) -> bytes:
        if isinstance(what, dict):
            what = [Entry(path.encode(), content) for path, content in what.items()]
        return archive_bytes(what, **how)

    return spelled


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    """Write entries as an archive."""

    def write(entries: list[Entry], **how: Any) -> Path:
        path = tmp_path / "hostile.edgekit"
        path.write_bytes(archive_bytes(entries, **how))
        return path

    return write


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[Tiny], Path]:
    """Write a bundle as a folder."""

    def write(tiny: Tiny) -> Path:
        root = tmp_path / "hostile"
        for path, data in {**tiny.files, "manifest.json": json.dumps(tiny.document).encode()}.items():
            place = root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        return root

    return write
