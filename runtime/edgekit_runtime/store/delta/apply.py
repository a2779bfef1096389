"""Build a new bundle from a delta and the old bundle in a store. ``Delta`` offers what an install needs of a bundle."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Callable, Union

import numpy as np

from edgekit_runtime.errors import BundleError, DigestMismatch, MalformedBundle, SignatureInvalid, StoreError
from edgekit_runtime.format.manifest import MANIFEST_NAME, SIGNATURE_NAME
from edgekit_runtime.format.manifest_json import parse_manifest
from edgekit_runtime.host.sha256 import hex_digest, sha256
from edgekit_runtime.store.delta.codec import CODECS
from edgekit_runtime.store.delta.format import (
    ADD,
    COPY,
    MAGIC,
    MAX_BLOCK_BYTES,
    STEP,
    DeltaStep,
    read_header,
    read_steps,
)
from edgekit_runtime.store.generations import generation_name, lock_generation
from edgekit_runtime.trust.policy import trusted_keys

if TYPE_CHECKING:
    from typing import Protocol

    from edgekit_runtime.format.extents import BundlePath
    from edgekit_runtime.format.manifest import Manifest
    from edgekit_runtime.store.delta.format import Header
    from edgekit_runtime.store.generations import GenerationLock
    from edgekit_runtime.trust.policy import Trust

    class OldFiles(Protocol):
        """The files of the old bundle."""

        def read(self, path: str) -> Content:
            """Return the content of a file, listed in the manifest or not."""

        def close(self) -> None:
            """Release the files."""


Content = Union[bytes, memoryview]


def is_delta(path: BundlePath) -> bool:
    """Return whether a file starts with the magic of a delta."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:  # a folder, or unreadable: opening it as a bundle reports that
        return False


def delta_target(path: BundlePath) -> str:
    """Return the name of the generation that a delta builds, as its header states.

    Raises:
        MalformedBundle: the delta breaks the format.
    """
    with open(path, "rb") as file:
        return read_header(file, os.fspath(path)).new


def open_delta(path: BundlePath, store: str, trust: Trust = None) -> Delta:
    """Open a delta whose old bundle is in a store.

    Raises:
        StoreError: the old bundle is not in the store, or a package is missing.
        SignatureInvalid: a signature is required, and no trusted key signed the new bundle.
        MalformedBundle: the delta breaks the format.
        DigestMismatch: the result is not the new bundle.
    """
    name = os.fspath(path)
    try:
        file = open(name, "rb")  # noqa: SIM115  # the delta closes it
    except OSError as error:
        raise MalformedBundle(f"{name}: cannot be read: {error.strerror or error}") from error
    try:
        header = read_header(file, name)
        lock = lock_generation(os.path.abspath(store), header.old)
        if lock is None:
            raise StoreError(
                f"{name}: needs generation {header.old}, which {store} does not have: install the whole bundle"
            )
        return Delta(name, header, file, _MappedGeneration(lock, name), trust)
    except BaseException:  # also KeyboardInterrupt: close the file
        file.close()
        raise


class _MappedGeneration:
    """The memory-mapped files of a generation. They are not verified; the new files that are built from them are."""

    def __init__(self, lock: GenerationLock, name: str) -> None:
        self._lock, self._name = lock, name

    def read(self, path: str) -> Content:
        """Return the content of a file."""
        place = os.path.join(self._lock.folder, *path.split("/"))
        try:
            with open(place, "rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    return b""  # an empty file cannot be mapped
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            why = error.strerror or error
            raise MalformedBundle(f"{self._name}: {path} of the old bundle cannot be read: {why}") from error

    def close(self) -> None:
        """Release the generation."""
        self._lock.close()


class Delta:
    """An open delta.

    Attributes:
        manifest: the manifest of the new bundle.
    """

    def __init__(self, name: str, header: Header, file: BinaryIO, old: OldFiles, trust: Trust) -> None:
        self._name, self._file, self._old = name, file, old
        self._codec = CODECS[header.codec]()
        self._pieces = {piece.path: piece for piece in header.pieces}
        size_bytes = sum(piece.steps for piece in header.pieces) * STEP.size
        steps = self._codec.decompress(file.read(header.steps_bytes), size_bytes)
        self._steps = read_steps(steps, header, name)
        self._offsets = self._content_offsets(file.tell())
        self._unlisted = {p: self._build(p) for p in (MANIFEST_NAME, SIGNATURE_NAME) if p in self._pieces}
        if generation_name(self._unlisted) != header.new:
            raise DigestMismatch(f"{name}: does not give the manifest that its header names: copy the delta again")
        self._verify_signature(trust)
        self.manifest = self._read_manifest()

    def _content_offsets(self, offset: int) -> dict[str, int]:
        """Return where each file's contents begin; the last must end where the delta ends."""
        found = {}
        for path, steps in self._steps.items():
            found[path] = offset
            offset += sum(step.stored_bytes for step in steps)
        if offset != self._file.seek(0, os.SEEK_END):
            raise MalformedBundle(f"{self._name}: is cut off, or has bytes after its last step")
        return found

    def _verify_signature(self, trust: Trust) -> None:
        """Verify the signature of the new manifest before the manifest is parsed."""
        keys = trusted_keys(trust)
        if keys is None:
            return
        from edgekit_runtime.trust.signature import verify_signature

        if SIGNATURE_NAME not in self._unlisted:
            raise SignatureInvalid(
                f"{self._name}: its bundle is not signed, and a signature is required: sign it with `edgekit sign`"
            )
        try:
            signature = verify_signature(self._unlisted[SIGNATURE_NAME], keys)
        except SignatureInvalid as error:
            raise SignatureInvalid(f"{self._name}: {error}") from error
        signature.check_digests(self._name, {MANIFEST_NAME: hex_digest(self._unlisted[MANIFEST_NAME])})

    def _read_manifest(self) -> Manifest:
        try:
            manifest = parse_manifest(self._unlisted[MANIFEST_NAME])
        except BundleError as error:
            raise type(error)(f"{self._name}: {error}") from error
        listed = {record.path: record.size_bytes for record in manifest.files}
        built = {path: piece.size_bytes for path, piece in self._pieces.items() if path not in self._unlisted}
        if listed != built:
            raise MalformedBundle(f"{self._name}: does not build the files that the new manifest lists")
        self._digests = {record.path: record.sha256 for record in manifest.files}
        return manifest

    def unlisted(self) -> dict[str, bytes]:
        """Return the new ``manifest.json``, and the signature if there is one."""
        return dict(self._unlisted)

    def copy(self, path: str, write: Callable[[Any], Any]) -> None:
        """Build a listed file in blocks that are passed to ``write``, and check its digest at the end.

        Raises:
            DigestMismatch: the result is not the new file: the old file or the delta is damaged.
            MalformedBundle: the delta is damaged, or the old file has another size.
        """
        digest = sha256(self._pieces[path].size_bytes)
        for block in self._blocks(path):
            digest.update(block)
            write(block)
        if digest.hexdigest() != self._digests[path]:
            raise DigestMismatch(
                f"{self._name}: {path} has another digest than the new manifest says: the installed file or the delta "
                "is damaged: install the whole bundle"
            )

    def _build(self, path: str) -> bytes:
        return b"".join(self._blocks(path))

    def _blocks(self, path: str) -> Iterator[Content]:
        """Yield the content of a new file, at most MAX_BLOCK_BYTES at a time."""
        base = self._pieces[path].base
        old = memoryview(b"" if base is None else self._old.read(base))
        self._file.seek(self._offsets[path])
        for step in self._steps[path]:
            stored = self._file.read(step.stored_bytes)
            if step.kind == COPY:
                yield from self._copied(old, step, path)
            else:
                yield self._computed(old, step, stored)

    def _copied(self, old: memoryview, step: DeltaStep, path: str) -> Iterator[memoryview]:
        end = step.old_offset + step.size_bytes
        if end > len(old):
            raise MalformedBundle(f"{self._name}: copies bytes to {path} that the old file does not have")
        for start in range(step.old_offset, end, MAX_BLOCK_BYTES):
            yield old[start : min(start + MAX_BLOCK_BYTES, end)]

    def _computed(self, old: memoryview, step: DeltaStep, stored: bytes) -> Content:
        similar = old[step.old_offset : step.old_offset + step.size_bytes]
        if step.kind != ADD:
            return self._codec.decompress(stored, step.size_bytes, similar)
        if len(similar) != step.size_bytes:
            raise MalformedBundle(f"{self._name}: adds to bytes that the old file does not have")
        difference = np.frombuffer(self._codec.decompress(stored, step.size_bytes), np.uint8)
        added: bytes = (np.frombuffer(similar, np.uint8) + difference).tobytes()  # modulo 256
        return added

    def close(self) -> None:
        """Close the delta and release the old bundle."""
        self._file.close()
        self._old.close()

    def __enter__(self) -> Delta:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
