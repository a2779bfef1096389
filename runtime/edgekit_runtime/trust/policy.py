"""Determine the trusted keys: those of the caller, else those of the machine.

The machine's keys are the PEM files in ``/etc/edgekit/trust.d``, or in the file or folder ``$EDGEKIT_TRUST``. If one of
these exists, a signature is required, even if it has no key: a broken configuration must not accept all bundles.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

from edgekit_runtime.errors import SignatureInvalid

if TYPE_CHECKING:
    from edgekit_runtime.trust.public_key import PublicKey

NAME, FOLDER = "EDGEKIT_TRUST", "/etc/edgekit/trust.d"
MAX_KEY_FILE_BYTES = 1 << 16
MAX_KEYS = 64

KeySource = Union[str, "os.PathLike[str]", bytes]  # a file, a folder of *.pem, or PEM text
Trust = Union[None, bool, KeySource, Sequence[KeySource]]


def trusted_keys(trust: Trust) -> tuple[PublicKey, ...] | None:
    """Return the keys, one of which must have signed the bundle; None if no signature is required.

    Args:
        trust: None uses the machine's keys, False requires no signature, anything else names the keys.

    Raises:
        SignatureInvalid: a signature is required, and there is no key, or one that cannot be read or used.
    """
    if trust is None:
        trust = os.environ.get(NAME) or (FOLDER if os.path.lexists(FOLDER) else False)
    if trust is False:
        return None
    if trust is True:
        raise ValueError("trust is True: pass None, False, or the public keys to trust")
    sources = [trust] if isinstance(trust, (str, bytes, os.PathLike)) else list(trust)
    from edgekit_runtime.trust.public_key import read_keys

    found = {key.id: key for source in sources for data, name in _pem_texts(source) for key in read_keys(data, name)}
    if not found:
        where = ", ".join(_name_of_source(source) for source in sources) or "an empty list"
        raise SignatureInvalid(f"a signature is required and {where} has no public key: put a .pem there")
    if len(found) > MAX_KEYS:
        raise SignatureInvalid(f"{len(found)} keys are trusted, more than {MAX_KEYS}: remove old ones")
    return tuple(found.values())


def _pem_texts(source: KeySource) -> list[tuple[bytes, str]]:
    """Return each PEM text of a source with its name for messages; a folder has one for each file."""
    if _is_pem(source):
        return [(source.encode() if isinstance(source, str) else bytes(source), "the key passed as PEM")]  # type: ignore[arg-type]
    path = os.fsdecode(source)
    try:
        if not os.path.isdir(path):
            return [(_read(path), path)]
        names = sorted(name for name in os.listdir(path) if name.endswith(".pem") and not name.startswith("."))
        return [(_read(os.path.join(path, name)), os.path.join(path, name)) for name in names]
    except OSError as error:
        raise SignatureInvalid(f"{path}: the trusted keys cannot be read: {error.strerror or error}") from error


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read(MAX_KEY_FILE_BYTES + 1)
    if len(data) > MAX_KEY_FILE_BYTES:
        raise SignatureInvalid(f"{path}: has more than {MAX_KEY_FILE_BYTES} bytes: use a file of public keys")
    return data


def _is_pem(source: KeySource) -> bool:
    if isinstance(source, str):
        return source.lstrip().startswith("-----BEGIN")
    return isinstance(source, bytes) and source.lstrip().startswith(b"-----BEGIN")


def _name_of_source(source: KeySource) -> str:
    return "the key passed as PEM" if _is_pem(source) else os.fsdecode(source)
