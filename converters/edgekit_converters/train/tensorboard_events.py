"""TensorBoard's event files, as far as scalars go: a TFRecord for each event, which is a protocol buffer.

Written here, since every library that writes them brings TensorFlow or a web server along. The formats are those of
``tensorflow/core/util/event.proto``, ``core/framework/summary.proto`` and ``core/lib/io/record_writer.cc``.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

CASTAGNOLI = 0x82F63B78  # the polynomial of CRC-32C (RFC 3720, appendix B.4), bits reversed
MASK = 0xA282EAD8  # added to a rotated checksum, so that one of a record with checksums in it is no trivial one


def _entry(byte: int) -> int:
    """What a byte leaves of the checksum."""
    for _ in range(8):
        byte = byte >> 1 ^ (CASTAGNOLI if byte & 1 else 0)
    return byte


TABLE = tuple(map(_entry, range(256)))


class EventFile:
    """A file that TensorBoard finds in its folder and reads while it grows.

    Args:
        folder: made when missing; a file of its own is made in it, so several trainings may share it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.edgekit"
        self.path = folder / name
        self._file = self.path.open("ab")
        self._write(_text(3, "brain.Event:2"))  # the version of the format, which must come first

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write values at a step, under their tags."""
        summary = b"".join(_bytes(1, _text(1, tag) + _float(2, value)) for tag, value in values.items())
        self._write(_varint(2 << 3) + _varint(step) + _bytes(5, summary))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, content: bytes) -> None:
        event = _varint(1 << 3 | 1) + struct.pack("<d", time.time()) + content
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))
        self._file.flush()


def _checksum(content: bytes) -> bytes:
    """The masked CRC-32C of a record's part."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, content: str) -> bytes:
    return _bytes(field, content.encode())


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)
