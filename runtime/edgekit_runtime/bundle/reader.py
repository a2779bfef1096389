"""Open a bundle, check its structure before anything is allocated, and check the digest of each file it reads."""

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
from edgekit_runtime.trust.policy import Trust, trusted_keys

if TYPE_CHECKING:
    from typing import Protocol

    from edgekit_runtime.tensors import Array
    from edgekit_runtime.trust.encryption import KeySource
    from edgekit_runtime.trust.public_key import PublicKey
    from edgekit_runtime.trust.signature import VerifiedSignature

    class FolderLock(Protocol):
        """A store's lock, which keeps the folder of an open bundle from being removed."""

        store: str  # path
        generation: str  # name

        def close(self) -> None:
            """Release the lock. May be called again."""


_CHUNK_BYTES = 1 << 14


def read_bundle(
    path: BundlePath, trust: Trust = None, decryption_key: KeySource | None = None, lock: FolderLock | None = None
) -> Bundle:
    """Open a bundle that is an archive or a folder. ``store.open.open_bundle`` opens stores, too.

    Args:
        path: the archive or folder.
        trust: as for ``open_bundle``.
        decryption_key: as for ``open_bundle``.
        lock: released when the bundle is closed.

    Raises:
        BundleError: as ``open_bundle``.
    """
    name, keys = os.fspath(path), trusted_keys(trust)
    try:
        extents = find_extents(name)
        data = _manifest_bytes(name, extents)
        signature = None if keys is None else _signature(name, extents, keys)
    except OSError as error:
        raise MalformedBundle(f"{name}: cannot be read: {error.strerror or error}") from error
    manifest_sha256 = hex_digest(data)
    if signature is not None:
        signature.check_digests(name, {MANIFEST_NAME: manifest_sha256})
    manifest = _manifest(name, data)
    _check_files(name, manifest, extents)
    if signature is not None:
        digests = {file.path: file.sha256 for file in manifest.files}
        signature.check_all_digests(name, {MANIFEST_NAME: manifest_sha256, **digests})
    bundle = Bundle(name, manifest, extents, lock, manifest_sha256)
    bundle.signed_by = signature.key_id if signature else None
    bundle.decryption_key = decryption_key
    return bundle


def _manifest_bytes(name: str, extents: Mapping[str, Extent]) -> bytes:
    """Read the manifest once: the bytes that are verified are the bytes that are parsed."""
    extent = extents.get(MANIFEST_NAME)
    if extent is None:
        raise MalformedBundle(f"{name}: is not a bundle: it has no {MANIFEST_NAME}")
    if extent.size_bytes > MAX_MANIFEST_BYTES:
        raise MalformedBundle(f"{name}: {MANIFEST_NAME} has {extent.size_bytes} bytes, over the limit")
    with extent.open() as file:
        return file.read(extent.size_bytes)


def _manifest(name: str, data: bytes) -> Manifest:
    try:
        return parse_manifest(data)
    except BundleError as error:
        raise type(error)(f"{name}: {error}") from error


def _signature(name: str, extents: Mapping[str, Extent], keys: tuple[PublicKey, ...]) -> VerifiedSignature:
    """Verify the bundle's signature with the trusted keys."""
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


def _check_files(name: str, manifest: Manifest, extents: Mapping[str, Extent]) -> None:
    """Refuse files that are not listed, missing, or of another size."""
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
    """An open bundle. The content of a file is returned only after its SHA-256 was compared with the manifest's.

    Attributes:
        path: the archive or folder.
        manifest: the parsed manifest.
        lock: a store's lock on the folder while the bundle is open; None for a bundle that is in no store.
        manifest_sha256: the digest of ``manifest.json``, in hexadecimal digits, which identifies the bundle.
        signed_by: the id of the trusted key that signed it; None if no signature was required.
        decryption_key: where the key of encrypted artifacts is; None takes it from the environment.
    """

    def __init__(
        self,
        path: str,
        manifest: Manifest,
        extents: Mapping[str, Extent],
        lock: FolderLock | None = None,
        manifest_sha256: str = "",
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.lock = lock
        self.manifest_sha256 = manifest_sha256
        self.signed_by: str | None = None
        self.decryption_key: KeySource | None = None
        self._extents = extents
        self._records: dict[str, FileRecord] = {record.path: record for record in manifest.files}
        self._checked: set[str] = set()  # files with a local path, whose digest was checked
        self._temp_folder: TempFolder | None = None
        self._decrypted_files: list[int] = []  # descriptors of decrypted files in memory

    def __repr__(self) -> str:
        return f"<Bundle {self.path!r}>"

    def read(self, path: str) -> bytes:
        """Return the content of a listed file, decrypted.

        Raises:
            DecryptionFailed: its key is missing or wrong.
            DigestMismatch: it is not the file that was packed.
            MalformedBundle: the path is not listed, or the file can no longer be read.
        """
        with _ReadErrors(self.path, path), self._extent(path).open() as file:
            data = file.read(self._extents[path].size_bytes)
        self._compare(path, hex_digest(data))
        return self._decrypted(path, data) if self._records[path].encryption else data

    def array(self, path: str) -> Array:
        """Return the array of a listed ``.npy`` file, mapped read-only from the archive or folder.

        Raises:
            MalformedBundle: it is not a plain ``.npy`` (pickled objects are refused) of exactly its size.
            DigestMismatch: it is not the file that was packed.
        """
        extent = self._extent(path)
        if extent.size_bytes < 16:
            raise MalformedBundle(f"{self.path}: {path}: is not an .npy file")
        with _ReadErrors(self.path, path), extent.open() as file:
            shape = (extent.size_bytes,)
            content = np.memmap(file, dtype=np.uint8, mode="r", offset=extent.offset, shape=shape)
        self._compare(path, hex_digest(content))
        return npy.view(content, f"{self.path}: {path}")

    def local_path(self, path: str) -> str:
        """Return the path of a file with the content, for engines that open files themselves.

        In a folder this is the file itself. A file of an archive is copied to a private temporary folder, which
        ``close`` removes, with its relative path, so that files that belong together stay together. Encrypted files
        are decrypted to memory only: the temporary folder holds a link to a memory file of this process.

        Raises:
            DecryptionFailed: its key is missing or wrong.
            DigestMismatch: it is not the file that was packed.
            EngineUnavailable: the temporary folder cannot be made or has no room.
        """
        extent, encrypted = self._extent(path), self._records[path].encryption
        if path not in self._checked:
            if encrypted:
                self._link_to_memory(path)
            elif extent.whole:
                self._check_digest(path)
            else:
                self._private_folder().write(path, lambda write: self._check_digest(path, write))
            self._checked.add(path)
        return extent.source if extent.whole and not encrypted else os.path.join(self.temp_folder(), *path.split("/"))

    def digest(self, path: str) -> str:
        """Return the SHA-256 of a listed file from the manifest, in hexadecimal digits.

        Returns "" for an encrypted file: an engine must not cache a compiled model of it, which would be in clear.
        """
        return "" if self._records[path].encryption else self._records[path].sha256

    def key_for_children(self) -> str | None:
        """Return the key of encrypted artifacts, in hexadecimal digits, to send to a child; None if not needed.

        Raises:
            DecryptionFailed: the key is missing.
        """
        if not any(record.encryption for record in self._records.values()):
            return None
        from edgekit_runtime.trust.encryption import find_key

        return find_key(self.decryption_key).hex()

    def verify_all(self) -> None:
        """Check the digest of every file.

        Raises:
            DigestMismatch: a file is not the one that was packed; the message names the first.
        """
        for path in self._records:
            self._check_digest(path)

    def copy(self, path: str, write: Callable[[bytes], Any]) -> None:
        """Pass a listed file's content to ``write`` in chunks. Its digest is checked after the last chunk.

        Raises:
            DigestMismatch: it is not the file that was packed.
            MalformedBundle: the path is not listed, or the file can no longer be read.
        """
        self._extent(path)
        self._check_digest(path, write)

    def unlisted(self) -> dict[str, bytes]:
        """Return the files that the manifest does not list: itself, and the signature if there is one.

        Raises:
            MalformedBundle: a file can no longer be read.
        """
        found = [name for name in (MANIFEST_NAME, SIGNATURE_NAME) if name in self._extents]
        return {name: b"".join(self._chunks(name)) for name in found}

    def temp_folder(self) -> str:
        """Return a private temporary folder, which ``close`` removes; child processes use it, too.

        Raises:
            EngineUnavailable: the folder cannot be made.
        """
        return self._private_folder().path

    def _private_folder(self) -> TempFolder:
        if self._temp_folder is None:
            self._temp_folder = TempFolder()
        return self._temp_folder

    def close(self) -> None:
        """Remove the temporary folder and release the lock. Paths from ``local_path`` are no longer valid."""
        if self._temp_folder is not None:
            self._temp_folder.remove()
            self._temp_folder = None
            self._checked.clear()
        while self._decrypted_files:
            os.close(self._decrypted_files.pop())
        if self.lock is not None:
            self.lock.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _extent(self, path: str) -> Extent:
        if path not in self._records:
            raise MalformedBundle(f"{self.path}: {path!r} is not in the manifest's files")
        return self._extents[path]

    def _check_digest(self, path: str, write: Callable[[bytes], Any] | None = None) -> None:
        """Read a file in chunks, pass each to ``write`` if given, and check the digest."""
        digest = sha256(self._extents[path].size_bytes)
        for chunk in self._chunks(path):
            digest.update(chunk)
            if write is not None:
                write(chunk)
        self._compare(path, digest.hexdigest())

    def _chunks(self, path: str) -> Iterator[bytes]:
        left_bytes = self._extents[path].size_bytes
        with _ReadErrors(self.path, path), self._extents[path].open() as source:
            while chunk := source.read(min(left_bytes, _CHUNK_BYTES)):
                left_bytes -= len(chunk)
                yield chunk

    def _decrypted(self, path: str, stored: bytes) -> bytes:
        from edgekit_runtime.trust.encryption import decrypt, find_key

        try:
            return decrypt(stored, find_key(self.decryption_key), path)
        except DecryptionFailed as error:
            raise DecryptionFailed(f"{self.path}: {path}: {error}") from error

    def _link_to_memory(self, path: str) -> None:
        from edgekit_runtime.trust.encryption import to_memory

        self._decrypted_files.append(to_memory(self.read(path)))
        self._private_folder().link(path, f"/proc/{os.getpid()}/fd/{self._decrypted_files[-1]}")

    def _compare(self, path: str, have: str) -> None:
        want = self._records[path].sha256
        if have != want:
            raise DigestMismatch(
                f"{self.path}: {path} is not the file that was packed: sha256 {have[:12]}..., "
                f"the manifest says {want[:12]}...: copy the bundle again"
            )


class _ReadErrors:
    """Raise MalformedBundle with the names of bundle and file when reading fails."""

    def __init__(self, name: str, path: str) -> None:
        self._where = f"{name}: {path}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if isinstance(error, (OSError, ValueError)):  # mmap raises ValueError for a file that became too short
            why = getattr(error, "strerror", None) or error
            raise MalformedBundle(f"{self._where}: cannot be read: {why}") from error
