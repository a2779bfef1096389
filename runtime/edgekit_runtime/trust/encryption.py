"""Artifacts that are kept encrypted: AES-256-GCM, opened in memory with a key of 32 bytes.

What is stored is a nonce of 12 bytes, the ciphertext, and a tag of 16 bytes; the file's path is authenticated with it.
The manifest's sizes and digests are those of what is stored, so all but running works without the key.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Union

from edgekit_runtime.errors import DecryptionFailed, EngineUnavailable

if TYPE_CHECKING:
    KeySource = Union[str, "os.PathLike[str]", bytes]  # a file of 64 hexadecimal digits, or the 32 bytes

KEY_NAME, KEY_FILE_NAME = "EDGEKIT_KEY", "EDGEKIT_KEY_FILE"
KEY_BYTES, NONCE_BYTES, TAG_BYTES = 32, 12, 16
MAX_CLEAR_BYTES = (1 << 31) - 64  # what the library takes at once
MAX_KEY_FILE_BYTES = 4096
INSTALL = "pip install 'edgekit-runtime[verify]'"
WANTED = f"give its file as decryption_key or ${KEY_FILE_NAME}, or its 64 hexadecimal digits as ${KEY_NAME}"


def find_key(source: KeySource | None) -> bytes:
    """The key that was given, else the environment's: ``$EDGEKIT_KEY_FILE`` names a file, ``$EDGEKIT_KEY`` is it.

    Raises:
        DecryptionFailed: there is none, or it is no key.
    """
    if isinstance(source, bytes):
        return _check_size(source, "the key that was given")
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
    raise DecryptionFailed(f"is encrypted and there is no key: {WANTED}")


def decrypt(stored: bytes, key: bytes, path: str) -> bytes:
    """The clear content of a file.

    Raises:
        DecryptionFailed: it was encrypted with another key, for another path, or is no such content; or the package
            that decrypts is missing.
    """
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise DecryptionFailed(f"decrypting needs the package cryptography ({error}): {INSTALL}") from error
    try:
        return bytes(AESGCM(key).decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], path.encode()))
    except (InvalidTag, ValueError) as error:  # ValueError: too short to hold a nonce
        raise DecryptionFailed(f"cannot be decrypted with this key: {WANTED}") from error


def to_memory(content: bytes) -> int:
    """A file descriptor of a file that is only memory, and goes when all its descriptors are closed.

    Raises:
        EngineUnavailable: the system has no such files.
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
        raise DecryptionFailed(f"{name}: is no key: wanted {2 * KEY_BYTES} hexadecimal digits") from None


def _check_size(key: bytes, name: str) -> bytes:
    if len(key) != KEY_BYTES:
        raise DecryptionFailed(f"{name}: has {len(key)} bytes, not {KEY_BYTES}: `edgekit keygen --type aes` makes one")
    return key
