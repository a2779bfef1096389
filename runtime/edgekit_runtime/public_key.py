"""Public keys, and whether one of them made a signature. The only place where `cryptography` verifies anything."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgekit_runtime.digest import sha256
from edgekit_runtime.errors import SignatureInvalid
from edgekit_runtime.record import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

INSTALL = "pip install 'edgekit-runtime[verify]'"
CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}  # as Sigstore pairs them
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


@dataclass(frozen=True)
class PublicKey:
    """A key that may be trusted."""

    id: str  # SHA-256 of its PEM, as the Sigstore bundle's hint has it
    kind: str  # "ed25519", or the curve of an ECDSA key
    native: Any

    def made(self, signature: bytes, message: bytes) -> bool:
        """Whether the signature is this key's, of exactly this message."""
        from cryptography.exceptions import InvalidSignature

        try:
            if self.kind == "ed25519":
                self.native.verify(signature, message)
            else:
                self.native.verify(signature, message, ecdsa(self.kind))
        except InvalidSignature:
            return False
        return True


def ecdsa(curve: str, **how: Any) -> Any:
    """ECDSA with the hash that belongs to the curve."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(getattr(hashes, CURVES[curve])(), **how)


def read_keys(pem: bytes, name: str) -> tuple[PublicKey, ...]:
    """The public keys of a PEM text; ``name`` says in messages where it stood.

    Raises:
        SignatureInvalid: it holds none, a private key, or one of a kind that is not supported.
    """
    blocks = [found for found in _PEM.finditer(pem) if b"CERTIFICATE" not in found[1]]
    if any(b"PRIVATE" in found[1] for found in blocks):
        raise SignatureInvalid(f"{name}: holds a private key: whoever verifies gets the public one alone")
    if not blocks:
        raise SignatureInvalid(f"{name}: holds no public key in PEM: `edgekit keygen` makes one")
    with _mapped(name):
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        return tuple(described(load_pem_public_key(found[0] + b"\n")) for found in blocks)


def described(native: Any) -> PublicKey:
    """A key of the `cryptography` library as ours.

    Raises:
        ValueError: it is neither Ed25519 nor ECDSA on a curve of ``CURVES``.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    curve = getattr(getattr(native, "curve", None), "name", type(native).__name__)
    kind = "ed25519" if isinstance(native, Ed25519PublicKey) else curve
    if kind != "ed25519" and kind not in CURVES:
        raise ValueError(f"it is {kind}, wanted ed25519 or ECDSA on {', '.join(CURVES)}")
    pem = native.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    digest = sha256(len(pem))
    digest.update(pem)
    return PublicKey(digest.hexdigest(), kind, native)


@contextmanager
def _mapped(name: str) -> Iterator[None]:
    """Turn what `cryptography` raises, or that it is not there, into a refusal."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
    except ImportError as error:
        raise SignatureInvalid(f"verifying signatures needs the package cryptography ({error}): {INSTALL}") from error
    try:
        yield
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SignatureInvalid(f"{name}: holds no public key that can be used: {error}") from error
