"""Decrypt encrypted artifacts in memory: AES-256-GCM with a key of 32 bytes.

An encrypted file consists of a nonce of 12 bytes, the ciphertext and a tag of 16 bytes. Its path is authenticated, too.
The manifest has the sizes and digests of the encrypted files, so everything except running works without the key.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Union

from edgekit_runtime.errors import DecryptionFailed, EngineUnavailable

if TYPE_CHECKING:
    KeySource = Union[str, "os.PathLike[str]", bytes]  # a file of 64 hexadecimal digits, or the 32 bytes

KEY_NAME, KEY_FILE_NAME = "EDGEKIT_KEY", "EDGEKIT_KEY_FILE"
KEY_BYTES, NONCE_BYTES, TAG_BYTES = 32, 12, 16
MAX_CLEAR_BYTES = (1 << 31) - 64  # limit of the library
MAX_KEY_FILE_BYTES = 4096
INSTALL = "pip install 'edgekit-runtime[verify]'"
ADVICE = f"pass the key file as decryption_key or ${KEY_FILE_NAME}, or its 64 hexadecimal digits as ${KEY_NAME}"


def find_key(source: KeySource | None) -> bytes:
    """Return the key from a source, else from the file ``$EDGEKIT_KEY_FILE``, else from the digits ``$EDGEKIT_KEY``.

    Raises:
        DecryptionFailed: there is no key, or it is invalid.
    """
    if isinstance(source, bytes):
        return _check_size(source, "the key passed as bytes")
    path = source if source is not None else os.environ.get(KEY_FILE_NAME)
    if path:
        try:
            with open(path, "rb") as file:
                return _from_hex(file.read(MAX_KEY_FILE_BYTES), os.fsdecode(path))
        except OSError as error:
            raise DecryptionFailed(f"{os.fsdecode(path)}: the key cannot be read: {error.strerror or error}") from error
    digits = os.environ.get(KEY_NAME)
    if digits:
        return _from_hex(os.fsencode(digits), f"${KEY_NAME}")
    raise DecryptionFailed(f"is encrypted and no key is set: {ADVICE}")


def decrypt(stored: bytes, key: bytes, path: str) -> bytes:
    """Return the decrypted content of a file.

    Raises:
        DecryptionFailed: the key or path is not the one it was encrypted with, the content is damaged, or the
            package cryptography is not installed.
    """
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise DecryptionFailed(f"decrypting needs the package cryptography ({error}): {INSTALL}") from error
    try:
        return bytes(AESGCM(key).decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], path.encode()))
    except (InvalidTag, ValueError) as error:  # ValueError: too short to hold a nonce
        raise DecryptionFailed(f"cannot be decrypted with this key: {ADVICE}") from error


def to_memory(content: bytes) -> int:
    """Return the descriptor of a file in memory, which ends when all its descriptors are closed.

    Raises:
        EngineUnavailable: the system does not support such files.
    """
    if not hasattr(os, "memfd_create"):
        raise EngineUnavailable("an encrypted artifact is opened from memory, which needs Linux")
    number = os.memfd_create("edgekit")
    with open(number, "wb", closefd=False) as file:
        file.write(content)
    return number


def _from_hex(digits: bytes, name: str) -> bytes:
    try:
        return _check_size(bytes.fromhex(digits.decode("ascii").strip()), name)
    except ValueError:  # the error would show the key
        raise DecryptionFailed(
            f"{name}: is not a key of {2 * KEY_BYTES} hexadecimal digits: make one with `edgekit keygen --type aes`"
        ) from None


def _check_size(key: bytes, name: str) -> bytes:
    if len(key) != KEY_BYTES:
        raise DecryptionFailed(
            f"{name}: has {len(key)} bytes, not {KEY_BYTES}: make one with `edgekit keygen --type aes`"
        )
    return key
