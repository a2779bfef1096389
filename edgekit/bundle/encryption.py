"""Encrypt the artifacts of a bundle, so that a copy of the board's flash memory does not reveal the model.

``edgekit_runtime.trust.encryption`` decrypts them and documents how a file is stored.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from edgekit.bundle.writer import Content, write_bundle
from edgekit_runtime import open_bundle
from edgekit_runtime.bundle.reader import Bundle
from edgekit_runtime.errors import PlanError
from edgekit_runtime.format.extents import find_extents
from edgekit_runtime.format.manifest import SIGNATURE_NAME
from edgekit_runtime.trust.encryption import MAX_CLEAR_BYTES, NONCE_BYTES

INSTALL = "pip install cryptography"


@dataclass(frozen=True)
class EncryptionResult:
    """The result of encrypting a bundle."""

    bundle: str
    files: tuple[str, ...]


def encrypt(bundle: str | Path, key: bytes, out: str | Path) -> EncryptionResult:
    """Write a copy of the bundle in which the files of all variants are encrypted; all others stay unencrypted.

    The same bundle and key give the same bytes.

    Args:
        bundle: a file or a folder, not signed yet, because signatures cover the stored bytes.
        key: 32 bytes.
        out: path of the encrypted bundle: a file, or a new folder if the bundle is a folder.

    Raises:
        PlanError: the bundle is signed or encrypted already, or a file is too large.
        BundleError: the bundle is damaged.
        OSError: ``out`` cannot be written.
    """
    with open_bundle(bundle, trust=False) as opened:
        contents: dict[str, Content] = {**find_extents(os.fspath(bundle))}
        if SIGNATURE_NAME in contents:
            raise PlanError(f"{bundle}: is signed, and signatures cover the stored bytes: encrypt first, then sign")
        artifacts = sorted({path for variant in opened.manifest.variants for path in variant.files})
        _check_files(opened, artifacts)
        files = {record.path: contents[record.path] for record in opened.manifest.files}
        opened.verify_all()
        files |= {path: encrypt_content(opened.read(path), key, path) for path in artifacts}
        write_bundle(opened.manifest, files, out, as_directory=Path(bundle).is_dir(), encrypted=artifacts)
    return EncryptionResult(os.fspath(out), tuple(artifacts))


def encrypt_content(clear: bytes, key: bytes, path: str) -> bytes:
    """Return the stored form of a file: nonce, ciphertext and tag.

    The nonce is derived from key, path and content, so that the same input gives the same bytes. A nonce repeats only
    for the same content at the same path, which reveals only that both are equal.

    Raises:
        PlanError: the package cryptography is not installed.
    """
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise PlanError(f"encrypting needs the package cryptography: {INSTALL}") from error
    seed = b"edgekit nonce\0" + path.encode() + b"\0" + sha256(clear).digest()
    nonce = hmac.digest(key, seed, "sha256")[:NONCE_BYTES]
    return nonce + AESGCM(key).encrypt(nonce, clear, path.encode())


def _check_files(opened: Bundle, artifacts: list[str]) -> None:
    for record in opened.manifest.files:
        if record.encryption:
            raise PlanError(f"{opened.path}: {record.path} is encrypted already: use the unencrypted bundle")
        if record.path in artifacts and record.size_bytes > MAX_CLEAR_BYTES:
            raise PlanError(f"{opened.path}: {record.path} has {record.size_bytes} bytes, more than can be encrypted")
