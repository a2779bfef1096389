"""A delta: what makes a new bundle of an old one that a store has. It gives what a bundle gives to be installed."""

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
from edgekit_runtime.store.delta.format import ADD, COPY, MAGIC, STEP, STRETCH_BYTES, Step, read_header, read_steps
from edgekit_runtime.store.generations import hold, name_of
from edgekit_runtime.trust.policy import believed

if TYPE_CHECKING:
    from typing import Protocol

    from edgekit_runtime.format.extents import BundlePath
    from edgekit_runtime.format.manifest import Manifest
    from edgekit_runtime.store.delta.format import Header
    from edgekit_runtime.store.generations import GenerationLock
    from edgekit_runtime.trust.policy import Trust

    class Old(Protocol):
        """Where the old bundle's files are."""

        def read(self, path: str) -> Content:
            """The content of a file, listed or not."""

        def close(self) -> None:
            """Let go of it."""


Content = Union[bytes, memoryview]


def is_delta(path: BundlePath) -> bool:
    """Whether a file begins as a delta does."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:  # a folder is none, and what cannot be read is refused where a bundle is opened
        return False


def delta_to(path: BundlePath) -> str:
    """The name of the generation that a delta makes, as it says itself.

    Raises:
        MalformedBundle: it breaks the format.
    """
    with open(path, "rb") as file:
        return read_header(file, os.fspath(path)).new


def open_delta(path: BundlePath, store: str, trust: Trust = None) -> Delta:
    """Open a delta to a bundle that a store has.

    Raises:
        StoreError: the old bundle is not in the store, or a package is missing.
        SignatureInvalid: trust was asked for, and no such key signed the new bundle.
        MalformedBundle: it breaks the format.
        DigestMismatch: what it makes is not the new bundle.
    """
    name = os.fspath(path)
    try:
        file = open(name, "rb")  # noqa: SIM115  # the delta closes it
    except OSError as error:
        raise MalformedBundle(f"{name}: cannot be read: {error.strerror or error}") from error
    try:
        header = read_header(file, name)
        held = hold(os.path.abspath(store), header.old)
        if held is None:
            raise StoreError(
                f"{name}: is made from generation {header.old}, which {store} does not have: install the whole bundle"
            )
        return Delta(name, header, file, _Mapped(held, name), trust)
    except BaseException:  # whatever stopped it, the file is closed
        file.close()
        raise


class _Mapped:
    """The files of a generation, mapped; they are not verified: what is made of them is."""

    def __init__(self, held: GenerationLock, name: str) -> None:
        self._held, self._name = held, name

    def read(self, path: str) -> Content:
        """The content of a file."""
        place = os.path.join(self._held.folder, *path.split("/"))
        try:
            with open(place, "rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    return b""  # nothing can be mapped of it
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            why = error.strerror or error
            raise MalformedBundle(f"{self._name}: {path} of the old bundle cannot be read: {why}") from error

    def close(self) -> None:
        """Let go of the generation."""
        self._held.close()


class Delta:
    """An open delta.

    Attributes:
        manifest: of the new bundle.
    """

    def __init__(self, name: str, header: Header, file: BinaryIO, old: Old, trust: Trust) -> None:
        self._name, self._file, self._old = name, file, old
        self._codec = CODECS[header.codec]()
        self._pieces = {piece.path: piece for piece in header.pieces}
        size_bytes = sum(piece.steps for piece in header.pieces) * STEP.size
        steps = self._codec.expand(file.read(header.steps_bytes), size_bytes)
        self._steps = read_steps(steps, header, name)
        self._offsets = self._contents(file.tell())
        self._unlisted = {p: self._made(p) for p in (MANIFEST_NAME, SIGNATURE_NAME) if p in self._pieces}
        if name_of(self._unlisted) != header.new:
            raise DigestMismatch(f"{name}: does not make the manifest that was packed: copy the delta again")
        self._believe(trust)
        self.manifest = self._read_manifest()

    def _contents(self, offset: int) -> dict[str, int]:
        """Where each file's contents begin; together they must be all that is left."""
        found = {}
        for path, steps in self._steps.items():
            found[path] = offset
            offset += sum(step.stored_bytes for step in steps)
        if offset != self._file.seek(0, os.SEEK_END):
            raise MalformedBundle(f"{self._name}: is cut off, or has bytes that belong to no step")
        return found

    def _believe(self, trust: Trust) -> None:
        """Hold the new bundle's signature against its manifest, before that is believed."""
        keys = believed(trust)
        if keys is None:
            return
        from edgekit_runtime.trust.signature import verify_signature

        if SIGNATURE_NAME not in self._unlisted:
            raise SignatureInvalid(f"{self._name}: its bundle is not signed, and only signed ones are trusted here")
        try:
            seal = verify_signature(self._unlisted[SIGNATURE_NAME], keys)
        except SignatureInvalid as error:
            raise SignatureInvalid(f"{self._name}: {error}") from error
        seal.hold(self._name, {MANIFEST_NAME: hex_digest(self._unlisted[MANIFEST_NAME])})

    def _read_manifest(self) -> Manifest:
        try:
            manifest = parse_manifest(self._unlisted[MANIFEST_NAME])
        except BundleError as error:
            raise type(error)(f"{self._name}: {error}") from error
        listed = {record.path: record.size_bytes for record in manifest.files}
        made = {path: piece.size_bytes for path, piece in self._pieces.items() if path not in self._unlisted}
        if listed != made:
            raise MalformedBundle(f"{self._name}: makes other files than the new manifest lists")
        self._digests = {record.path: record.sha256 for record in manifest.files}
        return manifest

    def unlisted(self) -> dict[str, bytes]:
        """The new bundle's ``manifest.json``, and its signature if it has one."""
        return dict(self._unlisted)

    def copy(self, path: str, write: Callable[[Any], Any]) -> None:
        """Make a listed file, and hold it against the new manifest's digest.

        Raises:
            DigestMismatch: it is not the new bundle's file: the old one, or the delta, is damaged.
            MalformedBundle: the delta is damaged, or the old file is another.
        """
        digest = sha256(self._pieces[path].size_bytes)
        for stretch in self._stretches(path):
            digest.update(stretch)
            write(stretch)
        if digest.hexdigest() != self._digests[path]:
            raise DigestMismatch(
                f"{self._name}: what it makes of {path} is not the new bundle's file: the old one or the delta is "
                "damaged: install the whole bundle"
            )

    def _made(self, path: str) -> bytes:
        return b"".join(self._stretches(path))

    def _stretches(self, path: str) -> Iterator[Content]:
        """The content of a new file, at most STRETCH_BYTES at a time."""
        base = self._pieces[path].base
        old = memoryview(b"" if base is None else self._old.read(base))
        self._file.seek(self._offsets[path])
        for step in self._steps[path]:
            stored = self._file.read(step.stored_bytes)
            if step.kind == COPY:
                yield from self._copied(old, step, path)
            else:
                yield self._computed(old, step, stored)

    def _copied(self, old: memoryview, step: Step, path: str) -> Iterator[memoryview]:
        end = step.old_offset + step.size_bytes
        if end > len(old):
            raise MalformedBundle(f"{self._name}: copies to {path} what the old file does not have")
        for start in range(step.old_offset, end, STRETCH_BYTES):
            yield old[start : min(start + STRETCH_BYTES, end)]

    def _computed(self, old: memoryview, step: Step, stored: bytes) -> Content:
        stretch = old[step.old_offset : step.old_offset + step.size_bytes]
        if step.kind != ADD:
            return self._codec.expand(stored, step.size_bytes, stretch)
        if len(stretch) != step.size_bytes:
            raise MalformedBundle(f"{self._name}: adds to what the old file does not have")
        difference = np.frombuffer(self._codec.expand(stored, step.size_bytes), np.uint8)
        added: bytes = (np.frombuffer(stretch, np.uint8) + difference).tobytes()  # modulo 256
        return added

    def close(self) -> None:
        """Close the delta, and let go of the old bundle."""
        self._file.close()
        self._old.close()

    def __enter__(self) -> Delta:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
