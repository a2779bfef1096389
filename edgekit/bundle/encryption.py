"""Encrypt the artifacts of a bundle, so that who copies the board's flash memory has no model.

``edgekit_runtime.trust.encryption`` is the reader, and says how a file is stored.
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
class Encrypted:
    """What was encrypted."""

    bundle: str
    files: tuple[str, ...]


def encrypt(bundle: str | Path, key: bytes, out: str | Path) -> Encrypted:
    """Write the bundle with every variant's files encrypted; all else stays in clear.

    The same bundle and key give the same bytes.

    Args:
        bundle: a file or a folder, not signed yet: a signature is of what is stored.
        key: 32 bytes.
        out: where it goes: a file, or a new folder where the bundle is one.

    Raises:
        PlanError: it is signed, or encrypted already, or a file is too large.
        BundleError: it is no whole bundle.
        OSError: ``out`` cannot be written.
    """
    with open_bundle(bundle, trust=False) as opened:
        contents: dict[str, Content] = {**find_extents(os.fspath(bundle))}
        if SIGNATURE_NAME in contents:
            raise PlanError(f"{bundle}: is signed, and signatures are of what is stored: encrypt first, then sign")
        artifacts = sorted({path for variant in opened.manifest.variants for path in variant.files})
        _refuse(opened, artifacts)
        files = {record.path: contents[record.path] for record in opened.manifest.files}
        opened.verify_all()
        files |= {path: sealed(opened.read(path), key, path) for path in artifacts}
        write_bundle(opened.manifest, files, out, as_directory=Path(bundle).is_dir(), encrypted=artifacts)
    return Encrypted(os.fspath(out), tuple(artifacts))


def sealed(clear: bytes, key: bytes, path: str) -> bytes:
    """A file as it is stored: nonce, ciphertext and tag.

    The nonce is drawn from key, path and content, so that a bundle is the same each time. One comes twice only with the
    same content at the same path, and then tells nothing but that.

    Raises:
        PlanError: the package that encrypts is missing.
    """
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise PlanError(f"encrypting needs the package cryptography: {INSTALL}") from error
    drawn = b"edgekit nonce\0" + path.encode() + b"\0" + sha256(clear).digest()
    nonce = hmac.digest(key, drawn, "sha256")[:NONCE_BYTES]
    return nonce + AESGCM(key).encrypt(nonce, clear, path.encode())


def _refuse(opened: Bundle, artifacts: list[str]) -> None:
    for record in opened.manifest.files:
        if record.encryption:
            raise PlanError(f"{opened.path}: {record.path} is encrypted already: begin with the bundle in clear")
        if record.path in artifacts and record.size_bytes > MAX_CLEAR_BYTES:
            raise PlanError(f"{opened.path}: {record.path} has {record.size_bytes} bytes, more than can be encrypted")
