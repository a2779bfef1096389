"""Open a bundle, refusing before anything is allocated, and give out its files once their digests hold."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from edgekit_runtime.bundle.temp_folder import TempFolder
from edgekit_runtime.errors import BundleError, DecryptionFailed, DigestMismatch, MalformedBundle, SignatureInvalid
from edgekit_runtime.format import npy
from edgekit_runtime.format.extents import MAX_SIGNATURE_BYTES, BundlePath, Extent, find_extents
from edgekit_runtime.format.manifest import MANIFEST_NAME, SIGNATURE_NAME, FileRecord, Manifest
from edgekit_runtime.format.manifest_json import parse_manifest
from edgekit_runtime.format.strict_json import MAX_MANIFEST_BYTES
from edgekit_runtime.host.sha256 import hex_digest, sha256
from edgekit_runtime.trust.policy import Trust, believed

if TYPE_CHECKING:
    from edgekit_runtime.store.generations import GenerationLock
    from edgekit_runtime.tensors import Array
    from edgekit_runtime.trust.encryption import KeySource
    from edgekit_runtime.trust.public_key import PublicKey
    from edgekit_runtime.trust.signature import VerifiedSignature

_CHUNK_BYTES = 1 << 14


def open_bundle(path: BundlePath, trust: Trust = None, decryption_key: KeySource | None = None) -> Bundle:
    """Open a ``.edgekit`` archive or the same tree as a folder; of a store, its current generation.

    Checks structure, bounds, manifest, and that there is every listed file in its size and no other. Contents
    are held against their digests when they are used, or all at once by ``Bundle.verify_all``. Where trust is asked
    for, the signature is verified before anything that the manifest says is believed, and those are its digests.

    Args:
        path: where it is.
        trust: the public keys of which one must have signed it: files, folders or PEM. None takes the machine's, of
            ``$EDGEKIT_TRUST`` or ``/etc/edgekit/trust.d``, if there are any; False asks for no signature.
        decryption_key: of encrypted artifacts, when one is used: a file of 64 hexadecimal digits, or the 32 bytes.
            None takes the file of ``$EDGEKIT_KEY_FILE``, or the digits of ``$EDGEKIT_KEY``.

    Raises:
        SignatureInvalid: trust was asked for and not established.
        MalformedBundle: there is no bundle at the path, or it breaks the format.
        UnsupportedVersion: a newer edgekit wrote it.
    """
    name, hold, keys = os.fspath(path), None, believed(trust)
    if os.path.islink(os.path.join(name, "current")):
        from edgekit_runtime.store.generations import hold_current

        hold = hold_current(name)
        name = hold.folder
    try:
        extents = find_extents(name)
        data = _manifest_bytes(name, extents)
        seal = None if keys is None else _seal(name, extents, keys)
    except OSError as error:
        raise MalformedBundle(f"{name}: cannot be read: {error.strerror or error}") from error
    manifest_sha256 = hex_digest(data)
    if seal is not None:
        seal.hold(name, {MANIFEST_NAME: manifest_sha256})
    manifest = _manifest(name, data)
    _match(name, manifest, extents)
    if seal is not None:
        seal.hold_all(name, {MANIFEST_NAME: manifest_sha256, **{file.path: file.sha256 for file in manifest.files}})
    bundle = Bundle(name, manifest, extents, hold, manifest_sha256)
    bundle.signed_by = seal.key_id if seal else None
    bundle.decryption_key = decryption_key
    return bundle


def _manifest_bytes(name: str, extents: Mapping[str, Extent]) -> bytes:
    """The bytes of the manifest, read once: what is verified is what is parsed."""
    extent = extents.get(MANIFEST_NAME)
    if extent is None:
        raise MalformedBundle(f"{name}: is not a bundle: there is no {MANIFEST_NAME} in it")
    if extent.size_bytes > MAX_MANIFEST_BYTES:
        raise MalformedBundle(f"{name}: {MANIFEST_NAME} has {extent.size_bytes} bytes, over the bound")
    with extent.open() as file:
        return file.read(extent.size_bytes)


def _manifest(name: str, data: bytes) -> Manifest:
    try:
        return parse_manifest(data)
    except BundleError as error:
        raise type(error)(f"{name}: {error}") from error


def _seal(name: str, extents: Mapping[str, Extent], keys: tuple[PublicKey, ...]) -> VerifiedSignature:
    """What a trusted key vouches for."""
    from edgekit_runtime.trust.signature import verify_signature

    extent = extents.get(SIGNATURE_NAME)
    if extent is None:
        raise SignatureInvalid(f"{name}: is not signed, and only signed bundles are trusted here: `edgekit sign` it")
    if extent.size_bytes > MAX_SIGNATURE_BYTES:
        raise SignatureInvalid(f"{name}: {SIGNATURE_NAME} is larger than {MAX_SIGNATURE_BYTES} bytes")
    with extent.open() as file:
        data = file.read(extent.size_bytes)
    try:
        return verify_signature(data, keys)
    except SignatureInvalid as error:
        raise SignatureInvalid(f"{name}: {error}") from error


def _match(name: str, manifest: Manifest, extents: Mapping[str, Extent]) -> None:
    """Refuse what is unlisted, missing or of another size."""
    listed = {record.path: record.size_bytes for record in manifest.files}
    for path in sorted(extents.keys() - listed.keys() - {MANIFEST_NAME, SIGNATURE_NAME}):
        raise MalformedBundle(f"{name}: {path!r} is in the bundle and not in its manifest")
    for path, size_bytes in listed.items():
        if path not in extents:
            raise MalformedBundle(f"{name}: {path!r} is in the manifest and not in the bundle")
        if extents[path].size_bytes != size_bytes:
            have = extents[path].size_bytes
            raise MalformedBundle(f"{name}: {path!r} has {have} bytes where the manifest says {size_bytes}")
    if SIGNATURE_NAME in extents and extents[SIGNATURE_NAME].size_bytes > MAX_SIGNATURE_BYTES:
        raise MalformedBundle(f"{name}: {SIGNATURE_NAME} is larger than {MAX_SIGNATURE_BYTES} bytes")


class Bundle:
    """An open bundle. Nothing leaves it before its SHA-256 has been held against the manifest.

    Attributes:
        path: where it was opened.
        manifest: what it says of itself.
        hold: keeps it in its store while it is open; None where it is in none.
        manifest_sha256: the digest of ``manifest.json``, in hexadecimal digits: what identifies the whole bundle.
        signed_by: the id of the trusted key that signed it; None where trust was not asked for.
        decryption_key: where the key of encrypted artifacts is; None leaves that to the environment.
    """

    def __init__(  # what was found when it was opened
        self,
        path: str,
        manifest: Manifest,
        extents: Mapping[str, Extent],
        hold: GenerationLock | None = None,
        manifest_sha256: str = "",
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.hold = hold
        self.manifest_sha256 = manifest_sha256
        self.signed_by: str | None = None
        self.decryption_key: KeySource | None = None
        self._extents = extents
        self._records: dict[str, FileRecord] = {record.path: record for record in manifest.files}
        self._held: set[str] = set()  # paths of whole files whose digest has been checked
        self._scratch: TempFolder | None = None
        self._in_memory: list[int] = []  # descriptors of what was decrypted

    def __repr__(self) -> str:
        return f"<Bundle {self.path!r}>"

    def read(self, path: str) -> bytes:
        """The content of a listed file, decrypted.

        Raises:
            DecryptionFailed: its key is missing or wrong.
            DigestMismatch: it is not the file that was packed.
            MalformedBundle: the path is not listed, or the file cannot be read any more.
        """
        with _reading(self.path, path), self._extent(path).open() as file:
            data = file.read(self._extents[path].size_bytes)
        self._compare(path, hex_digest(data))
        return self._decrypted(path, data) if self._records[path].encryption else data

    def array(self, path: str) -> Array:
        """The array of a listed ``.npy`` file, mapped read-only from where it lies.

        Raises:
            MalformedBundle: it is not a plain ``.npy`` (pickled objects are refused) of exactly its size.
            DigestMismatch: it is not the file that was packed.
        """
        extent = self._extent(path)
        if extent.size_bytes < 16:
            raise MalformedBundle(f"{self.path}: {path}: is not an .npy file")
        with _reading(self.path, path), extent.open() as file:
            shape = (extent.size_bytes,)
            content = np.memmap(file, dtype=np.uint8, mode="r", offset=extent.offset, shape=shape)
        self._compare(path, hex_digest(content))
        return npy.view(content, f"{self.path}: {path}")

    def local_path(self, path: str) -> str:
        """A real file with the content, for engines that open files themselves.

        In a folder that is the file itself; from an archive it is taken out into a private folder that
        ``close`` removes, under its own relative path, so that files which belong together stay together. What is
        encrypted is never written there: in its place is a link to memory, which is this process's.

        Raises:
            DecryptionFailed: its key is missing or wrong.
            DigestMismatch: it is not the file that was packed.
            EngineUnavailable: there is no room for it, or no place.
        """
        extent, encrypted = self._extent(path), self._records[path].encryption
        if path not in self._held:
            if encrypted:
                self._link_to_memory(path)
            elif extent.whole:
                self._digest(path)
            else:
                self._private().write(path, lambda write: self._digest(path, write))
            self._held.add(path)
        return extent.source if extent.whole and not encrypted else os.path.join(self.scratch(), *path.split("/"))

    def digest(self, path: str) -> str:
        """The SHA-256 that the manifest gives for a listed file, in hexadecimal digits.

        "" for what is encrypted: nothing that an engine makes of it may be kept, for that would be in clear.
        """
        return "" if self._records[path].encryption else self._records[path].sha256

    def key_for_children(self) -> str | None:
        """The key of encrypted artifacts in hexadecimal digits, for a pipe to a child; None where none is needed.

        Raises:
            DecryptionFailed: there is none.
        """
        if not any(record.encryption for record in self._records.values()):
            return None
        from edgekit_runtime.trust.encryption import find_key

        return find_key(self.decryption_key).hex()

    def verify_all(self) -> None:
        """Hold every file against its digest.

        Raises:
            DigestMismatch: the first file that is not the one that was packed.
        """
        for path in self._records:
            self._digest(path)

    def copy(self, path: str, write: Callable[[bytes], Any]) -> None:
        """Give a listed file's content to ``write`` in pieces; only when all are written is it known to be right.

        Raises:
            DigestMismatch: it is not the file that was packed.
            MalformedBundle: the path is not listed, or the file cannot be read any more.
        """
        self._extent(path)
        self._digest(path, write)

    def unlisted(self) -> dict[str, bytes]:
        """The files that the manifest does not list: itself, and the signature if there is one.

        Raises:
            MalformedBundle: one cannot be read any more.
        """
        found = [name for name in (MANIFEST_NAME, SIGNATURE_NAME) if name in self._extents]
        return {name: b"".join(self._pieces(name)) for name in found}

    def scratch(self) -> str:
        """A private folder that goes when the bundle is closed, also for children, which may be killed.

        Raises:
            EngineUnavailable: there is no place for it.
        """
        return self._private().path

    def _private(self) -> TempFolder:
        if self._scratch is None:
            self._scratch = TempFolder()
        return self._scratch

    def close(self) -> None:
        """Remove what was taken out of an archive. Paths given out before are not valid any more."""
        if self._scratch is not None:
            self._scratch.remove()
            self._scratch = None
            self._held.clear()
        while self._in_memory:
            os.close(self._in_memory.pop())
        if self.hold is not None:
            self.hold.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _extent(self, path: str) -> Extent:
        if path not in self._records:
            raise MalformedBundle(f"{self.path}: {path!r} is not in the manifest's files")
        return self._extents[path]

    def _digest(self, path: str, copy: Callable[[bytes], Any] | None = None) -> None:
        """Read a file in pieces, copying it on the way if asked, and hold it against its digest."""
        digest = sha256(self._extents[path].size_bytes)
        for piece in self._pieces(path):
            digest.update(piece)
            if copy is not None:
                copy(piece)
        self._compare(path, digest.hexdigest())

    def _pieces(self, path: str) -> Iterator[bytes]:
        left_bytes = self._extents[path].size_bytes
        with _reading(self.path, path), self._extents[path].open() as source:
            while piece := source.read(min(left_bytes, _CHUNK_BYTES)):
                left_bytes -= len(piece)
                yield piece

    def _decrypted(self, path: str, stored: bytes) -> bytes:
        from edgekit_runtime.trust.encryption import decrypt, find_key

        try:
            return decrypt(stored, find_key(self.decryption_key), path)
        except DecryptionFailed as error:
            raise DecryptionFailed(f"{self.path}: {path}: {error}") from error

    def _link_to_memory(self, path: str) -> None:
        from edgekit_runtime.trust.encryption import to_memory

        self._in_memory.append(to_memory(self.read(path)))
        self._private().link(path, f"/proc/{os.getpid()}/fd/{self._in_memory[-1]}")

    def _compare(self, path: str, have: str) -> None:
        want = self._records[path].sha256
        if have != want:
            raise DigestMismatch(
                f"{self.path}: {path} is not the file that was packed: sha256 {have[:12]}..., "
                f"the manifest says {want[:12]}...: copy the bundle again"
            )


class _reading:  # a statement, not a thing: with _reading(...)
    """Turn a failed read into a refusal that names the bundle and the file."""

    def __init__(self, name: str, path: str) -> None:
        self._where = f"{name}: {path}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if isinstance(error, (OSError, ValueError)):  # mmap's word for a file that became too short is ValueError
            why = getattr(error, "strerror", None) or error
            raise MalformedBundle(f"{self._where}: cannot be read: {why}") from error
