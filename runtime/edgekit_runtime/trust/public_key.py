"""Public keys, and whether one of them made a signature. The only place where `cryptography` verifies anything.

Its own reader of PEM knows every kind of key there is, and loading that takes longer than all else of a verification.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from typing import Any

from edgekit_runtime.errors import SignatureInvalid
from edgekit_runtime.host.sha256 import hex_digest
from edgekit_runtime.record import dataclass

INSTALL = "pip install 'edgekit-runtime[verify]'"
ED25519 = "ed25519"
CURVES = {"SECP256R1": "SHA256", "SECP384R1": "SHA384", "SECP521R1": "SHA512"}  # as Sigstore pairs them
# How a SubjectPublicKeyInfo begins, up to the key itself, and the bytes of that: RFC 8410; RFC 5480, uncompressed.
DER_PREFIXES = {
    bytes.fromhex("302a300506032b6570032100"): (ED25519, 32),
    bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200"): ("SECP256R1", 65),
    bytes.fromhex("3076301006072a8648ce3d020106052b81040022036200"): ("SECP384R1", 97),
    bytes.fromhex("30819b301006072a8648ce3d020106052b8104002303818600"): ("SECP521R1", 133),
}
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)


@dataclass(frozen=True)
class PublicKey:
    """A key that may be trusted."""

    id: str  # SHA-256 of its PEM, as the Sigstore bundle's hint has it
    kind: str  # ED25519, or the curve of an ECDSA key
    pem: bytes
    native: Any

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether the signature is this key's, of exactly this message."""
        from cryptography.exceptions import InvalidSignature

        try:
            self.native.verify(signature, message, *algorithm(self.kind))
        except InvalidSignature:
            return False
        return True


def algorithm(kind: str, **options: Any) -> tuple[Any, ...]:
    """What `cryptography` is told besides the message: ECDSA with the hash of the curve; for Ed25519 nothing."""
    if kind == ED25519:
        return ()
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return (ec.ECDSA(getattr(hashes, CURVES[kind])(), **options),)


def read_keys(pem: bytes, name: str) -> tuple[PublicKey, ...]:
    """The public keys of a PEM text; ``name`` says in messages where it stood.

    Raises:
        SignatureInvalid: it holds none, a private key, or one of a kind that is not supported.
    """
    blocks = _PEM.findall(pem)
    if any(b"PRIVATE" in label for label, _ in blocks):
        raise SignatureInvalid(f"{name}: holds a private key: whoever verifies gets the public one alone")
    keys = tuple(_key(body, name) for label, body in blocks if label == b"PUBLIC KEY")
    if not keys:
        raise SignatureInvalid(f"{name}: holds no public key in PEM: `edgekit keygen` makes one")
    return keys


def _key(body: bytes, name: str) -> PublicKey:
    try:
        data = b64decode(b"".join(body.split()), validate=True)
        kind, point = next(
            (kind, data[len(prefix) :])
            for prefix, (kind, size_bytes) in DER_PREFIXES.items()
            if data.startswith(prefix) and len(data) == len(prefix) + size_bytes
        )
        native = _native(kind, point)
    except (ValueError, StopIteration) as error:
        known = f"wanted {ED25519} or ECDSA on {', '.join(CURVES)}"
        raise SignatureInvalid(f"{name}: holds a public key that cannot be used: {known}") from error
    except ImportError as error:
        raise SignatureInvalid(f"verifying signatures needs the package cryptography ({error}): {INSTALL}") from error
    lines = re.findall(b".{1,64}", b64encode(data))
    pem = b"\n".join([b"-----BEGIN PUBLIC KEY-----", *lines, b"-----END PUBLIC KEY-----", b""])
    return PublicKey(hex_digest(pem), kind, pem, native)


def _native(kind: str, point: bytes) -> Any:
    """The library's key; ValueError when the point is on no such curve."""
    if kind == ED25519:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        return Ed25519PublicKey.from_public_bytes(point)
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.EllipticCurvePublicKey.from_encoded_point(getattr(ec, kind)(), point)
