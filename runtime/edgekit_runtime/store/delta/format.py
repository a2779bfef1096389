"""Read and write the layout of a delta. docs/delta-format.md is the specification.

    magic, 8 bytes; size of the header, uint32; the header, JSON; the steps, compressed; the contents of the steps

Integers are little-endian. Each file of the new bundle is the concatenated results of its steps. A delta is untrusted
input: all sizes are bounded, must add up, and are checked before anything is allocated.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, NamedTuple

from edgekit_runtime.errors import MalformedBundle, UnsupportedVersion
from edgekit_runtime.format.manifest import MANIFEST_NAME, MAX_FILES, SIGNATURE_NAME
from edgekit_runtime.format.strict_json import MAX_MANIFEST_BYTES, decode
from edgekit_runtime.format.validators import Check, integer, list_of, one_of, optional, record, relative_path, text
from edgekit_runtime.record import dataclass
from edgekit_runtime.store.delta.codec import CODECS
from edgekit_runtime.store.generations import NAME_DIGITS

MAGIC = b"EKDELTA\1"
VERSION = 1
MAX_BLOCK_BYTES = 1 << 20  # result of an ADD or FILL step: bounds the memory that the board needs
MAX_STEPS = 1 << 16
COPY, ADD, FILL = range(3)
_SIZE = struct.Struct("<I")
STEP = struct.Struct("<BQII")


class DeltaStep(NamedTuple):
    """A block of a new file.

    COPY: the old bytes at ``old_offset``. ADD: the old bytes plus the content, byte by byte modulo 256.
    FILL: the content, which was compressed with the old bytes as dictionary.
    """

    kind: int
    old_offset: int
    size_bytes: int  # of the block
    stored_bytes: int  # of the compressed content in the delta; 0 for COPY


@dataclass(frozen=True)
class DeltaFile:
    """A file of the new bundle."""

    path: str
    size_bytes: int
    base: str | None  # path of the old file that the steps read; None if they read no old file
    steps: int  # how many


@dataclass(frozen=True)
class Header:
    """The header of a delta."""

    codec: str
    old: str  # the name of the old bundle's generation
    new: str
    steps_bytes: int  # of the compressed steps
    pieces: tuple[DeltaFile, ...]  # one for each new file, manifest.json first
    format_version: int = VERSION


_generation = text(f"[0-9a-f]{{{NAME_DIGITS}}}", "the name of a generation")
_piece = record(
    DeltaFile,
    path=relative_path,
    size_bytes=integer(0, 1 << 32),
    base=optional(relative_path),
    steps=integer(0, MAX_STEPS),
)
_header: Check[Header] = record(
    Header,
    format_version=integer(1, VERSION),
    codec=one_of(*CODECS),
    old=_generation,
    new=_generation,
    steps_bytes=integer(0, MAX_STEPS * STEP.size),
    pieces=list_of(_piece, 1, MAX_FILES + 2),
)


def read_header(file: BinaryIO, name: str) -> Header:
    """Read the magic and the header of a delta.

    Raises:
        MalformedBundle: the file is not a delta, or breaks the format.
        UnsupportedVersion: a newer edgekit wrote it.
    """
    start = file.read(len(MAGIC) + _SIZE.size)
    if len(start) < len(MAGIC) + _SIZE.size or not start.startswith(MAGIC):
        raise MalformedBundle(f"{name}: is not a delta, or is cut off")
    (size_bytes,) = _SIZE.unpack(start[len(MAGIC) :])
    if size_bytes > MAX_MANIFEST_BYTES:
        raise MalformedBundle(f"{name}: its header has {size_bytes} bytes, over the limit")
    document = decode(file.read(size_bytes), "header")
    version = document.get("format_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise UnsupportedVersion(f"{name}: format_version is {version}, this edgekit-runtime reads up to {VERSION}")
    header = _header(document, "delta")
    _check_header(header, name)
    return header


def _check_header(header: Header, name: str) -> None:
    paths = [piece.path for piece in header.pieces]
    if paths[0] != MANIFEST_NAME or len(set(paths)) != len(paths):
        raise MalformedBundle(f"{name}: does not begin with {MANIFEST_NAME}, or lists a file twice")
    if any(p.size_bytes > MAX_MANIFEST_BYTES for p in header.pieces if p.path in (MANIFEST_NAME, SIGNATURE_NAME)):
        raise MalformedBundle(f"{name}: {MANIFEST_NAME} or {SIGNATURE_NAME} is over the size limit")
    if sum(piece.steps for piece in header.pieces) > MAX_STEPS:
        raise MalformedBundle(f"{name}: has more than {MAX_STEPS} steps")


def header_bytes(header: Header) -> bytes:
    """Return all bytes before the steps."""
    import json
    from dataclasses import asdict

    encoded = json.dumps(asdict(header), separators=(",", ":")).encode()
    return MAGIC + _SIZE.pack(len(encoded)) + encoded


def read_steps(data: bytes, header: Header, name: str) -> dict[str, tuple[DeltaStep, ...]]:
    """Return the steps of each file, after checking that their sizes add up to the file's size.

    Raises:
        MalformedBundle: the sizes do not add up, or a step is invalid.
    """
    found, position = {}, 0
    for piece in header.pieces:
        end = position + piece.steps * STEP.size
        steps = tuple(map(DeltaStep._make, STEP.iter_unpack(data[position:end])))
        position = end
        if sum(step.size_bytes for step in steps) != piece.size_bytes or not all(map(_is_valid, steps)):
            raise MalformedBundle(f"{name}: the steps of {piece.path} do not add up to its size")
        found[piece.path] = steps
    return found


def _is_valid(step: DeltaStep) -> bool:
    if step.kind == COPY:
        return step.stored_bytes == 0
    return step.kind in (ADD, FILL) and step.size_bytes <= MAX_BLOCK_BYTES and step.stored_bytes <= 2 * MAX_BLOCK_BYTES


def steps_bytes(steps: list[DeltaStep]) -> bytes:
    """Return the encoded steps, not yet compressed."""
    return b"".join(STEP.pack(*step) for step in steps)
