"""The layout of a delta: which stretches of the old bundle's files make the new one's. docs/delta-format.md is its law.

    magic, 8 bytes; size of the header, uint32; the header, JSON; the steps, compressed; the steps' contents

Integers are little-endian. Each file of the new bundle is made by its steps, one behind the other. Like a bundle, a
delta may come from anybody: sizes are bounded, must add up, and say what is allocated before it is.
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
STRETCH_BYTES = 1 << 20  # at most that a step adds or fills: what the board holds in memory
MAX_STEPS = 1 << 16
COPY, ADD, FILL = range(3)
_SIZE = struct.Struct("<I")
STEP = struct.Struct("<BQII")


class Step(NamedTuple):
    """A stretch of a new file.

    COPY: it is the old file's stretch at ``old_offset``. ADD: the old stretch plus the content, byte by byte modulo
    256. FILL: it is the content, which was compressed with the old stretch as dictionary.
    """

    kind: int
    old_offset: int
    size_bytes: int  # of the stretch
    stored_bytes: int  # of the content in the delta, compressed; 0 of COPY


@dataclass(frozen=True)
class Piece:
    """A file of the new bundle."""

    path: str
    size_bytes: int
    base: str | None  # the path of the old bundle's file it is made from; None: from nothing
    steps: int


@dataclass(frozen=True)
class Header:
    """What a delta says of itself."""

    codec: str
    old: str  # the name of the old bundle's generation
    new: str
    steps_bytes: int  # of the steps, compressed
    pieces: tuple[Piece, ...]  # manifest.json first
    format_version: int = VERSION


_name = text(f"[0-9a-f]{{{NAME_DIGITS}}}", "the name of a generation")
_piece = record(
    Piece,
    path=relative_path,
    size_bytes=integer(0, 1 << 32),
    base=optional(relative_path),
    steps=integer(0, MAX_STEPS),
)
_header: Check[Header] = record(
    Header,
    format_version=integer(1, VERSION),
    codec=one_of(*CODECS),
    old=_name,
    new=_name,
    steps_bytes=integer(0, MAX_STEPS * STEP.size),
    pieces=list_of(_piece, 1, MAX_FILES + 2),
)


def read_header(file: BinaryIO, name: str) -> Header:
    """Read a delta up to its steps.

    Raises:
        MalformedBundle: it is no delta, or breaks the format.
        UnsupportedVersion: a newer edgekit wrote it.
    """
    start = file.read(len(MAGIC) + _SIZE.size)
    if len(start) < len(MAGIC) + _SIZE.size or not start.startswith(MAGIC):
        raise MalformedBundle(f"{name}: is not a delta, or is cut off")
    (size_bytes,) = _SIZE.unpack(start[len(MAGIC) :])
    if size_bytes > MAX_MANIFEST_BYTES:
        raise MalformedBundle(f"{name}: its header has {size_bytes} bytes, over the bound")
    document = decode(file.read(size_bytes), "header")
    version = document.get("format_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise UnsupportedVersion(f"{name}: format_version is {version}, this edgekit-runtime reads up to {VERSION}")
    header = _header(document, "delta")
    _refuse_strange(header, name)
    return header


def _refuse_strange(header: Header, name: str) -> None:
    paths = [piece.path for piece in header.pieces]
    if paths[0] != MANIFEST_NAME or len(set(paths)) != len(paths):
        raise MalformedBundle(f"{name}: does not begin with {MANIFEST_NAME}, or has a file twice")
    if any(p.size_bytes > MAX_MANIFEST_BYTES for p in header.pieces if p.path in (MANIFEST_NAME, SIGNATURE_NAME)):
        raise MalformedBundle(f"{name}: {MANIFEST_NAME} or {SIGNATURE_NAME} is over the bound")
    if sum(piece.steps for piece in header.pieces) > MAX_STEPS:
        raise MalformedBundle(f"{name}: has more than {MAX_STEPS} steps")


def header_bytes(header: Header) -> bytes:
    """All bytes before the steps."""
    import json
    from dataclasses import asdict

    told = json.dumps(asdict(header), separators=(",", ":")).encode()
    return MAGIC + _SIZE.pack(len(told)) + told


def read_steps(data: bytes, header: Header, name: str) -> dict[str, tuple[Step, ...]]:
    """Each file's steps, whose sizes add up to the file's.

    Raises:
        MalformedBundle: they do not, or one is none.
    """
    found, position = {}, 0
    for piece in header.pieces:
        end = position + piece.steps * STEP.size
        steps = tuple(map(Step._make, STEP.iter_unpack(data[position:end])))
        position = end
        if sum(step.size_bytes for step in steps) != piece.size_bytes or not all(map(_sound, steps)):
            raise MalformedBundle(f"{name}: the steps of {piece.path} do not make it")
        found[piece.path] = steps
    return found


def _sound(step: Step) -> bool:
    if step.kind == COPY:
        return step.stored_bytes == 0
    return step.kind in (ADD, FILL) and step.size_bytes <= STRETCH_BYTES and step.stored_bytes <= 2 * STRETCH_BYTES


def steps_bytes(steps: list[Step]) -> bytes:
    """The steps as they are, before they are compressed."""
    return b"".join(STEP.pack(*step) for step in steps)
