"""Write a delta between two bundles, and apply it once to prove that it gives the new bundle.

A file is compared with its old version block by block. docs/decisions/0013-deltas-in-blocks.md explains why, and
compares the sizes with those of zstd patches, bsdiff and rsync's method.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgekit_runtime import open_bundle
from edgekit_runtime.bundle.reader import Bundle
from edgekit_runtime.errors import PlanError
from edgekit_runtime.store.delta.apply import Delta
from edgekit_runtime.store.delta.codec import CODECS, Codec
from edgekit_runtime.store.delta.format import (
    ADD,
    COPY,
    FILL,
    MAX_BLOCK_BYTES,
    MAX_STEPS,
    DeltaFile,
    DeltaStep,
    Header,
    header_bytes,
    read_header,
    steps_bytes,
)
from edgekit_runtime.store.generations import generation_name

MAX_USEFUL_SHARE = 0.75  # of the bundle's bytes: a larger delta saves too little, so the report advises against it
ANCHOR_BYTES = 32  # at the end of a block, which are searched in the old file
FLOATS = ("float32", "float16")
MAX_RETRAINED_REUSE = 0.5  # a float file that reuses less was trained as a whole

Progress = Callable[[str, str, int, int], None]  # stage, label, done, total


@dataclass(frozen=True)
class FileDelta:
    """The share of one file in a delta."""

    path: str
    size_bytes: int
    delta_bytes: int
    reused: float  # fraction of the file's bytes that the delta saves


@dataclass(frozen=True)
class DeltaReport:
    """The sizes of a delta that was written."""

    path: str
    old: str  # names of the generations in a store
    new: str
    delta_bytes: int
    bundle_bytes: int  # of all files of the new bundle
    share: float  # delta_bytes / bundle_bytes
    pointless: str  # why to send the bundle instead; empty if the delta is worth it
    files: tuple[FileDelta, ...]

    def to_json(self) -> str:
        """Return the report as indented JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"


@dataclass(frozen=True)
class _EncodedFile:
    """A file of the new bundle as steps, and the content of each step."""

    file: DeltaFile
    steps: list[DeltaStep]
    contents: list[bytes]

    def report(self) -> FileDelta:
        """Return the sizes of the file."""
        size_bytes, delta_bytes = self.file.size_bytes, sum(map(len, self.contents))
        reused = max(0.0, 1 - delta_bytes / size_bytes) if size_bytes else 1.0
        return FileDelta(self.file.path, size_bytes, delta_bytes, reused)


class _BundleFiles:
    """All files of an open bundle, including the manifest and the signature."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._unlisted = bundle.unlisted()
        self.name = generation_name(self._unlisted)
        self.digests = {record.path: record.sha256 for record in bundle.manifest.files}
        self.paths = (*self._unlisted, *self.digests)

    def read(self, path: str) -> bytes:
        """Return the stored content of a file; encrypted files stay encrypted."""
        if path in self._unlisted:
            return self._unlisted[path]
        content = bytearray()
        self._bundle.copy(path, content.extend)
        return bytes(content)

    def close(self) -> None:
        """Do nothing: the caller that opened the bundle closes it."""


def make_delta(
    old: str | Path, new: str | Path, out: str | Path, *, codec: str = "zstd", watch: Progress | None = None
) -> DeltaReport:
    """Write the delta from one bundle to another, and check that applying it gives the new bundle.

    Raises:
        PlanError: both are the same bundle, or the output is one of them.
        StoreError: the compression package is not installed.
        BundleError: one of the bundles is damaged.
        OSError: the delta cannot be written; no partial file is left.
    """
    if any(Path(out).resolve() == Path(path).resolve() for path in (old, new)):
        raise PlanError(f"{out}: is one of the two bundles: name another file")
    compressor = CODECS[codec]()
    with open_bundle(old, trust=False) as old_bundle, open_bundle(new, trust=False) as new_bundle:
        before, after = _BundleFiles(old_bundle), _BundleFiles(new_bundle)
        if before.name == after.name:
            raise PlanError(f"{old} and {new} are the same bundle: there is nothing to send")
        encoded = list(_encode_files(before, after, compressor, watch))
        steps = compressor.compress(steps_bytes([step for file in encoded for step in file.steps]))
        header = Header(codec, before.name, after.name, len(steps), tuple(file.file for file in encoded))
        with _replace_when_complete(Path(out)) as file:
            file.write(header_bytes(header) + steps)
            file.writelines(content for encoded_file in encoded for content in encoded_file.contents)
            _check(file, before, after)
        return _report(out, header, tuple(file.report() for file in encoded), new_bundle)


def _encode_files(
    before: _BundleFiles, after: _BundleFiles, compressor: Codec, watch: Progress | None
) -> Iterator[_EncodedFile]:
    for done, path in enumerate(after.paths):
        if watch is not None:
            watch("delta", "", done, len(after.paths))
        base = _base(path, before, after)
        content, source = after.read(path), before.read(base) if base is not None else b""
        steps, contents = encode(content, source, compressor)
        yield _EncodedFile(DeltaFile(path, len(content), base, len(steps)), steps, contents)
    if watch is not None:
        watch("delta", "", 1, 1)


def _base(path: str, before: _BundleFiles, after: _BundleFiles) -> str | None:
    """Return the old file that is closest to a new file: same path and content, else same path, content or name."""
    same = [old for old, digest in before.digests.items() if digest == after.digests.get(path)]
    if same or path in before.paths:
        return path if path in before.paths else same[0]
    named = [old for old in before.digests if old.rpartition("/")[2] == path.rpartition("/")[2]]
    return named[0] if named else None


def encode(new: bytes, old: bytes, compressor: Codec) -> tuple[list[DeltaStep], list[bytes]]:
    """Return the steps that build ``new`` from ``old``, and the content of each."""
    if new == old:
        return ([DeltaStep(COPY, 0, len(new), 0)], [b""]) if new else ([], [])
    # Half of the allowed steps, so that files of less than a block always find one.
    block_bytes = min(MAX_BLOCK_BYTES, max(compressor.block_bytes, 2 * len(new) // MAX_STEPS))
    encoded = []
    for start in range(0, len(new), block_bytes):
        block = new[start : start + block_bytes]
        encoded.append(min(_encodings(block, old, _places(block, start, new, old), compressor), key=_stored_bytes))
    return [step for step, _ in encoded], [content for _, content in encoded]


def _places(block: bytes, start: int, new: bytes, old: bytes) -> set[int]:
    """Return where a block may start in the old file: as far from its start or end, or where the block's end occurs."""
    end = old.find(block[-ANCHOR_BYTES:])
    return {start, start + len(old) - len(new), end + ANCHOR_BYTES - len(block) if end >= 0 else start}


def _encodings(block: bytes, old: bytes, places: set[int], compressor: Codec) -> Iterator[tuple[DeltaStep, bytes]]:
    """Yield every encoding of a block: a copy if the old file has it, else the difference and compressed data."""
    for place in sorted(places):
        start = max(0, min(place, len(old) - len(block)))
        similar = old[start : start + len(block)]
        if similar == block:
            yield DeltaStep(COPY, start, len(block), 0), b""
            return
        content = compressor.compress(block, similar)
        yield DeltaStep(FILL, start, len(block), len(content)), content
        if len(similar) == len(block):
            difference = np.frombuffer(block, np.uint8) - np.frombuffer(similar, np.uint8)  # modulo 256
            content = compressor.compress(difference)
            yield DeltaStep(ADD, start, len(block), len(content)), content


def _stored_bytes(encoding: tuple[DeltaStep, bytes]) -> int:
    return encoding[0].stored_bytes


@contextmanager
def _replace_when_complete(out: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces ``out`` if the block ends without an error."""
    part = out.with_name(f".{out.name}.part")
    try:
        with part.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, out)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _check(file: BinaryIO, before: _BundleFiles, after: _BundleFiles) -> None:
    """Apply the delta as a board does; its digest checks raise if the result is not the new bundle."""
    file.seek(0)
    header = read_header(file, "the delta")
    delta = Delta("the delta", header, file, before, trust=False)
    for path in after.digests:
        delta.copy(path, lambda _: None)


def _report(out: str | Path, header: Header, files: tuple[FileDelta, ...], new: Bundle) -> DeltaReport:
    bundle_bytes = sum(file.size_bytes for file in files)
    delta_bytes = Path(out).stat().st_size
    share = delta_bytes / bundle_bytes
    why = _why_pointless(share, files, new) if share >= MAX_USEFUL_SHARE else ""
    return DeltaReport(str(out), header.old, header.new, delta_bytes, bundle_bytes, share, why, files)


def _why_pointless(share: float, files: tuple[FileDelta, ...], new: Bundle) -> str:
    schemes = {path: variant.scheme for variant in new.manifest.variants for path in variant.files}
    largest = max(files, key=lambda file: file.delta_bytes)
    advice = f"the delta has {share:.0%} of the bundle's bytes: send the bundle itself. "
    if any(file.encryption for file in new.manifest.files if file.path == largest.path):
        return f"{advice}{largest.path} is encrypted, so any change to it changes every byte"
    reason = f"{1 - largest.reused:.0%} of {largest.path} must be sent"
    if schemes.get(largest.path) in FLOATS and largest.reused < MAX_RETRAINED_REUSE:
        return f"{advice}{reason}: all its {schemes[largest.path]} weights changed, which is usual after training"
    return advice + reason
