"""Whose signatures are believed: the caller's keys, else the machine's.

The machine's are the PEM files of ``/etc/edgekit/trust.d``, or what ``$EDGEKIT_TRUST`` names: one file, or a folder.
Where either is there, trust is asked for, also when no key is found in it: what is broken must not let everything in.
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

KeySource = Union[str, "os.PathLike[str]", bytes]  # a file, a folder of *.pem, or PEM itself
Trust = Union[None, bool, KeySource, Sequence[KeySource]]


def trusted_keys(trust: Trust) -> tuple[PublicKey, ...] | None:
    """The keys one of which must have signed; None when nobody asks for a signature.

    Args:
        trust: None takes the machine's, False asks for none, anything else says where the keys are.

    Raises:
        SignatureInvalid: trust was asked for, and there is no key, or one that cannot be read or used.
    """
    if trust is None:
        trust = os.environ.get(NAME) or (FOLDER if os.path.lexists(FOLDER) else False)
    if trust is False:
        return None
    if trust is True:
        raise ValueError("trust is True, wanted None, False, or the public keys to trust")
    sources = [trust] if isinstance(trust, (str, bytes, os.PathLike)) else list(trust)
    from edgekit_runtime.trust.public_key import read_keys

    found = {key.id: key for source in sources for data, name in _pem_texts(source) for key in read_keys(data, name)}
    if not found:
        where = ", ".join(_name_of_source(source) for source in sources) or "an empty list"
        raise SignatureInvalid(f"trust was asked for and no public key was found in {where}: put a .pem there")
    if len(found) > MAX_KEYS:
        raise SignatureInvalid(f"{len(found)} keys are trusted, more than {MAX_KEYS}: remove the old ones")
    return tuple(found.values())


def _pem_texts(source: KeySource) -> list[tuple[bytes, str]]:
    """The PEM of a source with the name for messages; of a folder that of each of its files."""
    if _is_pem(source):
        return [(source.encode() if isinstance(source, str) else bytes(source), "the key that was given")]  # type: ignore[arg-type]
    path = os.fsdecode(source)
    try:
        if not os.path.isdir(path):
            return [(_read(path), path)]
        names = sorted(name for name in os.listdir(path) if name.endswith(".pem") and not name.startswith("."))
        return [(_read(os.path.join(path, name)), os.path.join(path, name)) for name in names]
    except OSError as error:
        raise SignatureInvalid(f"{path}: the keys to trust cannot be read: {error.strerror or error}") from error


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read(MAX_KEY_FILE_BYTES + 1)
    if len(data) > MAX_KEY_FILE_BYTES:
        raise SignatureInvalid(f"{path}: has more than {MAX_KEY_FILE_BYTES} bytes, which no public keys have")
    return data


def _is_pem(source: KeySource) -> bool:
    if isinstance(source, str):
        return source.lstrip().startswith("-----BEGIN")
    return isinstance(source, bytes) and source.lstrip().startswith(b"-----BEGIN")


def _name_of_source(source: KeySource) -> str:
    return "the PEM that was given" if _is_pem(source) else os.fsdecode(source)
